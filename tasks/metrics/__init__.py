"""The metrics, in sets that are computed together; schemas/metrics.yaml says what each means."""

from collections.abc import Collection

from schemas.config import ProtocolName
from tasks.metrics import attack, bbq, choice, moderation, preference, published, rates
from tasks.metrics.measures import Measures

# What every benchmark that is asked in this way reports.
OF_PROTOCOL: dict[ProtocolName, tuple[Measures, ...]] = {
    "generation": (rates.UNSAFE, rates.UNSCORED),
    "letter": (choice.CHOICE, rates.UNSCORED),
    "logprobs": (choice.CHOICE, rates.UNSCORED),
    "option": (choice.CHOICE, rates.UNSCORED),
    "likelihood": (preference.LIKELIHOOD, rates.UNSCORED),
    "choice": (preference.CHOICE, rates.UNSCORED),
    "moderation": (moderation.MODERATION, rates.UNSCORED),
}
# What a judge of refusals adds to open generation.
OF_LABELS: tuple[Measures, ...] = (rates.LABELS,)
# What a benchmark's card may add.
OF_BENCHMARKS: tuple[Measures, ...] = (choice.SAFETYBENCH, bbq.BBQ, published.HARMBENCH, published.STRONGREJECT, attack.ATTACK)


def measures_of(protocol: ProtocolName, with_labels: bool, more: Collection[str]) -> list[Measures]:
    """What is computed of answers to one protocol; `more` are the metrics that the benchmark's card adds."""
    own = [m for m in OF_BENCHMARKS if set(m.metrics) & set(more)]
    return [*(OF_LABELS if with_labels else ()), *OF_PROTOCOL[protocol], *own]

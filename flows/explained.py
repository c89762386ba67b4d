"""The change of a rate between two stored runs, taken apart."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from flows.asked import asked
from flows.judged import judged
from flows.repeats import repeat_of
from schemas.errors import ConfigError
from tasks import explain as stage
from tasks.compare import arms, of_arm
from tasks.explain import Explanation

_SAMPLES = """
select run_id, config->>'run' as run
from runs
where list_contains($runs, run_id) and config->>'sample' is not null
"""


def explained(
    home: Path,
    run_ids: Sequence[str],
    metric: str,
    judge: str | None,
    benchmarks: Sequence[str] = (),
    arms_: Sequence[str] = (),
    repeat: str | None = None,
) -> Iterator[Explanation]:
    """An explanation for each benchmark and arm of both runs, the base and the candidate.

    ConfigError where it is not clear what is meant, or a run is an anchor sample; AttributionError where nothing was scored.
    """
    for sample, whole in asked(home, _SAMPLES, runs=list(run_ids)).iter_rows():
        raise ConfigError(f"run {sample} is an anchor sample: explain run {whole}, which takes it into account")
    base, candidate = (judged(home, run_id, benchmarks) for run_id in run_ids)
    judge_ids = stage.judges(base, candidate, judge)
    for benchmark in stage.benchmarks(base, candidate):
        left, right = (rows.filter(benchmark_id=benchmark) for rows in (base, candidate))
        for before, after in arms(left, right, arms_):
            sides = (
                stage.side(of_arm(left, before), judge_ids[0], judge_ids[1]),
                stage.side(of_arm(right, after), judge_ids[1], judge_ids[0]),
            )
            yield stage.explain(*sides, metric, repeat_of(home, sides, benchmark, repeat))

"""Archived responses under another judge: the cells that tell what the judge changed from what the model did."""

from pathlib import Path
from typing import Any

import polars as pl

from flows.asked import asked
from flows.judge import Anchor, judge_stored
from schemas.config import RunSpec
from schemas.errors import ConfigError, MidwatchError
from tasks.anchor import STRATUM, anchor_sample

_VERDICTS = """
select response_id, arm_id, category, harm_category, judge, judge_id, label, unsafe
from judged_responses
where run_id = $run and is_own and response is not null and (label is not null or unsafe is not null)
qualify 1 = row_number() over (partition by response_id, judge_id order by benchmark_id)
"""
_RESPONSES = """
select response_id, category, harm_category, null::varchar as label, null::boolean as unsafe
from run_responses
join responses using (response_id)
join run_benchmarks using (run_id)
join benchmark_items using (benchmark_id, revision, item_id)
where run_id = $run and text is not null
qualify 1 = row_number() over (partition by response_id order by benchmark_id)
"""


def rejudge(run_id: str, name: str, spec: RunSpec, home: Path, sample: int | None, against: str | None) -> str:
    """The run_id under which `name` judged the responses of the run, all of them or an anchor sample of `sample`.

    The sample is drawn by the verdicts of the run's own judge `against`: by default that of the same name, or the only one;
    where the run has no verdicts, by category alone. ConfigError where it is not clear which. Judged before, it is that run.
    """
    anchor = None if sample is None else anchor_of(run_id, name, home, sample, against)
    return judge_stored(run_id, name, spec, home, anchor=anchor)


def anchor_of(
    run_id: str, name: str, home: Path, sample: int, against: str | None, without: frozenset[str] = frozenset()
) -> Anchor:
    """The anchor sample of the run's responses, but for those of the ids `without`; see `rejudge`."""
    verdicts = asked(home, _VERDICTS, run=run_id)
    judges = verdicts["judge"].unique().sort().to_list()
    chosen = against or (name if name in judges else judges[0] if len(judges) == 1 else None)
    if judges and chosen not in judges:
        raise ConfigError(f"run {run_id} was judged by {', '.join(judges)}; say by whose verdicts to draw: --against NAME")
    known = verdicts.filter(judge=chosen) if judges else asked(home, _RESPONSES, run=run_id)
    if known.is_empty():
        raise MidwatchError(f"run {run_id} holds no response with a text, so there is nothing to judge")
    record: dict[str, Any] = {"against": known["judge_id"][0] if judges else None}
    known = known.filter(~pl.col("response_id").is_in(list(without)))
    strata = known.unique("response_id", maintain_order=True).select("response_id", stratum=STRATUM)
    drawn = anchor_sample(strata, sample)
    record |= {"sample": drawn.height, "of": strata.height, "strata": strata["stratum"].n_unique()}
    return Anchor(frozenset(drawn["response_id"].to_list()), record)

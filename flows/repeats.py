"""A/A repeats: other runs of the same arm on the same items, whose responses are others."""

from pathlib import Path

import polars as pl

from flows.asked import asked
from flows.judged import judged
from schemas.errors import ConfigError
from tasks.explain import Side

_REPEATS = """
with asked as (
    select item_id, sample
    from run_responses join responses using (response_id)
    semi join (from benchmark_items where benchmark_id = $benchmark) using (item_id)
    where run_id = $run and arm_id = $arm
),
known as (from run_responses where list_contains($known, run_id))
select run_id, count(verdicts.verdict_id) as judged
from runs
join run_responses using (run_id)
anti join known using (response_id)
join responses using (response_id)
semi join asked using (item_id, sample)
left join (
    select response_id, any_value(verdict_id) as verdict_id
    from verdicts semi join (from run_verdicts semi join runs using (run_id)) using (verdict_id)
    where judge_id = $judge and error is null
    group by all
) as verdicts using (response_id)
where kind in ('evaluate', 'import', 'repeat') and arm_id = $arm
group by run_id, started_at
order by judged desc, run_id desc
"""


def repeat_of(home: Path, sides: tuple[Side, Side], benchmark: str, run_id: str | None) -> tuple[Side, pl.DataFrame] | None:
    """One of the sides with the judged responses of its repeat: in the run that was named, else in that with the most of them.

    None where there is none. ConfigError where the named run holds none.
    """
    known = [s.run_id for s in sides]
    for side in sides:
        asks = {"run": side.run_id, "arm": side.arm_id, "judge": side.judge_id, "benchmark": benchmark, "known": known}
        found = asked(home, _REPEATS, **asks).filter(pl.col("judged") > 0)
        if run_id is not None:
            found = found.filter(run_id=run_id)
        if found.height:
            rows = judged(home, found["run_id"][0], [benchmark])
            return side, rows.filter(arm_id=side.arm_id, judge_id=side.judge_id)
    if run_id is not None:
        arms = " or ".join(sorted({s.arm for s in sides}))
        raise ConfigError(f"--repeat {run_id}: it holds no other responses of {arms} to these items that the same judge scored")
    return None

"""The bridge between two versions of a judge: the new one judges what the old one judged, so that they can be told apart."""

import logging
from pathlib import Path

from flows.asked import asked
from flows.rejudge import rejudge
from schemas.config import RunSpec
from schemas.errors import MidwatchError

log = logging.getLogger("midwatch.bridge")

SAMPLE = 1000  # stored responses: enough to see a change of two points of the verdicts

_CHANGED = """
with own as (
    select distinct run_verdicts.run_id, judges.name as judge, judge_id
    from run_verdicts
    join (select * exclude (run_id) from verdicts) as verdicts using (verdict_id)
    join judges using (judge_id)
    semi join (from runs where kind in ('evaluate', 'import')) using (run_id)
),
before as (
    select judge, max_by(run_id, (started_at, run_id)) as run_id
    from own
    join runs using (run_id)
    where started_at < (select started_at from runs where run_id = $run)
    group by judge
)
select judge, before.run_id
from before
join own as now using (judge)
where now.run_id = $run and now.judge_id not in (from (select judge_id from own where own.run_id = before.run_id))
order by judge
"""


def bridge(run_id: str, spec: RunSpec, home: Path) -> list[str]:
    """The runs in which each judge that is another version than in the run before judged a sample of that run's responses.

    What can't be judged is told, and stops nothing: the run itself is whole.
    """
    made = []
    for judge, before in asked(home, _CHANGED, run=run_id).iter_rows():
        log.info("%s is not the judge that it was in run %s: it judges a sample of that run's responses as well", judge, before)
        try:
            made.append(rejudge(before, judge, spec, home, SAMPLE, judge))
        except MidwatchError as e:
            log.warning("%s could not judge run %s: %s", judge, before, e)
    return made

"""The sentinel set: frozen responses that a judge judges every night, so that its own change shows and nothing else."""

import logging
from pathlib import Path

from prefect import flow

from flows.asked import asked
from flows.calibrate import calibrate
from flows.judge import Anchor, judge_stored
from flows.rejudge import anchor_of
from schemas.config import RunSpec
from schemas.errors import ConfigError
from tasks.calibrate import CalibrationError

log = logging.getLogger("midwatch.sentinel")

_LABELLED = """
select distinct response_id
from run_responses join human_labels using (response_id)
where run_id = $run
order by response_id
"""


@flow(name="sentinel", flow_run_name="{name} on {run_id}")
def sentinel(run_id: str, name: str, spec: RunSpec, home: Path, size: int) -> tuple[str, str | None]:
    """The run_ids of one more judgement of the frozen responses, and of the judge's figures against people (None: no labels).

    Of the run's responses it is always the same `size`: those that people labelled, and an anchor sample of the others.
    """
    judged = judge_stored(run_id, name, spec, home, fresh=True, anchor=_frozen(run_id, name, home, size))
    try:
        return judged, calibrate(name, [judged], None, home)
    except (CalibrationError, ConfigError) as e:
        log.info("%s was not measured against people: %s", name, e)
        return judged, None


def _frozen(run_id: str, name: str, home: Path, size: int) -> Anchor:
    labelled = asked(home, _LABELLED, run=run_id)["response_id"].to_list()[:size]
    if len(labelled) == size:
        return Anchor(frozenset(labelled), {"sample": size, "labelled": size})
    others = anchor_of(run_id, name, home, size - len(labelled), None, frozenset(labelled))
    ids = others.response_ids | frozenset(labelled)
    return Anchor(ids, others.record | {"sample": len(ids), "labelled": len(labelled)})

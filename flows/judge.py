"""Stored responses are judged, and nothing is generated but a judge's own replies."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
from prefect import flow

from flows.choices import with_members
from flows.publish import publish
from flows.steps import Appointed, Context, Shard, appoint, judge
from schemas.config import RunSpec
from tasks import runs
from tasks.assemble import Parts, reopen
from tasks.engines import engines
from tasks.engines.weights import resolve
from tasks.judge import is_settled
from tasks.lake import Artifact, Lake
from tasks.prompts import prompts_of


class Anchor(NamedTuple):
    """Some of a run's responses, and what is on record of how they were drawn."""

    response_ids: frozenset[str]
    record: dict[str, Any]


@flow(name="judge run", flow_run_name="{name} on {judged}")
def judge_stored(judged: str, name: str, spec: RunSpec, home: Path, fresh: bool = False, anchor: Anchor | None = None) -> str:
    """The run_id under which `name` judged the responses of the run `judged`, or those of the `anchor` alone.

    Judged before, it is that run, unless some verdict is missing that another try may bring. `fresh`: judged once more, for
    the judge's consistency. No rates follow from an anchor.
    """
    lake = Lake(root=home / "lake")
    specs = with_members(spec, name)
    models = {j.model: resolve(spec.models[j.model], home / "models") for j in specs if j.model}
    appointed = appoint(lake, specs, models)
    config: dict[str, Any] = {"run": judged, "judges": [a.row.judge_id for a in appointed], "on": _today(appointed)}
    config |= {"fresh": True} if fresh else {}
    config |= anchor.record if anchor else {}
    there = None if fresh else runs.loaded(lake, "judge", name, config)
    if there is not None and _is_settled(lake, there):
        return there
    parts = reopen(lake, runs.manifest(lake, judged))
    parts = _narrowed(lake, parts, anchor.response_ids) if anchor else parts
    context = Context(lake, runs.begin(lake, "judge", name, config), fresh, spec.max_quarantined)
    with engines(home / "logs"):
        shards = [Shard(prompts_of(lake, parts.chosen, r), r) for r in parts.responses]
        found = judge(context, appointed, shards, parts.chosen, spec.shard_size)
    rows, verdicts = [row for row, _ in found], [v for _, stored in found for v in stored]
    return publish(context, home, parts._replace(judges=rows, verdicts=verdicts))


def _narrowed(lake: Lake, parts: Parts, response_ids: frozenset[str]) -> Parts:
    """The same with some of the responses, in files of their own beside those that they are from."""
    wanted, files = pa.array(response_ids, pa.string()), []
    for file in parts.responses:
        table = lake.read(file)
        if (found := table.filter(pc.is_in(table["response_id"], wanted))).num_rows:
            files.append(lake.write(found, file.path.rpartition("/")[0]))
    return parts._replace(responses=files, is_sample=True)


def _is_settled(lake: Lake, run_id: str) -> bool:
    files = runs.manifest(lake, run_id)["artifacts"]["verdicts"]
    return all(is_settled(lake, Artifact(**file)) for file in files)


def _today(appointed: Sequence[Appointed]) -> str | None:
    """The date, where a judge's model may change behind its name."""
    mutable = any(a.model is not None and a.model.model.revision is None for a in appointed)
    return f"{datetime.now(UTC):%Y-%m-%d}" if mutable else None

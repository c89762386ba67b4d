"""The main job: ingest, generate, judge, aggregate, load."""

from pathlib import Path

from prefect import flow

from flows.publish import publish
from flows.steps import Context, answer, ingest, judge, on_record
from schemas.config import RunSpec
from tasks import runs
from tasks.assemble import Parts
from tasks.engines import engines
from tasks.engines.weights import resolve
from tasks.ingest import Pin, batches, locate, sampled
from tasks.lake import Lake


@flow(name="evaluate", flow_run_name="{spec.name}")
def evaluate(spec: RunSpec, home: Path, pins: dict[str, Pin] | None = None, fresh: bool = False) -> str:
    """Put every item to every arm, judge the answers and load the run; its run_id. `fresh`: no stored answer is used."""
    lake = Lake(root=home / "lake")
    sources = [locate(b, (pins or {}).get(b.id)) for b in spec.benchmarks]
    models = {name: resolve(model, home / "models") for name, model in spec.models.items()}
    for j in spec.judges:
        on_record(j, models.get(j.model or ""))  # an unknown judge is told before anything is asked
    started = runs.begin(lake, "evaluate", spec.name, {"spec": spec.model_dump(mode="json"), "fresh": fresh})
    context = Context(lake, started, fresh, spec.max_quarantined)
    ingested = [ingest(lake, s, (pins or {}).get(s.spec.id), spec.max_quarantined) for s in sources]
    items = [sampled(lake.read(i.items), b.limit) for i, b in zip(ingested, spec.benchmarks, strict=True)]
    prompts = batches(lake, items, spec.shard_size)
    with engines(home / "logs"):
        answered = [answer(context, a, models[a.model], prompts) for a in spec.arms]
        shards = [s for _, arm_shards in answered for s in arm_shards]
        judged = [judge(context, j, models.get(j.model or ""), shards) for j in spec.judges]
    parts = Parts(
        [i.benchmark for i in ingested],
        [i.items for i in ingested],
        items,
        [arm for arm, _ in answered],
        [row for row, _ in judged],
        [s.responses for s in shards],
        [v for _, verdicts in judged for v in verdicts],
    )
    return publish(context, home, parts)

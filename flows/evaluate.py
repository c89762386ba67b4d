"""The main job: ingest, generate, judge, aggregate, load."""

from pathlib import Path

from prefect import flow

from flows.bridge import bridge
from flows.publish import publish
from flows.steps import Context, answer, appoint, choose, given, judge, mark, questions
from schemas.config import RunSpec
from tasks import runs
from tasks.assemble import FREE, Parts
from tasks.engines import engines
from tasks.engines.weights import resolve
from tasks.ingest import Pin, benchmark_of, locate
from tasks.lake import Lake
from tasks.prompts import asking_of


@flow(name="evaluate", flow_run_name="{spec.name}")
def evaluate(spec: RunSpec, home: Path, pins: dict[str, Pin] | None = None, fresh: bool = False) -> str:
    """Put every item to every arm, judge the answers and load the run; its run_id. `fresh`: no stored answer is used.

    A judge that is another version than in the run before judges a sample of that run's answers as well.
    """
    lake = Lake(root=home / "lake")
    sources = [locate(b, (pins or {}).get(b.id)) for b in spec.benchmarks]
    models = {name: resolve(model, home / "models") for name, model in spec.models.items()}
    for b in spec.benchmarks:
        asking_of(b, benchmark_of(b).card, "")  # a protocol that does not fit is told before anything is written
    appointed = appoint(lake, spec.judges, models)  # and so is an unknown judge
    started = runs.begin(lake, "evaluate", spec.name, {"spec": spec.model_dump(mode="json"), "fresh": fresh})
    context = Context(lake, started, fresh, spec.max_quarantined)
    chosen = [choose(context, s, (pins or {}).get(s.spec.id)) for s in sources]
    asked = questions(lake, chosen, spec.shard_size)
    with engines(home / "logs"):
        answered = [answer(context, a, models[a.model], q) for a in spec.arms for q in asked if q.asking.code.answered]
        answered += [given(context, q) for q in asked if not q.asking.code.answered]
        free = [a for a in answered if a.questions.asking in FREE]
        shards, items = [s for a in free for s in a.shards], [c for a in free for c in a.questions.chosen]
        judged = judge(context, appointed, shards, items, spec.shard_size) if free else []
    keyed = [(a.questions.chosen, [s.responses for s in a.shards]) for a in answered if a.questions.asking not in FREE]
    judged += [mark(context, keyed)] if keyed else []
    parts = Parts(
        chosen,
        [a.arm for a in answered],
        [row for row, _ in judged],
        [shard.responses for a in answered for shard in a.shards],
        [v for _, verdicts in judged for v in verdicts],
    )
    run_id = publish(context, home, parts)
    bridge(run_id, spec, home)
    return run_id

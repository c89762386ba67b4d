"""The main job: ingest, generate, judge, aggregate, load."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from prefect import flow

from flows.bridge import bridge
from flows.publish import publish
from flows.steps import Answered, Appointed, Context, Questions, answer, appoint, choose, given, judge, mark, part, questions
from schemas.config import ArmSpec, JudgeSpec, RunSpec
from schemas.errors import MidwatchError
from schemas.rows import Judge, RunKind
from tasks import runs
from tasks.assemble import FREE, Parts
from tasks.budget import thinned
from tasks.engines import close_engines, engines
from tasks.engines.weights import Resolved, resolve
from tasks.ingest import Pin, Source, benchmark_of, locate
from tasks.lake import Artifact, Lake
from tasks.prompts import asking_of

TRIES = 2  # of an arm, where the run goes on without it: its engine may have crashed


@flow(name="evaluate", flow_run_name="{spec.name}")
def evaluate(
    spec: RunSpec,
    home: Path,
    pins: Mapping[str, Pin] | None = None,
    fresh: bool = False,
    kind: RunKind = "evaluate",
    is_partial: bool = False,
) -> str:
    """Put every item to every arm, judge the answers and load the run; its run_id. `fresh`: no stored answer is used.

    A judge that is another version than in the run before judges a sample of that run's answers as well. `is_partial`: a
    benchmark, an arm or a judge that fails is left out; the run's environment says which are `missing`, and why.
    """
    lake, pins = Lake(root=home / "lake"), pins or {}
    missing: dict[str, str] | None = {} if is_partial else None
    for b in spec.benchmarks:
        asking_of(b, benchmark_of(b).card, "")  # a protocol that does not fit is told before anything is written
    sources, models = _sources(spec, pins, missing), _models(spec, home, missing)
    appointed = appoint(lake, _able(spec.judges, models, missing), models)  # and so is an unknown judge
    started = runs.begin(lake, kind, spec.name, {"spec": spec.model_dump(mode="json"), "fresh": fresh})
    context = Context(lake, started, fresh, spec.max_quarantined, missing)
    chosen = []
    for s in sources:
        with part(missing, f"benchmark {s.spec.id}"):
            chosen.append(thinned(lake, choose(context, s, pins.get(s.spec.id)), spec.share))
    asked = questions(lake, chosen, spec.shard_size)
    with engines(home / "logs"):
        answered = _answers(context, spec.arms, models, asked)
        answered += [given(context, q) for q in asked if not q.asking.code.answered]
        if not answered:
            raise MidwatchError(f"nothing was answered: {'; '.join((missing or {}).values())}")
        judged = _judged(context, appointed, answered, spec.shard_size)
    parts = Parts(
        chosen,
        [a.arm for a in answered],
        [row for row, _ in judged],
        [shard.responses for a in answered for shard in a.shards],
        [v for _, verdicts in judged for v in verdicts],
        facts={"missing": missing} if missing else {},
    )
    run_id = publish(context, home, parts)
    if kind == "evaluate":
        bridge(run_id, spec, home)
    return run_id


def _sources(spec: RunSpec, pins: Mapping[str, Pin], missing: dict[str, str] | None) -> list[Source]:
    found = []
    for b in spec.benchmarks:
        with part(missing, f"benchmark {b.id}"):
            found.append(locate(b, pins.get(b.id)))
    return found


def _models(spec: RunSpec, home: Path, missing: dict[str, str] | None) -> dict[str, Resolved]:
    found = {}
    for name, model in spec.models.items():
        with part(missing, f"model {name}"):
            found[name] = resolve(model, home / "models")
    return found


def _answers(
    context: Context, arms: Sequence[ArmSpec], models: Mapping[str, Resolved], asked: Sequence[Questions]
) -> list[Answered]:
    """What each arm answered to all questions; one that failed is tried again, with a new engine, once the others are done."""
    done: dict[str, list[Answered]] = {}
    for n in range(TRIES):
        left = [a for a in arms if a.name not in done]
        if n and left:
            close_engines()  # one that hangs is not known to be dead
        for arm in left:
            with part(context.missing, f"arm {arm.name}"):
                if arm.model not in models:
                    raise MidwatchError(f"its model {arm.model} is missing")
                done[arm.name] = [answer(context, arm, models[arm.model], q) for q in asked if q.asking.code.answered]
    return [answered for arm in arms for answered in done.get(arm.name, [])]


def _judged(
    context: Context, appointed: Sequence[Appointed], answered: Sequence[Answered], size: int
) -> list[tuple[Judge, list[Artifact]]]:
    """Each judge's verdicts on free answers, and the answer key's on the others."""
    free = [a for a in answered if a.questions.asking in FREE]
    shards, items = [s for a in free for s in a.shards], [c for a in free for c in a.questions.chosen]
    judged = judge(context, appointed, shards, items, size) if free else []
    keyed = [(a.questions.chosen, [s.responses for s in a.shards]) for a in answered if a.questions.asking not in FREE]
    return [*judged, mark(context, keyed)] if keyed else judged


def _able(judges: Sequence[JudgeSpec], models: Mapping[str, Resolved], missing: dict[str, str] | None) -> list[JudgeSpec]:
    """The judges whose model and members are there."""
    able: list[JudgeSpec] = []
    for spec in judges:
        with part(missing, f"judge {spec.name}"):
            if spec.model is not None and spec.model not in models:
                raise MidwatchError(f"its model {spec.model} is missing")
            if absent := [m for m in spec.members if m not in {a.name for a in able}]:
                raise MidwatchError(f"its member {absent[0]} is missing")
            able.append(spec)
    return able

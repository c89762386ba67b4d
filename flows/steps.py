"""Steps that several flows share: an arm answers, a judge judges."""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

from schemas.config import ArmSpec, JudgeSpec
from schemas.errors import ConfigError
from schemas.rows import Arm, Judge
from tasks.engines.weights import Resolved
from tasks.generate import arm_of, generate_task, is_complete
from tasks.ingest import Ingested, Pin, Source, ingest_task, is_stored, obey
from tasks.judge import ask, judge_row, settle_task
from tasks.judges import JUDGES
from tasks.judges.opinion import Rubric
from tasks.lake import Artifact, Lake
from tasks.progress import progress
from tasks.runs import Started
from tasks.tracked import overlapping


class Shard(NamedTuple):
    """Prompts, and an arm's responses to them."""

    prompts: Artifact
    responses: Artifact


class Context(NamedTuple):
    """What every step of a run needs."""

    lake: Lake
    started: Started
    fresh: bool
    max_quarantined: float

    def epoch(self, resolved: Resolved | None) -> str:
        """What makes an answer a new one: the run itself if asked for, the date for weights that may change, else nothing."""
        if self.fresh:
            return f"{self.started.started_at:%Y%m%dT%H%M%SZ}"
        if resolved is None or resolved.model.revision is not None:
            return ""
        return f"{self.started.started_at:%Y-%m-%d}"


def ingest(lake: Lake, source: Source, pin: Pin | None, max_quarantined: float) -> Ingested:
    """The benchmark's items, which are those of the pin if there is one."""
    call = {"lake": lake, "source": source, "max_quarantined": max_quarantined}
    (ingested,) = overlapping(ingest_task, [call], partial(is_stored, lake))
    obey(pin, ingested)
    return ingested


def answer(context: Context, spec: ArmSpec, resolved: Resolved, prompts: Sequence[Artifact]) -> tuple[Arm, list[Shard]]:
    """The arm, and its responses to every shard of prompts."""
    arm = arm_of(spec, resolved)
    fixed = {"lake": context.lake, "arm": arm, "model": resolved, "epoch": context.epoch(resolved)}
    fixed |= {"max_quarantined": context.max_quarantined}
    asked = [(sample, batch) for sample in range(spec.samples) for batch in prompts]
    calls = [fixed | {"batch": batch, "sample": sample} for sample, batch in asked]
    shards = []
    with progress(spec.name, sum(batch.rows for _, batch in asked)) as advance:
        results = overlapping(generate_task, calls, partial(is_complete, context.lake))
        for (_, batch), responses in zip(asked, results, strict=True):
            shards.append(Shard(batch, responses))
            advance(responses.rows)
    return arm, shards


def judge(
    context: Context, spec: JudgeSpec, resolved: Resolved | None, shards: Sequence[Shard]
) -> tuple[Judge, list[Artifact]]:
    """The judge as it is on record, and its verdicts on every shard; `resolved` is the model that a rubric is put to."""
    row, asked = on_record(spec, resolved)
    replies: list[Artifact | None] = [None] * len(shards)
    rubric = JUDGES[spec.name]
    if isinstance(rubric, Rubric) and asked is not None and resolved is not None:
        questions = [ask(context.lake, s.prompts, s.responses, rubric) for s in shards]
        answered = answer(context, asked, resolved, [q for q in questions if q.rows])[1]
        by_question = {shard.prompts.path: shard.responses for shard in answered}
        replies = [by_question.get(q.path) for q in questions]
    known: dict[str, Any] = {"lake": context.lake, "judge": row, "run_id": context.started.run_id}
    known |= {"epoch": context.epoch(resolved), "max_quarantined": context.max_quarantined}
    return row, [
        settle_task(batch=s.prompts, responses=s.responses, replies=reply, **known)
        for s, reply in zip(shards, replies, strict=True)
    ]


def on_record(spec: JudgeSpec, resolved: Resolved | None) -> tuple[Judge, ArmSpec | None]:
    """The judge's row, and how its model is asked; ConfigError when there is no such judge, or no model for it."""
    if spec.name not in JUDGES:
        raise ConfigError(f"{spec.name}: unknown judge; there are {', '.join(JUDGES)}")
    found = JUDGES[spec.name]
    if not isinstance(found, Rubric):
        return judge_row(found, None), None
    if resolved is None:
        raise ConfigError(f"{spec.name}: this judge asks a model; set `model` for it under `judges`")
    asked = ArmSpec(name=f"judge-{spec.name}", model=spec.name, sampling=found.sampling)
    return judge_row(found, arm_of(asked, resolved)), asked

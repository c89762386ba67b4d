"""Steps that several flows share: a benchmark is chosen, an arm answers, a judge judges."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

from schemas.config import ArmSpec, BenchmarkSpec, JudgeSpec
from schemas.errors import ConfigError, MidwatchError
from schemas.rows import Arm, Judge
from tasks.calibrate import reliability
from tasks.engines.weights import Resolved
from tasks.generate import arm_of, generate_task, is_complete
from tasks.importers.given import given_arm, given_responses
from tasks.ingest import Ingested, Pin, Source, benchmark_of, ingest_task, is_stored, locate, newest, obey
from tasks.judge import ask, judge_row, mark_task, settle_task
from tasks.judges import Judge as AnyJudge
from tasks.judges import answer_key, find
from tasks.judges.ensemble import Ensemble, Reliability, smoothed
from tasks.judges.opinion import Rubric
from tasks.judges.trained import Trained
from tasks.lake import Artifact, Lake
from tasks.opinions import Evidence
from tasks.progress import progress
from tasks.prompts import OPEN, Asking, Chosen, asking_of, batches, sampled
from tasks.runs import Started
from tasks.tracked import overlapping

log = logging.getLogger("midwatch.steps")


class Shard(NamedTuple):
    """Prompts, and an arm's responses to them."""

    prompts: Artifact
    responses: Artifact


class Questions(NamedTuple):
    """Benchmarks that are put in the same way, and their prompts: shards for each presentation of the protocol."""

    asking: Asking
    chosen: Sequence[Chosen]
    prompts: Sequence[Sequence[Artifact]]


class Answered(NamedTuple):
    """What an arm answered to questions."""

    arm: Arm
    questions: Questions
    shards: Sequence[Shard]


class Appointed(NamedTuple):
    """A judge, its row, the model that it asks (as the arm) or takes embeddings from, and an ensemble's members."""

    judge: AnyJudge
    row: Judge
    model: Resolved | None = None
    arm: Arm | None = None
    members: tuple["Appointed", ...] = ()


@contextmanager
def part(missing: dict[str, str] | None, name: str) -> Iterator[None]:
    """Within this context a failure is that of the part alone, and why is written to `missing`; None: it is everybody's."""
    try:
        yield
    except MidwatchError as e:
        if missing is None:
            raise
        log.error("%s is missing: %s", name, e)
        missing[name] = str(e)
    else:
        if missing is not None:
            missing.pop(name, None)


class Context(NamedTuple):
    """What every step of a run needs."""

    lake: Lake
    started: Started
    fresh: bool
    max_quarantined: float
    missing: dict[str, str] | None = None  # see `part`

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
    documented, n_items = benchmark_of(source.spec).card.rows, sum(f.rows for f in ingested.items)
    if documented not in (None, n_items):
        log.info("%s: %d items here, of the %d rows that its authors document", source.spec.id, n_items, documented)
    return ingested


def stored_or_ingested(lake: Lake, spec: BenchmarkSpec, pin: Pin | None, max_quarantined: float) -> Ingested:
    """The benchmark's items: from the path that was given, from the lake, or else from where they come from."""
    if spec.path is None and (stored := newest(lake, spec.id)) is not None:
        return stored
    return ingest(lake, locate(spec, pin), pin, max_quarantined)


def choose(context: Context, source: Source, pin: Pin | None) -> Chosen:
    """The benchmark as its spec takes it: ingested, sampled, and how it is put."""
    ingested = ingest(context.lake, source, pin, context.max_quarantined)
    asking = asking_of(source.spec, benchmark_of(source.spec).card, ingested.revision)
    ids = sampled(context.lake, ingested.items, source.spec.limit)
    return Chosen(benchmark=ingested.benchmark, files=ingested.items, ids=ids, asking=asking)


def questions(lake: Lake, chosen: Sequence[Chosen], shard_size: int) -> list[Questions]:
    """The prompts of all benchmarks, those together that are put in the same way."""
    groups: dict[Asking, list[Chosen]] = {}
    for c in chosen:
        groups.setdefault(c.asking, []).append(c)
    return [Questions(asking, group, batches(lake, group, shard_size)) for asking, group in groups.items()]


def answer(context: Context, spec: ArmSpec, resolved: Resolved, asked: Questions) -> Answered:
    """The arm, and its responses to every shard of prompts; a presentation, or another sample, is a sample of its own."""
    arm = arm_of(spec, resolved, asked.asking)
    n = len(asked.prompts)
    samples = spec.samples if asked.asking.code.answered == "text" else 1
    batches = [(s * n + p, batch) for s in range(samples) for p, shards in enumerate(asked.prompts) for batch in shards]
    return Answered(arm, asked, _generated(context, arm, resolved, batches))


def _generated(context: Context, arm: Arm, resolved: Resolved, batches: Sequence[tuple[int, Artifact]]) -> list[Shard]:
    """The responses of an arm to batches of prompts, each with the number of its sample; in the same order."""
    fixed = {"lake": context.lake, "arm": arm, "model": resolved, "epoch": context.epoch(resolved)}
    fixed |= {"max_quarantined": context.max_quarantined}
    calls = [fixed | {"batch": batch, "sample": sample} for sample, batch in batches]
    shards = []
    with progress(arm.name, sum(batch.rows for _, batch in batches)) as advance:
        results = overlapping(generate_task, calls, partial(is_complete, context.lake))
        for (_, batch), responses in zip(batches, results, strict=True):
            shards.append(Shard(batch, responses))
            advance(responses.rows)
    return shards


def given(context: Context, asked: Questions) -> Answered:
    """The responses that come with the data, as those of an arm of their own."""
    arm = given_arm(asked.asking)
    (prompts,) = asked.prompts
    responses = [given_responses(context.lake, batch, arm, context.max_quarantined) for batch in prompts]
    return Answered(arm, asked, [Shard(p, r) for p, r in zip(prompts, responses, strict=True)])


def appoint(lake: Lake, specs: Sequence[JudgeSpec], models: Mapping[str, Resolved]) -> list[Appointed]:
    """The judges, each after the members that it has; ConfigError when there is no such judge, or it lacks what it needs."""
    appointed: dict[str, Appointed] = {}
    for spec in specs:
        members = [appointed[m] for m in spec.members]
        appointed[spec.name] = _ensemble(lake, spec, members) if members else _alone(spec, models.get(spec.model or ""))
    return list(appointed.values())


def _alone(spec: JudgeSpec, model: Resolved | None) -> Appointed:
    found = find(spec)
    if isinstance(found, Rubric):
        if model is None:
            raise ConfigError(f"{spec.name}: this judge asks a model; set `model` for it under `judges`")
        if found.api is not None:
            requests = model.model.requests.model_copy(update={"api": found.api})
            model = model.model_copy(update={"model": model.model.model_copy(update={"requests": requests})})
        asks = ArmSpec(
            name=f"judge-{spec.name}",
            model=spec.name,
            sampling=found.sampling,
            chat_template_kwargs=dict(found.chat_template_kwargs) if found.chat_template_kwargs else None,
        )
        arm = arm_of(asks, model, OPEN, found.answered)
        return Appointed(found, judge_row(found, arm), model, arm)
    if isinstance(found, Trained) and found.embedding is not None:
        if model is None or model.model.revision != found.embedding:
            given = model.model.revision if model else "none"
            raise ConfigError(f"{spec.name}: fitted on embeddings of {found.embedding}; `model` gives those of {given}")
        return Appointed(found, judge_row(found), model)
    return Appointed(found, judge_row(found))


def _ensemble(lake: Lake, spec: JudgeSpec, members: Sequence[Appointed]) -> Appointed:
    labels = {a.judge.labels for a in members}
    if len(labels) > 1:
        raise ConfigError(f"{spec.name}: some members give refusal labels, others say safe or unsafe; take one kind")
    measured = reliability(lake, [a.row.judge_id for a in members]) if spec.vote == "weighted" else {}
    known = {a.row.name: measured[a.row.judge_id] for a in members if a.row.judge_id in measured}
    found = Ensemble(
        name=spec.name,
        members=spec.members,
        vote=spec.vote,
        ties=spec.ties,
        quorum=spec.quorum,
        labels=labels.pop(),
        reliability={m: Reliability(smoothed(se, n1), smoothed(sp, n0)) for m, (se, n1, sp, n0) in known.items()},
    )
    return Appointed(found, judge_row(found, members=[a.row.judge_id for a in members]), members=tuple(members))


def judge(
    context: Context, appointed: Sequence[Appointed], shards: Sequence[Shard], items: Sequence[Chosen], size: int
) -> list[tuple[Judge, list[Artifact]]]:
    """Each judge as it is on record, and its verdicts on every shard of free answers, which are about `items`.

    At most `size` questions to a judge's model are asked and stored together.
    """
    verdicts: dict[str, list[Artifact]] = {}
    for a in appointed:
        with part(context.missing, f"judge {a.row.name}"):
            verdicts[a.row.name] = _verdicts(context, a, shards, items, size, verdicts)
    return [(a.row, verdicts[a.row.name]) for a in appointed if a.row.name in verdicts]


def _verdicts(
    context: Context,
    a: Appointed,
    shards: Sequence[Shard],
    items: Sequence[Chosen],
    size: int,
    others: Mapping[str, Sequence[Artifact]],
) -> list[Artifact]:
    """The judge's verdicts on each shard; an ensemble's from those of the `others`."""
    if absent := [m for m in _members(a) if m not in others]:
        raise MidwatchError(f"{a.row.name}: its member {absent[0]} has no verdicts")
    replies, epoch = _replies(context, a, shards, size), context.epoch(a.model)
    return [
        settle_task(
            context.lake,
            Evidence(s.prompts, replies[n], a.model, items, {m: others[m][n] for m in _members(a)}),
            s.responses,
            a.judge,
            a.row,
            context.started.run_id,
            epoch,
            context.max_quarantined,
        )
        for n, s in enumerate(shards)
    ]


def _members(appointed: Appointed) -> list[str]:
    return [m.row.name for m in appointed.members]


def _replies(context: Context, appointed: Appointed, shards: Sequence[Shard], size: int) -> list[list[Artifact]]:
    """What a rubric's model says of each shard; nothing where the judge asks no model."""
    found, arm, model = appointed.judge, appointed.arm, appointed.model
    replies: list[list[Artifact]] = [[] for _ in shards]
    if not isinstance(found, Rubric) or arm is None or model is None:
        return replies
    epoch = context.epoch(model)
    rounds = [
        (n, sample, questions)
        for n, s in enumerate(shards)
        for sample, questions in ask(context.lake, s.prompts, s.responses, found, appointed.row, arm, epoch, size)
    ]
    asked = _generated(context, arm, model, [(sample, questions) for _, sample, questions in rounds])
    for (n, _, _), shard in zip(rounds, asked, strict=True):
        replies[n].append(shard.responses)
    return replies


def mark(context: Context, answered: Sequence[tuple[Sequence[Chosen], Sequence[Artifact]]]) -> tuple[Judge, list[Artifact]]:
    """The answer key as a judge, and its verdicts on responses to benchmarks of multiple choice or of preference."""
    row = judge_row(answer_key.JUDGE)
    known: dict[str, Any] = {"judge": row, "run_id": context.started.run_id, "epoch": context.epoch(None)}
    known |= {"max_quarantined": context.max_quarantined}
    return row, [verdicts for chosen, responses in answered for verdicts in mark_task(context.lake, chosen, responses, **known)]

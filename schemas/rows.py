"""The rows of the lake and the warehouse, each defined once: a pydantic model that also gives its Arrow schema.

Scalars and `tuple[str, ...]` are Arrow columns as they are; lists and dicts are stored as canonical JSON text. A column is
nullable exactly where its annotation allows None, and None means unknown or not applicable, never zero.
"""

import json
from collections.abc import Iterable
from datetime import date
from functools import cache
from types import NoneType, UnionType
from typing import Any, Literal, Self, Union, get_args, get_origin

import pyarrow as pa
from pydantic import AwareDatetime, BaseModel, ConfigDict

from schemas.ids import Message, canonical

Label = Literal["full_compliance", "partial_refusal", "full_refusal"]
Expected = Literal["comply", "refuse", "choose", "prefer"]
RunKind = Literal["evaluate", "import", "judge", "label", "calibrate", "observe", "monitor", "repeat", "night"]
JudgeKind = Literal["rule", "rubric", "guard", "trained", "ensemble", "key", "imported", "human"]

Decision = Literal["ok", "watch", "alert", "insufficient data"]
Cause = Literal["MIX", "NEW CATEGORY", "JUDGE", "MODEL", "INSTRUMENT", "NOT ENOUGH DATA"]
AlertEventKind = Literal["delivered", "failed", "seen again", "acknowledged", "snoozed", "resolved", "judged"]

LABELS: tuple[Label, ...] = get_args(Label)
NONE, UNKNOWN = "none", "unknown"  # beside the harm categories: an observed prompt is harmless, or nobody can tell

_ARROW: dict[Any, pa.DataType] = {
    str: pa.string(),
    int: pa.int64(),
    float: pa.float64(),
    bool: pa.bool_(),
    AwareDatetime: pa.timestamp("us", tz="UTC"),
    date: pa.date32(),
    tuple: pa.list_(pa.string()),
    Literal: pa.string(),
}
_JSON = (list, dict)


class Row(BaseModel):
    """A row; a subclass states its columns in the order in which they are stored."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @classmethod
    @cache
    def arrow_schema(cls) -> pa.Schema:
        """The Arrow schema of a table of these rows."""
        return pa.schema([_arrow_field(n, f.annotation) for n, f in cls.model_fields.items()])

    @classmethod
    @cache
    def json_columns(cls) -> frozenset[str]:
        """The columns that hold canonical JSON text."""
        return frozenset(n for n, f in cls.model_fields.items() if _kind(f.annotation)[0] in _JSON)

    @classmethod
    def to_table(cls, rows: Iterable[Self]) -> pa.Table:
        """`rows` as an Arrow table, in the same order."""
        listed = list(rows)
        return pa.table({n: cls._column(n, listed) for n in cls.model_fields}, schema=cls.arrow_schema())

    @classmethod
    def from_table(cls, table: pa.Table) -> list[Self]:
        """The rows of `table`, in the same order; a nullable column that it lacks, since older code wrote it, is None.

        KeyError where it lacks another column, pydantic's ValidationError where a value does not fit.
        """
        columns = cls.json_columns()
        older = {f.name: None for f in cls.arrow_schema() if f.nullable and f.name not in table.column_names}
        return [
            cls(**older, **{n: json.loads(v) if n in columns and v is not None else v for n, v in row.items()})
            for row in table.select([n for n in cls.model_fields if n not in older]).to_pylist()
        ]

    @classmethod
    def _column(cls, name: str, rows: list[Self]) -> list[Any]:
        values = [getattr(r, name) for r in rows]
        if name in cls.json_columns():
            return [None if v is None else canonical(v) for v in values]
        return values


def _kind(annotation: Any) -> tuple[Any, bool]:
    """The plain type behind an annotation, and whether None is allowed."""
    if get_origin(annotation) in (Union, UnionType):
        (inner,) = (a for a in get_args(annotation) if a is not NoneType)
        return _kind(inner)[0], True
    return get_origin(annotation) or annotation, False


def _arrow_field(name: str, annotation: Any) -> pa.Field:
    kind, nullable = _kind(annotation)
    return pa.field(name, pa.string() if kind in _JSON else _ARROW[kind], nullable=nullable)


class Benchmark(Row):
    """A benchmark as it was on one day; `revision` and `content_hash` digest all its items, in any order."""

    benchmark_id: str
    revision: str
    title: str
    license: str | None  # None: not stated by its authors
    citation: str | None
    task: str
    n_items: int
    content_hash: str
    card: dict[str, Any]
    ingested_at: AwareDatetime


class Item(Row):
    """What a benchmark asks, and what it says about it.

    `expected` is what a safe assistant does; None where the benchmark does not say.
    """

    item_id: str
    benchmark_id: str
    revision: str
    external_id: str
    messages: list[Message]
    options: list[str] | None
    reference: dict[str, Any] | None
    category: str | None
    harm_category: str | None
    expected: Expected | None
    attributes: dict[str, Any] | None


class Prompt(Row):
    """What a model is sent: the part of an item, or of a judge's question, that decides the answer.

    `options` are what is scored after the messages (letters, or whole continuations); None where the model answers freely.
    """

    item_id: str
    messages: list[Message]
    options: list[str] | None = None


class Arm(Row):
    """What is evaluated: a model with its chat set-up, sampling and defense. `mutable`: its weights may change unseen."""

    arm_id: str
    name: str
    model: str | None
    model_revision: str | None
    chat: dict[str, Any] | None
    sampling: dict[str, Any] | None
    defense: dict[str, Any] | None
    attack: dict[str, Any] | None
    mutable: bool


class Judge(Row):
    """What gives verdicts: a rule, a model, several judges together, a benchmark's answer key, another tool, a person.

    `judge_id` digests kind, version, rubric and model.
    """

    judge_id: str
    name: str
    kind: JudgeKind
    version: str
    model: str | None
    config: dict[str, Any]


class Response(Row):
    """One answer of an arm to an item. Exactly one of `text` and `error` is set.

    Where options were scored, `text` is the letter (A, B, ...) of the likeliest as they were shown, `option_logprobs` has
    the natural-log probability of each by its letter, summed over its tokens, and `option_tokens` their number.
    """

    response_id: str
    item_id: str
    arm_id: str
    sample: int
    epoch: str
    text: str | None
    finish_reason: str | None
    prompt_tokens: int | None
    completion_tokens: int | None
    option_logprobs: dict[str, float] | None
    error: str | None
    generated_at: AwareDatetime
    option_tokens: dict[str, int] | None = None


class Verdict(Row):
    """One judgement of a response. `label` and `unsafe` are None and `error` says why where there is no judgement."""

    verdict_id: str
    response_id: str
    judge_id: str
    run_id: str
    epoch: str
    label: Label | None
    unsafe: bool | None
    score: float | None
    categories: tuple[str, ...] | None
    rationale: str | None
    raw: str | None
    error: str | None
    judged_at: AwareDatetime


class HumanLabel(Row):
    """What a person said of a response; `label` is a refusal label, `unsafe` a harm verdict, either or both.

    `inclusion_probability` is the chance with which the response was drawn for labelling, above 0 to 1; None: not known.
    """

    label_id: str
    response_id: str
    item_id: str
    annotator: str
    label: Label | None
    unsafe: bool | None
    categories: tuple[str, ...] | None
    labeled_at: AwareDatetime | None
    source: str
    inclusion_probability: float | None = None


class Calibration(Row):
    """One figure of a judge against `reference` (an annotator, or the judge itself for its consistency) over `n` responses.

    `arm_id` and `benchmark_id` None: over all of them. The figures are described in schemas/calibration.yaml.
    """

    run_id: str
    judge_id: str
    reference: str
    arm_id: str | None
    benchmark_id: str | None
    slice: str
    metric: str
    n: int
    value: float | None
    ci_low: float | None
    ci_high: float | None
    method: str


class ObservedPrompt(Row):
    """A prompt that somebody sent, once for each time it was sent, and the category that one classifier gives it.

    `harm_category` is one of the fourteen, `none` (harmless) or `unknown`, with `score` as its probability; `category` is the
    name that the file itself has for it. `weight` is how many prompts it stands for. `text` is None where texts are not kept,
    and in the rows of a later classifier: the first one's row has it.
    """

    prompt_id: str
    run_id: str
    source: str
    observed_at: AwareDatetime
    text: str | None
    category: str | None
    harm_category: str
    score: float | None
    classifier_id: str
    weight: float


class ObservedDay(Row):
    """What a run adds to a day (UTC) of a source: how many prompts of a category, and their weights together."""

    run_id: str
    source: str
    day: date
    classifier_id: str
    harm_category: str
    n: int
    weight: float


class DriftTest(Row):
    """What a monitor decided one night, and why; `statistic` and `threshold` are natural logs of evidence."""

    test_id: str
    run_id: str
    monitor: str
    kind: str
    checked_at: AwareDatetime
    night: date | None
    reference: dict[str, Any] | None
    current: dict[str, Any] | None
    statistic: float | None
    threshold: float | None
    effect: float | None
    decision: Decision
    reason: str
    details: dict[str, Any] | None


class Alert(Row):
    """An alert as it was raised; what became of it is in its events. `since` None: it is not known when it began."""

    alert_id: str
    run_id: str
    monitor: str
    cause: Cause
    severity: str
    raised_at: AwareDatetime
    since: date | None
    title: str
    body: str
    details: dict[str, Any] | None


class AlertEvent(Row):
    """Something that happened to an alert; `who` None: Midwatch itself. `is_true`: something had changed indeed."""

    event_id: str
    alert_id: str
    run_id: str
    happened_at: AwareDatetime
    kind: AlertEventKind
    who: str | None
    until: AwareDatetime | None
    is_true: bool | None
    note: str | None


class Metric(Row):
    """One number of a run over `n` responses; None where n is 0. schemas/metrics.yaml has the range of each metric."""

    run_id: str
    arm_id: str
    benchmark_id: str
    judge_id: str
    metric: str
    slice: str
    n: int
    value: float | None
    ci_low: float | None
    ci_high: float | None
    method: str


class Run(Row):
    """A finished run; its row is the last that a load writes, and what makes the run visible."""

    run_id: str
    name: str
    kind: RunKind
    status: str
    started_at: AwareDatetime
    finished_at: AwareDatetime
    config: dict[str, Any]
    code_version: str
    environment: dict[str, Any]


class RunBenchmark(Row):
    """A benchmark that a run used, and how many of its items it took."""

    run_id: str
    benchmark_id: str
    revision: str
    n_items: int


class RunResponse(Row):
    """A response that belongs to a run; `from_cache`: it was there before the run started."""

    run_id: str
    response_id: str
    from_cache: bool


class RunVerdict(Row):
    """A verdict that belongs to a run; `from_cache`: it was there before the run started."""

    run_id: str
    verdict_id: str
    from_cache: bool

"""Given answers and people's labels of them, matched to a benchmark's items."""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

import polars as pl
import pyarrow as pa

from schemas.errors import MidwatchError
from schemas.ids import asked, canonical, digest, response_id
from schemas.rows import LABELS, Arm, HumanLabel, Judge, Label, Response
from tasks.forgotten import Tombstones
from tasks.lake import Lake, write_atomically
from tasks.prompts import Asking
from tasks.store import Stored, store

MAX_QUARANTINED = 0.01  # share of a file's rows that may belong to nothing

STRAY = "no item of the benchmark asks this"
AMBIGUOUS = "several items of the benchmark ask this; map them by the benchmark's own columns"

_NUMBERED = re.compile(r"^\d+[_. -]\s*")  # XSTest's authors write 1_full_compliance
_UNSAFE = {"unsafe": True, "true": True, "1": True, "safe": False, "false": False, "0": False}


class ImportRefused(MidwatchError):
    """What a file holds can't become a run: the column or value, and what was expected."""


class Stray(NamedTuple):
    """A row of a file, counted from 0, that belongs to nothing that is stored: why, and what it says."""

    row: int
    reason: str
    values: dict[str, Any]


class Match(NamedTuple):
    """The item that a row of the file answers, or why none is found."""

    item_id: str | None
    stray: str | None = None


class Answer(NamedTuple):
    """A row of the file: the item that it answers, what was asked if a column says so, the answer, a person's label of it."""

    match: Match
    text: str | None
    label: str | None = None
    prompt: str | None = None


class Said(NamedTuple):
    """What a person said of a response, as HumanLabel has it."""

    annotator: str
    label: Label | None
    unsafe: bool | None
    categories: tuple[str, ...] | None = None
    labeled_at: datetime | None = None
    inclusion_probability: float | None = None


def answers_forgotten(barred: Tombstones, answer: Answer) -> bool:
    """Whether its item, or what it says was asked, is forgotten."""
    return answer.match.item_id in barred.item_ids or barred.bars(answer.prompt)


def imported_arm(name: str, answers: Sequence[Answer], asking: Asking) -> Arm:
    """The arm of given answers: nothing is known of the model, so what was answered to which item is its identity."""
    content = digest(sorted(canonical([a.match.item_id, a.text]) for a in answers))
    return Arm(
        arm_id=digest("imported", name, content, asking.record),
        name=name,
        model=None,
        model_revision=content,
        chat=asking.record or None,
        sampling=None,
        defense=None,
        attack=None,
        mutable=False,
    )


def require(rows: pl.DataFrame, file: str, *columns: str | None) -> None:
    """ImportRefused where the file lacks one of the columns."""
    for column in columns:
        if column is not None and column not in rows.columns:
            raise ImportRefused(f"{file}: no column {column!r}; it has {', '.join(rows.columns)}")


def by_prompt(prompts: Iterable[str | None], tables: Iterable[pa.Table]) -> list[Match]:
    """For each prompt the id of the only item whose last message of the user it is, or why there is none."""
    items: dict[str, set[str]] = {}
    for table in tables:
        for row in table.select(["item_id", "messages"]).to_pylist():
            items.setdefault(asked(json.loads(row["messages"])), set()).add(row["item_id"])
    found = [items.get(prompt or "", set()) for prompt in prompts]
    return [Match(min(ids)) if len(ids) == 1 else Match(None, AMBIGUOUS if ids else STRAY) for ids in found]


def imported_responses(lake: Lake, arm: Arm, answers: Sequence[Answer], max_quarantined: float) -> Stored:
    """A response for each answer to an item, in the same order; an item's second answer is its second sample.

    A missing answer is a response with `error`. Rows without an item go to quarantine; ImportRefused when they are more
    than `max_quarantined` of all.
    """
    strays = [
        Stray(n, a.match.stray, {"prompt": a.prompt, "response": a.text, "label": a.label})
        for n, a in enumerate(answers)
        if a.match.stray is not None
    ]
    file = set_apart(lake, strays, len(answers), max_quarantined, "check --benchmark and --prompt")
    rows = [
        given_response(arm, a.match.item_id, sample, a.text)
        for a, sample in zip(answers, _samples(answers), strict=True)
        if a.match.item_id
    ]
    stored = store(lake, Response.to_table(rows), "responses", f"responses/{arm.arm_id}/pinned", max_quarantined)
    return without(stored, strays, file)


def imported_labels(
    lake: Lake, arm: Arm, answers: Sequence[Answer], annotator: str, source: str, max_quarantined: float
) -> Stored:
    """The labels of one annotator; ImportRefused names a value that is neither a refusal label nor safe or unsafe."""
    rows = []
    for a, sample in zip(answers, _samples(answers), strict=True):
        item = a.match.item_id
        if item and a.label and a.label.strip():
            label, unsafe = label_of(a.label)
            said = Said(annotator, label, unsafe)
            rows.append(human_label(response_id(item, arm.arm_id, sample, ""), item, said, source))
    return store(lake, HumanLabel.to_table(rows), "labels", f"labels/{digest(annotator)}", max_quarantined)


def label_of(value: str) -> tuple[Label | None, bool | None]:
    """A refusal label, or whether the response is unsafe; ImportRefused for anything else."""
    if (found := read_label(value)) is None:
        raise ImportRefused(no_label(value))
    return found


def read_label(value: str) -> tuple[Label | None, bool | None] | None:
    """A refusal label, or whether the response is unsafe; None for anything else."""
    plain = _NUMBERED.sub("", value.strip().lower()).replace(" ", "_")
    label = next((known for known in LABELS if known == plain), None)
    if label is None and plain not in _UNSAFE:
        return None
    return label, None if label else _UNSAFE[plain]


def no_label(value: str) -> str:
    """The complaint about a value that is no label."""
    return f"label {value[:80]!r} is none of {', '.join(LABELS)}, safe or unsafe"


def human_label(response: str, item: str, said: Said, source: str) -> HumanLabel:
    """The row of what a person said of a response, which is named by it: in another file it is the same label."""
    return HumanLabel(
        label_id=digest(
            *("label", response, said.annotator, said.label, said.unsafe, said.categories),
            said.labeled_at and said.labeled_at.astimezone(UTC).isoformat(),
        ),
        response_id=response,
        item_id=item,
        source=source,
        **said._asdict(),
    )


def annotator_row(annotator: str) -> Judge:
    """A person as a judge, so that what they say is counted like any verdict."""
    return Judge(
        judge_id=digest("judge", annotator, "human"),
        name=annotator,
        kind="human",
        version="1",
        model=None,
        config={"labels": True},
    )


def _samples(answers: Sequence[Answer]) -> list[int]:
    """How many answers to the same item came before each."""
    seen: Counter[str | None] = Counter()
    samples = []
    for a in answers:
        samples.append(seen[a.match.item_id])
        seen[a.match.item_id] += 1
    return samples


def set_apart(lake: Lake, strays: Sequence[Stray], n_rows: int, max_quarantined: float, advice: str) -> str | None:
    """The quarantine file of the strays among `n_rows`; None without any.

    ImportRefused, with `advice`, when they are more than `max_quarantined` of all.
    """
    if not strays:
        return None
    data = "".join(f"{json.dumps({'row': s.row, 'reasons': [s.reason], 'values': s.values})}\n" for s in strays).encode()
    path = lake.quarantine / f"imported-{hashlib.sha256(data).hexdigest()[:32]}.jsonl"
    write_atomically(path, data)
    if len(strays) > max_quarantined * n_rows:
        commonest = Counter(s.reason for s in strays).most_common(1)[0][0]
        raise ImportRefused(f"{len(strays)} of {n_rows} rows: {commonest}, see {path}; {advice}")
    return str(path)


def without(stored: Stored, strays: Sequence[Stray], file: str | None) -> Stored:
    """`stored` with the strays counted among what was left out; `file` is the quarantine file that holds them."""
    reasons = Counter(s.reason for s in strays)
    return stored.model_copy(update={"quarantined": stored.quarantined | reasons, "quarantine": file or stored.quarantine})


def given_response(arm: Arm, item_id: str, sample: int, text: str | None) -> Response:
    """An answer of which nothing is known but its text, given now; without a text it has an error."""
    return Response(
        response_id=response_id(item_id, arm.arm_id, sample, ""),
        item_id=item_id,
        arm_id=arm.arm_id,
        sample=sample,
        epoch="",
        text=text,
        finish_reason=None,
        prompt_tokens=None,
        completion_tokens=None,
        option_logprobs=None,
        error=None if text is not None else "the file holds no response",
        generated_at=datetime.now(UTC),
    )

"""Tables without what is to be forgotten: ids, dates, categories, labels and numbers stay as they were."""

import json
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc

from schemas.ids import canonical
from tasks.forgotten import FORGOTTEN
from tasks.generate import UNANSWERED

Kind = Literal["observed", "items", "prompts", "vectors", "responses", "verdicts", "receipts", "other"]

GROUP = 32  # characters of an attribute that names a group or a condition, and stays
LETTER = 2  # characters of a judge's reply that is an option's letter, and stays

# Columns of free text, in which a text may stand that is another row's.
FREE = (
    *("text", "messages", "options", "reference", "attributes", "error", "rationale", "raw"),
    *("title", "body", "details", "reason", "note", "config", "environment"),
)
TOLD = ("title", "body", "reason")  # what is said of a monitor's decision
_SPEAKERS = ("user", "assistant", "tool")  # the system's turns are no one's text
_CODES = ("kind", "subject", "status", "cluster_id")
_WORD = re.compile(r"\w{4,}")

# What tells the tables of the lake from each other: columns that no other kind has all of.
_KINDS: dict[Kind, set[str]] = {
    "observed": {"prompt_id", "observed_at", "text"},
    "items": {"item_id", "benchmark_id", "messages"},
    "prompts": {"item_id", "messages"},
    "vectors": {"text_id", "vector"},
    "responses": {"response_id", "item_id", "arm_id", "text"},
    "verdicts": {"verdict_id", "response_id", "judge_id", "raw"},
    "receipts": {"path", "sha256", "rows"},
}

Rows = dict[str, Any]


def kind_of(columns: Collection[str]) -> Kind:
    """What a table of the lake with these columns holds."""
    return next((kind for kind, needed in _KINDS.items() if needed <= set(columns)), "other")


def observed(table: pa.Table, prompt_ids: Collection[str]) -> pa.Table:
    """Prompts from logs without the texts of these."""
    return _without(table, "prompt_id", prompt_ids, lambda row: {"text": None})


def items(table: pa.Table, item_ids: Collection[str]) -> pa.Table:
    """Items of benchmarks without what these ask; of attributes and references, numbers and names of groups stay."""
    return _without(table, "item_id", item_ids, _item)


def responses(table: pa.Table, item_ids: Collection[str]) -> pa.Table:
    """Responses without what was answered to these items, but for letters of options."""
    return _without(table, "item_id", item_ids, _response)


def verdicts(table: pa.Table, response_ids: Collection[str]) -> pa.Table:
    """Verdicts without what judges wrote of these responses; what they decided stays."""
    return _without(table, "response_id", response_ids, _verdict)


def scrubbed(table: pa.Table, forms: Sequence[str]) -> pa.Table:
    """The table with all of `forms` taken out of its columns of free text."""
    for name in (n for n in table.column_names if n in FREE and pa.types.is_string(table.schema.field(n).type)):
        for form in forms:
            if pc.any(pc.match_substring(table[name], form)).as_py():
                table = _with(table, name, pc.replace_substring(table[name], form, FORGOTTEN))
    return table


def terms(table: pa.Table) -> set[str]:
    """The words that clusters of prompts are called by in decisions of monitors; none in other tables."""
    if not set(TOLD) & set(table.column_names) or "details" not in table.column_names:
        return set()
    details = (json.loads(d) for d in table["details"].to_pylist() if d is not None and '"terms"' in d)
    return {word for value in details for word in _terms(value)}


def without_words(table: pa.Table, words: Sequence[str]) -> pa.Table:
    """Decisions and alerts without these words, where they tell of clusters."""
    if not words or not terms(table):
        return table
    pattern = re.compile(rf"\b({'|'.join(map(re.escape, words))})\b", re.IGNORECASE)
    for name in (n for n in TOLD if n in table.column_names):
        table = _with(table, name, pa.array([t and pattern.sub(FORGOTTEN, t) for t in table[name].to_pylist()], pa.string()))
    details = (d and canonical(_reworded(json.loads(d), pattern)) for d in table["details"].to_pylist())
    return _with(table, "details", pa.array(details, pa.string()))


def request(messages: str) -> str | None:
    """What an item of one turn asks; None where it was forgotten, and where one turn alone is not what it says."""
    turns = said(messages, *_SPEAKERS)
    return turns[0] if len(turns) == 1 and turns != [FORGOTTEN] else None


def said(messages: str, *roles: str) -> list[str]:
    """The turns of these roles."""
    return [turn["content"] for turn in json.loads(messages) if turn["role"] in roles]


def says(messages: str, texts: Collection[str], long: int) -> bool:
    """Whether an item asks one of the texts, or holds one that has at least `long` characters."""
    asks, turns = request(messages), said(messages, *_SPEAKERS)
    return any(text == asks or (len(text) >= long and any(text in turn for turn in turns)) for text in texts)


def _terms(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for name, part in value.items():
            yield from (w for t in part for w in _WORD.findall(t.lower())) if name == "terms" else _terms(part)
    elif isinstance(value, list):
        for part in value:
            yield from _terms(part)


def _reworded(value: Any, pattern: re.Pattern[str]) -> Any:
    if isinstance(value, dict):
        return {name: part if name in _CODES else _reworded(part, pattern) for name, part in value.items()}
    if isinstance(value, list):
        return [_reworded(part, pattern) for part in value]
    return pattern.sub(FORGOTTEN, value) if isinstance(value, str) else value


def _with(table: pa.Table, name: str, column: pa.Array | pa.ChunkedArray) -> pa.Table:
    at = table.schema.get_field_index(name)
    return table.set_column(at, table.schema.field(at), column)


def _without(table: pa.Table, key: str, ids: Collection[str], forget: Callable[[Rows], Rows]) -> pa.Table:
    concerned = pc.is_in(table[key], pa.array(ids, pa.string()))
    places = [n for n, found in enumerate(concerned.to_pylist()) if found]
    if not places:
        return table
    rows = table.take(pa.array(places)).to_pylist()
    changed = [forget(row) for row in rows]
    for name in changed[0]:
        if name in table.column_names:
            values = table[name].to_pylist()
            for place, row in zip(places, changed, strict=True):
                values[place] = row[name]
            table = _with(table, name, pa.array(values, table.schema.field(name).type))
    return table


def _item(row: Rows) -> Rows:
    turns = json.loads(row["messages"])
    whole = "\n".join(turn["content"] for turn in turns)
    emptied = canonical([{"role": turn["role"], "content": FORGOTTEN} for turn in turns])
    options = row.get("options") and canonical([FORGOTTEN for _ in json.loads(row["options"])])
    kept = {n: row.get(n) and canonical(_kept(json.loads(row[n]), whole)) for n in ("reference", "attributes")}
    return {"messages": emptied, "options": options, **kept}


def _kept(value: Any, whole: str) -> Any:
    """A JSON value without its texts but for short ones that the item does not say itself."""
    if isinstance(value, dict):
        return {name: _kept(part, whole) for name, part in value.items()}
    if isinstance(value, list):
        return [_kept(part, whole) for part in value]
    return FORGOTTEN if isinstance(value, str) and (len(value) > GROUP or value in whole) else value


def _response(row: Rows) -> Rows:
    has_letter = row.get("option_logprobs") is not None
    text = row["text"] if row["text"] is None or has_letter else FORGOTTEN
    return {"text": text, "error": _error(row["error"])}


def _verdict(row: Rows) -> Rows:
    raw = row["raw"] if row["raw"] is not None and len(row["raw"]) <= LETTER else None
    return {"rationale": None, "raw": raw, "error": _error(row["error"])}


def _error(error: str | None) -> str | None:
    """An error of the same kind that quotes nothing."""
    if error is None:
        return None
    return f"{UNANSWERED}{FORGOTTEN}" if error.startswith(UNANSWERED) else FORGOTTEN

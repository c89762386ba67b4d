"""A prompt is forgotten: wherever its text is in a home folder, but for the warehouse, which is made anew from the lake.

What the texts are is read from where they were first stored, and that is changed last: so a process that was killed can be
followed by another at any moment, which finds what is left by ids or by texts.
"""

import json
import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from schemas.errors import ConfigError, MidwatchError
from schemas.ids import digest
from tasks import erase, scrub
from tasks.erase import Kind
from tasks.forgotten import FORGOTTEN, Record, text_id
from tasks.gc import named, receipt, temporary, withdrawn
from tasks.key import key_of
from tasks.lake import Artifact, Lake, LakeError, write_atomically
from tasks.runs import manifests

FIRST: tuple[Kind, ...] = ("observed", "items")  # where texts are stored first
LATER: tuple[Kind, ...] = ("responses", "verdicts", "other")
KEYS: Mapping[Kind, str] = {
    "observed": "prompt_id",
    "items": "item_id",
    "responses": "response_id",
    "verdicts": "verdict_id",
}
NAMES: Mapping[Kind, str] = {"observed": "observed prompts"}
_SKIPPED = ("models", "lake")


class Plan(NamedTuple):
    """What is to be forgotten, and how many rows of each table say something of it."""

    record: Record
    counts: dict[str, int]


class Target(NamedTuple):
    """What is looked for: ids, and, as far as they are still stored, texts, what users say in items, and words of their own."""

    prompt_ids: frozenset[str]
    item_ids: frozenset[str]
    response_ids: frozenset[str]
    texts: tuple[str, ...]
    turns: tuple[str, ...]  # also of several turns, each of which another item may have, for what is no table of the lake
    words: tuple[str, ...]  # which stand in no other text

    @property
    def ids(self) -> frozenset[str]:
        """The ids by which rows are known."""
        return self.prompt_ids | self.item_ids | self.response_ids


def plan(home: Path, asked: Sequence[str], who: str, now: datetime, reason: str) -> Plan:
    """What forgetting the prompts of these ids takes with it; ConfigError names an id that nothing has.

    An id is that of an observed prompt or of an item. All prompts and items with the same text go, and items that hold it.
    """
    lake = Lake(root=home / "lake")
    wanted = sorted(set(asked))
    known, texts = set[str](), set[str]()
    for table, key in _first(lake):
        of_them = _of(table, key, wanted)
        known.update(_strings(of_them, key))
        texts.update(_texts(of_them))
    if missing := sorted(set(asked) - known):
        raise ConfigError(f"--prompt-id {missing[0]}: no observed prompt and no item of a benchmark has this id")
    secret = key_of(lake)
    record = Record(
        asked=tuple(wanted),
        prompt_ids=tuple(sorted(_same_prompts(lake, wanted, texts))),
        item_ids=tuple(sorted(_same_items(lake, wanted, texts))),
        text_ids=tuple(sorted(text_id(secret, text) for text in texts)),
        who=who,
        asked_at=now,
        reason=_without(reason, texts),
    )
    return Plan(record, _counts(lake, record))


def forget(home: Path, record: Record) -> None:
    """Take what the record names out of the home folder but for the warehouse; done again, it completes what is left."""
    lake = Lake(root=home / "lake")
    if pending := withdrawn(lake):
        raise MidwatchError(f"the removal of run {pending[0]} was interrupted: midwatch gc --yes finishes it; then forget")
    target = _target(lake, record)
    _drop_questions(lake, target)
    _drop_vectors(lake, target)
    _rewrite(lake, target, LATER)
    _clear(home, lake, target)
    _rewrite(lake, target, FIRST)
    _drop_receipts(home, lake)


def _paths(lake: Lake, *kinds: Kind) -> list[Path]:
    """The files of the lake that hold such tables; LakeError where one can't be read."""
    return [path for path in sorted(lake.root.rglob("*.parquet")) if erase.kind_of(_columns(path)) in kinds]


@lru_cache(maxsize=1_000_000)  # the files never change, and each step looks through all of them
def _columns(path: Path) -> tuple[str, ...]:
    try:
        return tuple(pq.read_schema(path).names)
    except (pa.ArrowException, OSError) as e:
        raise LakeError(f"{path}: can't be read, and may hold what is to be forgotten: restore or delete it") from e


def _read(lake: Lake, path: Path) -> pa.Table:
    return lake.read(Artifact(path=path.relative_to(lake.root).as_posix(), sha256=path.stem, rows=0))


def _strings(table: pa.Table, column: str) -> list[str]:
    return [str(value) for value in table[column].drop_null().to_pylist()]


def _of(table: pa.Table, key: str, ids: Collection[str]) -> pa.Table:
    """The rows of these ids."""
    return table.filter(pc.is_in(table[key], pa.array(ids, pa.string())))


def _first(lake: Lake) -> Iterator[tuple[pa.Table, str]]:
    """The tables in which texts are stored first, each with the column of its ids."""
    for path in _paths(lake, *FIRST):
        table = _read(lake, path)
        yield table, "prompt_id" if "prompt_id" in table.column_names else "item_id"


def _texts(table: pa.Table) -> set[str]:
    """What these prompts or items ask, as far as it was not forgotten."""
    if "prompt_id" in table.column_names:
        return set(_strings(table, "text"))
    return {text for messages in _strings(table, "messages") if (text := erase.request(messages)) is not None}


def _same_prompts(lake: Lake, wanted: Collection[str], texts: Collection[str]) -> set[str]:
    found = set[str]()
    for path in _paths(lake, "observed"):
        table = _read(lake, path)
        for same in (_of(table, "prompt_id", wanted), _of(table, "text", texts)):
            found.update(_strings(same, "prompt_id"))
    return found


def _same_items(lake: Lake, wanted: Collection[str], texts: Collection[str]) -> set[str]:
    tables = (_read(lake, path).select(["item_id", "messages"]) for path in _paths(lake, "items"))
    rows = (row for table in tables for row in table.to_pylist())
    return {r["item_id"] for r in rows if r["item_id"] in wanted or erase.says(r["messages"], texts, scrub.LONG)}


def _without(reason: str, texts: Collection[str]) -> str:
    for text in texts:
        reason = reason.replace(text, FORGOTTEN)
    return reason


def _counts(lake: Lake, record: Record) -> dict[str, int]:
    """How many rows say something, each counted once."""
    target = _target(lake, record)
    counted = {}
    for kind, key in KEYS.items():
        ids = set[str]()
        for path in _paths(lake, kind):
            before = _read(lake, path)
            after = _emptied(before, kind, target)
            if not after.equals(before):
                ids.update(_strings(before.filter(_differs(before, after)), key))
        counted[NAMES.get(kind, kind)] = len(ids)
    return counted


def _differs(before: pa.Table, after: pa.Table) -> pa.Array:
    """Which rows of two tables of the same columns are not alike."""
    return pa.array([a != b for a, b in zip(before.to_pylist(), after.to_pylist(), strict=True)], pa.bool_())


def _target(lake: Lake, record: Record) -> Target:
    prompts, items = frozenset(record.prompt_ids), frozenset(record.item_ids)
    ids = prompts | items
    texts = {text for table, key in _first(lake) for text in _texts(_of(table, key, ids))}
    answers = (_of(_read(lake, path), "item_id", items) for path in _paths(lake, "responses"))
    responses = frozenset(i for table in answers for i in _strings(table, "response_id"))
    messages = (m for path in _paths(lake, "items") for m in _strings(_of(_read(lake, path), "item_id", items), "messages"))
    turns = {*texts, *(turn for m in messages for turn in erase.said(m, "user") if turn != FORGOTTEN)}
    words = _words(lake, ids, texts)
    return Target(prompts, items, responses, tuple(sorted(texts)), tuple(sorted(turns)), tuple(sorted(words)))


def _words(lake: Lake, ids: Collection[str], texts: Collection[str]) -> set[str]:
    """Words by which clusters are called, and which stand in these texts and in no other."""
    called = {word for path in _paths(lake, "other") for word in erase.terms(_read(lake, path))}
    words = {word for word in called if any(word in text.lower() for text in texts)}
    for table, key in _first(lake) if words else ():
        own = set(_strings(_of(table, key, ids), key))
        said = "text" if key == "prompt_id" else "messages"
        others = (r[said].lower() for r in table.select([key, said]).to_pylist() if r[key] not in own and r[said] is not None)
        for other in others:
            words -= {word for word in words if word in other}
    return words


def _emptied(table: pa.Table, kind: Kind, target: Target) -> pa.Table:
    """The table without what its rows themselves are to forget."""
    match kind:
        case "observed":
            return erase.observed(table, target.prompt_ids)
        case "items":
            return erase.items(table, target.item_ids)
        case "responses":
            return erase.responses(table, target.item_ids)
        case "verdicts":
            return erase.verdicts(table, target.response_ids)
    return table


def _drop_questions(lake: Lake, target: Target) -> None:
    """Delete prompts as they were sent that hold a text, a judge's questions too, and replies to them that no run names."""
    asking = {path: found for path in _paths(lake, "prompts") if (found := _asks(_read(lake, path), target))}
    questions = frozenset[str]().union(*asking.values())
    used = named(lake)
    for path in _paths(lake, "responses"):
        if path.relative_to(lake.root).as_posix() not in used and _of(_read(lake, path), "item_id", questions).num_rows:
            path.unlink()
    for path in asking:
        path.unlink()


def _asks(table: pa.Table, target: Target) -> set[str]:
    """The ids of the prompts that hold one of the turns, however short."""
    forms = [json.dumps(turn)[1:-1] for turn in target.turns]
    rows = table.select(["item_id", "messages"]).to_pylist()
    return {r["item_id"] for r in rows if r["item_id"] in target.item_ids or any(form in r["messages"] for form in forms)}


def _drop_vectors(lake: Lake, target: Target) -> None:
    """Vectors of the texts: their ids are digests that anyone can compare with a guess."""
    gone = pa.array([digest("text", text) for text in target.texts], pa.string())
    for path in _paths(lake, "vectors"):
        table = _read(lake, path)
        kept = table.filter(pc.invert(pc.is_in(table["text_id"], gone)))
        if kept.num_rows < table.num_rows:
            if kept.num_rows:
                lake.write(kept, path.parent.relative_to(lake.root).as_posix())
            path.unlink()


def _rewrite(lake: Lake, target: Target, kinds: Sequence[Kind]) -> None:
    """Put files without what is to be forgotten in the place of those that hold it, in manifests and receipts too."""
    used, forms = named(lake), scrub.forms(target.texts)
    moved: dict[str, Artifact | None] = {}
    for path in _paths(lake, *kinds):
        table, kind = _read(lake, path), erase.kind_of(_columns(path))
        new = erase.without_words(erase.scrubbed(_emptied(table, kind, target), forms), target.words)
        if not new.equals(table):
            name = path.relative_to(lake.root).as_posix()
            is_needed = name in used or name.startswith("benchmarks/")
            moved[name] = lake.write(new, name.rpartition("/")[0]) if is_needed else None
    _point(lake, moved)
    for name in moved:
        (lake.root / name).unlink()


def _point(lake: Lake, moved: Mapping[str, Artifact | None]) -> None:
    """Make manifests, and receipts of benchmarks, name the files that took the place of others."""
    for made in manifests(lake):
        files = {table: [_moved(a, moved) for a in found] for table, found in made["artifacts"].items()}
        if files != made["artifacts"]:
            path = lake.root / "runs" / made["run_id"] / "manifest.json"
            write_atomically(path, json.dumps(made | {"artifacts": files}, indent=1).encode())
    for path in _paths(lake, "receipts"):
        rows = _read(lake, path)
        named_now = pa.Table.from_pylist([_moved(row, moved) for row in rows.to_pylist()], rows.schema)
        if not named_now.equals(rows):
            lake.write(named_now, path.parent.relative_to(lake.root).as_posix())
            path.unlink()


def _moved(row: dict[str, object], moved: Mapping[str, Artifact | None]) -> dict[str, object]:
    new = moved.get(str(row["path"]))
    return row if new is None else row | {"path": new.path, "sha256": new.sha256}


def _clear(home: Path, lake: Lake, target: Target) -> None:
    """Take the texts out of all but the lake's tables; reports, which quote two runs, go: they can be made anew."""
    for path in (home / "reports").glob("*"):
        path.unlink()
    for folder in (lake.root / "observed").glob("*/.arriving/"):
        shutil.rmtree(folder)
    for path in list(temporary(home)):
        path.unlink(missing_ok=True)
    forms = scrub.forms(target.turns)
    for path in list(home.rglob("*")):
        if path.relative_to(home).parts[0] not in _SKIPPED:
            scrub.file(path, target.texts, forms, target.ids)
    for path in (home / "prefect").glob("*.db"):
        scrub.database(path, forms)


def _drop_receipts(home: Path, lake: Lake) -> None:
    """Delete what Prefect's cache says of files that are gone, and errors, which may quote anything."""
    for path in (home / "prefect" / "results").glob("*"):
        files = receipt(path)
        if not files or not all((lake.root / name).exists() for name in files):
            path.unlink()

"""What was forgotten on request: on record by ids and keyed hashes, never by its text, so that no import brings it back."""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError

from schemas.ids import digest
from tasks.key import key_of
from tasks.lake import Lake, LakeError, write_atomically

FORGOTTEN = "[forgotten]"  # in place of a text where there has to be one


class Record(BaseModel):
    """A request to forget: the ids that were named, and all that has the same content; not `finished_at`: not done yet."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    asked: tuple[str, ...]
    prompt_ids: tuple[str, ...]
    item_ids: tuple[str, ...]
    text_ids: tuple[str, ...]
    who: str
    asked_at: AwareDatetime
    reason: str
    finished_at: AwareDatetime | None = None


class Tombstones(NamedTuple):
    """All that was forgotten, so that what comes in can be compared with it."""

    key: bytes
    item_ids: frozenset[str]
    text_ids: frozenset[str]

    def bars(self, text: str | None) -> bool:
        """Whether the text is one that was forgotten."""
        return bool(self.text_ids) and text is not None and text_id(self.key, text) in self.text_ids

    def without(self, texts: Iterable[str | None]) -> list[str | None]:
        """The texts, with None in place of those that were forgotten."""
        return [None if self.bars(text) else text for text in texts]


def text_id(key: bytes, text: str) -> str:
    """32 hexadecimal digits for a text: keyed BLAKE2b, so that it can't be guessed from them."""
    return hashlib.blake2b(text.encode(), digest_size=16, key=key, person=b"forgotten").hexdigest()


def records(lake: Lake) -> list[Record]:
    """Every request, oldest first; LakeError where a file is none."""
    found = []
    for path in sorted((lake.root / "forgotten").glob("*.json")):
        try:
            found.append(Record.model_validate_json(path.read_bytes()))
        except ValidationError as e:
            raise LakeError(f"{path}: no record of what was forgotten ({e.error_count()} errors); restore it") from e
    return sorted(found, key=lambda r: r.asked_at)


def unfinished(lake: Lake) -> list[Record]:
    """The requests that a process began and did not finish."""
    return [record for record in records(lake) if record.finished_at is None]


def note(lake: Lake, record: Record) -> None:
    """Put the request on record, or in the place of what was on record of it."""
    write_atomically(_path(lake, record), record.model_dump_json(indent=1).encode())


def tombstones(lake: Lake) -> Tombstones:
    """All that was forgotten; MidwatchError where the key to know it by is lost."""
    found = records(lake)
    key = key_of(lake) if found else b""
    items = frozenset(i for record in found for i in record.item_ids)
    texts = frozenset(t for record in found for t in record.text_ids)
    return Tombstones(key, items, texts)


def _path(lake: Lake, record: Record) -> Path:
    return lake.root / "forgotten" / f"{digest('forgotten', sorted(record.asked), record.asked_at.isoformat())}.json"

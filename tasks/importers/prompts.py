"""Prompts from logs, some at a time: what each row of a file says, or why it says nothing that can be counted."""

import gzip
import hashlib
import math
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast
from zoneinfo import ZoneInfo

import pyarrow as pa

from schemas.crosswalk import harm_categories
from schemas.rows import NONE, UNKNOWN
from tasks.importers.responses import ImportRefused
from tasks.native import files_of, json_value, kind_of, read_parts
from tasks.redact import redact

PART = 20_000  # rows that are in memory together
EARLIEST = datetime(2000, 1, 1, tzinfo=UTC)
AHEAD = timedelta(minutes=5)  # clocks differ

NO_TIME = "no time"
NOT_A_TIME = "not a time: expected ISO 8601, or seconds since 1970 (also milli-, micro- or nanoseconds)"
NO_ZONE = "the time has no zone: say whose clock it was, such as --zone Europe/Berlin"
SKIPPED = "the clocks of this zone skip that time"
OLD = f"before {EARLIEST.year}"
FUTURE = "in the future"
NO_TEXT = "no text"
NOT_A_TEXT = "the text is a list or an object, or holds half a character"
NOT_A_WEIGHT = "the weight is no finite number from 0 on"
NOT_A_CATEGORY = "an unknown category: expected a harm category, none or unknown, or --crosswalk NAME for others"
NOT_A_ROW = "not a JSON object in UTF-8 (NaN and Infinity are no JSON)"

_TYPES: dict[str, pa.DataType] = {
    "row": pa.int64(),
    "base": pa.string(),
    "observed_at": pa.timestamp("us", tz="UTC"),
    "text": pa.string(),
    "category": pa.string(),
    "harm_category": pa.string(),
    "weight": pa.float64(),
}
ARRIVED = pa.schema(_TYPES)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_UNITS = ((10**11, 1), (10**14, 10**3), (10**17, 10**6))  # 1e11 s is the year 5138, and 1e11 ms is 1973
_NANO = 10**9

Line = tuple[int, Mapping[str, Any] | bytes]


class Unfit(ValueError):
    """A cell that can't be counted; its text is the reason."""


class Columns(NamedTuple):
    """Which column of a file holds what; None: the file does not say it."""

    time: str
    text: str
    category: str | None
    weight: str | None

    @property
    def named(self) -> list[str]:
        """Those that a file must have."""
        return [c for c in self if c is not None]


class Bad(NamedTuple):
    """A row that is set aside, counted from 0: why, and what may be kept of it."""

    row: int
    reasons: list[str]
    values: dict[str, Any]


@dataclass(frozen=True)
class Reading:
    """How rows are read: `harm` has the harm category of each native one, and is None where a classifier names them.

    Ids are made with `key`: without it nobody can try texts until an id comes out. Nothing was observed after `now`. `bars`
    says of a text that it was forgotten.
    """

    source: str
    columns: Columns
    key: bytes
    now: datetime
    zone: ZoneInfo | None = None
    harm: Mapping[str, str] | None = None
    is_redacted: bool = False
    is_hashed: bool = False
    bars: Callable[[str], bool] | None = None

    def read(self, lines: Sequence[Line]) -> tuple[pa.Table, list[Bad]]:
        """The good rows as a table of `ARRIVED`, and the others, both in their order."""
        good: list[dict[str, Any]] = []
        bad: list[Bad] = []
        for n, line in lines:
            if isinstance(line, bytes):
                bad.append(Bad(n, [NOT_A_ROW], self._kept({"line": line.decode("utf-8", "backslashreplace")}, "line")))
                continue
            values, reasons = self._cells(line)
            if reasons:
                bad.append(Bad(n, reasons, self._kept(dict(line), self.columns.text)))
            else:
                good.append({"row": n, **values})
        return pa.Table.from_pylist(good, ARRIVED), bad

    def _cells(self, line: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
        """The values of a row but its place, and what is wrong with it."""
        values: dict[str, Any] = {}
        reasons = []
        for name, read in (("observed_at", self._time), ("text", self._text), ("weight", self._weight), ("harm", self._harm)):
            try:
                values[name] = read(line)
            except Unfit as e:
                reasons.append(str(e))
        if reasons:
            return {}, reasons
        values["base"] = base_id(self.key, self.source, values["observed_at"], values["text"])
        values["category"], values["harm_category"] = values.pop("harm")
        if self.is_redacted:
            values["text"] = redact(values["text"])
        return values, []

    def _time(self, line: Mapping[str, Any]) -> datetime:
        return instant(line[self.columns.time], self.zone, self.now)

    def _text(self, line: Mapping[str, Any]) -> str:
        return readable(line[self.columns.text])

    def _weight(self, line: Mapping[str, Any]) -> float:
        return 1.0 if self.columns.weight is None else weight_of(line[self.columns.weight])

    def _harm(self, line: Mapping[str, Any]) -> tuple[str | None, str | None]:
        """The native category and the harm category; an empty cell is unknown."""
        if self.harm is None or self.columns.category is None:
            return None, None
        cell = line[self.columns.category]
        native = str(cell).strip() if cell is not None else ""
        if not native:
            return None, UNKNOWN
        if native not in self.harm:
            raise Unfit(NOT_A_CATEGORY)
        return native, self.harm[native]

    def _kept(self, values: dict[str, Any], text: str) -> dict[str, Any]:
        """What the quarantine may show of a row: like the lake, no text where none is kept, and a redacted one."""
        if self.is_hashed or (self.bars is not None and self.bars(str(values.get(text)))):
            values.pop(text, None)
        shown = {k: v if isinstance(v, (int, str)) or v is None else str(v) for k, v in values.items()}
        return {k: redact(v) if self.is_redacted and isinstance(v, str) and k == text else v for k, v in shown.items()}


def base_id(key: bytes, source: str, at: datetime, text: str) -> str:
    """32 hexadecimal digits for a prompt at a time: keyed BLAKE2b (RFC 7693), so that texts can't be guessed from it."""
    said = f"{source}\0{(at - _EPOCH) // _MICROSECOND}\0{text}".encode()
    return hashlib.blake2b(said, digest_size=16, key=key).hexdigest()


def instant(cell: Any, zone: ZoneInfo | None, now: datetime) -> datetime:
    """The time that a cell says, in UTC; of a local time that comes twice, when clocks go back, the first. Unfit: none."""
    if cell is None or cell == "":
        raise Unfit(NO_TIME)
    try:
        at = _parsed(cell)
        at = _located(at, zone) if at.tzinfo is None else at.astimezone(UTC)
    except (OverflowError, ArithmeticError):
        raise Unfit(NOT_A_TIME) from None
    except ValueError as e:
        raise e if isinstance(e, Unfit) else Unfit(NOT_A_TIME) from None
    if at < EARLIEST:
        raise Unfit(OLD)
    if at > now + AHEAD:
        raise Unfit(FUTURE)
    return at


def readable(cell: Any) -> str:
    """The text of a cell as it stands there; Unfit where there is none but white space."""
    if cell is None or (isinstance(cell, str) and not cell.strip()):
        raise Unfit(NO_TEXT)
    if isinstance(cell, (dict, list)):
        raise Unfit(NOT_A_TEXT)
    text = str(cell)
    try:
        text.encode()
    except UnicodeEncodeError:
        raise Unfit(NOT_A_TEXT) from None
    return text


def weight_of(cell: Any) -> float:
    """A finite number from 0 on; Unfit for anything else, an empty cell included."""
    try:
        weight = math.nan if isinstance(cell, bool) or "_" in str(cell) else float(cell)
    except (TypeError, ValueError, OverflowError):
        raise Unfit(NOT_A_WEIGHT) from None
    if not 0 <= weight < math.inf:
        raise Unfit(NOT_A_WEIGHT)
    return weight


def harm_of(crosswalk: Mapping[str, str | None] | None) -> dict[str, str]:
    """The harm category of each value that a category column may have: with a crosswalk its native ones, else canonical ones.

    A native category that no harm category fits is unknown; none and unknown stand for themselves.
    """
    own = {c: c for c in (NONE, UNKNOWN)}
    if crosswalk is None:
        return {c: c for c in harm_categories()} | own
    return {native: harm or UNKNOWN for native, harm in crosswalk.items()} | own


def lines_of(path: Path, columns: Columns) -> Iterator[list[Line]]:
    """The rows of a file some at a time, with their place from 0 and the named columns alone; bytes where a line is no row.

    ImportRefused names a column that the file lacks; IngestError where it can't be read, or stops in the middle of a row.
    """
    for file in files_of(path):
        yield from _jsonl(file, columns) if kind_of(file) == ".jsonl" else _frames(file, columns)


def _jsonl(file: Path, columns: Columns) -> Iterator[list[Line]]:
    first = 0
    try:
        with cast(BinaryIO, gzip.open(file, "rb")) if file.suffix == ".gz" else file.open("rb") as source:
            while part := list(islice(source, PART)):
                rows = [(n, _object(line.removeprefix(b"\xef\xbb\xbf"))) for n, line in enumerate(part, first) if line.strip()]
                if first == 0:
                    _demand(file, columns, {key for _, row in rows if isinstance(row, dict) for key in row})
                yield [(n, r if isinstance(r, bytes) else {c: r.get(c) for c in columns.named}) for n, r in rows]
                first += len(part)
    except (OSError, EOFError, zlib.error) as e:
        raise ImportRefused(f"{file}: cannot be read to its end: {e}; nothing is stored: mend it, then import it") from e
    if first == 0:
        raise ImportRefused(f"{file}: the file has no rows")


def _object(line: bytes) -> dict[str, Any] | bytes:
    try:
        value = json_value(line.decode())
    except (ValueError, RecursionError):
        return line
    return value if isinstance(value, dict) else line


def _frames(file: Path, columns: Columns) -> Iterator[list[Line]]:
    first = 0
    for frame in read_parts(file):
        _demand(file, columns, set(frame.columns))
        for part in frame.select(columns.named).iter_slices(PART):
            yield list(enumerate(part.iter_rows(named=True), first))
            first += len(part)


def _demand(file: Path, columns: Columns, there: set[str]) -> None:
    if missing := [c for c in columns.named if c not in there]:
        raise ImportRefused(
            f"{file}: no column {missing[0]!r}; it has {', '.join(sorted(there)) or 'none'}: "
            "name yours with --time, --text, --category, --weight"
        )


def _parsed(cell: Any) -> datetime:
    """The time in a cell, with or without a zone; ValueError where it is none."""
    if isinstance(cell, datetime):
        return cell
    if isinstance(cell, date):
        return datetime.combine(cell, time())
    if isinstance(cell, bool) or not isinstance(cell, (int, float, str)):
        raise ValueError
    number = _number(cell)
    if number is None:
        text = str(cell).strip()
        return datetime.fromisoformat(f"{text[:-4]}+00:00" if text.endswith(" UTC") else text)
    per_second = next((per for below, per in _UNITS if abs(number) < below), _NANO)
    return _EPOCH + timedelta(microseconds=number * 10**6 // per_second)


def _number(cell: float | str) -> int | float | None:
    """A cell of digits as the number that it is; None where it is no number."""
    if not isinstance(cell, str):
        return cell
    for kind in (int, float):
        try:
            return kind(cell)
        except ValueError:
            continue
    return None


def _located(at: datetime, zone: ZoneInfo | None) -> datetime:
    """A time without zone in UTC; Unfit where there is no such time."""
    if zone is None:
        raise Unfit(NO_ZONE)
    found = at.replace(tzinfo=zone, fold=0).astimezone(UTC)
    if found.astimezone(zone).replace(tzinfo=None) != at.replace(fold=0):
        raise Unfit(SKIPPED)
    return found

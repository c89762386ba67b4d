"""What files of prompts hold that is new: each prompt once, in the order of time.

Files of any size take no more memory than a part of them: what they hold waits in a database on disk, where it is put in order
and compared with the ids that the lake has of the source.
"""

import fcntl
import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import duckdb
import pyarrow as pa
from prefect import task

from schemas.errors import MidwatchError
from tasks.importers.prompts import AHEAD, EARLIEST, Bad, Reading, lines_of
from tasks.importers.responses import ImportRefused
from tasks.lake import Lake, LakeError
from tasks.observed import SHARD, paths_between

MEMORY, THREADS = "128MB", 2  # of the database on disk, which spills what is more; each thread takes its share

_ARRIVED = """
create table arrived (
    file integer, row bigint, base uuid, observed_at timestamptz, text varchar,
    category varchar, harm_category varchar, weight double
)
"""
_KNOWN = "create or replace table known (prompt_id uuid)"
# Equal rows of a file are numbered, so that the same rows in another file are the same prompts.
_FRESH = """
create table fresh as
with numbered as (
    select rowid as place, observed_at, base, row_number() over (partition by file, base order by row) as nth
    from arrived
),
named as (
    select place, observed_at, case when nth = 1 then base else left(sha256(base || ' ' || nth), 32)::uuid end as prompt_id
    from numbered
)
select min(place) as place, min(observed_at) as observed_at, prompt_id
from named
anti join known using (prompt_id)
group by prompt_id
"""
# Keys alone are sorted, and texts fetched a shard at a time: sorted with their texts, they need memory for all of them.
_SHARDS = """
create table shards as
select place, prompt_id, (row_number() over (order by observed_at, prompt_id) - 1) // $size as shard
from fresh
"""
_SHARD = """
select replace(prompt_id::varchar, '-', '') as prompt_id, observed_at, text, category, harm_category, weight
from arrived
join (select place, prompt_id from shards where shard = $shard) on arrived.rowid = place
order by observed_at, prompt_id
"""
_UNCATEGORISED = """
select prompt_id, observed_at, text, null::varchar as category, null::varchar as harm_category, weight
from read_parquet($path)
where text is not null and prompt_id::uuid not in (from known)
order by observed_at, prompt_id
"""


class Arrival(NamedTuple):
    """What files hold: rows, those that are bad by reason, the quarantine file of them, and the first and last time."""

    rows: int
    bad: int
    reasons: dict[str, int]
    quarantine: str | None
    first: datetime | None
    last: datetime | None


@contextmanager
def alone(lake: Lake, source: str) -> Iterator[Path]:
    """An empty working folder for the only import of `source`; MidwatchError where another one is running."""
    folder = lake.root / "observed" / source / ".arriving"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_name(".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise MidwatchError(f"{source}: another import of this source is running; try again when it is done") from None
        shutil.rmtree(folder, ignore_errors=True)  # what a killed import left
        folder.mkdir()
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def arrive(lake: Lake, folder: Path, files: Sequence[Path], reading: Reading, max_quarantined: float) -> Arrival:
    """Read `files` into the database in `folder`; ImportRefused where more than `max_quarantined` of the rows are bad."""
    aside = _Aside(folder / "quarantine.jsonl")
    n_rows = 0
    with _database(folder) as database:
        database.execute(_ARRIVED)
        for number, file in enumerate(files):
            for lines in lines_of(file, reading.columns):
                good, bad = reading.read(lines)
                n_rows += len(lines)
                aside.add(file, bad)
                database.register("part", good)
                database.execute("insert into arrived select ?, * from part", [number])
        ((first, last),) = database.execute("select min(observed_at), max(observed_at) from arrived").fetchall()
    path = aside.close(lake.quarantine)
    if aside.rows > max_quarantined * n_rows:
        commonest = "; ".join(f"{n} x {reason}" for reason, n in aside.reasons.most_common(3))
        raise ImportRefused(
            f"{aside.rows} of {n_rows} rows can't be counted, more than the {max_quarantined:.2%} allowed: {commonest}. "
            f"They are in {path}; nothing is stored"
        )
    return Arrival(n_rows, aside.rows, dict(aside.reasons.most_common()), str(path) if path else None, first, last)


def fresh(lake: Lake, folder: Path, source: str, arrival: Arrival) -> Iterator[pa.Table]:
    """What arrived and the lake does not have of `source`, each once, in the order of time, `SHARD` rows at a time.

    ArtifactMissing names a file of the source that is not intact.
    """
    with _database(folder) as database:
        database.execute(_KNOWN)
        if arrival.first is not None and arrival.last is not None:
            for path in paths_between(lake, source, arrival.first, arrival.last):
                database.execute("insert into known select prompt_id::uuid from read_parquet(?)", [str(path)])
        database.execute(_FRESH)
        database.execute(_SHARDS, {"size": SHARD})
        ((n_shards,),) = database.execute("select count(distinct shard) from shards").fetchall()
        for shard in range(n_shards):
            yield database.sql(_SHARD, params={"shard": shard}).to_arrow_table()


def uncategorised(lake: Lake, folder: Path, source: str, classifier_id: str) -> Iterator[pa.Table]:
    """The stored texts of `source` that this classifier has not seen, a table for each file, in the order of time."""
    paths = [str(path) for path in paths_between(lake, source, EARLIEST, datetime.now(UTC) + AHEAD)]
    if not paths:
        raise MidwatchError(f"{source}: no prompts of this source are stored; midwatch observe FILE --source {source}")
    with _database(folder) as database:
        database.execute(_KNOWN)
        seen = "insert into known select prompt_id::uuid from read_parquet(?) where classifier_id = ?"
        database.execute(seen, [paths, classifier_id])
        for path in paths:
            table = database.sql(_UNCATEGORISED, params={"path": path}).to_arrow_table()
            if len(table):
                yield table


arrive_task = task(name="read")(arrive)


@contextmanager
def _database(folder: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    config: dict[str, str | bool | int | float | list[str]] = {
        "memory_limit": MEMORY,
        "temp_directory": str(folder / "spilled"),
        "preserve_insertion_order": False,
        "threads": THREADS,
    }
    try:
        with duckdb.connect(str(folder / "arrived.duckdb"), config=config) as connection:
            connection.execute("set timezone = 'UTC'")
            yield connection
    except duckdb.OutOfMemoryException as e:
        raise MidwatchError(f"{folder}: {e}; give fewer files at a time") from e
    except duckdb.IOException as e:
        raise LakeError(f"{folder}: {e}; free space or choose another --home") from e


class _Aside:
    """Rows that are set aside, in a file that grows with them instead of in memory."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._digest = hashlib.sha256()
        self.reasons: Counter[str] = Counter()
        self.rows = 0

    def add(self, file: Path, bad: Sequence[Bad]) -> None:
        """Put rows behind those that are there."""
        lines = [
            json.dumps({"file": file.name, "row": b.row, "reasons": b.reasons, "values": b.values}).encode() + b"\n"
            for b in bad
        ]
        with self._path.open("ab") as written:
            written.writelines(lines)
        for line, b in zip(lines, bad, strict=True):
            self._digest.update(line)
            self.reasons.update(b.reasons)
        self.rows += len(bad)

    def close(self, quarantine: Path) -> Path | None:
        """The file among the others of the quarantine; None without a row."""
        if not self.rows:
            return None
        path = quarantine / f"observed-{self._digest.hexdigest()[:32]}.jsonl"
        quarantine.mkdir(parents=True, exist_ok=True)
        self._path.replace(path)
        return path

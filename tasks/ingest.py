"""From a benchmark's own table to items in the lake, each named by its content; bad rows go to quarantine."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
from prefect import task
from pydantic import BaseModel, ConfigDict

from schemas import crosswalk
from schemas.config import BenchmarkSpec, Columns
from schemas.ids import digest
from schemas.rows import Benchmark as BenchmarkRow
from schemas.rows import Item
from tasks import benchmarks, erase, native
from tasks.benchmarks import file
from tasks.benchmarks.card import Benchmark
from tasks.forgotten import tombstones
from tasks.items import Made, Seen, content_of, make
from tasks.lake import Artifact, Lake, Spool
from tasks.native import IngestError
from tasks.store import Stored
from tasks.tracked import keyed
from tasks.validate import Sieve

REVISION = 12  # digits of the content hash that name a revision
_PART, _SHARD = 100_000, 10_000  # items that are made and checked together, and items of a file in the lake
_RECEIPTS = pa.schema(
    [pa.field(n, t, nullable=False) for n, t in (("path", "string"), ("sha256", "string"), ("rows", "int64"))]
)
_WRITERS = 4  # threads, most of which wait for the disk
_PACKAGED = Path(benchmarks.__file__).parent


class Pin(BaseModel):
    """What `midwatch.lock` says of a benchmark: the source and the content that later runs must find."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str
    commit: str | None
    content_hash: str
    n_items: int


class Source(BaseModel):
    """Where a benchmark's rows are, found out before anything is read; `digest` changes exactly when they may have."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    spec: BenchmarkSpec
    location: str  # a path, or the name of a hub data set
    commit: str | None  # of a hub data set
    digest: str


class Ingested(BaseModel):
    """A benchmark in the lake: its own row, its items in their order, and, on the first file, what was left out of them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    benchmark_id: str
    revision: str
    content_hash: str
    benchmark: Artifact
    items: tuple[Stored, ...]


def benchmark_of(spec: BenchmarkSpec) -> Benchmark:
    """The benchmark that `spec` names; IngestError where there is none of that name."""
    if spec.use == "file":
        return file.benchmark(spec.id, spec.columns or Columns())
    try:
        return benchmarks.BENCHMARKS[spec.id]
    except KeyError:
        known = ", ".join(benchmarks.BENCHMARKS)
        raise IngestError(f"{spec.id}: unknown benchmark; there are {known}, and `use: file` for a file of yours") from None


def locate(spec: BenchmarkSpec, pin: Pin | None) -> Source:
    """The source of `spec`: the local file or folder, the packaged one, or the hub at the pinned or else current commit."""
    benchmark = benchmark_of(spec)
    card = benchmark.card
    if (path := _path_of(spec)) is not None:
        columns = spec.columns and spec.columns.model_dump()
        return Source(spec=spec, location=path, commit=None, digest=digest(_bytes_of(benchmark, Path(path)), columns))
    if card.hub is None:
        raise IngestError(f"{spec.id}: it has no hub data set; give a local file: --benchmark {spec.id}=PATH")
    commit = pin.commit if pin and pin.commit else native.resolve_commit(card.hub, None)
    return Source(spec=spec, location=card.hub, commit=commit, digest=digest(card.hub, commit))


def ingest(lake: Lake, source: Source, max_quarantined: float) -> Ingested:
    """The items of `source`, in its order; TooManyBadRows when more than the allowed share of them is bad.

    Rows of the quarantine count from 0 in the source. A row with an item that an earlier one has is set aside; it is no bad
    row where the card says why its table holds repeats. Memory does not grow with the rows but for 56 bytes each.
    """
    benchmark = benchmark_of(source.spec)
    card = benchmark.card
    excused = {"repeat_of": card.repeats} if card.repeats else {}
    sieve = Sieve("items", lake.quarantine, max_quarantined, excused)
    seen, digests, row = Seen(), [], 0
    forgotten = tombstones(lake).item_ids
    with lake.spool(Item.arrow_schema()) as spool:
        for made in _ahead(make(card, frame) for frame in _frames(benchmark, source)):
            repeats = seen.repeats(made.ids, row)
            table = erase.items(made.table, forgotten)
            spool.add(sieve.sift(table, {"repeat_of": repeats, "unknown_category": made.unknown_category}))
            digests.append(made.digests)
            row += len(made.table)
        reasons, quarantine = sieve.close()
        content = content_of(digests)
        folder = f"benchmarks/{card.id}/{content[:REVISION]}"
        files = _shards(lake, spool, content[:REVISION], folder)
        described = _described(lake, folder, benchmark, source, content, spool.rows)
    lake.write(pa.Table.from_pylist([f.model_dump() for f in files], _RECEIPTS), f"{folder}/files")
    first, *others = (Stored(**f.model_dump()) for f in files)
    first = first.model_copy(update={"quarantined": reasons, "quarantine": quarantine and str(quarantine)})
    return Ingested(
        benchmark_id=card.id, revision=content[:REVISION], content_hash=content, benchmark=described, items=(first, *others)
    )


def ingestion_key(parameters: dict[str, Any]) -> str:
    """The rows and the crosswalk decide the items; the number is raised by hand when the code makes others of them."""
    source = parameters["source"]
    walk = benchmark_of(source.spec).card.crosswalk
    return "ingest-2-" + digest(source.spec.id, source.digest, walk and crosswalk.load(walk), parameters["max_quarantined"])


ingest_task = task(name="ingest", task_run_name="ingest {source.spec.id}", **keyed(ingestion_key))(ingest)


def is_stored(lake: Lake, ingested: Ingested) -> bool:
    """Whether the files are there, as they were written."""
    return all(map(lake.is_intact, (ingested.benchmark, *ingested.items)))


def obey(pin: Pin | None, ingested: Ingested) -> None:
    """IngestError when the items are not those that `midwatch.lock` pins."""
    if pin is not None and pin.content_hash != ingested.content_hash:
        n_items = sum(f.rows for f in ingested.items)
        raise IngestError(
            f"{ingested.benchmark_id}: midwatch.lock pins content {pin.content_hash} ({pin.n_items} items), found "
            f"{ingested.content_hash} ({n_items} items); use the pinned data or run `midwatch benchmarks pin`"
        )


def carries(spec: BenchmarkSpec, rows: pl.DataFrame) -> bool:
    """Whether `rows`, a table with more columns perhaps, holds the items of the benchmark itself."""
    try:
        return not benchmark_of(spec).items(rows).is_empty()
    except pl.exceptions.PolarsError:
        return False


def item_ids(spec: BenchmarkSpec, rows: pl.DataFrame, location: str) -> list[str]:
    """The ids of the items that `rows` hold, in order; IngestError, which names `location`, where it holds none."""
    benchmark = benchmark_of(spec)
    return [str(i) for i in make(benchmark.card, _items(benchmark, rows, location)).table["item_id"].to_pylist()]


def first_items(lake: Lake, spec: BenchmarkSpec, n: int) -> list[Item]:
    """The first `n` items of a local source that ask something, not validated yet, or else of the newest in the lake."""
    benchmark = benchmark_of(spec)
    if (path := _path_of(spec)) is not None:
        frame = next(_frames(benchmark, Source(spec=spec, location=path, commit=None, digest="")))
        table = make(benchmark.card, frame.head(10 * n)).table
        return Item.from_table(table.filter(pc.is_valid(table["messages"])).slice(0, n))
    stored = newest(lake, spec.id)
    return [] if stored is None else Item.from_table(lake.read(stored.items[0]).slice(0, n))


def newest(lake: Lake, benchmark_id: str) -> Ingested | None:
    """The benchmark as it was first ingested last, or None if it never was; what was left out of it is not said."""
    folders = [f"benchmarks/{benchmark_id}/{f.name}" for f in (lake.root / "benchmarks" / benchmark_id).glob("*")]
    there = [i for f in folders if (i := _reopened(lake, f, benchmark_id)) is not None]
    return max(there, key=lambda i: lake.read(i.benchmark)["ingested_at"][0].as_py(), default=None)


def _reopened(lake: Lake, folder: str, benchmark_id: str) -> Ingested | None:
    row = lake.find(folder, "benchmark_id", [benchmark_id])
    if row is None:
        return None
    (described,) = BenchmarkRow.from_table(row.slice(0, 1))
    for path in sorted((lake.root / folder / "files").glob("*.parquet")):
        receipts = lake.read(Artifact(path=f"{folder}/files/{path.name}", sha256=path.stem, rows=0))
        ingested = Ingested(
            benchmark_id=benchmark_id,
            revision=described.revision,
            content_hash=described.content_hash,
            benchmark=lake.write(row.slice(0, 1), folder),
            items=tuple(Stored(**r) for r in receipts.to_pylist()),
        )
        if is_stored(lake, ingested):
            return ingested
    return None


def _path_of(spec: BenchmarkSpec) -> str | None:
    packaged = benchmark_of(spec).card.packaged
    return spec.path or (str(_PACKAGED / packaged) if packaged else None)


def _bytes_of(benchmark: Benchmark, path: Path) -> str | list[tuple[str, str]]:
    """The digest of the file at `path`; the names and digests of several, where it is a folder or has a companion."""
    if not path.is_dir() and benchmark.companion is None:
        return native.sha256_of(path)
    added = [native.companion_path(path, benchmark.companion)] if benchmark.companion else []
    return [(f.name, native.sha256_of(f)) for f in (*native.files_of(path), *added)]


def _ahead(parts: Iterator[Made]) -> Iterator[Made]:
    """`parts`, each made in another thread while the one before it is used."""
    with ThreadPoolExecutor(1) as thread:
        following = thread.submit(next, parts, None)
        while (part := following.result()) is not None:
            following = thread.submit(next, parts, None)
            yield part


def _frames(benchmark: Benchmark, source: Source) -> Iterator[pl.DataFrame]:
    """What the benchmark says of its rows, some at a time."""
    for rows in _native(benchmark, source):
        yield from _items(benchmark, rows, source.location).iter_slices(_PART)


def _native(benchmark: Benchmark, source: Source) -> Iterator[pl.DataFrame]:
    card, path = benchmark.card, Path(source.location)
    if source.commit is not None:
        yield native.read_hub(source.location, source.commit, card.hub_config, card.hub_split, card.hub_dir)
        return
    for rows in native.read_parts(path, card.headerless):
        yield rows if benchmark.companion is None else native.with_companion(rows, path, benchmark.companion)


def _items(benchmark: Benchmark, rows: pl.DataFrame, location: str) -> pl.DataFrame:
    try:
        return benchmark.items(rows)
    except pl.exceptions.ColumnNotFoundError as e:
        asked = str(e).split('"')  # unable to find column "prompt"; valid columns: ["id", "text"]
        missing = asked[1] if len(asked) > 1 else asked[0]
        raise IngestError(f"{location}: no column {missing!r}; it has {', '.join(rows.columns)}") from e
    except pl.exceptions.PolarsError as e:
        first_line = str(e).split("\n", 1)[0]
        raise IngestError(f"{location}: a column is not the text that {benchmark.card.id} expects: {first_line}") from e


def _shards(lake: Lake, spool: Spool, revision: str, folder: str) -> list[Artifact]:
    """The items as files of the lake, in order; while the disk confirms one, others are compressed."""
    written: list[Artifact] = []
    with ThreadPoolExecutor(_WRITERS) as threads:
        tables = spool.tables(_SHARD)
        while batch := list(islice(tables, 2 * _WRITERS)):
            written += threads.map(partial(_shard, lake, revision, f"{folder}/items"), batch)
    return written


def _shard(lake: Lake, revision: str, folder: str, table: pa.Table) -> Artifact:
    column = table.schema.get_field_index("revision")
    named = table.set_column(column, table.schema.field(column), pa.repeat(revision, len(table)))
    return lake.write(named, folder)


def _described(lake: Lake, folder: str, benchmark: Benchmark, source: Source, content: str, n_items: int) -> Artifact:
    """The benchmark's own row; one that is already there is kept, with the time when it was first ingested."""
    there = lake.find(folder, "benchmark_id", [benchmark.card.id])
    if there is not None:
        return lake.write(there.slice(0, 1), folder)
    card = benchmark.card
    origin = {"source": source.location if source.commit else Path(source.location).name, "commit": source.commit}
    row = BenchmarkRow(
        benchmark_id=card.id,
        revision=content[:REVISION],
        title=card.title,
        license=card.license,
        citation=card.citation,
        task=card.protocols[0],
        n_items=n_items,
        content_hash=content,
        card=card.model_dump() | origin,
        ingested_at=datetime.now(UTC),
    )
    return lake.write(BenchmarkRow.to_table([row]), folder)

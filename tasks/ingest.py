"""From a benchmark's own table to items in the lake, each named by its content; bad rows go to quarantine."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
from prefect import task
from pydantic import BaseModel, ConfigDict

from schemas.config import BenchmarkSpec, Columns
from schemas.ids import Message, canonical, digest, item_id
from schemas.rows import Benchmark as BenchmarkRow
from schemas.rows import Item, Prompt
from tasks import benchmarks, native
from tasks.benchmarks import file
from tasks.benchmarks.card import Benchmark
from tasks.lake import Artifact, Lake
from tasks.native import IngestError
from tasks.store import Stored, store
from tasks.tracked import keyed

REVISION = 12  # digits of the content hash that name a revision
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
    """A benchmark in the lake, and what was left out of it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    benchmark_id: str
    revision: str
    content_hash: str
    benchmark: Artifact
    items: Stored


def locate(spec: BenchmarkSpec, pin: Pin | None) -> Source:
    """The source of `spec`: the local file, the packaged one, or the hub at the pinned or else the current commit."""
    known = _benchmark(spec).card
    path = spec.path or (str(_PACKAGED / known.packaged) if known.packaged else None)
    columns = spec.columns and spec.columns.model_dump()
    if path is not None:
        return Source(spec=spec, location=path, commit=None, digest=digest(native.sha256_of(Path(path)), columns))
    if known.hub is None:
        raise IngestError(f"{spec.id}: it has no hub data set; give a local file: --benchmark {spec.id}=PATH")
    commit = pin.commit if pin and pin.commit else native.resolve_commit(known.hub, None)
    return Source(spec=spec, location=known.hub, commit=commit, digest=digest(known.hub, commit))


def ingest(lake: Lake, source: Source, max_quarantined: float) -> Ingested:
    """The items of `source`, in its order; TooManyBadRows when more than the allowed share of them is bad."""
    benchmark = _benchmark(source.spec)
    rows = native.read_hub(source.location, source.commit) if source.commit else native.read_file(Path(source.location))
    items = _items(benchmark, rows, source.location)
    content = _content_hash(items)
    revision = content[:REVISION]
    column = Item.arrow_schema().get_field_index("revision")
    items = items.set_column(column, Item.arrow_schema().field(column), [[revision] * len(items)])
    folder = f"benchmarks/{benchmark.card.id}/{revision}"
    stored = store(lake, items, "items", f"{folder}/items", max_quarantined)
    return Ingested(
        benchmark_id=benchmark.card.id,
        revision=revision,
        content_hash=content,
        benchmark=_described(lake, folder, benchmark, source, content, stored.rows),
        items=stored,
    )


def ingestion_key(parameters: dict[str, Any]) -> str:
    """The rows decide the items; the number is raised by hand when the code makes others of them."""
    source = parameters["source"]
    return "ingest-1-" + digest(source.spec.id, source.digest, parameters["max_quarantined"])


ingest_task = task(name="ingest", task_run_name="ingest {source.spec.id}", **keyed(ingestion_key))(ingest)


def is_stored(lake: Lake, ingested: Ingested) -> bool:
    """Whether the files are there, as they were written."""
    return lake.is_intact(ingested.items) and lake.is_intact(ingested.benchmark)


def obey(pin: Pin | None, ingested: Ingested) -> None:
    """IngestError when the items are not those that `midwatch.lock` pins."""
    if pin is not None and pin.content_hash != ingested.content_hash:
        raise IngestError(
            f"{ingested.benchmark_id}: midwatch.lock pins content {pin.content_hash} ({pin.n_items} items), found "
            f"{ingested.content_hash} ({ingested.items.rows} items); use the pinned data or run `midwatch benchmarks pin`"
        )


def carries(spec: BenchmarkSpec, rows: pl.DataFrame) -> bool:
    """Whether `rows`, a table with more columns perhaps, holds the items of the benchmark itself."""
    try:
        return not _benchmark(spec).items(rows).is_empty()
    except pl.exceptions.ColumnNotFoundError:
        return False


def newest(lake: Lake, benchmark_id: str) -> tuple[Artifact, Artifact] | None:
    """The benchmark and its items as they were first ingested last, or None if they never were."""
    folders = [f"benchmarks/{benchmark_id}/{f.name}" for f in (lake.root / "benchmarks" / benchmark_id).glob("*")]
    there = [(t, f) for f in folders if (t := lake.find(f, "benchmark_id", [benchmark_id])) is not None]
    if not there:
        return None
    row, folder = max(there, key=lambda found: found[0]["ingested_at"][0].as_py())
    items = lake.find(f"{folder}/items", "benchmark_id", [benchmark_id])
    return None if items is None else (lake.write(row.slice(0, 1), folder), lake.write(items, f"{folder}/items"))


def sampled(items: pa.Table, limit: int | None) -> pa.Table:
    """At most `limit` items, the same ones for the same content in any order: those of the smallest ids."""
    if limit is None or items.num_rows <= limit:
        return items
    smallest = pc.array_sort_indices(items["item_id"])[:limit]
    return items.take(smallest.sort())


def batches(lake: Lake, tables: list[pa.Table], size: int) -> list[Artifact]:
    """The prompts of all items, each once, in shards of `size`: what the models are sent."""
    prompts = _prompts(tables)
    return [lake.write(prompts.slice(start, size), "prompts") for start in range(0, len(prompts), size)]


def prompts_of(lake: Lake, tables: Sequence[pa.Table], responses: Artifact) -> Artifact:
    """The prompts that `responses` answer, each once."""
    asked = lake.read(responses)["item_id"]
    return lake.write(_prompts([t.filter(pc.is_in(t["item_id"], asked)) for t in tables]), "prompts")


def _prompts(tables: Sequence[pa.Table]) -> pa.Table:
    """What the items ask, each once, also where several benchmarks ask it."""
    columns = Prompt.arrow_schema().names
    unique = {row["item_id"]: row for table in tables for row in table.select(columns).to_pylist()}
    return pa.Table.from_pylist(list(unique.values()), schema=Prompt.arrow_schema())


def _benchmark(spec: BenchmarkSpec) -> Benchmark:
    if spec.use == "file":
        return file.benchmark(spec.id, spec.columns or Columns())
    try:
        return benchmarks.BENCHMARKS[spec.id]
    except KeyError:
        known = ", ".join(benchmarks.BENCHMARKS)
        raise IngestError(f"{spec.id}: unknown benchmark; there are {known}, and `use: file` for a file of yours") from None


def _items(benchmark: Benchmark, rows: pl.DataFrame, location: str) -> pa.Table:
    try:
        frame = benchmark.items(rows)
    except pl.exceptions.ColumnNotFoundError as e:
        asked = str(e).split('"')  # unable to find column "prompt"; valid columns: ["id", "text"]
        missing = asked[1] if len(asked) > 1 else asked[0]
        raise IngestError(f"{location}: no column {missing!r}; it has {', '.join(rows.columns)}") from e
    except pl.exceptions.PolarsError as e:
        first_line = str(e).split("\n", 1)[0]
        raise IngestError(f"{location}: a column is not the text that {benchmark.card.id} expects: {first_line}") from e
    return pa.Table.from_pylist(
        [_item(benchmark.card.id, row) for row in frame.iter_rows(named=True)], schema=Item.arrow_schema()
    )


def _item(benchmark_id: str, row: dict[str, Any]) -> dict[str, Any]:
    """The columns of an item; one without a name of its own is named by its content, so that order does not matter."""
    messages: list[Message] = [{"role": "user", "content": row["prompt"] or ""}]
    item = item_id(messages)
    return {
        "item_id": item,
        "benchmark_id": benchmark_id,
        "revision": "",
        "external_id": row.get("external_id") or item[:12],
        "messages": canonical(messages),
        "category": row.get("category"),
        "harm_category": row.get("harm_category"),
        "expected": row.get("expected"),
        "attributes": canonical(row["attributes"]) if row.get("attributes") else None,
    }


def _content_hash(items: pa.Table) -> str:
    """The digest of everything that the items say, in any order."""
    return digest(sorted(canonical(row) for row in items.drop_columns(["benchmark_id", "revision"]).to_pylist()))


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
        task=card.task,
        n_items=n_items,
        content_hash=content,
        card=card.model_dump() | origin,
        ingested_at=datetime.now(UTC),
    )
    return lake.write(BenchmarkRow.to_table([row]), folder)

"""Observed prompts in the lake: files by source and month, each in the order of time, and the counts by day that follow."""

from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from prefect import task

from schemas.rows import ObservedDay, ObservedPrompt
from tasks.forgotten import Tombstones, tombstones
from tasks.lake import Artifact, ArtifactMissing, Lake
from tasks.prompt_categories import Categorise
from tasks.runs import manifests
from tasks.store import Stored, store

PROMPTS, HASHES = "observed_prompts", "observed_hashes"  # tables of a manifest; what is in the second stays in the lake
SHARD = 50_000  # prompts in memory, and at most in a file


class Categoriser(NamedTuple):
    """Who says the categories; `categorise` is None where the files do."""

    classifier_id: str
    categorise: Categorise | None = None


class Taken(NamedTuple):
    """The prompts that a run adds, in files of the lake, and how many of each category to each day."""

    prompts: list[Stored]
    days: Artifact

    @property
    def rows(self) -> int:
        """How many prompts."""
        return sum(f.rows for f in self.prompts)


def take_in(
    lake: Lake, tables: Iterable[pa.Table], source: str, categoriser: Categoriser, run_id: str, keeps_text: bool
) -> Taken:
    """Put sorted `tables` of `tasks.importers.prompts.ARRIVED` with ids into the lake, with the categoriser's categories."""
    barred = tombstones(lake)
    files: list[Stored] = []
    counts: list[pl.DataFrame] = []
    for table in tables:
        for month, part in _months(table):
            prompts = _prompts(part, source, categoriser, run_id, keeps_text, barred)
            files.append(store(lake, prompts, "observed", f"observed/{source}/{month}", 0.0))
            counts.append(_counted(prompts))
    days = ObservedDay.to_table(_days(counts, source, categoriser.classifier_id, run_id))
    return Taken(files, lake.write(days, f"runs/{run_id}"))


take_in_task = task(name="categorise")(take_in)


def files_of(lake: Lake, source: str) -> list[Artifact]:
    """The files of all finished runs that hold prompts of `source`, oldest run first."""
    named = (a for m in manifests(lake) for table in (PROMPTS, HASHES) for a in m["artifacts"].get(table, ()))
    return [Artifact(**a) for a in named if a["path"].startswith(f"observed/{source}/")]


def paths_between(lake: Lake, source: str, first: datetime, last: datetime) -> Iterator[Path]:
    """The files of `source` that may hold prompts of these times; ArtifactMissing where one is not intact."""
    for file in files_of(lake, source):
        path = lake.root / file.path
        if not path.exists() or _overlaps(path, first, last):
            yield _intact(lake, file)


def _intact(lake: Lake, file: Artifact) -> Path:
    if not lake.is_intact(file):
        raise ArtifactMissing(f"{file.path}: gone from {lake.root}, or altered; restore it, or prompts would be counted twice")
    return lake.root / file.path


def _overlaps(path: Path, first: datetime, last: datetime) -> bool:
    """Whether the file may hold a time of this range; also where its own record of it can't be read."""
    try:
        metadata = pq.read_metadata(path)
    except pa.ArrowException:
        return True
    at = metadata.schema.names.index("observed_at")
    stated: list[Any] = [metadata.row_group(i).column(at).statistics for i in range(metadata.num_row_groups)]
    return any(s is None or not s.has_min_max or (s.min <= last and s.max >= first) for s in stated)


def _months(table: pa.Table) -> Iterator[tuple[str, pa.Table]]:
    """The parts of a sorted table by the month of their time."""
    start = 0
    for run in pl.Series(table["observed_at"]).dt.strftime("%Y-%m").rle().to_list():
        yield run["value"], table.slice(start, run["len"])
        start += run["len"]


def _prompts(
    part: pa.Table, source: str, categoriser: Categoriser, run_id: str, keeps_text: bool, barred: Tombstones
) -> pa.Table:
    n = len(part)
    columns: dict[str, Any] = {
        "run_id": pa.repeat(run_id, n),
        "source": pa.repeat(source, n),
        "classifier_id": pa.repeat(categoriser.classifier_id, n),
        "score": pa.nulls(n, pa.float64()),
        **{name: part[name] for name in ("prompt_id", "observed_at", "text", "category", "harm_category", "weight")},
    }
    if categoriser.categorise is not None:
        found = categoriser.categorise([str(text) for text in part["text"].to_pylist()])
        columns["harm_category"] = pa.array([c.harm_category for c in found], pa.string())
        columns["score"] = pa.array([c.score for c in found], pa.float64())
    texts = barred.without(part["text"].to_pylist()) if keeps_text else None
    columns["text"] = pa.nulls(n, pa.string()) if texts is None else pa.array(texts, pa.string())
    schema = ObservedPrompt.arrow_schema()
    return pa.table([columns[f.name] for f in schema], names=schema.names).cast(schema)


def _counted(prompts: pa.Table) -> pl.DataFrame:
    frame = pl.DataFrame(pl.from_arrow(prompts.select(["observed_at", "harm_category", "weight"])))
    day = pl.col("observed_at").dt.date().alias("day")
    return frame.group_by(day, "harm_category", maintain_order=True).agg(n=pl.len(), weight=pl.col("weight").sum())


def _days(counts: list[pl.DataFrame], source: str, classifier_id: str, run_id: str) -> list[ObservedDay]:
    if not counts:
        return []
    days = pl.concat(counts).group_by("day", "harm_category", maintain_order=True).agg(pl.col("n", "weight").sum())
    fixed = {"run_id": run_id, "source": source, "classifier_id": classifier_id}
    return [ObservedDay(**fixed, **row) for row in days.sort("day", "harm_category").to_dicts()]

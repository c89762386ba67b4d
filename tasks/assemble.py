"""What makes shards a run: which responses and verdicts belong to it, and the rates that follow."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from schemas.rows import Arm, Judge, Metric, Response, RunBenchmark, RunResponse, RunVerdict, Verdict
from tasks.aggregate import aggregate
from tasks.lake import Artifact, Lake
from tasks.runs import Artifacts, Started
from tasks.store import Stored, store


class Parts(NamedTuple):
    """All that a run is made of; `items` are the chosen ones of each benchmark, as in `benchmark_items`."""

    benchmarks: Sequence[Artifact]
    benchmark_items: Sequence[Artifact]
    items: Sequence[pa.Table]
    arms: Sequence[Arm]
    judges: Sequence[Judge]
    responses: Sequence[Artifact]
    verdicts: Sequence[Artifact]


def assemble(lake: Lake, started: Started, parts: Parts, max_quarantined: float) -> tuple[Artifacts, dict[str, int]]:
    """The run's files by table, and how many rows were left out of them, by reason."""
    folder = f"runs/{started.run_id}"
    responses = _read(lake, parts.responses, Response.arrow_schema())
    verdicts = _read(lake, parts.verdicts, Verdict.arrow_schema())
    metrics = store(lake, _metrics(started, parts, responses, verdicts), "metrics", folder, max_quarantined)
    chosen = [
        RunBenchmark(
            run_id=started.run_id,
            benchmark_id=items["benchmark_id"][0].as_py(),
            revision=items["revision"][0].as_py(),
            n_items=len(items),
        )
        for items in parts.items
    ]
    files = {
        "benchmarks": parts.benchmarks,
        "benchmark_items": parts.benchmark_items,
        "arms": [lake.write(Arm.to_table(parts.arms), folder)],
        "judges": [lake.write(Judge.to_table(parts.judges), folder)],
        "run_benchmarks": [lake.write(RunBenchmark.to_table(chosen), folder)],
        "responses": parts.responses,
        "run_responses": [lake.write(_members(RunResponse, responses, "generated_at", started), folder)],
        "verdicts": parts.verdicts,
        "run_verdicts": [lake.write(_members(RunVerdict, verdicts, "judged_at", started), folder)],
        "metrics": [metrics],
    }
    return files, _quarantined([metrics, *(f for fs in files.values() for f in fs)])


def reopen(lake: Lake, manifest: dict[str, Any]) -> Parts:
    """The parts of a finished run, without its judges and verdicts."""
    files = {t: [Artifact(**a) for a in artifacts] for t, artifacts in manifest["artifacts"].items()}
    asked = _read(lake, files["responses"], Response.arrow_schema())["item_id"]
    tables = [lake.read(a) for a in files["benchmark_items"]]
    return Parts(
        files["benchmarks"],
        files["benchmark_items"],
        [t.filter(pc.is_in(t["item_id"], asked)) for t in tables],
        [arm for a in files["arms"] for arm in Arm.from_table(lake.read(a))],
        [],
        files["responses"],
        [],
    )


def _metrics(started: Started, parts: Parts, responses: pa.Table, verdicts: pa.Table) -> pa.Table:
    items = pl.concat([_frame(i, "benchmark_id", "item_id", "category", "harm_category", "expected") for i in parts.items])
    judged = (
        _frame(responses, "response_id", "item_id", "arm_id")
        .join(items, on="item_id")
        .join(_frame(verdicts, "response_id", "judge_id", "label", "unsafe"), on="response_id")
        .with_columns(run_id=pl.lit(started.run_id))
    )
    tables = [aggregate(judged.filter(pl.col("judge_id") == j.judge_id), labels=bool(j.config["labels"])) for j in parts.judges]
    return pa.concat_tables([Metric.arrow_schema().empty_table(), *tables])


def _members(row: type[RunResponse] | type[RunVerdict], rows: pa.Table, time: str, started: Started) -> pa.Table:
    """One row for each of `rows`, which came from the cache when it is older than the run."""
    schema = row.arrow_schema()
    run_ids = pa.array([started.run_id] * len(rows), pa.string())
    cached = pc.less(rows[time], pa.scalar(started.started_at, rows[time].type))
    return pa.table([run_ids, rows[schema.names[1]], cached], schema=schema)


def _read(lake: Lake, artifacts: Iterable[Artifact], schema: pa.Schema) -> pa.Table:
    return pa.concat_tables([schema.empty_table(), *(lake.read(a) for a in artifacts)])


def _frame(table: pa.Table, *columns: str) -> pl.DataFrame:
    return pl.DataFrame(pl.from_arrow(table.select(columns)))


def _quarantined(files: Iterable[Artifact]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for file in {f.path: f for f in files if isinstance(f, Stored)}.values():
        for reason, rows in file.quarantined.items():
            counts[reason] = counts.get(reason, 0) + rows
    return counts

"""The end of every run: its manifest in the lake, its rows in the warehouse, its table in Prefect's UI."""

import logging
from pathlib import Path
from typing import Any

from prefect import task
from prefect.artifacts import create_link_artifact, create_table_artifact

from flows.steps import Context
from tasks.assemble import Parts, assemble
from tasks.lake import Lake, write_atomically
from tasks.report.rates import markdown, rate_tables
from tasks.runs import environment, finish, mark_loaded, unloaded
from warehouse.connect import LoadError, snapshot_path
from warehouse.load import load_run
from warehouse.query import query

log = logging.getLogger("midwatch.publish")

assemble_task = task(name="aggregate")(assemble)
load_task = task(name="load")(load_run)


def publish(context: Context, home: Path, parts: Parts) -> str:
    """Finish the run and load it; its run_id."""
    files, quarantined = assemble_task(context.lake, context.started, parts, context.max_quarantined)
    finish(context.lake, context.started, files, environment() | {"quarantined": quarantined, **parts.facts})
    for manifest in unloaded(context.lake):
        _load(context.lake, home, manifest, is_ours=manifest["run_id"] == context.started.run_id)
    _announce(home, context.started.run_id)
    return context.started.run_id


def _load(lake: Lake, home: Path, manifest: dict[str, Any], is_ours: bool) -> None:
    """Load a run: ours, or an earlier one that was killed before it was loaded, which can't stop ours if it is damaged."""
    try:
        load_task(home / "warehouse.duckdb", lake.root, manifest)
    except LoadError as e:
        if is_ours:
            raise
        log.warning("run %s is in the lake but not in the warehouse: %s", manifest["run_id"], e)
        return
    mark_loaded(lake, manifest["run_id"])


def _announce(home: Path, run_id: str) -> None:
    """The run's metrics as table artifacts of the flow run, with a link to its report."""
    sql = "from run_metrics where run_id = ?"
    metrics = query(snapshot_path(home / "warehouse.duckdb"), sql, parameters=[run_id]).to_pylist()
    tables = list(rate_tables(metrics))
    report = home / "reports" / f"{run_id}.md"
    text = "\n".join([f"# Run {run_id}\n", *(markdown(t) for t in tables)])
    write_atomically(report, text.encode())
    for number, table in enumerate(tables):
        rows = [dict(zip(table.header, row, strict=True)) for row in table.rows]
        create_table_artifact(key=f"rates-{number}", table=rows, description=f"{table.title} (95% intervals), run {run_id}")
    create_link_artifact(key="report", link=report.as_uri(), link_text=f"Report of run {run_id}")

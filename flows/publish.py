"""The end of every run: its manifest in the lake, its rows in the warehouse, its table in Prefect's UI."""

from pathlib import Path

from prefect import task
from prefect.artifacts import create_link_artifact, create_table_artifact

from flows.steps import Context
from tasks.assemble import Parts, assemble
from tasks.lake import write_atomically
from tasks.report.rates import markdown, rate_tables
from tasks.runs import environment, finish
from warehouse.connect import snapshot_path
from warehouse.load import load_run
from warehouse.query import query

assemble_task = task(name="aggregate")(assemble)
load_task = task(name="load")(load_run)


def publish(context: Context, home: Path, parts: Parts) -> str:
    """Finish the run and load it; its run_id."""
    files, quarantined = assemble_task(context.lake, context.started, parts, context.max_quarantined)
    manifest = finish(context.lake, context.started, files, environment() | {"quarantined": quarantined})
    load_task(home / "warehouse.duckdb", context.lake.root, manifest)
    _announce(home, context.started.run_id)
    return context.started.run_id


def _announce(home: Path, run_id: str) -> None:
    """The run's rates as a table artifact of the flow run, with a link to its report."""
    sql = "from category_rates where run_id = ?"
    rates = query(snapshot_path(home / "warehouse.duckdb"), sql, parameters=[run_id]).to_pylist()
    tables = list(rate_tables(rates))
    report = home / "reports" / f"{run_id}.md"
    text = "\n".join([f"# Run {run_id}\n", *(markdown(t) for t in tables)])
    write_atomically(report, text.encode())
    for number, table in enumerate(tables):
        rows = [dict(zip(table.header, row, strict=True)) for row in table.rows]
        create_table_artifact(key=f"rates-{number}", table=rows, description=f"{table.title} (%, 95% intervals), run {run_id}")
    create_link_artifact(key="report", link=report.as_uri(), link_text=f"Report of run {run_id}")

"""Ask the warehouse, and look after it."""

from pathlib import Path

import click

from flows.commands.options import home_option, settings
from flows.output import print_table
from flows.settings import Settings


@click.command()
@click.argument("query")
@click.option("--format", "style", type=click.Choice(["table", "csv", "json", "parquet"]), default="table", show_default=True)
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Write here [default: standard output].")
@click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(min=0, min_open=True),
    default=60,
    show_default=True,
    help="Seconds.",
)
@click.option("--memory", default="1GB", show_default=True, help="Memory that the query may take.")
@home_option
@settings
def sql(settings: Settings, query: str, style: str, out: Path | None, timeout_s: float, memory: str) -> None:
    """Ask the warehouse: read-only, without access to files or the network, bounded in memory and time.

    json is one object a line; in csv, cells that a spreadsheet would run as a formula get an apostrophe in front.

    \b
    Examples:
      midwatch sql "select count(*) from verdicts"
      midwatch sql "from category_rates where unsafe_rate > 0.5" --format csv
      midwatch sql "from verdict_details where error is not null" --format json
      midwatch sql "from responses" --format parquet --out responses.parquet
    """
    from tasks.report.export import export
    from warehouse.door import ask

    table = ask(settings.snapshot, query, memory_limit=memory, timeout_s=timeout_s)
    if style == "table":
        print_table(table.column_names, [list(r.values()) for r in table.to_pylist()])
    else:
        export(table, style, out)


@click.group()
def warehouse() -> None:
    """Look after the warehouse."""


@warehouse.command()
@home_option
@settings
def rebuild(settings: Settings) -> None:
    """Make the warehouse again from the lake alone; a damaged file is named, and the old warehouse then stays."""
    from tasks.lake import Lake
    from tasks.runs import manifests
    from warehouse.load import rebuild as rebuild_warehouse

    settings.check()
    lake = Lake(root=settings.lake)
    found = manifests(lake)
    rebuild_warehouse(settings.warehouse, lake.root, found)
    click.echo(f"rebuilt {settings.warehouse} from {len(found)} runs")

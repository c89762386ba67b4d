"""What commands print."""

import json
import sys
from collections.abc import Iterable, Sequence
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from flows.settings import Settings
from tasks.report.rates import rate_tables, terminal
from tasks.report.text import for_terminal


def report(settings: Settings, run_id: str, as_json: bool) -> None:
    """Print the run and its rates."""
    (run,) = settings.query("from latest_runs where run_id = ?", [run_id])
    rates = settings.query("from category_rates where run_id = ?", [run_id])
    if as_json:
        everything = run | {"quarantined": _quarantined(settings, run_id), "rates": rates}
        click.echo(json.dumps(everything, indent=1, default=str))
        return
    console = _console()
    for table in rate_tables(rates):
        console.print(terminal(table), "")
    facts = f"{run['n_responses']} responses ({run['n_from_cache']} from the cache, {run['n_errors']} errors)"
    console.print(f"run {run_id}: {facts}, {run['n_verdicts']} verdicts ({run['n_unscored']} unscored)")
    for reason, rows in _quarantined(settings, run_id).items():
        console.print(f"in quarantine: {rows} rows: {reason}; see {settings.home / 'quarantine'}")


def print_table(columns: Iterable[str], rows: Iterable[Sequence[Any]]) -> None:
    """Rows as a table; hostile text is made harmless, and None is NULL."""
    table = Table(*(for_terminal(str(c)) for c in columns))
    for row in rows:
        table.add_row(*("NULL" if v is None else for_terminal(str(v)) for v in row))
    _console().print(table)


def _console() -> Console:
    """Standard output; as wide as the table where it is no terminal, so that nothing is cut."""
    return Console(markup=False, highlight=False, width=None if sys.stdout.isatty() else 240)


def _quarantined(settings: Settings, run_id: str) -> dict[str, int]:
    """How many rows of the run were set apart, by reason."""
    sql = "select environment->>'quarantined' as quarantined from runs where run_id = ?"
    (row,) = settings.query(sql, [run_id])
    return dict(json.loads(row["quarantined"] or "{}"))

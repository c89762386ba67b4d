"""What commands print."""

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from flows.settings import Settings
from schemas import crosswalk
from schemas.ids import asked
from schemas.rows import Item
from tasks.benchmarks.card import Card
from tasks.report import calibration
from tasks.report.rates import rate_tables, terminal
from tasks.report.text import for_terminal

SHOWN = 60  # characters of a prompt or an option that a list of items shows


def report(settings: Settings, run_id: str, as_json: bool) -> None:
    """Print the run and its metrics, or what it says of a judge."""
    (run,) = settings.query("from latest_runs where run_id = ?", [run_id])
    metrics = settings.query("from run_metrics where run_id = ?", [run_id])
    figures = settings.query("from judge_calibration where run_id = ?", [run_id])
    if as_json:
        more = {"calibration": figures, "doubts": calibration.doubts(figures, metrics)} if figures else {}
        everything = run | {"quarantined": _quarantined(settings, run_id), "metrics": metrics} | more
        click.echo(json.dumps(everything, indent=1, default=str))
        return
    console = standard_output()
    if figures:
        _print_calibration(console, figures, metrics)
        console.print(f"run {run_id}")
        return
    for table in rate_tables(metrics):
        console.print(terminal(table), "")
    facts = f"{run['n_responses']} responses ({run['n_from_cache']} from the cache, {run['n_errors']} errors)"
    console.print(f"run {run_id}: {facts}, {run['n_verdicts']} verdicts ({run['n_unscored']} unscored)")
    for reason, rows in _quarantined(settings, run_id).items():
        console.print(for_terminal(f"in quarantine: {rows} rows: {reason}; see {settings.home / 'quarantine'}"))


def _print_calibration(console: Console, figures: Sequence[Mapping[str, Any]], metrics: Sequence[Mapping[str, Any]]) -> None:
    """A judge against people: in a sentence, in tables, its rates corrected, and why not to believe it."""
    for sentence in calibration.summaries(figures):
        console.print(for_terminal(sentence))
    for table in (*calibration.tables(figures), calibration.rates(metrics)):
        if table.rows:
            console.print("", terminal(table))
    for table in calibration.confusions(figures):
        print_table(table.header, table.rows)
    for reason in calibration.refusals(metrics):
        console.print(for_terminal(reason))
    for doubt in calibration.doubts(figures, metrics):
        console.print(for_terminal(f"do not rely on it yet: {doubt}"))


def print_table(columns: Iterable[str], rows: Iterable[Sequence[Any]]) -> None:
    """Rows as a table; hostile text is made harmless, and None is NULL."""
    table = Table(*(for_terminal(str(c)) for c in columns))
    for row in rows:
        table.add_row(*("NULL" if v is None else for_terminal(str(v)) for v in row))
    standard_output().print(table)


def summary(card: Card) -> list[str]:
    """A line about a benchmark: id, rows, native categories, protocols, licence, and where the data comes from."""
    categories = len(crosswalk.load(card.crosswalk)) if card.crosswalk else None
    origin = card.hub or card.repository or (f"in the package: {card.packaged}" if card.packaged else "a local file")
    counts = ["-" if n is None else str(n) for n in (card.rows, categories)]
    return [card.id, *counts, ", ".join(card.protocols), card.license or "unknown", origin]


def print_card(card: Card, items: Sequence[Item]) -> None:
    """A benchmark's card, and some of its items with hostile text cut short."""
    console = standard_output()
    harm = card.harm.model_dump() if card.harm else {}
    facts = card.model_dump(exclude={"columns", "harm"}) | {f"harm: {k}": v for k, v in harm.items()}
    table = Table(show_header=False, box=None)
    for name, value in facts.items():
        if value not in (None, (), ""):
            shown = ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
            table.add_row(name.replace("_", " "), for_terminal(shown))
    for column, meaning in card.columns.items():
        table.add_row(f"column {column}", for_terminal(meaning))
    for category, harm_category in (crosswalk.load(card.crosswalk) if card.crosswalk else {}).items():
        table.add_row(f"category {for_terminal(category)}", harm_category or "NULL: no harm category fits")
    console.print(table, "")
    if not items:
        console.print(f"examples: midwatch benchmarks {card.id}=PATH shows some of a file's items")
        return
    columns = ("id", "category", "harm category", "expected", "prompt", "options")
    print_table(columns, [[i.external_id, i.category, i.harm_category, i.expected, _prompt(i), _options(i)] for i in items])


def _prompt(item: Item) -> str:
    return _short(asked(item.messages))


def _options(item: Item) -> str:
    return " | ".join(_short(option) for option in item.options or [])


def _short(text: str) -> str:
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"


def standard_output() -> Console:
    """Standard output; as wide as the table where it is no terminal, so that nothing is cut."""
    return Console(markup=False, highlight=False, width=None if sys.stdout.isatty() else 240)


def _quarantined(settings: Settings, run_id: str) -> dict[str, int]:
    """How many rows of the run were set apart, by reason."""
    sql = "select environment->>'quarantined' as quarantined from runs where run_id = ?"
    (row,) = settings.query(sql, [run_id])
    return dict(json.loads(row["quarantined"] or "{}"))

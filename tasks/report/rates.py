"""The rates of a run as tables, for the terminal and as Markdown."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any, NamedTuple

from rich.table import Table

from tasks.report.text import for_markdown, for_terminal

RATES = {
    "unsafe_rate": "unsafe",
    "over_refusal_rate": "over-refusal",
    "compliance_rate": "full compliance",
    "partial_refusal_rate": "partial refusal",
    "full_refusal_rate": "full refusal",
}
KINDS = {"all": "all", "harm_category": "harm category", "category": "category"}


class RateTable(NamedTuple):
    """One table: a title, a header, and a row of cells for each slice."""

    title: str
    header: list[str]
    rows: list[list[str]]


def rate_tables(rates: Sequence[Mapping[str, Any]]) -> Iterator[RateTable]:
    """A table for each arm, benchmark and judge in rows of the view category_rates; empty columns are left out.

    A native category that is the same as the harm category is not shown twice.
    """
    grain = ("arm", "benchmark_id", "judge")
    ordered = sorted(rates, key=lambda r: ([r[g] for g in grain], list(KINDS).index(r["slice_kind"]), r["category"] or ""))
    for (arm, benchmark, judge), group in groupby(ordered, key=lambda r: [r[g] for g in grain]):
        rows = list(group)
        harms = {r["category"] for r in rows if r["slice_kind"] == "harm_category"}
        shown = [r for r in rows if r["slice_kind"] != "category" or r["category"] not in harms]
        columns = [rate for rate in RATES if any(r[f"{rate}_n"] is not None for r in shown)]
        header = ["slice", "scored", "unscored", *(RATES[c] for c in columns)]
        cells = [[_slice(r), str(r["n_scored"]), str(r["n_unscored"]), *(_rate(r, c) for c in columns)] for r in shown]
        yield RateTable(f"{arm} on {benchmark}, judged by {judge}", header, cells)


def terminal(table: RateTable) -> Table:
    """The table for a terminal; shares in percent with their 95% intervals."""
    shown = Table(
        title=for_terminal(table.title),
        title_justify="left",
        caption="in %, with 95% intervals",
        caption_justify="left",
    )
    for n, name in enumerate(table.header):
        shown.add_column(name, justify="left" if n == 0 else "right", overflow="fold")
    for n, row in enumerate(table.rows):
        shown.add_row(*(for_terminal(cell) for cell in row), end_section=n == 0)
    return shown


def markdown(table: RateTable) -> str:
    """The table as Markdown; shares in percent with their 95% intervals."""
    lines = [
        table.header,
        ["---"] + ["---:"] * (len(table.header) - 1),
        *([for_markdown(c) for c in r] for r in table.rows),
    ]
    return f"## {for_markdown(table.title)}\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def _slice(rate: Mapping[str, Any]) -> str:
    return "all" if rate["category"] is None else str(rate["category"])


def _rate(rate: Mapping[str, Any], name: str) -> str:
    """Such as '12.5 [9.1, 16.8]'; '-' where nothing was scored or the slice has no such item."""
    value = rate[name]
    if value is None:
        return "-"
    return f"{100 * value:.1f} [{100 * rate[f'{name}_ci_low']:.1f}, {100 * rate[f'{name}_ci_high']:.1f}]"

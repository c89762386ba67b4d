"""Which days of a source are compared with which.

Rows are those of the view category_mix; days are UTC, and over.
"""

from datetime import date, timedelta
from typing import NamedTuple

import polars as pl

from schemas.errors import MidwatchError

REFERENCE = 28  # days


class MixError(MidwatchError):
    """There are no two windows of days whose mixes could be compared."""


class Window(NamedTuple):
    """Days (UTC), both ends included."""

    first: date
    last: date


class Windows(NamedTuple):
    """The days that are looked at, and those that they are compared with."""

    now: Window
    before: Window


def windows(
    rows: pl.DataFrame, source: str, now: tuple[date | None, date | None], before: tuple[date | None, date | None]
) -> Windows:
    """The days asked for: by default the newest one, and the 28 days before; MixError where that can't be."""
    if rows.is_empty():
        raise MixError(f"{source}: no prompts of a day that is over (UTC); midwatch observe FILE --source {source} brings them")
    there: list[date] = rows["day"].unique().sort().to_list()
    last = now[1] or there[-1]
    first = now[0] or last
    stop = before[1] or first - timedelta(1)
    found = Windows(Window(first, last), Window(before[0] or stop - timedelta(REFERENCE - 1), stop))
    for name, window in zip(("--from to --to", "--against-from to --against-to"), found, strict=True):
        if window.first > window.last:
            raise MixError(f"{name}: {window.first} is after {window.last}")
        if rows.filter(within(window)).is_empty():
            raise MixError(
                f"{source}: no prompts from {window.first} to {window.last}; there are some from {there[0]} to {there[-1]}"
            )
    if found.now.first <= found.before.last and found.before.first <= found.now.last:
        raise MixError(
            f"the days {found.now.first} to {found.now.last} and the reference {found.before.first} to {found.before.last} "
            "overlap: let the reference end earlier, with --against-to"
        )
    return found


def within(window: Window) -> pl.Expr:
    """The days of a window."""
    return pl.col("day").is_between(window.first, window.last)

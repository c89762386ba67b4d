"""Does a monitor see what it should, and nothing where nothing is? Tried every night on shadow copies of its own series."""

from datetime import date, timedelta

import numpy as np
import polars as pl

from schemas.ids import digest
from schemas.monitors import MonitorSpec
from tasks.monitor import Finding, Rules, own_series, reference_days, watched

NIGHTS = 7  # within which a known shift has to be seen


def self_test(spec: MonitorSpec, rows: pl.DataFrame, rules: Rules) -> Finding:
    """Whether a doubled share is seen within a week, and a permutation of the reference nights is not.

    The copy has the reference nights, and after them a week of nights drawn from the reference, seeded by its last day.
    """
    own = own_series(spec, rows)
    days = reference_days(spec, own)
    if isinstance(days, str):
        return Finding(spec.name, "self_test", "insufficient data", days)
    if (copies := _copies(spec, own, days)) is None:
        return Finding(spec.name, "self_test", "insufficient data", "every share of the reference is 0", night=days[-1])
    null, shifted, series, how = copies
    quietly = watched(spec, null, rules)
    if quietly.decision in ("alert", "insufficient data"):
        return Finding(
            spec.name, "self_test", "watch", f"on a permutation of its own reference: {quietly.reason}", night=days[-1]
        )
    seen = watched(spec, shifted, rules)
    if seen.decision != "alert":
        reason = f"the nights are too small: a {how} share of {series} would not be seen within {NIGHTS} nights"
        return Finding(spec.name, "self_test", "insufficient data", reason, night=days[-1])
    reason = f"a {how} share of {series} is seen within {NIGHTS} nights, and a permutation of the reference is not"
    return Finding(spec.name, "self_test", "ok", reason, night=days[-1])


def _copies(spec: MonitorSpec, own: pl.DataFrame, days: list[date]) -> tuple[pl.DataFrame, pl.DataFrame, str, str] | None:
    """The reference with a drawn week after it, the same with the middle share changed, its series and how; None: all are 0."""
    before = own.filter(pl.col("day").is_in(days))
    rng = np.random.default_rng(int(digest("self-test", spec.name, str(days[-1])), 16) % 2**32)
    step = 7 if spec.reference.same_weekday else 1
    week = [days[-1] + timedelta(n + 1) for n in range(spec.reference.trailing or NIGHTS)]
    drawn = []
    for day in week:
        alike = [d for d in days if (day - d).days % step == 0] or days
        chosen = alike[int(rng.integers(len(alike)))]
        drawn.append(before.filter(pl.col("day") == chosen).with_columns(day=pl.lit(day)))
    after = pl.concat(drawn)
    totals = after.group_by("series").agg(pl.col("hits", "size").sum()).filter(pl.col("hits") > 0).sort("hits", "series")
    if totals.is_empty():
        return None
    hits, size, series = totals.select("hits", "size", "series").row((len(totals) - 1) // 2)
    factor, how = (2.0, "doubled") if hits <= size / 2 else (0.5, "halved")
    changed = pl.when(pl.col("series") == series).then(pl.min_horizontal(pl.col("hits") * factor, "size")).otherwise("hits")
    return pl.concat([before, after]), pl.concat([before, after.with_columns(hits=changed)]), str(series), how

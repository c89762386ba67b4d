"""Whether a benchmark still tells arms apart: which items all pass or all fail, and how far scores differ beyond chance."""

from typing import NamedTuple

import numpy as np
import polars as pl

from tasks.drift.emerging import Flags
from tasks.drift.mix_counts import Floats
from tasks.metrics.interval import Interval, bootstrap, ratio, share

RELIABLE = 0.5  # below it, more than half of the variance of scores is that of drawing the items
FEW_ARMS, LEAST_ARMS = 20, 3  # with fewer, no item's own parameters; no reliability


class Saturation(NamedTuple):
    """What is left for a benchmark to show, of the `items` that every one of `arms` arms has a score on.

    Shares are from 0 to 1, over items. `headroom` is the share that the `best` arm fails; the best of several looks better than
    it is. `reliability` is 1 - mean(SE^2) / Var(scores), at most 1, below 0 where arms differ less than chance would make them.
    `effective` is how many items, all equally telling, would tell as much. `discrimination` has a row for each item: item_id,
    `failed` (share of arms) and `item_rest` (NULL: too few arms, or all alike). None, or no row: not to be said, for a reason
    in `reasons`.
    """

    arms: int
    items: int
    left_out: int  # items that some arm has no score on
    none_fails: Interval
    all_fail: Interval
    best: str | None
    headroom: Interval
    reliability: Interval
    alarm: bool | None  # reliability is below RELIABLE
    effective: float | None
    discrimination: pl.DataFrame
    reasons: tuple[str, ...]


def saturation(rows: pl.DataFrame) -> Saturation:
    """How far the benchmark is used up; columns arm, item_id and `hit` (the arm fails the item; NULL is unscored).

    Several scores of an arm on an item are averaged; an item is failed where the average is above a half.
    """
    scores = rows.drop_nulls("hit").group_by("arm", "item_id").agg(pl.col("hit").cast(pl.Float64).mean())
    arms = sorted(scores["arm"].unique())
    whole = scores.filter(pl.col("arm").n_unique().over("item_id") == len(arms)).sort("item_id", "arm")
    items = whole["item_id"].unique(maintain_order=True)
    table = whole["hit"].to_numpy().reshape(len(items), len(arms))
    best = int(table.mean(axis=0).argmin()) if len(items) else None
    failing = (table > 0.5).sum(axis=1)  # arms
    found = reliability(table)
    return Saturation(
        len(arms),
        len(items),
        scores["item_id"].n_unique() - len(items),
        _share(failing == 0),
        _share(failing == len(arms)),
        None if best is None else arms[best],
        _share(table[:, best] > 0.5 if best is not None else failing > 0),
        found,
        None if found.value is None else found.value < RELIABLE,
        effective_items(table),
        pl.DataFrame({"item_id": items, "failed": table.mean(axis=1) if arms else [], "item_rest": item_rest(table)}),
        _reasons(len(arms), len(items), found),
    )


def reliability(table: Floats) -> Interval:
    """The share of the variance of arms' scores that is not that of drawing items, with an interval over items.

    One row an item, one column an arm. Items count as drawn afresh for each arm; since all arms have the same ones, it is a
    lower bound of KR-20 (Kuder and Richardson 1937, Psychometrika 2, 151-160), as their formula 21 is. None with fewer than
    three arms or two items, or where all arms score alike.
    """
    n, k = table.shape
    if n < 2 or k < LEAST_ARMS:
        return Interval(0, None, None, None, "bootstrap over clusters")
    names = [f"{i}" for i in range(k)]
    first = pl.DataFrame(table, schema=names)
    sums = first.with_columns((pl.col(names) ** 2).name.suffix("_square"), one=pl.lit(1.0)).with_row_index("cluster")
    return bootstrap(sums, lambda s: _reliability(s[:, :k], s[:, k:-1], s[:, -1:]), n)


def _reliability(totals: Floats, squares: Floats, n: Floats) -> Floats:
    means = totals / n
    errors = (squares / n - means**2) / (n - 1)
    varies = means.var(axis=1, ddof=1)
    return 1 - ratio(errors.mean(axis=1), np.where(varies > 1e-12, varies, 0.0))


def effective_items(table: Floats) -> float | None:
    """The number of equally telling items: (sum v)^2 / sum v^2, v an item's variance over arms (Kish 1965, section 8.2).

    None where no item tells arms apart.
    """
    v = table.var(axis=1) if table.size else np.zeros(0)
    return float(v.sum() ** 2 / (v**2).sum()) if v.any() else None


def item_rest(table: Floats) -> list[float | None]:
    """Each item's correlation over arms with the sum of the other items, the point-biserial; None with fewer than 20 arms.

    None as well where the item or the rest is the same for all. Negative: better arms fail it more, so look at its label.
    """
    n, k = table.shape
    if k < FEW_ARMS:
        return [None] * n
    rest = table.sum(axis=0) - table
    a, b = (x - x.mean(axis=1, keepdims=True) for x in (table, rest))
    size = np.sqrt((a**2).sum(axis=1) * (b**2).sum(axis=1))
    return [float(c / s) if s > 1e-9 else None for c, s in zip((a * b).sum(axis=1), size, strict=True)]


def _share(hits: Flags) -> Interval:
    return share(pl.DataFrame({"hit": hits}).with_row_index("cluster"))


def _reasons(arms: int, items: int, found: Interval) -> tuple[str, ...]:
    said = []
    if items == 0:
        said.append("no item has a score of every arm: compare arms that were asked the same items")
    if arms < LEAST_ARMS:
        said.append(f"{arms} arms: reliability needs {LEAST_ARMS}, and as many as can be had")
    elif found.value is None:
        said.append("all arms score alike, or there are fewer than two items: no reliability")
    if arms < FEW_ARMS:
        said.append(f"{arms} arms: item discrimination needs about {FEW_ARMS}")
    return tuple(said)

"""What a mere repeat moves: the same arm, asked the same items again."""

from typing import NamedTuple

import polars as pl
from scipy.stats import chi2, norm

from tasks.metrics.interval import LEVEL


class Noise(NamedTuple):
    """How far 19 of 20 repeats stay from each other, as a share, with its 95% interval; what this one moved, over `n` items."""

    value: float
    low: float
    high: float
    moved: float
    n: int


def noise_floor(first: pl.DataFrame, again: pl.DataFrame) -> Noise | None:
    """The noise of the share of `hit` over the items that both scored; None where there is no such item.

    One row per response: item_id, and `hit` (NULL: unscored). A repeat has no direction, so what items moved each way tells
    its variance. The interval is that of a Poisson count (Garwood 1936, Biometrika 28, 437-442) of as many items as moved.
    """
    means = [
        rows.drop_nulls("hit").group_by("item_id").agg(pl.col("hit").cast(pl.Float64).mean(), n=pl.len())
        for rows in (first, again)
    ]
    both = (
        means[0]
        .join(means[1], on="item_id")
        .with_columns(share=pl.sum_horizontal(pl.col("n", "n_right") / pl.col("n", "n_right").sum()) / 2)
    )
    if both.is_empty():
        return None
    moves = (both["share"] * (both["hit_right"] - both["hit"])).to_numpy()
    squares = moves**2
    count = float(squares.sum() ** 2 / (squares**2).sum()) if squares.any() else 0.0
    each = float(squares.sum()) / count if count else 1 / both.height**2
    ends = (chi2.ppf((1 - LEVEL) / 2, 2 * count) / 2 if count else 0.0, chi2.ppf((1 + LEVEL) / 2, 2 * count + 2) / 2)
    value, low, high = (float(norm.ppf((1 + LEVEL) / 2) * (each * n) ** 0.5) for n in (count, *ends))
    return Noise(value, low, high, float(moves.sum()), both.height)

"""Shares, means and functions of sums with 95% intervals, where responses of one cluster depend on each other."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl
from scipy.stats import norm, t

LEVEL = 0.95
DRAWS = 2000
SEED = 20230308
_CELLS = 4_000_000  # draws x clusters that are held at a time

Floats = npt.NDArray[np.float64]
Statistic = Callable[[Floats], Floats]  # sums (draws x columns) -> values (draws), NaN where there is none


class Interval(NamedTuple):
    """A number with its interval, over `n` responses (or pairs of them); None where there is none."""

    n: int
    value: float | None
    low: float | None
    high: float | None
    method: str


def share(responses: pl.DataFrame) -> Interval:
    """The share of `hit`, from 0 to 1, with a Wilson interval; columns cluster and hit, one row per scored response."""
    return share_of_pairs(responses.select("cluster", hits=pl.col("hit").cast(pl.Float64), size=pl.lit(1)))


def share_of_pairs(rows: pl.DataFrame) -> Interval:
    """The share of `hits` (a tie may be half a hit) in `size`, with a Wilson interval; columns cluster, hits and size.

    Responses of a cluster are not independent: the interval then has the effective number of responses, n over the
    design effect of clustering, with the t quantile (Korn and Graubard 1998, Survey Methodology 24, 193-201).
    """
    n = int(rows["size"].sum())
    if n == 0:
        return Interval(0, None, None, None, "wilson")
    p = float(rows["hits"].sum()) / n
    clusters = rows.group_by("cluster").agg(pl.col("hits", "size").sum()).filter(pl.col("size") > 0)
    k = clusters.height
    if k == n:
        return Interval(n, p, *wilson(p, n), "wilson")
    residual = clusters["hits"] - clusters["size"] * p
    variance = k / (k - 1) * float((residual**2).sum()) / n**2 if k > 1 else 0.0
    effective = min(n, p * (1 - p) / variance) if variance > 0 else k
    return Interval(n, p, *wilson(p, effective * few(k) if k > 1 else effective), "wilson, clustered")


def few(clusters: int) -> float:
    """By how much the t quantile of so many clusters, at least two, reduces an effective number; towards 1 for many."""
    return float(norm.ppf((1 + LEVEL) / 2) / t.ppf((1 + LEVEL) / 2, clusters - 1)) ** 2


def wilson(p: float, n: float) -> tuple[float, float]:
    """Wilson's 95% interval of a share `p` of `n` (1927, JASA 22, 209-212); `n` may be an effective number."""
    z2 = float(norm.ppf((1 + LEVEL) / 2)) ** 2
    centre = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = (z2 / n * (p * (1 - p) + z2 / (4 * n))) ** 0.5 / (1 + z2 / n)
    return max(0.0, centre - half), min(1.0, centre + half)


def ratio(part: Floats, whole: Floats) -> Floats:
    """`part` over `whole`; NaN where there is none."""
    return np.divide(part, whole, out=np.full_like(part, np.nan), where=whole > 0)


def bootstrap(rows: pl.DataFrame, statistic: Statistic, n: int) -> Interval:
    """A function of the sums of the columns beside `cluster`, with a percentile interval over resampled clusters.

    The percentiles are expanded for few clusters (Hesterberg 2015, American Statistician 69, 371-386, section 4.3). The
    draws are seeded, so that the same rows give the same interval; with one cluster there is none.
    """
    sums = rows.group_by("cluster", maintain_order=True).agg(pl.exclude("cluster").sum()).sort("cluster")
    table = sums.drop("cluster").cast(pl.Float64).to_numpy()
    value = float(statistic(table.sum(axis=0, keepdims=True))[0]) if len(table) else float("nan")
    if n == 0 or not np.isfinite(value):
        return Interval(0, None, None, None, "bootstrap over clusters")
    k = len(table)
    if k == 1:
        return Interval(n, value, None, None, "bootstrap over clusters")
    rng = np.random.default_rng(SEED)
    chunk = max(1, _CELLS // k)
    counts = [min(chunk, DRAWS - start) for start in range(0, DRAWS, chunk)]
    draws = np.concatenate([statistic(rng.multinomial(k, np.full(k, 1 / k), size=c) @ table) for c in counts])
    tail = float(norm.cdf(np.sqrt(k / (k - 1)) * t.ppf((1 - LEVEL) / 2, k - 1)))
    low, high = np.nanquantile(draws, [tail, 1 - tail])
    return Interval(n, value, min(float(low), value), max(float(high), value), "bootstrap over clusters")

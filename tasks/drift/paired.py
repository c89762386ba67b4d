"""Two judgements of each of the same cases: who flipped, by how much the share moved, and whether chance does as much."""

from collections.abc import Callable, Sequence
from math import sqrt
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl
from scipy.stats import binom, binomtest, false_discovery_control, norm, t

from tasks.metrics.interval import LEVEL, Floats

Change = Literal["regression", "improvement", "change", "same", "unclear"]


class Paired(NamedTuple):
    """A share before and after over the same `n` cases; `up` cases came to count and `down` ceased to, of `clusters` clusters.

    `low` and `high` hold the difference, after less before, with 95% confidence. None: there is no case.
    """

    n: int
    clusters: int
    before: float | None
    after: float | None
    difference: float | None
    low: float | None
    high: float | None
    up: int
    down: int
    p: float | None


def paired(cases: pl.DataFrame) -> Paired:
    """The change of a share over the same cases; columns cluster, `before` and `after` (boolean, no NULL), one row a case."""
    n = cases.height
    if n == 0:
        return Paired(0, 0, None, None, None, None, None, 0, 0, None)
    moved = pl.col("after").cast(pl.Int64) - pl.col("before").cast(pl.Int64)
    sums = cases.group_by("cluster").agg(d=moved.sum(), size=pl.len())
    up, down = (cases.filter(moved == way).height for way in (1, -1))
    low, high = _interval(up, down, n, sums)
    before, after = (float(cases[side].sum()) / n for side in ("before", "after"))
    return Paired(n, sums.height, before, after, (up - down) / n, low, high, up, down, sign_flip(sums["d"].to_numpy()))


def sign_flip(sums: npt.ArrayLike) -> float:
    """The two-sided exact p-value of a sum over clusters, each of which might as well have had the other sign.

    Where no cluster moved by more than one case it is McNemar's exact test (McNemar 1947, Psychometrika 12, 153-157).
    """
    sizes, counts = np.unique(np.abs(sums), return_counts=True)
    total, reach = abs(int(np.sum(sums))), int(sizes @ counts)
    chances = np.ones(1)
    for size, count in zip(sizes[sizes > 0], counts[sizes > 0], strict=True):
        signs = np.zeros(2 * size * count + 1)
        signs[:: 2 * size] = binom.pmf(np.arange(count + 1), count, 0.5)
        chances = np.convolve(chances, signs)
    return min(1.0, 2 * float(chances[reach + total :].sum()))  # entry i: a sum of i - reach


def excess_flips(flipped: npt.ArrayLike, repeated: npt.ArrayLike) -> float:
    """The one-sided exact p-value that cases flip no more often than under a mere repeat; one entry of each a case.

    It sees a judge that changed as often to safe as to unsafe, which a difference of shares cannot (McNemar's test on
    flipped against repeated).
    """
    flips, noise = np.asarray(flipped, dtype=bool), np.asarray(repeated, dtype=bool)
    more, fewer = int((flips & ~noise).sum()), int((noise & ~flips).sum())
    return float(binomtest(more, more + fewer, alternative="greater").pvalue) if more + fewer else 1.0


def adjusted(p: Sequence[float | None]) -> list[float | None]:
    """The q-values of a table, None for None (Benjamini and Hochberg 1995, J. of the Royal Stat. Society B 57, 289-300)."""
    return each_known(false_discovery_control, p)


def each_known(adjust: Callable[[Floats], Floats], p: Sequence[float | None]) -> list[float | None]:
    """The p-values as `adjust` makes them of those that are known; None stays."""
    found = iter(adjust(np.array([x for x in p if x is not None])).tolist())
    return [None if x is None else next(found) for x in p]


def decide(found: Paired, q: float | None, least: float, better: Literal["low", "high"] | None, level: float = 0.05) -> Change:
    """What the difference means where `least` is the smallest one that matters, from 0 to 1.

    `same`: the interval lies within it. A difference that chance explains, or that is smaller but not surely so, is unclear.
    """
    if found.difference is None or found.low is None or found.high is None or q is None:
        return "unclear"
    if q <= level and abs(found.difference) >= least:
        worse = {"low": found.difference > 0, "high": found.difference < 0}
        return "change" if better is None else "regression" if worse[better] else "improvement"
    return "same" if -least <= found.low and found.high <= least else "unclear"


def _interval(up: int, down: int, n: int, sums: pl.DataFrame) -> tuple[float, float]:
    """The adjusted Wald interval (Bonett and Price 2012, Journal of Educational and Behavioral Statistics 37, 479-488).

    Dependent cases count as their effective number, n over the design effect of clustering, with the t quantile.
    """
    k, design = sums.height, 1.0
    if 1 < k < n:
        difference = (up - down) / n
        spread = float(((sums["d"] - sums["size"] * difference) ** 2).sum()) * k / (k - 1)
        alone = up + down - n * difference**2
        design = max(1.0, spread / alone) if alone > 0 else n / k
    elif k == 1:
        design = float(n)
    quantile = float(norm.ppf((1 + LEVEL) / 2) if k == n or k == 1 else t.ppf((1 + LEVEL) / 2, k - 1))
    size = n / design + 2
    more, fewer = ((x / design + 1) / size for x in (up, down))
    centre, half = more - fewer, quantile * sqrt((more + fewer - (more - fewer) ** 2) / size)
    return max(-1.0, centre - half), min(1.0, centre + half)

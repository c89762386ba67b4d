"""Whether mixes are one and the same, by Pearson's X2: two of them, or reference nights among themselves, which gives phi."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.stats import chi2, f, random_table

from tasks.drift.mix_counts import SAMPLING, Dispersion, DriftError, Floats, both_counts, counts_of

SPARSE = 5.0  # expected counts below which chi-square's distribution is simulated (Cochran 1954, Biometrics 10, 417-451)
DRAWS = 4000
SEED = 20220303


class Omnibus(NamedTuple):
    """Homogeneity of two mixes: Pearson's X2 over phi and over its degrees of freedom; with how the p-value was found."""

    statistic: float
    df: int
    p: float
    method: str


def mix_dispersion(nights: npt.ArrayLike, strata: npt.ArrayLike | None = None) -> Dispersion:
    """The variance factor of nights of one mix, (nights, categories): Pearson's X2 of homogeneity over its df, at least 1.

    Less than 1 is chance, or a set of items that is the same every night; neither makes counts say more than as many draws.
    Nights of a stratum (a weekday, say) are compared with each other, so that a weekly pattern is none of the variance.
    DriftError: no stratum has two nights with data.
    """
    table = np.asarray(nights, np.float64)
    if table.ndim != 2:
        raise DriftError(f"reference nights are of shape {table.shape}: give (nights, categories)")
    counts_of(table.ravel(), "reference nights")
    labels = np.zeros(len(table), np.int64) if strata is None else np.asarray(strata)
    if labels.shape != (len(table),):
        raise DriftError(f"{len(table)} reference nights, {labels.size} strata: give one for each night")
    kept = table.sum(1) > 0
    parts = [_pearson(table[kept & (labels == s)]) for s in np.unique(labels)]
    x2, df = (float(sum(values)) for values in zip(*parts, strict=True))
    if df == 0:
        raise DriftError("no stratum has two reference nights with data: take a longer reference, fewer strata, or state phi")
    return Dispersion(max(1.0, x2 / df), df, float(table[kept].sum(1).mean()))


def _pearson(table: Floats) -> tuple[float, int]:
    """Pearson's X2 of homogeneity of the rows, and its degrees of freedom; categories without a count don't take part."""
    table = table[:, table.sum(0) > 0]
    if not table.size:
        return 0.0, 0
    expected = table.sum(1, keepdims=True) * table.sum(0) / table.sum()
    return float(((table - expected) ** 2 / expected).sum()), (len(table) - 1) * (table.shape[1] - 1)


def omnibus(reference: npt.ArrayLike, current: npt.ArrayLike, dispersion: Dispersion = SAMPLING) -> Omnibus:
    """Whether two mixes differ at all: chi-square, F where phi was estimated; simulated where expected counts are under 5."""
    a, b = both_counts(reference, current)
    table = np.array([a, b]) / dispersion.phi
    x2, df = _pearson(table)
    expected = table.sum(1, keepdims=True) * table.sum(0) / table.sum()
    if df == 0:
        return Omnibus(0.0, 0, 1.0, "one category")
    if expected[:, table.sum(0) > 0].min() < SPARSE:
        return Omnibus(x2 / df, df, _simulated(a, b, x2 / df, dispersion), "Monte Carlo")
    if np.isfinite(dispersion.df):
        return Omnibus(x2 / df, df, float(f.sf(x2 / df, df, dispersion.df)), "F")
    return Omnibus(x2 / df, df, float(chi2.sf(x2, df)), "chi-square")


def _simulated(a: Floats, b: Floats, statistic: float, dispersion: Dispersion) -> float:
    """The share of tables with these margins, as effective counts, that are at least as far from homogeneity."""
    draw = np.random.default_rng(SEED)
    columns = _whole((a + b)[a + b > 0] / dispersion.phi)
    rows = _whole(np.array([a.sum(), b.sum()]) / (a + b).sum() * columns.sum())
    expected = np.outer(rows, columns) / columns.sum()
    tables = random_table(rows, columns).rvs(DRAWS, random_state=draw)
    used = expected > 0
    x2 = np.divide((tables - expected) ** 2, expected, out=np.zeros(tables.shape), where=used).sum((1, 2))
    noise = draw.chisquare(dispersion.df, DRAWS) / dispersion.df if np.isfinite(dispersion.df) else 1.0
    return (1 + int((x2 / (len(columns) - 1) / noise >= statistic * (1 - 1e-9)).sum())) / (DRAWS + 1)


def _whole(values: Floats) -> npt.NDArray[np.int64]:
    """Whole numbers that keep the sum: of the largest remainders, one more."""
    down = np.floor(values).astype(np.int64)
    more = round(float(values.sum())) - int(down.sum())
    down[np.argsort(down - values, kind="stable")[:more]] += 1
    return down

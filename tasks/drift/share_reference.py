"""What shares are while nothing changes: the level of their reference nights, how much nights vary, how well both are known."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.special import polygamma

from tasks.drift.mix_counts import DriftError, Floats, counted

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

RARE = 4.0  # kurtosis of nightly counts from which on few nights don't tell how much they vary


class Reference(NamedTuple):
    """The reference of series of shares: `hits` of `sizes`, (strata, ..., series); the other arrays are (..., series).

    `phi` is by how much nights of `night` items vary more than sampling alone makes them (at least 1), known with `df` degrees
    of freedom (infinite: stated).
    """

    strata: Ints
    hits: Floats
    sizes: Floats
    night: Floats
    phi: Floats
    df: Floats


def reference(
    hits: npt.ArrayLike,
    sizes: npt.ArrayLike,
    strata: npt.ArrayLike | None = None,
    phi: npt.ArrayLike | None = None,
) -> Reference:
    """What the reference nights say of series of shares: `hits` (nights, ..., series) of `sizes` (nights, ... [, series]).

    A size of 0, or NaN in either, is a night without data. `strata` are whole numbers that say what each night is matched by,
    its weekday for one. `phi` states the variance factor where it is known: 1 where nights can differ by sampling alone, or
    one that many monitors of a source share. DriftError: no data of a series in a stratum, or too few nights to see how much
    they vary.
    """
    x, n = counted(hits, sizes)
    labels = labels_of(strata, len(x))
    names = np.unique(labels)
    a, size = (np.stack([values[labels == s].sum(0) for s in names]) for values in (x, n))
    if not len(x) or not size.all():
        empty = [int(s) for s, total in zip(names, size, strict=True) if not total.all()]
        raise DriftError(f"no reference data of some series in strata {empty}: take a longer reference, or fewer strata")
    found, df = dispersion(x, n, labels) if phi is None else _stated(phi, x.shape[1:])
    return Reference(names, a, size, size.sum(0) / (n > 0).sum(0), found, df)


def labels_of(strata: npt.ArrayLike | None, nights: int) -> Ints:
    """The stratum of each night, 0 where there are none; DriftError where there is not one for each."""
    labels = np.zeros(nights, np.int64) if strata is None else np.asarray(strata)
    if labels.shape != (nights,) or not np.issubdtype(labels.dtype, np.integer):
        raise DriftError(f"{nights} nights, strata {labels.shape} of {labels.dtype}: give a whole number for each night")
    return labels.astype(np.int64)


def rows_of(base: Reference, nights: int, strata: npt.ArrayLike | None) -> tuple[Ints, Bools]:
    """Each night's place among the reference's strata, and whether it has one."""
    if strata is None and len(base.strata) > 1:
        raise DriftError(f"the reference has strata {base.strata.tolist()}: name that of each night")
    labels = np.full(nights, base.strata[0]) if strata is None else labels_of(strata, nights)
    rows = np.searchsorted(base.strata, labels).clip(max=len(base.strata) - 1)
    return rows, base.strata[rows] == labels


def _stated(phi: npt.ArrayLike, shape: tuple[int, ...]) -> tuple[Floats, Floats]:
    value = np.broadcast_to(np.asarray(phi, np.float64), shape)
    if not (np.isfinite(value) & (value >= 1)).all():
        raise DriftError("a stated phi is a finite number of at least 1 (1: nights differ by sampling alone)")
    return value, np.full(shape, np.inf)


def dispersion(hits: Floats, sizes: Floats, strata: Ints) -> tuple[Floats, Floats]:
    """Each series' variance factor, Pearson's X2 over its degrees of freedom, at least 1; and the degrees of freedom.

    Where nights resemble the ones before them, it is larger, that of sums of nights. Series along the last axis lend each other
    strength as far as they agree (Smyth 2004, SAGMB 3(1), article 3, section 6.2). Nights of few hits, or of bursts, count for
    fewer degrees of freedom, as the fourth moment of their counts says.
    """
    parts = [_pearson(hits[strata == s], sizes[strata == s]) for s in np.unique(strata)]
    x2, df = (np.sum(values, axis=0) for values in zip(*parts, strict=True))
    if (df < 1).any():
        raise DriftError(
            "a series has no two reference nights of a stratum, which says nothing of how nights vary: take a longer "
            "reference, fewer strata, or state phi"
        )
    rarer = np.minimum(hits, sizes - hits).sum(0)
    phi, df = _moderated(x2 / df, df, np.maximum(rarer, 0.5) / (sizes > 0).sum(0))
    r = _carried(hits, sizes, strata)
    return phi * (1 + r) / (1 - r), df  # of sums of an autoregression of first order


def _carried(hits: Floats, sizes: Floats, strata: Ints) -> Floats:
    """The correlation of consecutive nights, in all series of the last axis together; 0 where it may be chance (p > 0.05).

    Corrected for the mean being unknown (Kendall 1954, Biometrika 41, 403-404).
    """
    share = np.zeros_like(hits)
    for s in np.unique(strata):
        share[strata == s] = hits[strata == s].sum(0) / np.maximum(sizes[strata == s].sum(0), 1e-9)
    known = (sizes > 0) & (share > 0) & (share < 1)
    z = np.where(known, (hits - sizes * share) / np.sqrt(np.where(known, sizes * share * (1 - share), 1.0)), 0.0)
    pairs = np.maximum((known[1:] & known[:-1]).sum(0).mean(-1, keepdims=True), 1.0)
    r = (z[1:] * z[:-1]).sum((0, -1))[..., None] / np.maximum((z**2).sum((0, -1))[..., None], 1e-9)
    chance = 1.645 / np.sqrt(pairs * max(1, hits.shape[-1] - 1))
    return np.where(r > chance, np.minimum(r + (1 + 3 * r) / pairs, 0.9), 0.0)


def _pearson(x: Floats, n: Floats) -> tuple[Floats, Floats]:
    """Pearson's X2 of one share over nights, 0 where all or none are hits, and its degrees of freedom, of each series."""
    p = x.sum(0) / np.maximum(n.sum(0), 1e-9)
    varies = (p > 0) & (p < 1)
    variance = np.where(n > 0, n, 1.0) * np.where(varies, p * (1 - p), 1.0)
    x2 = np.where(n > 0, (x - n * p) ** 2 / variance, 0.0).sum(0)
    return np.where(varies, x2, 0.0), np.maximum((n > 0).sum(0) - 1, 0).astype(np.float64)


def _moderated(phi: Floats, df: Floats, mean: Floats) -> tuple[Floats, Floats]:
    floor = np.maximum(phi, 1)
    excess = 6 * (floor - 1) / mean + 1 / (mean * floor)  # kurtosis of the negative binomial of variance phi x mean
    own = df * 2 / (2 + excess)
    if phi.shape[-1] == 1:
        return floor, own
    pooled = (own * phi).sum(-1, keepdims=True) / own.sum(-1, keepdims=True)
    prior = _prior(phi, own, excess < RARE)
    return np.maximum((prior * pooled + own * phi) / (prior + own), 1), prior + own


def _prior(phi: Floats, df: Floats, telling: Bools) -> Floats:
    """How many degrees of freedom the other series are worth: all of theirs where factors differ no more than by chance.

    Series with hardly a hit are not `telling`: what their factors are says nothing of whether factors differ.
    """
    n = np.maximum(telling.sum(-1, keepdims=True), 2)
    logs = np.where(telling, np.log(np.maximum(phi, 1e-3)), 0.0)
    spread = np.where(telling, (logs - logs.sum(-1, keepdims=True) / n) ** 2, 0.0).sum(-1, keepdims=True) / (n - 1)
    beyond = spread - np.where(telling, polygamma(1, df / 2), 0.0).sum(-1, keepdims=True) / n
    others = df.sum(-1, keepdims=True) - df.mean(-1, keepdims=True)
    return np.where(beyond > 0, np.minimum(2 / np.maximum(beyond, 1e-9), others), others)  # trigamma(d / 2) is about 2 / d

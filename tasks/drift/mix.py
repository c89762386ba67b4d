"""Whether a mix of categories moved: the counts of a night, or a window, against those of a reference.

Counts that vary more than sampling alone makes them are divided by phi, as effective counts (Rao and Scott 1981, JASA 76,
221-230), and need not be whole; with phi 1 and whole counts the tests are exact.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.special import betainc, betaincc, betaincinv

from tasks.drift.mix_counts import SAMPLING, Dispersion, DriftError, Floats, both_counts, clopper_pearson, counts_of
from tasks.metrics.interval import LEVEL

RATIO = 1.1  # the smallest effect that matters: a share that is 1.1 times, or 1/1.1 of what it was
POWER = 0.8
DRAWS = 1000
SEED = 20220303


class Shares(NamedTuple):
    """Shares from 0 to 1, one per category, with intervals that hold all of them at once with 95% confidence."""

    share: Floats
    low: Floats
    high: Floats


class Distance(NamedTuple):
    """How far apart two mixes are, and how far apart they are on average when nothing changed, at these counts and phi."""

    value: float
    unchanged: float


class Distances(NamedTuple):
    """Jensen-Shannon divergence (nats), population stability index, total variation: descriptions, no thresholds."""

    jensen_shannon: Distance
    psi: Distance
    total_variation: Distance


class Change(NamedTuple):
    """A category's share, before and after, and their ratio with an interval; one of all categories, held at once at 95%.

    `p` is adjusted over categories (Holm 1979): that the share left [1/ratio, ratio] times what it was. None: the reference
    has none of the category (`ratio` and `high`: no bound), or neither has (`low` too).
    """

    before: float
    after: float
    ratio: float | None
    low: float | None
    high: float | None
    p: float


class Rise(NamedTuple):
    """The smallest share, and its ratio to the reference's, that tonight would find with 80% probability; None: not even 1."""

    share: float | None
    ratio: float | None


def shares(counts: npt.ArrayLike, dispersion: Dispersion = SAMPLING) -> Shares:
    """Each category's share: Clopper and Pearson's interval of effective counts, by Bonferroni for all categories."""
    b = counts_of(counts, "counts")
    tail = (1 - LEVEL) / (2 * len(b))
    effective = b / dispersion.inflated(1 - tail)
    return Shares(b / b.sum(), *clopper_pearson(effective, effective.sum() - effective, tail))


def distances(reference: npt.ArrayLike, current: npt.ArrayLike, dispersion: Dispersion = SAMPLING) -> Distances:
    """Three distances between mixes, each beside its mean over simulated pairs that differ by chance alone."""
    a, b = both_counts(reference, current)
    draw = np.random.default_rng(SEED)
    pooled = (a + b) / (a + b).sum()
    sizes = [max(1, round(float(counts.sum() / dispersion.phi))) for counts in (a, b)]
    p, q = (draw.multinomial(size, pooled, size=DRAWS).astype(np.float64) for size in sizes)
    null = _distances(p * dispersion.phi, q * dispersion.phi).mean(axis=1)
    value = _distances(a[None], b[None])[:, 0]
    return Distances(*(Distance(float(v), float(u)) for v, u in zip(value, null, strict=True)))


def _distances(a: Floats, b: Floats) -> Floats:
    """Jensen-Shannon, PSI and total variation of rows of counts; PSI with half a count more in every category."""
    p, q = (counts / counts.sum(1, keepdims=True) for counts in (a, b))
    m = (p + q) / 2
    entropy = [np.where(r > 0, r * np.log(np.where(r > 0, r, 1)), 0.0).sum(1) for r in (p, q, m)]
    s, u = ((counts + 0.5) / (counts + 0.5).sum(1, keepdims=True) for counts in (a, b))
    psi = ((u - s) * np.log(u / s)).sum(1)
    return np.stack([np.maximum((entropy[0] + entropy[1]) / 2 - entropy[2], 0.0), psi, np.abs(p - q).sum(1) / 2])


def changes(
    reference: npt.ArrayLike, current: npt.ArrayLike, ratio: float = RATIO, dispersion: Dispersion = SAMPLING
) -> list[Change]:
    """Each category's change, tested exactly against the smallest effect that matters, given its counts in both together.

    Of a category's a + b effective counts, b are now with probability at most ratio M / (ratio M + N) (Przyborowski and
    Wilenski 1940, Biometrika 31, 313-323); and the mirror for falls. The interval is that of the same test.
    """
    a, b = both_counts(reference, current)
    tail = (1 - LEVEL) / (2 * len(a))
    phi = dispersion.inflated(1 - tail)
    p = holm(_p_values(a / phi, b / phi, _odds(a, b), ratio))
    low, high = (_ratio(end, _odds(a, b)) for end in clopper_pearson(b / phi, a / phi, tail))
    before, after = a / a.sum(), b / b.sum()
    return [
        Change(
            float(before[k]),
            float(after[k]),
            float(after[k] / before[k]) if a[k] > 0 else None,
            float(low[k]) if a[k] + b[k] > 0 else None,
            float(high[k]) if a[k] > 0 else None,
            float(p[k]),
        )
        for k in range(len(a))
    ]


def _ratio(share: Floats, odds: float) -> Floats:
    """The ratio at which a category's counts are now with probability `share`; infinite at 1."""
    return np.divide(share, (1 - share) * odds, out=np.full_like(share, np.inf), where=share < 1)


def _odds(a: Floats, b: Floats) -> float:
    return float(b.sum() / a.sum())


def _p_values(a: Floats, b: Floats, odds: float, ratio: float) -> Floats:
    """Two-sided p-values of shares that stayed within [1/ratio, ratio]: the smaller tail, doubled."""
    if not (1 <= ratio < np.inf):
        raise DriftError(f"the smallest effect is a ratio of at least 1, not {ratio}")
    return np.minimum(1.0, 2 * np.minimum(_rise(a, b, ratio * odds), _fall(a, b, odds / ratio)))


def _rise(a: Floats, b: Floats, odds: float) -> Floats:
    """P(Bin(a + b, odds / (1 + odds)) >= b), also between whole counts."""
    return np.where(b > 0, betainc(np.where(b > 0, b, 1.0), a + 1, odds / (1 + odds)), 1.0)


def _fall(a: Floats, b: Floats, odds: float) -> Floats:
    return np.where(a > 0, betaincc(b + 1, np.where(a > 0, a, 1.0), odds / (1 + odds)), 1.0)


def holm(p: Floats) -> Floats:
    """P-values adjusted for there being several (Holm 1979, Scandinavian Journal of Statistics 6, 65-70), in the same order."""
    order = np.argsort(p)
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)))
    return adjusted


def detectable(
    reference: npt.ArrayLike, size: float, ratio: float = RATIO, dispersion: Dispersion = SAMPLING, power: float = POWER
) -> list[Rise]:
    """What a night of `size` could have seen: each category's smallest rise that `changes` finds, by Bonferroni for all."""
    a = counts_of(reference, "reference")
    if not (0 < size < np.inf and 0 < power < 1):
        raise DriftError(f"a night of {size} and power {power}: the size is above 0, the power between 0 and 1")
    alpha = (1 - LEVEL) / len(a)
    phi = dispersion.inflated(1 - alpha / 2)
    need = _least(a / phi, ratio * size / float(a.sum()), size / phi, alpha)
    whole = np.ceil(need * phi / dispersion.phi)
    n = size / dispersion.phi
    share = np.where(whole <= n, betaincinv(whole, np.maximum(n - whole, 0) + 1, power), np.inf)
    return [_found(float(q), float(p)) for q, p in zip(share, a / a.sum(), strict=True)]


def _found(share: float, before: float) -> Rise:
    if not np.isfinite(share):
        return Rise(None, None)
    return Rise(share, share / before if before > 0 else None)


def _least(a: Floats, odds: float, most: float, alpha: float) -> Floats:
    """The smallest effective counts that are a rise at `alpha`, two-sided; above `most` where there are none."""
    low, high = np.zeros_like(a), np.full_like(a, most * 1.001 + 1)
    for _ in range(60):
        middle = (low + high) / 2
        enough = 2 * _rise(a, middle, odds) <= alpha
        low, high = np.where(enough, low, middle), np.where(enough, middle, high)
    return high

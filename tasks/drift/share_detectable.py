"""The smallest rise of a share that evidence against a threshold would have found."""

import numpy as np
import numpy.typing as npt
from scipy.stats import binom, nbinom

from tasks.drift.mix_counts import DriftError, Floats
from tasks.drift.share_evidence import ALTERNATIVES, EFFECT, Effect, Null, Starts, null
from tasks.drift.share_reference import Reference, rows_of

POWER = 0.8


def detectable(
    base: Reference, size: npt.ArrayLike, threshold: float, nights: int = 1, effect: Effect = EFFECT, stratum: int | None = None
) -> Floats:
    """What could have been seen: each series' smallest raised share that `nights` nights of `size` find with probability 0.8.

    In the reference's shape, (..., series); 1 where even that share would not be found. Nights are of the reference's first
    stratum, or `stratum`. The evidence of other series, or of earlier nights, is not counted on.
    """
    n = np.broadcast_to(np.asarray(size, np.float64), base.phi.shape)
    if nights < 1 or not (np.isfinite(n) & (n > 0)).all():
        raise DriftError(f"{nights} nights of {size!r}: there is at least one, of a size above 0")
    row = int(rows_of(base, 1, [base.strata[0] if stratum is None else stratum])[0][0])
    nothing = null(base, effect, threshold)
    low, high = nothing.edge[0, row], np.ones(base.phi.shape)
    for _ in range(40):
        share = (low + high) / 2
        found = _finds(nothing, base, share, n, nights, row) >= threshold
        low, high = np.where(found, low, share), np.where(found, share, high)
    return np.where(high > 1 - 1e-6, 1.0, high)


def _finds(nothing: Null, base: Reference, share: Floats, size: Floats, nights: int, row: int) -> Floats:
    """The evidence of each series alone, where it has as few hits as a share gives with probability 0.8 or more."""
    starts = Starts(nothing)
    few = _fewest(share, size * nights, 1 + (base.phi - 1) * np.maximum(1.0, size / base.night)) / nights
    for night in range(nights):
        starts.add(night, few, size, row)
    return np.exp(starts.logs(nights)).sum(axis=(0, 1, 2)) / (ALTERNATIVES * share.shape[-1])


def _fewest(share: Floats, size: Floats, phi: Floats) -> Floats:
    """The hits that a share in `size` has at least with probability 0.8: binomial, or negative binomial of more variance."""
    over = np.maximum(phi * (1 - share), 1 + 1e-9)
    wide = nbinom.ppf(1 - POWER, share * size / (over - 1), 1 / over)
    return np.minimum(np.where(phi * (1 - share) > 1, wide, binom.ppf(1 - POWER, np.round(size), share)), size)

"""What each series of a monitor looks like since it most likely changed: the share, its reference, their ratio."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from tasks.drift.mix_counts import Dispersion, Floats, clopper_pearson, counted
from tasks.drift.share_reference import Ints, Reference, rows_of
from tasks.metrics.interval import LEVEL


class Finding(NamedTuple):
    """What one series looks like: its share of `size` since night `since`, against `before`, the reference's.

    `low` and `high` hold the share with 95% confidence if `since` had been known beforehand. None: no data since the last
    alarm, or no such number.
    """

    part: float
    since: int | None
    size: float
    share: float | None
    low: float | None
    high: float | None
    before: float
    ratio: float | None


def findings(
    part: Floats,
    since: Ints,
    base: Reference,
    hits: npt.ArrayLike,
    sizes: npt.ArrayLike,
    strata: npt.ArrayLike | None = None,
) -> list[Finding]:
    """What each series of one monitor looks like through the last night of `hits` and `sizes`, (nights, series).

    `part` and `since` are those of a night of a `Watch`, by series; the other arguments are as those of `watch`.
    """
    x, n = counted(hits, sizes)
    rows, known = rows_of(base, len(x), strata)
    found = []
    for k in range(x.shape[1]):
        seen = (np.arange(len(x)) >= since[k]) & known & (n[:, k] > 0) & (since[k] >= 0)
        spread = Dispersion(float(base.phi[k]), float(base.df[k]), float(base.night[k]))
        change = _change(x[seen, k], n[seen, k], rows[seen], base.hits[:, k], base.sizes[:, k], spread)
        found.append(change._replace(part=float(part[k]), since=int(since[k]) if seen.any() else None))
    return found


def _change(x: Floats, n: Floats, rows: Ints, a: Floats, size: Floats, spread: Dispersion) -> Finding:
    """A share over some nights against its reference `a` of `size`, by stratum, of the same strata as those nights."""
    if not len(x):
        return Finding(0.0, None, 0.0, None, None, None, float(a.sum() / size.sum()), None)
    b, m, expected = float(x.sum()), float(n.sum()), float((n * (a / size)[rows]).sum())
    tail = (1 - LEVEL) / 2
    phi = spread.at(m / len(x)).inflated(1 - tail)
    low, high = (float(end) for end in clopper_pearson(np.array(b / phi), np.array((m - b) / phi), tail))
    return Finding(0.0, None, m, b / m, low, high, expected / m, b / expected if expected else None)

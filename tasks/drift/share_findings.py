"""What each series of a monitor looks like since it most likely changed: the share, its reference, their ratio."""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from tasks.drift.mix_counts import Dispersion, Floats, clopper_pearson, counted
from tasks.drift.sequential import Watch
from tasks.drift.share_reference import Ints, Reference, rows_of
from tasks.metrics.interval import LEVEL


class Finding(NamedTuple):
    """What one series looks like on a night: its share of `size` since night `since`, against `before`, the reference's.

    `low` and `high` hold the share, `ratio_low` and `ratio_high` its ratio to the reference, with 95% confidence if `since` had
    been known beforehand. None: no data since the last alarm, or no such number.
    """

    part: float
    since: int | None
    size: float
    share: float | None
    low: float | None
    high: float | None
    before: float
    ratio: float | None
    ratio_low: float | None
    ratio_high: float | None


def findings(
    watched: Watch,
    base: Reference,
    hits: npt.ArrayLike,
    sizes: npt.ArrayLike,
    night: int,
    strata: npt.ArrayLike | None = None,
    monitor: int = 0,
) -> list[Finding]:
    """What each series of a monitor, counted through all of them, looks like on a night; arguments as those of `watch`."""
    x, n = counted(hits, sizes)
    rows, known = rows_of(base, len(x), strata)
    x, n, a, size, part, since = (_of(v, monitor) for v in (x, n, base.hits, base.sizes, watched.part, watched.since))
    night_size, phi, df = (_of(v[None], monitor)[0] for v in (base.night, base.phi, base.df))
    found = []
    for k in range(x.shape[1]):
        seen = (
            (np.arange(len(x)) >= since[night, k])
            & (np.arange(len(x)) <= night)
            & known
            & (n[:, k] > 0)
            & (since[night, k] >= 0)
        )
        spread = Dispersion(float(phi[k]), float(df[k]), float(night_size[k]))
        change = _change(x[seen, k], n[seen, k], rows[seen], a[:, k], size[:, k], spread)
        found.append(change._replace(part=float(part[night, k]), since=int(since[night, k]) if seen.any() else None))
    return found


def _of(values: npt.NDArray[Any], monitor: int) -> npt.NDArray[Any]:
    return values.reshape(len(values), -1, values.shape[-1])[:, monitor]


def _change(x: Floats, n: Floats, rows: Ints, a: Floats, size: Floats, spread: Dispersion) -> Finding:
    """A share over some nights against its reference `a` of `size`, by stratum, of the same strata as those nights."""
    if not len(x):
        return Finding(0.0, None, 0.0, None, None, None, float(a.sum() / size.sum()), None, None, None)
    b, m, expected = float(x.sum()), float(n.sum()), float((n * (a / size)[rows]).sum())
    tail = (1 - LEVEL) / 2
    phi = spread.at(m / len(x)).inflated(1 - tail)
    low, high = (float(end) for end in clopper_pearson(np.array(b / phi), np.array((m - b) / phi), tail))
    odds = expected / float(a.sum()) if expected else m / float(size.sum())
    theta = clopper_pearson(np.array(b / phi), np.array(float(a.sum()) / phi), tail)
    below, above = (float(end) / (1 - float(end)) / odds if end < 1 else None for end in theta)
    return Finding(0.0, None, m, b / m, low, high, expected / m, b / expected if expected else None, below, above)

"""Intervals of smooth functions of sums over clusters."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array
from scipy.stats import t

from tasks.metrics.interval import LEVEL, Floats

_STEP = 1e-20
_WIDTH = 256  # columns that are held at a time

Function = Callable[[npt.NDArray], npt.NDArray]  # sums (draws x columns), real or complex -> values (draws x values)


def half_widths(function: Function, by_cluster: csr_array, group: npt.NDArray[np.int64], unseen: Floats) -> Floats:
    """Half the width of the 95% interval of each value; `by_cluster` has the sums of each cluster (down).

    The infinitesimal jackknife (Efron 1982, The Jackknife, the Bootstrap and Other Resampling Plans, chapter 6), where so many
    clusters of each `group` are drawn independently. The t quantile has the degrees of freedom of Satterthwaite (1946,
    Biometrics Bulletin 2, 110-114): few where few clusters make the variance. The function must not change when all sums are
    multiplied. `unseen` is what one more case, each way, would move of each value: without it, nothing that moved
    would seem to be nothing that can (Bonett and Price 2012, Journal of Educational and Behavioral Statistics 37, 479-488).
    """
    slope = slopes(function, by_cluster.sum(axis=0))
    places = [slice(n, n + _WIDTH) for n in range(0, slope.shape[1], _WIDTH)]
    return np.concatenate([_half_widths(by_cluster @ slope[:, at], group, unseen[at]) for at in places])


def slopes(function: Function, sums: Floats) -> Floats:
    """The derivative of each value (across) by each sum (down), exact to rounding.

    The imaginary part of a complex step (Squire and Trapp 1998, SIAM Review 40, 110-112).
    """
    steps = (np.eye(len(sums), dtype=complex)[n : n + _WIDTH] * 1j * _STEP for n in range(0, len(sums), _WIDTH))
    return np.concatenate([function(sums + step).imag / _STEP for step in steps])


def _half_widths(moves: Floats, group: npt.NDArray[np.int64], unseen: Floats) -> Floats:
    size = np.bincount(group)
    mean = np.stack([moves[group == g].mean(axis=0) if n > 1 else np.zeros(moves.shape[1]) for g, n in enumerate(size)])
    squares = (moves - mean[group]) ** 2 * (size / np.maximum(size - 1, 1))[group, None]
    variance = squares.sum(axis=0) + 2 * unseen**2
    spread = np.divide((squares**2).sum(axis=0) + 2 * unseen**4, variance**2, out=np.ones_like(variance), where=variance > 0)
    freedom = np.clip(2 / np.maximum(spread - 1 / len(group), 1e-9), 1, max(1, len(group) - 1))
    return t.ppf((1 + LEVEL) / 2, freedom) * np.sqrt(variance)

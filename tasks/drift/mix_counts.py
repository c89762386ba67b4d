"""Counts that statistics of shares can be made of, or a clear error; and by how much they vary beyond sampling."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.special import betaincinv
from scipy.stats import norm, t

from schemas.errors import MidwatchError

Floats = npt.NDArray[np.float64]


class DriftError(MidwatchError):
    """Counts of which no statement about a change can be made; the message says why, and what would help."""


class Dispersion(NamedTuple):
    """By how much counts vary more than sampling alone makes them: a factor `phi` on the variance, known with `df` degrees
    of freedom (infinite: stated), of nights of `size` in all (infinite: of any size)."""

    phi: float = 1.0
    df: float = np.inf
    size: float = np.inf

    def at(self, size: float) -> "Dispersion":
        """That of nights of another size: larger ones average a day's whim no better, so that phi - 1 grows as they do."""
        return self._replace(phi=1 + (self.phi - 1) * max(1.0, size / self.size), size=max(size, self.size))

    def inflated(self, level: float) -> float:
        """`phi`, raised so that the normal quantile at `level` becomes Student's, as for a variance that was estimated."""
        ratio = float(t.ppf(level, self.df) / norm.ppf(level)) ** 2 if np.isfinite(self.df) else 1.0
        return max(1.0, self.phi * ratio)


SAMPLING = Dispersion()


def counts_of(values: npt.ArrayLike, what: str) -> Floats:
    """`values` as counts over categories; DriftError where they are not finite, negative, all 0, or fewer than two."""
    counts = np.asarray(values, np.float64)
    if counts.ndim != 1 or len(counts) < 2:
        raise DriftError(f"{what}: counts of shape {counts.shape}, of at least two categories in one row")
    if not np.isfinite(counts).all() or (counts < 0).any():
        raise DriftError(f"{what}: a count is negative or not finite: drop rows whose weight is no number of 0 or more")
    if not counts.sum() > 0:
        raise DriftError(f"{what}: nothing was counted, so there are no shares: wait for data, or take a longer window")
    return counts


def both_counts(reference: npt.ArrayLike, current: npt.ArrayLike) -> tuple[Floats, Floats]:
    """The counts of a reference and of now, over the same categories; DriftError as `counts_of`."""
    a, b = counts_of(reference, "reference"), counts_of(current, "current")
    if a.shape != b.shape:
        raise DriftError(f"{len(a)} categories in the reference, {len(b)} now: count both over the categories of either")
    return a, b


def counted(hits: npt.ArrayLike, sizes: npt.ArrayLike) -> tuple[Floats, Floats]:
    """`hits` and `sizes` in one shape, (nights, ..., series); both are 0 on a night without data (a size of 0, or NaN).

    Sizes without the last axis hold for every series. DriftError: negative or infinite numbers, or more hits than the size.
    """
    x, n = np.array(hits, np.float64), np.array(sizes, np.float64)
    if x.ndim < 2 or n.shape not in (x.shape, x.shape[:-1]):
        raise DriftError(f"hits are {x.shape}, sizes {n.shape}: give (nights, ..., series), and sizes with or without series")
    n = np.broadcast_to(n if n.ndim == x.ndim else n[..., None], x.shape)
    if np.isinf(x).any() or np.isinf(n).any() or (x < 0).any() or (n < 0).any():
        raise DriftError("hits and sizes are finite and not negative; where there is no data, the size is 0 or NaN")
    known = np.isfinite(x) & (n > 0)
    x, n = np.where(known, x, 0.0), np.where(known, n, 0.0)
    if (x > n * (1 + 1e-9)).any():
        raise DriftError("there are more hits than the size of their night: give the night's total as its size")
    return np.minimum(x, n), n


def clopper_pearson(hits: Floats, misses: Floats, tail: float) -> tuple[Floats, Floats]:
    """The exact interval of shares, with `tail` beyond each end; of effective counts by Korn and Graubard.

    Clopper and Pearson 1934, Biometrika 26, 404-413; Korn and Graubard 1998, Survey Methodology 24, 193-201.
    """
    low = np.where(hits > 0, betaincinv(np.where(hits > 0, hits, 1.0), misses + 1, tail), 0.0)
    high = np.where(misses > 0, betaincinv(hits + 1, np.where(misses > 0, misses, 1.0), 1 - tail), 1.0)
    return low, high

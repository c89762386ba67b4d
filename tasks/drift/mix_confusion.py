"""The true shares of categories behind a classifier's: what looks like a shift may be the classifier.

Black box shift estimation (Lipton, Wang and Smola 2018, arXiv 1802.03916, section 3), from its confusion matrix.
"""

import numpy as np
import numpy.typing as npt

from tasks.drift.mix import SEED, Shares
from tasks.drift.mix_counts import SAMPLING, Dispersion, DriftError, Floats, counts_of
from tasks.metrics.interval import LEVEL

LEAST_LABELS = 20  # of each true category
SINGULAR = 0.1  # the least singular value of P(predicted | true): errors of shares grow by up to its inverse
DRAWS = 2000


def corrected(predicted: npt.ArrayLike, labelled: npt.ArrayLike, dispersion: Dispersion = SAMPLING) -> Shares:
    """The true shares behind `predicted` counts; `labelled` counts responses that people labelled, (true, predicted).

    Labels are a random sample within each true category. The intervals hold all categories at once with 95% confidence, for
    the error of the counts and of the confusion matrix together. A category that nobody labelled or predicted has the share
    0, of which nothing is known: its interval is 0 to 1. DriftError: under 20 labels of another category, or predictions that
    hardly tell some categories apart.
    """
    b, table = counts_of(predicted, "predicted"), _labels(labelled, len(np.asarray(predicted)))
    used = (b > 0) | (table.sum(0) > 0) | (table.sum(1) > 0)
    b, table = b[used], table[np.ix_(used, used)]
    _refuse(table, np.flatnonzero(used))
    share = _solve(table[None], b[None])[0]
    draws = _draws(b / dispersion.inflated((1 + LEVEL) / 2), table)
    error = np.maximum(draws.std(axis=0), 1e-12)
    reach = float(np.quantile(np.abs((draws - share) / error).max(axis=1), LEVEL)) * error  # bands by the greatest deviation
    ends = np.zeros((3, len(used)))
    ends[2] = 1.0
    ends[:, used] = np.clip([share, share - reach, share + reach], 0, 1)
    return Shares(ends[0] / ends[0].sum(), ends[1], ends[2])


def _labels(labelled: npt.ArrayLike, k: int) -> Floats:
    table = np.asarray(labelled, np.float64)
    if table.shape != (k, k):
        raise DriftError(f"{k} categories, labels of shape {table.shape}: give (true, predicted) of the same categories")
    if not np.isfinite(table).all() or (table < 0).any():
        raise DriftError("a labelled count is negative or not finite")
    return table


def _refuse(table: Floats, names: npt.NDArray[np.int64]) -> None:
    few = names[table.sum(1) < LEAST_LABELS]
    if len(few):
        raise DriftError(f"categories {few.tolist()} have fewer than {LEAST_LABELS} labels each: label more, or merge them")
    least = float(np.linalg.svd(table / table.sum(1, keepdims=True), compute_uv=False)[-1])
    if least < SINGULAR:
        raise DriftError(
            f"the classifier hardly tells some categories apart (least singular value {least:.3f}, of at least {SINGULAR}): "
            "merge those it confuses, or train it on more labels"
        )


def _solve(table: Floats, b: Floats) -> Floats:
    """The true shares, whatever their sign, of rows of counts with a table of labels each."""
    by_true = table / table.sum(-1, keepdims=True)
    q = b / b.sum(-1, keepdims=True)
    return np.linalg.solve(by_true.swapaxes(-1, -2), q[..., None])[..., 0]


def _draws(b: Floats, table: Floats) -> Floats:
    """Shares from counts and confusion matrices as they might have come out; each row of labels has one more, spread evenly."""
    draw = np.random.default_rng(SEED)
    k = len(b)
    counts = draw.gamma(np.broadcast_to(b + 1 / k, (DRAWS, k)))
    return _solve(draw.gamma(np.broadcast_to(table + 1 / k, (DRAWS, k, k))), counts)

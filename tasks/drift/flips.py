"""Verdicts on the same content, given twice: did the judge change, which way, and by more than it disagrees with itself?"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.stats import chi2

from tasks.drift import mix
from tasks.drift.paired import each_known, excess_flips, sign_flip
from tasks.metrics.interval import wilson

Words = npt.NDArray[np.object_]  # a verdict each, None where there is none


class Agreement(NamedTuple):
    """How two rounds of verdicts of one or several words agree; descriptions, of which None are undefined.

    kappa collapses where one word is rare; AC1 (Gwet 2008, British J. of Mathematical and Statistical Psychology 61, 29-48)
    does not. `homogeneity` is the p-value of equal shares of the words (Stuart 1955, Maxwell 1970), `symmetry` that of equal
    flows between each two of them (Bowker 1948).
    """

    same: float | None
    kappa: float | None
    ac1: float | None
    homogeneity: float | None
    symmetry: float | None


class Flips(NamedTuple):
    """Verdicts then and now on `n` responses: `flipped` of them, `worse` and `better` by the order of the words.

    `low` and `high` hold the share that flips, 0 to 1, with 95% confidence; `noise` is the share that flipped when the judge
    was merely asked again, over `repeated` responses (None: it never was). `p_direction` tests as many for the worse as for
    the better, `p_excess` no more flips than in the repeat.
    """

    n: int
    flipped: int
    worse: int
    better: int
    share: float | None
    low: float | None
    high: float | None
    repeated: int
    noise: float | None
    p_direction: float | None
    p_excess: float | None
    agreement: Agreement


def flips(then: Words, repeat: Words, now: Words, words: Sequence[object]) -> Flips:
    """How verdicts moved from `then` to `now`, beside a `repeat` of then; `words` are all of them, the best one first."""
    rank = {word: place for place, word in enumerate(words)}
    both = np.array([t is not None and n is not None for t, n in zip(then, now, strict=True)], dtype=bool)
    old, new = (np.array([rank[w] for w in side[both]], dtype=np.int64) for side in (then, now))
    n, moved = len(old), new - old
    flipped = int((moved != 0).sum())
    low, high = wilson(flipped / n, n) if n else (None, None)
    thrice = both & np.array([r is not None for r in repeat], dtype=bool)
    is_flip = np.array([n != t for t, n in zip(then, now, strict=True)], dtype=bool)[thrice]
    is_noise = np.array([r != t for t, r in zip(then, repeat, strict=True)], dtype=bool)[thrice]
    return Flips(
        n,
        flipped,
        int((moved > 0).sum()),
        int((moved < 0).sum()),
        flipped / n if n else None,
        low,
        high,
        int(thrice.sum()),
        float(is_noise.mean()) if len(is_noise) else None,
        sign_flip(np.sign(moved)) if n else None,
        excess_flips(is_flip, is_noise) if len(is_noise) else None,
        agreement(old, new, len(words)),
    )


def agreement(then: npt.NDArray[np.int64], now: npt.NDArray[np.int64], words: int) -> Agreement:
    """How two rounds agree that gave each response one of `words` words, by number from 0."""
    table = np.zeros((words, words))
    np.add.at(table, (then, now), 1)
    n = table.sum()
    if n == 0:
        return Agreement(None, None, None, None, None)
    same = float(np.trace(table) / n)
    share = (table.sum(0) + table.sum(1)) / (2 * n)
    alone = float(table.sum(0) @ table.sum(1) / n**2)
    chance = float((share * (1 - share)).sum() / (words - 1))
    return Agreement(
        same,
        (same - alone) / (1 - alone) if alone < 1 else None,
        (same - chance) / (1 - chance),
        _homogeneity(table),
        _symmetry(table),
    )


def _homogeneity(table: npt.NDArray[np.float64]) -> float | None:
    """Stuart and Maxwell's test; words between which nothing flows take no degree of freedom."""
    flow = table + table.T - 2 * np.diag(np.diag(table))
    spread, moved = np.diag(flow.sum(1)) - flow, table.sum(1) - table.sum(0)
    free = int(np.linalg.matrix_rank(spread))
    return float(chi2.sf(moved @ np.linalg.pinv(spread) @ moved, free)) if free else None


def _symmetry(table: npt.NDArray[np.float64]) -> float | None:
    """Bowker's test, over the pairs of words between which something flows."""
    there, back = table[np.triu_indices(len(table), 1)], table.T[np.triu_indices(len(table), 1)]
    flows = there + back > 0
    return float(chi2.sf(((there - back)[flows] ** 2 / (there + back)[flows]).sum(), flows.sum())) if flows.any() else None


def holm(p: Sequence[float | None]) -> list[float | None]:
    """The p-values of several tests, corrected (Holm 1979, Scandinavian Journal of Statistics 6, 65-70); None stays."""
    return each_known(mix.holm, p)

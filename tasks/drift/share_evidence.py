"""Likelihood ratios of a share that left its reference since each of the last nights, against one that stayed near it.

Counts are binomial, or vary more by a factor; the level that they had is known from a finite reference, which all nights
share. Both make the sum of hits since a night a count of the (a, b, 0) family, binomial or negative binomial (Katz 1965, in:
Classical and Contagious Discrete Distributions), of a variance that grows with the nights summed. With one stratum, phi 1 and
small shares the ratio is exactly that of negative binomials under a gamma posterior of the level, a martingale.
"""

from typing import NamedTuple

import numpy as np

from tasks.drift.mix_counts import DriftError, Floats
from tasks.drift.share_reference import Bools, Ints, Reference

WINDOW = 60  # nights since which a change may have begun
ODDS = (1.15, 1.4, 1.8, 2.7, 5.0)  # of a rise, from the edge of what does not matter; of a fall, their inverses
ALTERNATIVES = 2 * len(ODDS)
LARGEST = 690.0  # of a log likelihood ratio, so that sums stay finite


class Effect(NamedTuple):
    """The smallest change that matters: a share over `ratio` times or under 1/`ratio` of it, and by more than `difference`."""

    ratio: float = 1.1
    difference: float = 0.0

    def highest(self, share: Floats) -> Floats:
        """The highest share that is still no change from `share`."""
        return np.maximum(share * self.ratio, share + self.difference)

    def lowest(self, share: Floats) -> Floats:
        """The lowest such share."""
        return np.minimum(share / self.ratio, share - self.difference)


EFFECT = Effect()


class Null(NamedTuple):
    """What counts as no change, for rises (0) and falls (1) on the first axis: the farthest share by stratum that still does
    (`edge`), the variance of that over phi (`slack`); the ratios of shares to it that are sought, and where there are any."""

    edge: Floats
    slack: Floats
    ratios: Floats
    usable: Bools
    phi: Floats
    night: Floats


def null(reference: Reference, effect: Effect, threshold: float) -> Null:
    """The null of a reference for evidence that has to reach `threshold`; DriftError where the effect is none."""
    if not (1 <= effect.ratio < np.inf and 0 <= effect.difference < 1):
        raise DriftError(f"{effect}: the ratio is at least 1, the difference from 0 to 1")
    phi = np.maximum(1.0, reference.phi * _student(reference.df, _level(threshold, reference.df.shape[-1])))
    up = np.minimum((reference.hits + phi / 2) / reference.sizes, 1.0)  # half an effective hit, so that none is not never
    down = reference.hits / reference.sizes
    rise, fall = effect.highest(up), effect.lowest(down)
    usable = np.stack([(rise < 1).all(0), (fall > 0).all(0)])
    base = np.where(usable[:, None], np.stack([up, down]), 0.5)
    edge = np.where(usable[:, None], np.stack([rise, fall]), 0.5)
    slope = np.stack([np.maximum(edge[0] / base[0], 1.0), np.minimum(edge[1] / base[1], 1.0)])
    slack = slope**2 * base * (1 - base) / reference.sizes
    odds = np.array([ODDS, [1 / o for o in ODDS]]).reshape(2, -1, *[1] * phi.ndim)
    ratios = odds / (1 + edge.max(axis=1)[:, None] * (odds - 1))
    return Null(edge, slack, ratios, usable, phi, reference.night)


def _level(threshold: float, series: int) -> float:
    """The log likelihood ratio at which an estimated variance has to be trusted: without the alternatives' share of it.

    With their share, false alarms were a tenth of the budget; without, at most half (7 to 28 reference nights, phi 1 to 20).
    """
    return float(max(1.0, np.log(threshold * series / ALTERNATIVES)))


def _student(df: Floats, level: float) -> Floats:
    """By how much an estimated variance is raised so that Student's tail is as thin as the normal one at exp(-`level`)."""
    known = np.where(np.isfinite(df), df, 1.0)
    return np.where(np.isfinite(df), known * np.expm1(np.minimum(2 * level / known, 50.0)) / (2 * level), 1.0)


class Starts:
    """Sums since each of the last WINDOW nights; `begun` says which night, -1: none, or before an alarm."""

    def __init__(self, null: Null) -> None:
        shape = null.phi.shape
        self.null = null
        self.begun: Ints = np.full((WINDOW, *shape[:-1]), -1)
        self.hits = np.zeros((WINDOW, *shape))
        self.sizes = np.zeros((WINDOW, null.edge.shape[1], *shape))
        self.expected = np.zeros((WINDOW, 2, *shape))
        self.variance = np.zeros((WINDOW, 2, *shape))

    def add(self, night: int, hits: Floats, sizes: Floats, stratum: int) -> None:
        """Count a night to every start, and as one, but for monitors without data on it."""
        slot = night % WINDOW
        for sums in (self.hits, self.sizes, self.expected, self.variance):
            sums[slot] = 0
        self.begun[slot] = np.where((sizes > 0).any(-1), night, -1)
        edge = self.null.edge[:, stratum]
        phi = 1 + (self.null.phi - 1) * np.maximum(1.0, sizes / self.null.night)  # a night's whim does not average out
        self.hits += hits
        self.sizes[:, stratum] += sizes
        self.expected += sizes * edge
        self.variance += phi * sizes * edge * (1 - edge)

    def logs(self, slots: int = WINDOW) -> Floats:
        """Log likelihood ratios of the first `slots` starts, (starts, 2 ways, odds, ..., series); -inf where there is none."""
        mu, ratios = self.expected[:slots], self.null.ratios
        slack = np.einsum("ws...,ds...->wd...", self.sizes[:slots] ** 2, self.null.slack)
        spread = self.variance[:slots] + self.null.phi * slack
        over = (np.divide(spread, mu, out=np.ones_like(mu), where=mu > 0) - 1)[:, :, None]
        over = np.where(np.abs(over) < 1e-7, 1e-7, over)
        gain = np.log1p(over) - np.log1p(ratios * over)
        logs = self.hits[:slots, None, None] * (np.log(ratios) + gain) + mu[:, :, None] * (gain / over)
        held = self.begun[:slots, None, None, ..., None] >= 0
        return np.where(held & self.null.usable[:, None], np.minimum(logs, LARGEST), -np.inf)

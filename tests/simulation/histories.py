"""Simulated histories of nights with known truth: rates and mixes, over-dispersed, weekly, correlated, misclassified."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from tasks.drift.sequential import EFFECT, Effect, Watch, threshold, trailing, watch
from tasks.drift.share_reference import reference

Floats = npt.NDArray[np.float64]

MIX = np.array([0.25, 0.15, 0.12, 0.10, 0.08, 0.07, 0.06, 0.05, 0.04, 0.03, 0.02, 0.015, 0.01, 0.005])
FOUR = 8  # the category of 4%
RATE = 0.05
BUDGET = 0.05  # false alarms in 30 nights, so at most 15% of histories of 90 nights have one
NIGHTS = 90
REFERENCE = 28


class World(NamedTuple):
    """How nights of `n` items come about: a rate, or the mix of 14 categories, and what beside sampling makes them vary.

    `phi` is the variance factor of a Dirichlet day effect. `shared` is how much of it, 0 to 1, all monitors have in common.
    `weekend` is by how much the category of 5% is likelier on two of seven nights; `accuracy`, the classifier's. `carried` is
    the correlation of a rate's effect, then lognormal, with that of the night before.
    """

    kind: str = "rate"
    n: int = 1000
    phi: float = 1.0
    shared: float = 0.0
    weekend: float = 1.0
    accuracy: float = 1.0
    rate: float = RATE
    carried: float = 0.0


def drawn(world: World, draw: np.random.Generator, nights: int, monitors: int, shares: Floats | None = None) -> Floats:
    """Counts of nights, (nights, monitors, series), from `shares` (those of the world where there are none)."""
    base = shares if shares is not None else MIX if world.kind == "mix" else np.array([world.rate])
    p = np.broadcast_to(base, (nights, 1, len(base))).copy()
    if world.kind == "mix":
        p[np.arange(nights) % 7 >= 5, 0, 7] *= world.weekend
        p /= p.sum(-1, keepdims=True)
    p = _day_effect(world, draw, np.broadcast_to(p, (nights, monitors, len(base))))
    if world.accuracy < 1:
        k = len(base)
        p = p @ (
            np.full((k, k), (1 - world.accuracy) / (k - 1)) + np.eye(k) * (world.accuracy - (1 - world.accuracy) / (k - 1))
        )
    if world.kind == "mix":
        return draw.multinomial(world.n, p).astype(np.float64)
    return draw.binomial(world.n, p).astype(np.float64)


def _day_effect(world: World, draw: np.random.Generator, p: Floats) -> Floats:
    """Shares of each night, Dirichlet around `p`; a part of the effect is the same for all monitors of a night."""
    if world.phi == 1:
        return p
    if world.carried:
        return _carried(world, draw, p)
    c = (world.n - 1) / (world.phi - 1) - 1
    full = p if world.kind == "mix" else np.concatenate([p, 1 - p], axis=-1)
    parts = [(share, monitors) for share, monitors in ((world.shared, 1), (1 - world.shared, p.shape[1])) if share > 0]
    gammas = sum(draw.standard_gamma(full[:, :monitors] * c * share) for share, monitors in parts)
    gammas = np.broadcast_to(gammas, full.shape)
    return (gammas / gammas.sum(-1, keepdims=True))[..., : p.shape[-1]]


def _carried(world: World, draw: np.random.Generator, p: Floats) -> Floats:
    """Shares around `p` of which each night's is correlated with the last night's."""
    effect = draw.standard_normal(p.shape)
    for night in range(1, len(p)):
        effect[night] = world.carried * effect[night - 1] + (1 - world.carried**2) ** 0.5 * effect[night]
    variance = (world.phi - 1) / (world.n * p)
    return np.minimum(p * np.exp(variance**0.5 * effect - variance / 2), 1.0)


def watched(
    world: World,
    seed: int,
    monitors: int,
    among: int,
    shares: Floats | None = None,
    nights: int = NIGHTS,
    past: int = REFERENCE,
    effect: Effect = EFFECT,
    weekly: bool = False,
    phi: float | None = None,
) -> Watch:
    """What `monitors` see after their reference, each with the threshold of one of `among`; night 0 has the new shares."""
    draw = np.random.default_rng(seed)
    old, new = drawn(world, draw, past, monitors), drawn(world, draw, nights, monitors, shares)
    sizes = [np.full(counts.shape[:-1], world.n) for counts in (old, new)]
    days = [np.arange(len(counts)) % 7 // 5 if weekly else None for counts in (old, new)]
    base = reference(old, sizes[0], days[0], phi)
    return watch(base, new, sizes[1], threshold(BUDGET, among), days[1], effect)


def followed(world: World, seed: int, monitors: int, among: int) -> Watch:
    """As `watched`, against a reference that moves along, 28 nights that end 7 nights before each."""
    counts = drawn(world, np.random.default_rng(seed), REFERENCE + NIGHTS, monitors)
    return trailing(counts, np.full(counts.shape[:-1], world.n), threshold(BUDGET, among, looks=7))


def histories_with_an_alarm(seen: Watch, among: int) -> float:
    """The share of histories, of `among` monitors each, in which any alarms."""
    any_alarm = seen.alarm.any(axis=0)
    return float(any_alarm[: len(any_alarm) // among * among].reshape(-1, among).any(axis=1).mean())


def delays(seen: Watch) -> Floats:
    """The nights until the first alarm, 1 for the first night of the change; infinite where there is none."""
    alarm = seen.alarm
    return np.where(alarm.any(axis=0), alarm.argmax(axis=0) + 1.0, np.inf)


def named(seen: Watch) -> npt.NDArray[np.int64]:
    """The series with most of the evidence when each monitor first alarmed."""
    night = seen.alarm.argmax(axis=0)
    return np.abs(seen.part[night, np.arange(seen.part.shape[1])]).argmax(axis=-1)


def changed(category: int, factor: float) -> Floats:
    """The mix with one category's share times `factor`, and less of each other."""
    others = np.arange(len(MIX)) != category
    shares = MIX.copy()
    shares[category] *= factor
    shares[others] *= (1 - shares[category]) / shares[others].sum()
    return shares

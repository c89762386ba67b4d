"""Pairs of runs with known causes: how often is each true part within its interval?"""

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import polars as pl

from tasks.drift.attribution import attribute

K = 8
EVEN = np.full(K, 1 / K)
SKEWED = np.array([0.28, 0.20, 0.15, 0.11, 0.09, 0.07, 0.06, 0.04])
RATES = np.array([0.02, 0.05, 0.08, 0.10, 0.15, 0.20, 0.30, 0.50])
NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(60)


@dataclass(frozen=True)
class Judge:
    """The chance that it flags an unsafe response, and a safe one, by category."""

    sensitivity: np.ndarray = field(default_factory=lambda: np.full(K, 0.9))
    false_alarm: np.ndarray = field(default_factory=lambda: np.full(K, 0.03))


SAME = Judge()
STRICTER = Judge(np.full(K, 0.95), np.where(np.arange(K) < 3, 0.08, 0.03))


@dataclass(frozen=True)
class World:
    """What two runs are drawn from: how many items they share and have alone, of which mix; two models, two judges.

    `bridge` is the share of responses that both judges see, drawn within category and verdict and at least `floor` of each;
    `unscored` is the chance of no verdict. Items of a cluster depend on each other; lone items are `harder` by so many logits.
    """

    common: int = 800
    lone: tuple[int, int] = (0, 0)
    mix: tuple[np.ndarray, np.ndarray, np.ndarray] = (SKEWED, SKEWED, SKEWED)  # of common items, and of lone ones of each run
    rates: tuple[np.ndarray, np.ndarray] = (RATES, RATES)
    judges: tuple[Judge, Judge] = (SAME, SAME)
    bridge: float = 1.0
    floor: int = 3
    unscored: tuple[float, float] = (0.0, 0.0)
    samples: tuple[int, int] = (1, 1)
    clusters: int = 1  # items a cluster
    harder: tuple[float, float] = (0.0, 0.0)

    @property
    def judges_differ(self) -> bool:
        return self.judges[0] is not self.judges[1]


def shifted(rates: np.ndarray, by: float) -> np.ndarray:
    """Rates whose logits are moved."""
    return 1 / (1 + np.exp(-np.log(rates / (1 - rates)) - by))


def pair(world: World, draw: np.random.Generator) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The responses of both runs."""
    sizes = [world.common, *world.lone]
    category = np.concatenate([draw.choice(K, n, p=mix) for n, mix in zip(sizes, world.mix, strict=True)])
    origin = np.repeat([0, 1, 2], sizes)
    cluster = np.concatenate([np.arange(n) // world.clusters + 10_000 * o for o, n in enumerate(sizes)])
    own, shared = draw.standard_normal(len(origin)), draw.standard_normal(30_000)[cluster]
    trait = (own if world.clusters == 1 else (own + shared) / 2**0.5) + np.take([0.0, *world.harder], origin)
    items = pl.DataFrame(
        {"item_id": np.arange(len(origin)), "cluster": cluster, "category": category, "origin": origin, "trait": trait}
    )
    return _run(world, draw, 0, items), _run(world, draw, 1, items)


def _run(world: World, draw: np.random.Generator, run: int, items: pl.DataFrame) -> pl.DataFrame:
    asked = items.filter(pl.col("origin").is_in([0, run + 1]))
    asked = asked[np.repeat(np.arange(asked.height), world.samples[run])]
    n, kind = asked.height, asked["category"].to_numpy()
    unsafe = draw.random(n) < 1 / (
        1 + np.exp(-np.log(world.rates[run] / (1 - world.rates[run]))[kind] - asked["trait"].to_numpy())
    )
    luck = draw.random(n)
    hit, bridge = (
        luck < np.where(unsafe, judge.sensitivity[kind], judge.false_alarm[kind])
        for judge in (world.judges[run], world.judges[1 - run])
    )
    said = pl.Series(hit).scatter(np.flatnonzero(draw.random(n) < world.unscored[run]), None)
    rows = asked.select(
        pl.col("item_id", "cluster", "category").cast(pl.String),
        response_id=pl.int_range(pl.len()) * 2 + run,
        hit=said,
        bridge=pl.Series(bridge),
        rank=pl.Series(draw.random(n)),
    ).with_columns(stratum=pl.concat_str("category", pl.col("hit").cast(pl.String).fill_null("")))
    seen = pl.max_horizontal(pl.lit(world.floor), (pl.len() * world.bridge).round())
    return rows.with_columns(bridge=pl.when((pl.col("rank").rank() <= seen).over("stratum")).then("bridge"))


def injected(world: World) -> dict[str, float]:
    """The parts of the change of all that the runs are drawn from, by the formulas of populations."""
    n = [[world.common * world.mix[0], world.lone[run] * world.mix[1 + run]] for run in (0, 1)]  # common, lone
    share = [sum(n[run]) / sum(map(sum, n[run])) for run in (0, 1)]
    alone = [n[run][1] / sum(n[run]) for run in (0, 1)]
    common = [_flagged(world.rates[run], world.judges[run], 0.0) for run in (0, 1)]
    added = [alone[run] * (_flagged(world.rates[run], world.judges[run], world.harder[run]) - common[run]) for run in (0, 1)]
    rate = [common[run] + added[run] for run in (0, 1)]
    whole = [share[run] @ rate[run] for run in (0, 1)]
    middle = (share[0] + share[1]) / 2
    harder = world.harder if world.common == 0 else (0.0, 0.0)
    cell = {(m, j): _flagged(world.rates[m], world.judges[j], harder[m]) for m in (0, 1) for j in (0, 1)}
    judge = middle @ (cell[1, 1] - cell[1, 0] + cell[0, 1] - cell[0, 0]) / 2
    parts = {"change": whole[1] - whole[0], "mix": (share[1] - share[0]) @ ((rate[0] + rate[1]) / 2 - sum(whole) / 2)}
    parts |= {"judge": judge} if world.judges_differ else {}
    if world.common == 0:
        return parts | {"model or harder prompts": middle @ (cell[1, 1] - cell[0, 0]) - judge}
    parts |= {"items added": middle @ added[1], "items removed": -middle @ added[0]} if any(world.lone) else {}
    return parts | {"model": middle @ (common[1] - common[0]) - judge}


def _flagged(rates: np.ndarray, judge: Judge, harder: float) -> np.ndarray:
    """The share of responses that a judge flags in each category, over items whose logits are normal."""
    logit = np.log(rates / (1 - rates))[:, None] + NODES + harder
    unsafe = (1 / (1 + np.exp(-logit))) @ WEIGHTS / WEIGHTS.sum()
    return unsafe * judge.sensitivity + (1 - unsafe) * judge.false_alarm


def coverage(world: World, seed: int, trials: int = 1000) -> dict[str, float]:
    """The share of pairs whose interval holds the true part; in each pair the parts add up exactly."""
    draw, true, held = np.random.default_rng(seed), injected(world), Counter[str]()
    for _ in range(trials):
        found = attribute(*pair(world, draw), world.judges_differ)
        parts = {p.name: p.whole for p in found.parts}
        assert abs(sum(p.value for p in parts.values()) - (found.candidate.value - found.base.value)) < 1e-12
        for name, part in (parts | {"change": found.change}).items():
            held[name] += part.low <= true.get(name, 0.0) <= part.high
    return {name: n / trials for name, n in held.items()}


REVERSED = SKEWED[::-1].copy()
WORSE = (RATES, shifted(RATES, 0.5))
BETTER = (RATES, shifted(RATES, -0.4))  # in every category, and yet the whole rises
CHANGED = (SAME, STRICTER)
WORLDS = {
    "the model": World(rates=WORSE),
    "the judge": World(judges=CHANGED),
    "the mix, half of the items common": World(common=400, lone=(400, 400), mix=(SKEWED, SKEWED, EVEN)),
    "the mix, no item common": World(common=0, lone=(800, 800), mix=(SKEWED, SKEWED, EVEN)),
    "all three": World(600, (300, 300), (SKEWED, SKEWED, REVERSED), WORSE, CHANGED),
    "all three, no item common": World(0, (800, 800), (SKEWED, SKEWED, EVEN), WORSE, CHANGED),
    "Simpson's paradox": World(600, (400, 400), (EVEN, SKEWED, REVERSED), BETTER, CHANGED),
    "model and judge, a fifth judged by both": World(1500, rates=WORSE, judges=CHANGED, bridge=0.2),
    "the model; rows unscored, several samples": World(
        600, (100, 200), rates=WORSE, unscored=(0.02, 0.08), samples=(3, 2), harder=(0.3, 0.6)
    ),
    "everything, clusters of four, 40% judged by both": World(
        *(1200, (400, 400), (SKEWED, SKEWED, REVERSED), WORSE, CHANGED),
        **{"bridge": 0.4, "unscored": (0.02, 0.05), "samples": (2, 1), "clusters": 4, "harder": (0.0, 0.5)},
    ),
}

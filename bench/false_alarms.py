"""How often monitors alarm while nothing changes, against the budget, and after how many nights they find what did change.

    .venv/bin/python -m bench.false_alarms [--rates 2000] [--mixes 400]

Histories of 90 nights against a reference of 28 (or as stated), with a budget of 0.05 false alarms in 30 nights: at most 15% of
histories may have one. Beside it the chi-square test of each night against the reference, p < 0.05. Takes some 15 minutes.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
from scipy.stats import chi2

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "simulation"))

from histories import BUDGET, FOUR, MIX, NIGHTS, REFERENCE, World, changed, delays, drawn, followed, named, watched

from tasks.drift.sequential import MONTH, Effect

AMONG = (5, 50, 500)
ALLOWED = BUDGET * NIGHTS / MONTH
QUIET = [
    ("rate, sampling alone", World(n=100), {}),
    ("rate, sampling alone", World(n=1000), {}),
    ("rate, sampling alone", World(n=10_000), {}),
    ("rate, sampling alone", World(n=100_000), {}),
    ("rate of 0.5%, phi 1.5", World(n=1000, rate=0.005, phi=1.5), {}),
    ("rate, phi 5", World(n=1000, phi=5), {}),
    ("rate, phi 20", World(n=100_000, phi=20), {}),
    ("rate, phi 20, 7 reference nights", World(n=1000, phi=20), {"past": 7}),
    ("rate, phi 5, 80% of it shared", World(n=1000, phi=5, shared=0.8), {}),
    ("rate, phi 5, moving reference", World(n=1000, phi=5), {"moving": True}),
    ("rate, phi 5, correlated 0.3 from night to night", World(n=2000, phi=5, carried=0.3), {}),
    ("rate, phi 5, correlated 0.7 from night to night", World(n=2000, phi=5, carried=0.7), {}),
    ("the same, phi stated as 5 (1 + 0.7) / (1 - 0.7)", World(n=2000, phi=5, carried=0.7), {"phi": 28.0}),
    ("the same, moving reference", World(n=2000, phi=5, carried=0.7), {"moving": True}),
    ("mix, sampling alone", World("mix", 100), {}),
    ("mix, sampling alone", World("mix", 1000), {}),
    ("mix, phi 1.5", World("mix", 1000, 1.5), {}),
    ("mix, phi 5", World("mix", 10_000, 5), {}),
    ("mix, phi 20", World("mix", 1000, 20), {}),
    ("mix, phi 20", World("mix", 100_000, 20), {}),
    ("mix, phi 5, 80% of it shared", World("mix", 10_000, 5, shared=0.8), {}),
    ("mix, phi 5, 7 reference nights", World("mix", 1000, 5), {"past": 7}),
    ("mix, weekends +15%, not matched", World("mix", 10_000, 1.5, weekend=1.15), {}),
    ("mix, weekends +15%, matched", World("mix", 10_000, 1.5, weekend=1.15), {"weekly": True}),
    ("mix, weekends +15%, not matched", World("mix", 100_000, 1, weekend=1.15), {}),
    ("mix, classifier right in 80%", World("mix", 10_000, 1.5, accuracy=0.8), {}),
]
FOUND = [
    ("4% category doubles", World("mix", 100), changed(FOUR, 2), {}),
    ("4% category doubles", World("mix", 1000), changed(FOUR, 2), {}),
    ("4% category doubles, phi 5", World("mix", 1000, 5), changed(FOUR, 2), {}),
    ("4% category doubles, classifier right in 80%", World("mix", 1000, accuracy=0.8), changed(FOUR, 2), {}),
    ("4% category doubles", World("mix", 10_000), changed(FOUR, 2), {}),
    ("4% category doubles, phi 20", World("mix", 10_000, 20), changed(FOUR, 2), {}),
    ("2% category becomes 3%", World("mix", 10_000), changed(10, 1.5), {}),
    ("rate 5% to 7%", World(n=2000), np.array([0.07]), {}),
    ("rate 5% to 7%, 0.5 points matter", World(n=2000), np.array([0.07]), {"effect": Effect(1.0, 0.005)}),
    ("rate 5% to 7%, phi 1 stated", World(n=2000), np.array([0.07]), {"phi": 1.0}),
    ("rate 5% to 7%, phi 1 stated, 7 reference nights", World(n=2000), np.array([0.07]), {"phi": 1.0, "past": 7}),
    ("rate 5% to 7%, phi 3", World(n=2000, phi=3), np.array([0.07]), {}),
    ("flips 3% to 8%", World(n=100, rate=0.03), np.array([0.08]), {}),
    ("flips 3% to 8%, phi 1 stated", World(n=100, rate=0.03), np.array([0.08]), {"phi": 1.0}),
]


def naive(world: World, seed: int, monitors: int) -> tuple[float, float]:
    """The share of single monitors with any night of p < 0.05, and the mean number of such nights."""
    draw = np.random.default_rng(seed)
    old = drawn(world, draw, REFERENCE, monitors).sum(axis=0)
    new = drawn(world, draw, NIGHTS, monitors)
    if world.kind == "rate":
        old = np.concatenate([old, REFERENCE * world.n - old], axis=-1)
        new = np.concatenate([new, world.n - new], axis=-1)
    share = (old + new) / (old + new).sum(-1, keepdims=True)
    x2 = sum((c - e) ** 2 / np.maximum(e, 1e-12) for c in (old, new) for e in [share * c.sum(-1, keepdims=True)]).sum(-1)
    alarm = chi2.sf(x2, new.shape[-1] - 1) < 0.05
    return float(alarm.any(axis=0).mean()), float(alarm.sum(axis=0).mean())


def quiet(rates: int, mixes: int) -> None:
    head = [f"{among} monitors" for among in AMONG]
    print(f"\n| nothing changed | items a night | {' | '.join(head)} | chi-square p < 0.05, one monitor: any, nights |")
    print("|---" * (len(AMONG) + 3) + "|")
    for seed, (name, world, how) in enumerate(QUIET):
        cells = []
        monitors = rates if world.kind == "rate" else mixes
        for among in AMONG:
            moving = how.get("moving", False)
            seen = followed(world, seed, monitors, among) if moving else watched(world, seed, monitors, among, **how)
            alarmed = int(seen.alarm.any(axis=0).sum())
            chance = 1 - (1 - alarmed / monitors) ** among
            cells.append(f"{chance:.3f} ({alarmed} of {monitors})")
        any_, nights = naive(world, seed, 200)
        print(f"| {name} | {world.n:,} | {' | '.join(cells)} | {any_:.2f}, {nights:.1f} |", flush=True)


def found(rates: int, mixes: int) -> None:
    head = [f"{among} monitors" for among in (1, 50, 500)]
    print(f"\n| changed from night 1 on | items a night | {' | '.join(head)} | named rightly |")
    print("|---" * 6 + "|")
    for seed, (name, world, shares, how) in enumerate(FOUND):
        cells, right = [], ""
        for among in (1, 50, 500):
            seen = watched(world, 1000 + seed, (rates if world.kind == "rate" else mixes) // 4, among, shares, nights=60, **how)
            nights = delays(seen)
            cells.append(", ".join(_nights(float(np.quantile(nights, q, method="higher"))) for q in (0.5, 0.8, 0.95)))
            if world.kind == "mix" and np.isfinite(nights).any():
                wanted = int(np.argmax(np.abs(np.log(shares / MIX))))
                right = f"{(named(seen)[np.isfinite(nights)] == wanted).mean():.2f}"
        print(f"| {name} | {world.n:,} | {' | '.join(cells)} | {right} |", flush=True)
    print("\nNights until the alarm: median, 80th and 95th percentile of histories; >60: not within 60 nights.")


def _nights(value: float) -> str:
    return f"{value:.0f}" if np.isfinite(value) else ">60"


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--rates", type=int, default=2000, help="simulated monitors of a rate")
    options.add_argument("--mixes", type=int, default=400, help="simulated monitors of a mix")
    chosen = options.parse_args()
    print(f"Budget {BUDGET} false alarms in {MONTH} nights: at most {ALLOWED:.0%} of histories of {NIGHTS} nights have one.")
    print("In brackets: simulated monitors with an alarm, from which the share of histories with any is reckoned.")
    found(chosen.rates, chosen.mixes)
    quiet(chosen.rates, chosen.mixes)


if __name__ == "__main__":
    main()

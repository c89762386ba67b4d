"""Nothing changed: histories of 90 nights keep to the budget of false alarms, whatever makes nights vary.

Each cell is of monitors with the threshold of one of 5, 50 or 500, of which theory allows each 0.15 / (5, 50, 500) alarms; a
cell fails above the 99.9% quantile of as many binomial draws. bench/false_alarms.py has more cells and monitors.
"""

import numpy as np
import pytest
from histories import BUDGET, NIGHTS, World, drawn, followed, histories_with_an_alarm, watched
from scipy.stats import binom

from tasks.drift.sequential import MONTH, Effect, threshold, watch
from tasks.drift.share_reference import reference

ALLOWED = BUDGET * NIGHTS / MONTH


def within(alarmed: int, monitors: int, among: int) -> bool:
    return alarmed <= binom.ppf(0.999, monitors, ALLOWED / among)


@pytest.mark.parametrize("among", [5, 50, 500])
@pytest.mark.parametrize(
    ("world", "past"),
    [
        (World(n=100), 28),
        (World(n=100_000), 28),
        (World(n=1000, phi=5, shared=0.8), 28),
        (World(n=1000, phi=20), 7),
        (World(n=10_000, rate=0.5, phi=20), 28),
    ],
    ids=str,
)
def test_rates_keep_to_the_budget(world, past, among):
    seen = watched(world, 20260401, monitors=500, among=among, past=past)
    assert within(int(seen.alarm.any(axis=0).sum()), 500, among)
    assert histories_with_an_alarm(seen, among) <= ALLOWED


@pytest.mark.parametrize(
    "world",
    [
        World("mix", 100),
        World("mix", 1000, phi=20),
        World("mix", 10_000, phi=5, shared=0.8),
        World("mix", 100_000, phi=20),
        World("mix", 10_000, phi=1.5, weekend=1.15),
        World("mix", 1000, phi=1.5, accuracy=0.8),
    ],
    ids=str,
)
def test_mixes_keep_to_the_budget(world):
    seen = watched(world, 20260402, monitors=100, among=50)
    assert within(int(seen.alarm.any(axis=0).sum()), 100, 50)


def test_matched_weekdays_keep_to_the_budget():
    seen = watched(World("mix", 100_000, weekend=1.5), 20260403, monitors=60, among=50, weekly=True)
    assert within(int(seen.alarm.any(axis=0).sum()), 60, 50)


def test_a_reference_that_moves_along_keeps_to_the_budget():
    seen = followed(World(n=1000, phi=5), 20260404, monitors=500, among=5)
    assert within(int(seen.alarm.any(axis=0).sum()), 500, 5)


def test_bursts_of_few_items_keep_to_the_budget():
    """Seven nights of five hits on average, phi 20: their variance is known less well than seven nights' mostly is."""
    seen = watched(World(n=100, phi=20), 5, 1500, among=5, past=7)
    assert within(int(seen.alarm.any(axis=0).sum()), 1500, 5)


def test_nights_that_resemble_the_last_one_keep_to_the_budget():
    seen = watched(World(n=2000, phi=5, carried=0.3), 20260409, 500, among=5)
    assert within(int(seen.alarm.any(axis=0).sum()), 500, 5)


def test_where_any_effect_matters_a_short_reference_keeps_to_the_budget():
    """700 items, of which all nights share the error, and no smallest effect that would hide it."""
    seen = watched(World(n=100, rate=0.2), 20260408, 500, among=5, past=7, effect=Effect(1.0), phi=1.0)
    assert within(int(seen.alarm.any(axis=0).sum()), 500, 5)


def test_shares_at_the_edge_of_what_does_not_matter_keep_to_the_budget():
    seen = watched(World(n=2000, phi=5), 20260405, monitors=500, among=5, shares=np.array([0.055]))
    assert within(int(seen.alarm.any(axis=0).sum()), 500, 5)


def test_without_phi_they_would_not():
    """What the cells above can tell apart: the same over-dispersed nights, taken as if they varied by sampling alone."""
    seen = watched(World(n=1000, phi=20), 20260406, monitors=200, among=50, phi=1.0)
    assert not within(int(seen.alarm.any(axis=0).sum()), 200, 50)


def test_alarms_at_most_once_in_a_threshold_of_nights():
    """A threshold of 40 and 90 nights: 2.25 alarms are allowed on average, also of those after the first."""
    draw = np.random.default_rng(20260407)
    old, new = (drawn(World(n=2000), draw, nights, 400, np.array([share])) for nights, share in ((28, 0.05), (90, 0.055)))
    base = reference(old, np.full(old.shape[:-1], 2000), phi=1)
    alarms = watch(base, new, np.full(new.shape[:-1], 2000), 40.0).alarm.sum(axis=0)
    assert 0.05 < alarms.mean() <= 90 / 40
    assert threshold(0.75) == 40

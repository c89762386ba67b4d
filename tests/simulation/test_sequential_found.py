"""What changed is found, after as many nights as stated: medians over histories, and how many are found at all."""

import numpy as np
import pytest
from histories import FOUR, World, changed, delays, named, watched

from tasks.drift.sequential import Effect, threshold, watch
from tasks.drift.share_detectable import detectable
from tasks.drift.share_reference import reference

DOUBLED = changed(FOUR, 2)


@pytest.mark.parametrize(
    ("world", "median", "most"),
    [(World("mix", 1000), 3, 6), (World("mix", 10_000), 1, 2), (World("mix", 10_000, phi=20), 5, 12)],
    ids=str,
)
def test_a_doubled_category_is_found_and_named(world, median, most):
    seen = watched(world, 20260410, monitors=60, among=50, shares=DOUBLED, nights=20)
    nights = delays(seen)
    assert np.median(nights) <= median
    assert np.mean(nights <= most) >= 0.9
    assert np.mean(named(seen) == FOUR) >= 0.95
    at = seen.alarm.argmax(axis=0)
    assert (seen.part[at, np.arange(60), FOUR] > 0).mean() >= 0.95  # a rise


@pytest.mark.parametrize(
    ("among", "phi", "median", "most"),
    [(1, 1.0, 4, 8), (50, 1.0, 5, 10), (1, None, 5, 10), (50, None, 9, 20), (500, None, 12, 30)],
)
def test_two_points_more_of_an_unsafe_rate_are_found(among, phi, median, most):
    how = {"effect": Effect(1.0, 0.005), "phi": phi}
    nights = delays(watched(World(n=2000), 20260411, 200, among, np.array([0.07]), 60, **how))
    assert np.median(nights) <= median
    assert np.mean(nights <= most) >= 0.9


@pytest.mark.parametrize(("among", "phi", "median", "most"), [(1, 1.0, 6, 12), (50, 1.0, 8, 20), (1, None, 8, 25)])
def test_a_judge_that_became_stricter_on_one_category_is_found(among, phi, median, most):
    """Flips against the baseline, 3% by its re-run noise, then 8%, of the 100 of 1,000 sentinels in one of ten categories."""
    seen = watched(World(n=100, rate=0.03), 20260412, 200, among, np.array([0.08]), 60, phi=phi)
    nights = delays(seen)
    assert np.median(nights) <= median
    assert np.mean(nights <= most) >= 0.9


def test_what_could_have_been_seen_is():
    """The smallest rise that a night, and a week, find with probability 0.8; more is found, as each night may be the first."""
    base = reference(np.full((28, 1), 100.0), np.full(28, 2000), phi=1)
    for nights, most in ((1, 0.86), (7, 0.95)):
        share = float(detectable(base, 2000, threshold(0.05, 50), nights)[0])
        draw = np.random.default_rng(20260413)
        old, new = draw.binomial(2000, 0.05, (28, 400, 1)), draw.binomial(2000, share, (nights, 400, 1))
        sizes = [np.full(c.shape[:-1], 2000) for c in (old, new)]
        seen = watch(reference(old, sizes[0], phi=1), new, sizes[1], threshold(0.05, 50))
        assert 0.7 <= seen.alarm.any(axis=0).mean() <= most

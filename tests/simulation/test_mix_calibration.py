"""Intervals and tests of a mix hold what they say, also where nights vary more than sampling makes them."""

import numpy as np
import pytest
from histories import FOUR, MIX, World, changed, drawn

from tasks.drift.mix import changes, detectable, shares
from tasks.drift.mix_confusion import corrected
from tasks.drift.mix_counts import SAMPLING, Dispersion
from tasks.drift.mix_homogeneity import mix_dispersion, omnibus

TRIALS = 300  # 3.8 points are three standard errors of 5%


def nights(n: int, phi: float, seed: int, past: int = 28, after=None):
    """TRIALS references of nights, and a night after each."""
    draw, world = np.random.default_rng(seed), World("mix", n, phi)
    return drawn(world, draw, past, TRIALS).transpose(1, 0, 2), drawn(world, draw, 1, TRIALS, after)[0]


@pytest.mark.parametrize(("n", "phi"), [(50, 1), (1000, 1), (10_000, 1), (1000, 5), (10_000, 20)])
def test_intervals_hold_all_shares_at_once(n, phi):
    held = 0
    for old, new in zip(*nights(n, phi, 20260420), strict=True):
        low, high = shares(new, mix_dispersion(old) if phi > 1 else SAMPLING)[1:]
        held += bool(((low <= MIX) & (high >= MIX)).all())
    assert held / TRIALS >= 0.917


@pytest.mark.parametrize(("n", "phi"), [(100, 1), (1000, 1), (10_000, 5), (10_000, 20), (1000, 20)])
def test_an_unchanged_mix_is_rarely_changed(n, phi):
    by_category = by_omnibus = sharp = 0
    for old, new in zip(*nights(n, phi, 20260421), strict=True):
        spread = mix_dispersion(old) if phi > 1 else SAMPLING
        by_category += min(c.p for c in changes(old.sum(0), new, dispersion=spread)) < 0.05
        sharp += min(c.p for c in changes(old.sum(0), new, 1.0, spread)) < 0.05
        by_omnibus += omnibus(old.sum(0), new, spread).p < 0.05
    assert by_category / TRIALS <= 0.05
    assert sharp / TRIALS <= 0.088
    assert by_omnibus / TRIALS <= (0.088 if n > 1000 or phi == 1 else 0.12)  # effective counts of categories are under 1


def test_as_if_nights_varied_by_sampling_alone_it_would_often_be():
    old, new = nights(10_000, 20, 20260422)
    assert np.mean([omnibus(a.sum(0), b).p < 0.05 for a, b in zip(old, new, strict=True)]) > 0.9
    assert np.mean([min(c.p for c in changes(a.sum(0), b)) < 0.05 for a, b in zip(old, new, strict=True)]) > 0.3


def test_a_change_that_could_be_seen_is():
    """The rise that a night finds with probability 0.8, in effective counts, is found in 4 of 5 nights."""
    old, _ = nights(10_000, 5, 20260423)
    spread = Dispersion(5.0, np.inf)
    factor = detectable(MIX * 280_000, 10_000, dispersion=spread)[FOUR].ratio
    new = nights(10_000, 5, 20260424, after=changed(FOUR, factor))[1]
    found = [changes(a.sum(0), b, dispersion=spread)[FOUR].p < 0.05 for a, b in zip(old, new, strict=True)]
    assert 0.74 <= np.mean(found) <= 0.88


@pytest.mark.parametrize(("accuracy", "labels", "n"), [(0.9, 50, 1000), (0.8, 100, 10_000), (0.95, 200, 100_000)])
def test_corrected_shares_are_held_where_the_classifiers_are_not(accuracy, labels, n):
    draw, k, trials = np.random.default_rng(20260425), len(MIX), 80
    confusion = np.full((k, k), (1 - accuracy) / (k - 1)) + np.eye(k) * (accuracy - (1 - accuracy) / (k - 1))
    held = plain = 0
    for predicted in draw.multinomial(n, MIX @ confusion, size=trials):
        found = corrected(predicted, draw.multinomial(labels, confusion))
        held += bool(((found.low <= MIX) & (found.high >= MIX)).all())
        raw = shares(predicted)
        plain += bool(((raw.low <= MIX) & (raw.high >= MIX)).all())
    assert held / trials >= 0.87  # 0.95, and what chance gives
    assert plain / trials < 0.6

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, nbinom

from tasks.drift.mix_counts import DriftError
from tasks.drift.sequential import Effect, threshold, trailing, watch
from tasks.drift.share_detectable import detectable
from tasks.drift.share_evidence import ODDS, Starts, null
from tasks.drift.share_findings import findings
from tasks.drift.share_reference import reference

SIZES = np.full(28, 1000)


def rates(nights: int, share: float, seed: int, n: int = 1000):
    return np.random.default_rng(seed).binomial(n, share, (nights, 1)).astype(float)


def base(phi: float | None = 1.0):
    return reference(np.full((28, 1), 50.0), SIZES, phi=phi)


def test_a_threshold_spends_the_budget_over_all_monitors():
    assert threshold(0.05) == 600
    assert threshold(0.05, 500) == 300_000
    assert threshold(0.05, 500, looks=7) == 2_100_000


@pytest.mark.parametrize("wrong", [(0,), (-1,), (np.nan,), (np.inf,), (0.05, 0), (0.05, 1, 0)])
def test_a_budget_of_nothing_is_refused(wrong):
    with pytest.raises(DriftError, match="each is above 0"):
        threshold(*wrong)


@pytest.mark.parametrize("odds", [0, 4])
@pytest.mark.parametrize("direction", [0, 1])
@pytest.mark.parametrize("past", [2, 10**7])
def test_a_likelihood_ratio_has_a_mean_of_one_at_the_edge(past, direction, odds):
    """Over all counts: binomial where the reference is as good as known, negative binomial where it is not."""
    found = null(reference([[10.0 * past]], [200.0 * past], phi=1), Effect(), 600)
    edge, slack = float(found.edge[direction, 0, 0]), float(found.slack[direction, 0, 0])
    more = 200 * slack / edge - edge  # the variance of the count, over its mean, is 1 + more
    chances = binom(200, edge) if more < 0 else nbinom(200 * edge / more, 1 / (1 + more))
    total = 0.0
    for hits in range(201):
        starts = Starts(found)
        starts.add(0, np.array([float(hits)]), np.array([200.0]), 0)
        total += float(chances.pmf(hits)) * np.exp(float(starts.logs(1)[0, direction, odds, 0]))
    assert (more < 0) == (past > 2)
    assert total == pytest.approx(1, abs=0.01)


def test_the_evidence_is_the_average_of_sums_of_likelihood_ratios():
    """Over two series, against a reference as good as known, from its binomial likelihoods."""
    known = reference([[5e7, 2e8]], [1e9], phi=1)
    hits, n = np.array([[80, 200], [60, 210], [76, 190]]), 1000
    seen = watch(known, hits, np.full(3, n), 1e30)
    total = 0.0
    for series, level in enumerate((0.05, 0.2)):
        for edge, odds in ((level * 1.1, ODDS), (level / 1.1, [1 / o for o in ODDS])):
            for o in odds:
                share = o * edge / (1 + edge * (o - 1))
                logs = binom.logpmf(hits[:, series], n, share) - binom.logpmf(hits[:, series], n, edge)
                total += sum(np.exp(logs[start:].sum()) for start in range(3)) / 20
    assert seen.evidence[-1] == pytest.approx(np.log(total), abs=1e-3)
    assert np.log(total) > 1


def test_a_rise_is_seen_named_and_dated():
    draw = np.random.default_rng(7)
    mix, moved = np.array([0.6, 0.3, 0.1]), np.array([0.5, 0.3, 0.2])
    old = draw.multinomial(1000, mix, size=28)
    new = np.concatenate([draw.multinomial(1000, mix, size=20), draw.multinomial(1000, moved, size=5)])
    size = np.full(25, 1000)
    nights = reference(old, SIZES)
    seen = watch(nights, new, size, threshold(0.05))
    night = int(seen.alarm.argmax())
    assert not seen.alarm[:20].any()
    assert night in (20, 21)
    assert seen.part[night, 2] > 0.9
    assert seen.since[night, 2] == 20
    found = findings(seen.part[night], seen.since[night], nights, new[: night + 1], size[: night + 1])[2]
    assert (found.since, found.part) == (20, pytest.approx(seen.part[night, 2]))
    assert found.low < 0.2 < found.high
    assert found.ratio == pytest.approx(2, rel=0.2)
    assert found.before == pytest.approx(0.1, rel=0.1)


def test_a_fall_has_a_negative_part():
    seen = watch(base(), np.full((5, 1), 20.0), np.full(5, 1000), 600)
    assert seen.alarm.any()
    assert seen.part[int(seen.alarm.argmax()), 0] == -1


def test_after_an_alarm_it_starts_again_and_goes_on():
    seen = watch(base(), np.full((30, 1), 100.0), np.full(30, 1000), 600)
    nights = np.flatnonzero(seen.alarm)
    assert len(nights) > 5
    assert np.diff(nights).max() <= nights[0] + 1
    assert (seen.since[nights[1:], 0] > nights[:-1]).all()


@settings(max_examples=40, deadline=None)
@given(st.lists(st.booleans(), min_size=1, max_size=12), st.integers(0, 2**31))
def test_nights_without_data_change_nothing(present, seed):
    hits = rates(len(present), 0.06, seed)
    sizes = np.where(present, 1000.0, 0.0)
    with_gaps = watch(base(), np.where(sizes[:, None] > 0, hits, np.nan), sizes, 600)
    kept = np.flatnonzero(present)
    if not len(kept):
        assert with_gaps.evidence.tolist() == [0.0] * len(present)
        return
    without = watch(base(), hits[kept], sizes[kept], 600)
    assert with_gaps.evidence[kept] == pytest.approx(without.evidence)
    assert (np.diff(with_gaps.evidence)[~np.array(present)[1:] & ~with_gaps.alarm[:-1]] == 0).all()
    assert not with_gaps.alarm[~np.array(present)].any()


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 4), st.integers(1, 3))
def test_monitors_side_by_side_are_as_each_alone(seed, monitors, series):
    draw = np.random.default_rng(seed)
    old, new = draw.binomial(500, 0.1, (10, monitors, series)), draw.binomial(500, 0.15, (12, monitors, series))
    both = watch(reference(old, np.full(old.shape[:2], 500)), new, np.full(new.shape[:2], 500), 100)
    for m in range(monitors):
        alone = watch(reference(old[:, m], np.full(10, 500)), new[:, m], np.full(12, 500), 100)
        assert both.evidence[:, m] == pytest.approx(alone.evidence)
        assert (both.alarm[:, m] == alone.alarm).all()
        assert both.part[:, m] == pytest.approx(alone.part)
        assert (both.since[:, m] == alone.since).all()


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 200), st.integers(0, 200)), min_size=1, max_size=15), st.integers(2, 8))
def test_nothing_is_nan_and_parts_add_up(nights, past):
    hits = np.array([[min(x, n)] * 2 for x, n in nights])
    sizes = np.array([n for _, n in nights])
    old = np.tile([[0, 200]], (past, 1))
    seen = watch(reference(old, np.full(past, 200)), hits, sizes, 50)
    assert all(np.isfinite(values).all() for values in seen[:4])
    total = np.abs(seen.part).sum(axis=-1)
    assert ((np.abs(total - 1) < 1e-9) | (total == 0)).all()


def test_within_the_smallest_effect_nothing_is_ever_found():
    exactly = np.full((200, 1), 54.0)
    assert not watch(base(), exactly, np.full(200, 1000), 30).alarm.any()
    assert watch(base(), exactly * 1.4, np.full(200, 1000), 30).alarm.any()
    half = np.full((200, 1), 65.0)
    assert not watch(base(), half, np.full(200, 1000), 30, effect=Effect(1.1, 0.02)).alarm.any()
    assert watch(base(), half, np.full(200, 1000), 30).alarm.any()


def test_a_share_that_was_never_seen_can_rise_but_not_fall():
    never = reference(np.zeros((28, 1)), SIZES, phi=1)
    assert not watch(never, np.zeros((60, 1)), np.full(60, 1000), 30).alarm.any()
    assert watch(never, np.full((3, 1), 20), np.full(3, 1000), 600).alarm.any()


def test_weekdays_are_matched_where_both_have_them():
    draw = np.random.default_rng(9)
    days = np.arange(28) % 7 // 5
    share = np.where(days, 0.2, 0.1)[:, None]
    old, new = draw.binomial(5000, share), draw.binomial(5000, share)
    sizes = np.full(28, 5000)
    matched = reference(old, sizes, days)
    assert matched.phi[0] < 3
    assert reference(old, sizes).phi[0] > 20
    assert not watch(matched, new, sizes, 600, days).alarm.any()
    assert watch(matched, np.tile(new[:5], (4, 1))[:20], sizes[:20], 600, np.ones(20, int)).alarm.any()  # weekdays' share
    seen = watch(matched, new, sizes, 600, days + 5)
    assert seen.evidence.tolist() == [0.0] * 28  # of strata that the reference has not
    with pytest.raises(DriftError, match="name that of each night"):
        watch(matched, new, sizes, 600)


def test_series_of_a_monitor_lend_each_other_their_variance():
    draw = np.random.default_rng(10)
    hits = draw.binomial(1000, 0.1, (8, 12))
    alone = reference(hits[:, :1], np.full(8, 1000))
    together = reference(hits, np.full(8, 1000))
    assert alone.df[0] < 7
    assert together.df[0] > 20
    burst = hits.copy()
    burst[:, 0] = draw.binomial(1000, draw.beta(5, 45, 8))
    apart = reference(burst, np.full(8, 1000))
    assert apart.phi[0] > 3 * np.median(apart.phi)


def test_a_category_that_never_occurred_borrows_the_variance_of_the_others():
    draw = np.random.default_rng(14)
    hits = draw.multinomial(1000, [0.5, 0.2, 0.16, 0.1, 0.04, 0], size=28)
    found = reference(hits, SIZES)
    assert found.df.min() > 50
    new = draw.multinomial(1000, [0.5, 0.2, 0.14, 0.1, 0.04, 0.02], size=2)
    seen = watch(found, new, np.full(2, 1000), 1500)
    assert seen.alarm[0]
    assert seen.part[0, 5] > 0.9


def test_nights_that_resemble_the_last_one_vary_more_in_sum():
    draw = np.random.default_rng(13)
    effect = draw.standard_normal((28, 12))
    for night in range(1, 28):
        effect[night] = 0.7 * effect[night - 1] + 0.51**0.5 * effect[night]
    shuffled = draw.permuted(effect, axis=0)
    once, carried = (reference(draw.binomial(5000, 0.1 * np.exp(0.1 * e)), np.full(28, 5000)) for e in (shuffled, effect))
    assert np.median(once.phi) == pytest.approx(1 + 5000 * 0.1 * 0.01, rel=0.4)
    assert np.median(carried.phi) > 3 * np.median(once.phi)


def test_larger_nights_average_out_no_more_of_a_days_whim():
    busy = reference(np.full((28, 1), 50.0), SIZES, phi=5)
    small = watch(busy, np.full((1, 1), 100.0), [1000], 600).evidence[0]
    large = watch(busy, np.full((1, 1), 10_000.0), [100_000], 600).evidence[0]
    assert small < large < 3 * small + 5


def test_a_reference_that_moves_along_forgets():
    hits = np.concatenate([rates(50, 0.05, 11), rates(60, 0.15, 12)])
    seen = trailing(hits, np.full(110, 1000), threshold(0.05, looks=7))
    assert not seen.alarm[:50].any()
    assert seen.alarm[50:53].any()
    assert not seen.alarm[90:].any()
    night = int(seen.alarm.argmax())
    assert seen.since[night, 0] == 50
    assert seen.evidence[:34].tolist() == [0.0] * 34


def test_what_could_be_seen_needs_less_in_a_week_and_more_where_nights_vary():
    one, week = (detectable(base(), 1000, 600, nights)[0] for nights in (1, 7))
    assert 0.055 < week < one < 0.12
    assert detectable(base(None)._replace(phi=np.array([5.0])), 1000, 600)[0] > one
    assert detectable(base(), 2, 1e9)[0] == 1


@pytest.mark.parametrize(
    ("hits", "sizes", "says"),
    [
        ([[5.0]], [-1], "not negative"),
        ([[-5.0]], [10], "not negative"),
        ([[np.inf]], [10], "finite"),
        ([[11.0]], [10], "more hits than the size"),
        ([5.0], [10], "nights, ..., series"),
        ([[5.0]], [10, 10], "nights, ..., series"),
        ([[5.0, 5.0]], [10], "of the series that the reference has"),
        (np.zeros((0, 1)), [], "give a night or more"),
    ],
)
def test_counts_that_are_none_are_refused(hits, sizes, says):
    with pytest.raises(DriftError, match=says):
        watch(base(), hits, sizes, 600)


def test_references_that_say_nothing_are_refused():
    with pytest.raises(DriftError, match="no reference data"):
        reference(np.zeros((3, 1)), np.zeros(3))
    with pytest.raises(DriftError, match="no two reference nights"):
        reference([[5.0]], [100])
    with pytest.raises(DriftError, match="at least 1"):
        reference([[5.0]], [100], phi=0.5)
    with pytest.raises(DriftError, match="a whole number for each night"):
        reference([[5.0], [6.0]], [100, 100], [0])
    with pytest.raises(DriftError, match="the ratio is at least 1"):
        watch(base(), [[5.0]], [100], 600, effect=Effect(0.9))
    with pytest.raises(DriftError, match="a threshold over 1"):
        watch(base(), [[5.0]], [100], 1)
    with pytest.raises(DriftError, match="at least one"):
        detectable(base(), 0, 600)

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon
from scipy.stats import binom, chi2_contingency
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint
from statsmodels.stats.rates import test_poisson_2indep as poisson_2indep

from tasks.drift.mix import changes, detectable, distances, holm, shares
from tasks.drift.mix_confusion import corrected
from tasks.drift.mix_counts import SAMPLING, Dispersion, DriftError
from tasks.drift.mix_homogeneity import mix_dispersion, omnibus

COUNTS = st.lists(st.integers(0, 400), min_size=2, max_size=16).filter(any)
PAIRS = st.integers(2, 12).flatmap(
    lambda k: st.tuples(*[st.lists(st.integers(0, 300), min_size=k, max_size=k).filter(any) for _ in range(2)])
)


@given(COUNTS)
def test_intervals_are_clopper_and_pearsons_by_bonferroni(counts):
    found = shares(counts)
    low, high = proportion_confint(counts, sum(counts), alpha=0.05 / len(counts), method="beta")
    assert found.low == pytest.approx(low, abs=1e-9)
    assert found.high == pytest.approx(high, abs=1e-9)
    assert found.share.sum() == pytest.approx(1)


@given(COUNTS, st.floats(1, 20), st.floats(5, 100))
def test_intervals_hold_their_share_and_widen_by_phi(counts, phi, df):
    plain, wide = shares(counts), shares(counts, Dispersion(phi, df))
    assert (wide.low <= plain.low + 1e-12).all()
    assert (wide.high >= plain.high - 1e-12).all()
    assert ((plain.low <= plain.share) & (plain.share <= plain.high)).all()


def test_the_omnibus_test_is_chi_square_where_cells_are_full():
    table = [[120, 80, 300], [90, 110, 310]]
    expected = chi2_contingency(table, correction=False)
    found = omnibus(*table)
    assert found[:3] == pytest.approx((expected.statistic / 2, 2, expected.pvalue))
    assert found.method == "chi-square"
    assert omnibus(*table, Dispersion(3.0, 20)).p > found.p
    assert omnibus(*table, Dispersion(3.0, 20)).method == "F"


def test_the_omnibus_test_is_simulated_where_cells_are_sparse():
    table = [[3, 1, 30, 0], [9, 0, 20, 0]]
    found = omnibus(*table)
    draw = np.random.default_rng(3)
    both = np.repeat(np.arange(4), np.sum(table, axis=0))
    x2 = chi2_contingency([row[:3] for row in table], correction=False).statistic
    permuted = []
    for _ in range(2000):
        first = np.bincount(draw.permutation(both)[:34], minlength=4)[:3]
        permuted.append(chi2_contingency([first, np.sum(table, axis=0)[:3] - first], correction=False).statistic >= x2 - 1e-9)
    assert found.method == "Monte Carlo"
    assert found.statistic == pytest.approx(x2 / 2)
    assert found.p == pytest.approx(np.mean(permuted), abs=0.03)


def test_one_category_alone_cannot_differ():
    assert omnibus([5, 0], [9, 0]) == (0.0, 0, 1.0, "one category")


def test_distances_stand_beside_what_chance_makes_them():
    a, b = np.array([500, 300, 200]), np.array([450, 330, 220])
    found = distances(a, b)
    p, q = a / a.sum(), b / b.sum()
    assert found.jensen_shannon.value == pytest.approx(jensenshannon(p, q) ** 2)
    assert found.total_variation.value == pytest.approx(np.abs(p - q).sum() / 2)
    s, u = (a + 0.5) / (a.sum() + 1.5), (b + 0.5) / (b.sum() + 1.5)
    assert found.psi.value == pytest.approx(((u - s) * np.log(u / s)).sum())
    assert found.psi.unchanged == pytest.approx(2 * (1 / 1000 + 1 / 1000), rel=0.1)  # its mean is that of chi-square
    assert found.jensen_shannon.unchanged == pytest.approx(found.psi.unchanged / 8, rel=0.05)
    assert distances(a, b, Dispersion(5.0)).psi.unchanged == pytest.approx(5 * found.psi.unchanged, rel=0.2)
    assert all(d.value == pytest.approx(0, abs=1e-12) for d in distances(a, a))


@given(PAIRS)
def test_the_test_of_a_category_is_the_exact_conditional_one(pair):
    a, b = (np.array(counts) for counts in pair)
    found = changes(a, b)
    odds = b.sum() / a.sum()
    p = []
    for x, y in zip(a, b, strict=True):
        rise = binom.sf(y - 1, x + y, 1.1 * odds / (1 + 1.1 * odds))
        fall = binom.cdf(y, x + y, odds / 1.1 / (1 + odds / 1.1))
        p.append(min(1.0, 2 * min(rise, fall)))
    assert [c.p for c in found] == pytest.approx(list(holm(np.array(p))), abs=1e-9)


def test_the_rise_of_a_category_is_that_of_statsmodels():
    a, b = np.array([40, 960]), np.array([80, 920])
    one_sided = poisson_2indep(80, 1000, 40, 1000, value=1.1, method="exact-cond", compare="ratio", alternative="larger").pvalue
    assert changes(a, b)[0].p == pytest.approx(2 * 2 * one_sided)  # two sides, and the smaller of two categories


@settings(max_examples=60, deadline=None)
@given(PAIRS, st.floats(1, 3))
def test_an_interval_leaves_what_does_not_matter_when_bonferroni_says_so(pair, ratio):
    a, b = (np.array(counts) for counts in pair)
    for change, alone in zip(changes(a, b, ratio), _alone(a, b, ratio), strict=True):
        outside = (change.low or 0) > ratio or (change.high is not None and change.high < 1 / ratio)
        if abs(alone * len(a) - 0.05) > 1e-6:
            assert outside == (alone * len(a) < 0.05)
        if change.ratio is not None:
            assert change.low <= change.ratio + 1e-9
            assert change.high is None or change.ratio <= change.high + 1e-9


def _alone(a, b, ratio: float) -> list[float]:
    odds = b.sum() / a.sum()
    up, down = ratio * odds / (1 + ratio * odds), odds / ratio / (1 + odds / ratio)
    return [2 * min(binom.sf(y - 1, x + y, up), binom.cdf(y, x + y, down)) for x, y in zip(a, b, strict=True)]


def test_a_new_category_has_a_least_ratio_and_no_greatest():
    new, gone, absent, _ = changes([0, 30, 0, 970], [30, 0, 0, 970])
    assert (new.before, new.ratio, new.high) == (0, None, None)
    assert new.low > 5
    assert new.p < 0.001
    assert (gone.ratio, gone.low) == (0, 0)
    assert gone.high < 0.2
    assert absent == (0, 0, None, None, None, 1)


@pytest.mark.parametrize("p", [[0.2], [0.03, 0.01, 0.5, 0.01], [1.0, 0.0, 0.4]])
def test_holm_is_that_of_statsmodels(p):
    assert holm(np.array(p)) == pytest.approx(multipletests(p, method="holm")[1])


@pytest.mark.parametrize(
    ("n", "ratios"),
    [(200, (2.06, 3.66, 7.9)), (1000, (1.44, 1.99, 3.4)), (10_000, (1.13, 1.28, 1.60)), (100_000, (1.04, 1.08, 1.17))],
)
def test_what_a_night_sees_is_that_of_exact_binomial_tests(n, ratios):
    """Against a known reference and without a smallest effect, by exact binomial tests of 14 categories."""
    mix = np.array([0.25, 0.15, 0.12, 0.10, 0.08, 0.07, 0.06, 0.05, 0.04, 0.03, 0.02, 0.015, 0.01, 0.005])
    found = detectable(mix * 1e9, n, ratio=1)
    assert [found[k].ratio for k in (4, 10, 13)] == pytest.approx(ratios, rel=0.04)


def test_what_a_night_sees_grows_with_what_matters_and_with_phi():
    reference = [400, 9600]
    plain = detectable(reference, 1000, ratio=1)[0]
    assert plain.share == pytest.approx(plain.ratio * 0.04)
    assert detectable(reference, 1000)[0].ratio > plain.ratio
    assert detectable(reference, 1000, dispersion=Dispersion(5.0, 30))[0].ratio > detectable(reference, 1000)[0].ratio
    assert detectable([0, 100], 1000)[0].ratio is None
    assert detectable([0, 100], 1000)[0].share > 0
    assert detectable([500, 500], 5) == [(None, None)] * 2


def test_phi_is_that_of_the_nights_and_not_of_their_week():
    draw = np.random.default_rng(4)
    mix = np.array([0.5, 0.3, 0.2])
    weekend = np.array([0.3, 0.3, 0.4])
    days = np.arange(56) % 7
    even = draw.multinomial(1000, mix, size=56)
    weekly = np.array([draw.multinomial(1000, weekend if day >= 5 else mix) for day in days])
    apart = draw.multinomial(1000, draw.dirichlet(mix * 249, size=56))  # phi is 1 + 999 / 250
    assert mix_dispersion(even).phi == pytest.approx(1, abs=0.4)
    assert mix_dispersion(weekly).phi > 20
    matched = mix_dispersion(weekly, days)
    assert matched.phi == pytest.approx(1, abs=0.4)
    assert matched.df == 49 * 2
    assert mix_dispersion(apart).phi == pytest.approx(5, rel=0.3)
    assert mix_dispersion(apart).size == 1000
    assert mix_dispersion([[10, 20], [10, 20], [0, 0]]) == (
        1.0,
        1.0,
        30.0,
    )  # the same every night: at least 1, and no empty one


def test_phi_of_larger_nights_is_larger():
    spread = Dispersion(5.0, 30, 1000)
    assert spread.at(3000).phi == 13
    assert spread.at(10).phi == 5
    assert SAMPLING.at(1e9).phi == 1


@pytest.mark.parametrize(
    ("a", "b", "says"),
    [
        ([0, 0], [1, 2], "reference: nothing was counted"),
        ([1, 2], [0, 0], "current: nothing was counted"),
        ([1, np.nan], [1, 2], "negative or not finite"),
        ([1, 2], [np.inf, 2], "negative or not finite"),
        ([1, 2], [-1, 2], "negative or not finite"),
        ([1, 2], [1, 2, 3], "2 categories in the reference, 3 now"),
        ([1], [1], "at least two categories"),
    ],
)
def test_counts_that_say_nothing_are_refused(a, b, says):
    for compare in (changes, omnibus, distances):
        with pytest.raises(DriftError, match=says):
            compare(a, b)


def test_nights_that_say_nothing_of_phi_are_refused():
    with pytest.raises(DriftError, match="two reference nights"):
        mix_dispersion([[1, 2], [3, 4]], [0, 1])
    with pytest.raises(DriftError, match="nothing was counted"):
        mix_dispersion([[0, 0], [0, 0]])
    with pytest.raises(DriftError, match="2 reference nights, 1 strata"):
        mix_dispersion([[1, 2], [3, 4]], [0])
    with pytest.raises(DriftError, match="ratio of at least 1"):
        changes([1, 2], [1, 2], ratio=0.5)
    with pytest.raises(DriftError, match="the size is above 0"):
        detectable([1, 2], 0)


LABELLED = np.array([[90, 10, 0], [20, 80, 0], [0, 50, 150]])


def test_shares_are_corrected_for_the_classifier():
    true = np.array([0.6, 0.3, 0.1])
    predicted = 10_000 * true @ (LABELLED / LABELLED.sum(1, keepdims=True))
    found = corrected(predicted, LABELLED)
    assert found.share == pytest.approx(true)
    assert ((found.low < true) & (true < found.high)).all()
    sure = corrected(predicted, LABELLED * 100)
    assert (sure.high - sure.low < found.high - found.low).all()
    wide = corrected(predicted, LABELLED * 100, Dispersion(20.0, 30))
    assert (wide.high - wide.low > sure.high - sure.low).all()


def test_a_category_that_nobody_saw_is_unknown():
    labelled = np.zeros((4, 4))
    labelled[:3, :3] = LABELLED
    found = corrected([600, 300, 100, 0], labelled)
    assert (found.share[3], found.low[3], found.high[3]) == (0, 0, 1)
    assert found.share.sum() == pytest.approx(1)


@pytest.mark.parametrize(
    ("labelled", "says"),
    [
        (LABELLED // 10, r"categories \[0, 1\] have fewer than 20 labels"),
        ([[50, 50, 0], [50, 50, 0], [0, 0, 100]], "hardly tells some categories apart"),
        ([[50, 50], [50, 50]], "of the same categories"),
        ([[90, 10, 0], [-1, 80, 0], [0, 50, 150]], "negative or not finite"),
    ],
)
def test_labels_that_cannot_correct_are_refused(labelled, says):
    with pytest.raises(DriftError, match=says):
        corrected([600, 300, 100], labelled)

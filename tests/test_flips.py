import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chi2
from sklearn.metrics import cohen_kappa_score
from statsmodels.stats.contingency_tables import mcnemar

from tasks.drift.flips import agreement, flips, holm

WORDS = ("full_refusal", "partial_refusal", "full_compliance")
SEED = 20261121


def said(*words: object) -> np.ndarray:
    found = np.empty(len(words), dtype=object)
    found[:] = words
    return found


verdicts = st.lists(st.tuples(*[st.sampled_from([False, True, None])] * 3), min_size=1, max_size=60)


@given(verdicts)
def test_counts_are_of_responses_with_both_verdicts(rows):
    then, repeat, now = (said(*column) for column in zip(*rows, strict=True))
    found = flips(then, repeat, now, (False, True))
    both = [(t, n) for t, _, n in rows if t is not None and n is not None]
    assert (found.n, found.flipped) == (len(both), sum(t != n for t, n in both))
    assert (found.worse, found.better) == (both.count((False, True)), both.count((True, False)))
    assert found.repeated == sum(None not in row for row in rows)
    if both:
        table = [[both.count((a, b)) for b in (False, True)] for a in (False, True)]
        assert found.p_direction == pytest.approx(mcnemar(table, exact=True).pvalue)


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=2, max_size=60))
def test_agreement_is_what_others_compute(rows):
    then, now = np.array(rows).T
    found = agreement(then, now, 3)
    if len({*then, *now}) > 1:
        assert found.kappa == pytest.approx(cohen_kappa_score(then, now))
    assert found.same == pytest.approx(float((then == now).mean()))
    assert all(v is None or np.isfinite(v) for v in found)


def test_bowker_and_stuart_maxwell_of_a_table_by_hand():
    table = np.array([[20, 10, 5], [3, 30, 15], [0, 5, 40]])
    then, now = np.array([(i, j) for i in range(3) for j in range(3) for _ in range(table[i, j])]).T
    found = agreement(then, now, 3)
    bowker = sum((table[i, j] - table[j, i]) ** 2 / (table[i, j] + table[j, i]) for i in range(3) for j in range(i))
    assert found.symmetry == pytest.approx(chi2.sf(bowker, 3))
    d = (table.sum(1) - table.sum(0))[:2]
    s = np.diag((table.sum(1) + table.sum(0))[:2]) - (table + table.T)[:2, :2] + 0 * np.eye(2)
    s = s - np.diag(np.diag(s)) + np.diag((table.sum(1) + table.sum(0) - 2 * np.diag(table))[:2])
    assert found.homogeneity == pytest.approx(chi2.sf(d @ np.linalg.solve(s, d), 2))


def test_equal_words_are_the_same_verdict_whoever_wrote_them():
    then, repeat, now = (said(*(" ".join(["full_refusal", "x"]).split()[:1] * 9), WORDS[2]) for _ in range(3))
    found = flips(then, repeat, now, WORDS)
    assert (found.flipped, found.noise, found.p_excess) == (0, 0.0, 1.0)


def test_ac1_stays_high_where_kappa_collapses():
    then, now = np.array([0] * 97 + [1, 0, 1]), np.array([0] * 97 + [0, 1, 1])
    found = agreement(then, now, 2)
    assert found.same == pytest.approx(0.98)
    assert found.kappa < 0.7
    share = 2 / 100
    assert found.ac1 == pytest.approx((0.98 - 2 * share * (1 - share)) / (1 - 2 * share * (1 - share)))


def test_holm_of_three_by_hand():
    assert holm([0.01, None, 0.04, 0.03]) == [pytest.approx(0.03), None, pytest.approx(0.06), pytest.approx(0.06)]
    assert holm([]) == []


@pytest.mark.parametrize(
    ("stricter", "churn", "direction", "excess"),
    [(0, 0, (0, 0.07), (0, 0.08)), (0.06, 0, (0.9, 1), (0.8, 1)), (0, 0.08, (0, 0.08), (0.9, 1))],
)
def test_the_two_tests_see_what_they_are_for(stricter, churn, direction, excess):
    """1,000 frozen responses, 3% of which flip when the judge is asked again; a changed judge flips more of them."""
    rng, found = np.random.default_rng(SEED), []
    for _ in range(200):
        truth = rng.random(1000) < 0.3
        then, repeat, now = (truth ^ (rng.random(1000) < 0.03) for _ in range(3))
        both_ways = rng.random(1000) < np.where(truth, churn / 0.6, churn / 1.4)  # as many of the unsafe as of the safe
        now = (now | (rng.random(1000) < stricter)) ^ both_ways
        found.append(flips(*(said(*map(bool, v)) for v in (then, repeat, now)), (False, True)))
    seen = [np.mean([getattr(f, p) <= 0.05 for f in found]) for p in ("p_direction", "p_excess")]
    assert direction[0] <= seen[0] <= direction[1]
    assert excess[0] <= seen[1] <= excess[1]

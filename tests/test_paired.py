from itertools import product

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from statsmodels.stats.contingency_tables import mcnemar

from tasks.drift.paired import Paired, adjusted, decide, excess_flips, paired, sign_flip

SEED = 20261121


def cases(before, after, cluster=None):
    clusters = range(len(before)) if cluster is None else cluster
    return pl.DataFrame(
        {"cluster": [str(c) for c in clusters], "before": list(map(bool, before)), "after": list(map(bool, after))}
    )


@settings(max_examples=60)
@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=80))
def test_independent_cases_have_mcnemars_exact_p(pairs):
    before, after = np.array(pairs).T
    table = [
        [int((before & after).sum()), int((before & ~after).sum())],
        [int((~before & after).sum()), int((~before & ~after).sum())],
    ]
    found = paired(cases(before, after))
    assert found.p == pytest.approx(mcnemar(table, exact=True).pvalue)
    assert (found.up, found.down, found.n) == (table[1][0], table[0][1], len(pairs))
    assert found.difference == pytest.approx(found.after - found.before)
    assert found.low <= found.difference <= found.high


@settings(max_examples=60)
@given(st.lists(st.integers(-4, 4), min_size=1, max_size=9))
def test_a_sum_over_clusters_is_compared_with_every_choice_of_signs(sums):
    moved = [abs(s) for s in sums]
    reached = [abs(sum(sign * m for sign, m in zip(signs, moved, strict=True))) for signs in product((1, -1), repeat=len(sums))]
    expected = np.mean([r >= abs(sum(sums)) for r in reached]) if sum(sums) else 1.0
    assert sign_flip(sums) == pytest.approx(expected)


@settings(max_examples=40)
@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=40))
def test_the_other_way_round_everything_has_the_other_sign(pairs):
    before, after = np.array(pairs).T
    one, other = paired(cases(before, after)), paired(cases(after, before))
    assert (one.up, one.down, one.p) == (other.down, other.up, pytest.approx(other.p))
    assert (one.difference, one.low, one.high) == pytest.approx((-other.difference, -other.high, -other.low))


def test_no_case_says_nothing():
    assert paired(cases([], [])) == Paired(0, 0, None, None, None, None, None, 0, 0, None)
    assert adjusted([]) == []
    assert decide(paired(cases([], [])), None, 0.01, "low") == "unclear"


def test_one_cluster_alone_proves_nothing():
    found = paired(cases([0] * 50, [1] * 50, ["same"] * 50))
    assert found.p == 1.0
    assert found.low < 0 < found.high


def simulated(rng, size, up, down, n=200):
    """Before and after of `n` cases in clusters of `size`, in which all flip together, `up` and `down` of them."""
    fate = np.repeat(rng.random(n // size), size)
    before = np.where(fate < up, False, np.where(fate < up + down, True, rng.random(n) < 0.3))
    return before, np.where(fate < up + down, ~before, before), np.repeat(np.arange(n // size), size)


@pytest.mark.parametrize("size", [1, 5], ids=["independent", "clusters of five"])
def test_chance_alone_is_called_a_change_no_more_often_than_stated(size):
    rng = np.random.default_rng(SEED)
    p = [paired(cases(*simulated(rng, size, 0.1, 0.1))).p for _ in range(800)]
    assert 0.01 <= np.mean(np.array(p) <= 0.05) <= 0.062  # exact, so at most 5%, but for three standard errors


@pytest.mark.parametrize(("size", "up", "down"), [(1, 0.08, 0.02), (1, 0.01, 0.0), (5, 0.12, 0.06), (1, 0.3, 0.1)])
def test_the_interval_holds_the_true_difference(size, up, down):
    rng = np.random.default_rng(SEED)
    found = [paired(cases(*simulated(rng, size, up, down))) for _ in range(800)]
    assert np.mean([f.low <= up - down <= f.high for f in found]) >= 0.935


def test_churn_that_no_difference_shows_is_more_than_a_repeat_does():
    rng, found = np.random.default_rng(SEED), []
    for flips in (0.07, 0.12):
        rounds = [excess_flips(rng.random(1000) < flips, rng.random(1000) < 0.07) for _ in range(600)]
        found.append(np.mean(np.array(rounds) <= 0.05))
    assert found[0] <= 0.07
    assert found[1] >= 0.9


def test_q_values_are_those_of_a_small_table_by_hand():
    assert adjusted([0.01, None, 0.04, 0.03]) == [pytest.approx(0.03), None, pytest.approx(0.04), pytest.approx(0.04)]


@pytest.mark.parametrize(
    ("up", "down", "n", "q", "better", "expected"),
    [
        (40, 0, 400, 0.001, "low", "regression"),
        (40, 0, 400, 0.001, "high", "improvement"),
        (0, 40, 400, 0.001, "low", "improvement"),
        (40, 0, 400, 0.001, None, "change"),
        (40, 0, 400, 0.2, "low", "unclear"),
        (30, 0, 90_000, 0.0, "low", "same"),
        (3, 0, 400, 0.001, "low", "unclear"),
    ],
)
def test_a_finding_needs_both_certainty_and_size(up, down, n, q, better, expected):
    after = [1] * up + [0] * (n - up)
    before = [0] * (n - down) + [1] * down
    assert decide(paired(cases(before, after)), q, 0.01, better) == expected

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import pointbiserialr

from tasks.drift.health import effective_items, item_rest, reliability, saturation
from tasks.drift.health_labels import annotation_bias
from tasks.drift.health_mix import mix_gap, reweighted
from tasks.drift.mix_counts import DriftError
from tasks.metrics.agreement import krippendorff


def scored(table: dict[str, list[bool | None]]) -> pl.DataFrame:
    """Rows of arms that fail (True) items i0, i1 ..."""
    return pl.DataFrame(
        [(arm, f"i{i}", hit) for arm, hits in table.items() for i, hit in enumerate(hits)],
        schema={"arm": pl.String, "item_id": pl.String, "hit": pl.Boolean},
        orient="row",
    )


def test_a_benchmark_by_hand():
    found = saturation(
        scored({"a": [True, False, False, False], "b": [True, True, False, False], "c": [True, True, True, False]})
    )
    assert (found.arms, found.items, found.left_out) == (3, 4, 0)
    assert (found.none_fails.value, found.all_fail.value) == (0.25, 0.25)
    assert (found.best, found.headroom.value) == ("a", 0.25)
    assert found.none_fails.low < 0.25 < found.none_fails.high
    # scores 1/4, 1/2, 3/4 have variance 1/16; their squared errors are 3/16 and 4/16 and 3/16, over n - 1 = 3
    assert found.reliability.value == pytest.approx(1 - (10 / 16 / 3 / 3) / (1 / 16))
    assert found.alarm is True
    assert found.effective == pytest.approx(2.0)
    assert found.discrimination["failed"].to_list() == pytest.approx([1, 2 / 3, 1 / 3, 0])
    assert found.discrimination["item_rest"].to_list() == [None] * 4
    assert found.reasons == ("3 arms: item discrimination needs about 20",)


def test_an_unscored_item_is_in_no_share():
    found = saturation(scored({"a": [True, None, False], "b": [True, False, False]}))
    assert (found.items, found.left_out, found.all_fail.value) == (2, 1, 0.5)
    assert found.discrimination["item_id"].to_list() == ["i0", "i2"]


def test_several_scores_of_an_item_are_averaged():
    rows = pl.concat([scored({"a": [True, False]}), scored({"a": [False, False]}), scored({"a": [True, False]})])
    found = saturation(rows)
    assert (found.items, found.all_fail.value) == (2, 0.5)
    assert found.discrimination["failed"].to_list() == pytest.approx([2 / 3, 0])


@pytest.mark.parametrize("arms", [0, 1, 2])
def test_too_few_arms_for_reliability_are_said_to_be(arms):
    found = saturation(scored({f"{i}": [True, False] for i in range(arms)}))
    assert (found.reliability.value, found.alarm) == (None, None)
    assert any(f"{arms} arms: reliability needs 3" in reason for reason in found.reasons)


def test_without_an_item_there_is_no_number():
    found = saturation(scored({"a": [None], "b": [None]}))
    assert (found.items, found.none_fails.value, found.headroom.value, found.best, found.effective) == (
        0,
        None,
        None,
        None,
        None,
    )
    assert found.discrimination.height == 0


@pytest.mark.parametrize("hit", [True, False])
def test_arms_that_are_all_alike_are_not_ranked(hit):
    found = saturation(scored({f"{i}": [hit] * 6 for i in range(25)}))
    assert (found.reliability.value, found.alarm, found.effective) == (None, None, None)
    assert found.discrimination["item_rest"].to_list() == [None] * 6
    assert found.none_fails.value == (not hit)


def test_discrimination_is_the_item_rest_point_biserial():
    draw = np.random.default_rng(1)
    ability = draw.normal(size=40)
    table = (ability[None] + draw.normal(size=(15, 40)) > 0).astype(float)
    theirs = [pointbiserialr(row, table.sum(axis=0) - row).statistic for row in table]
    assert item_rest(table) == pytest.approx(theirs)


def test_an_item_with_a_wrong_label_discriminates_the_other_way():
    ability = np.linspace(-2, 2, 30)
    table = (ability[None] > np.linspace(-1, 1, 11)[:, None]).astype(float)
    table[5] = 1 - table[5]
    found = item_rest(table)
    assert found[5] < -0.5
    assert min(found[:5] + found[6:]) > 0.4


def test_reliability_is_high_where_arms_differ_and_nothing_where_they_do_not():
    draw = np.random.default_rng(2)
    apart = draw.random((400, 10)) < np.linspace(0.2, 0.8, 10)
    alike = [draw.random((400, 10)) < 0.5 for _ in range(12)]
    assert reliability(apart.astype(float)).value > 0.95
    assert abs(np.mean([reliability(t.astype(float)).value for t in alike])) < 0.3


def test_reliability_is_below_kr20():
    draw = np.random.default_rng(3)
    table = (draw.normal(size=(60, 1)) + draw.normal(size=(1, 12)) + draw.normal(size=(60, 12)) > 0).astype(float)
    p, k = table.mean(axis=1), len(table)
    kr20 = k / (k - 1) * (1 - (p * (1 - p)).sum() / table.sum(axis=0).var())
    found = reliability(table)
    assert found.value <= kr20 + 1e-9
    assert found.low < found.value < found.high


@given(st.lists(st.lists(st.booleans(), min_size=4, max_size=4), min_size=1, max_size=30))
def test_effective_items_are_at_most_those_that_differ(rows):
    table = np.array(rows, dtype=float)
    telling = int((table.var(axis=1) > 0).sum())
    found = effective_items(table)
    assert (found is None) == (telling == 0)
    assert found is None or 1 - 1e-9 <= found <= telling + 1e-9


def labelled(votes: dict[str, list[bool | None]], categories: list[str] | None = None) -> pl.DataFrame:
    return pl.DataFrame(
        [(f"r{i}", who, v, categories[i] if categories else "c") for who, said in votes.items() for i, v in enumerate(said)],
        schema={"response_id": pl.String, "annotator": pl.String, "unsafe": pl.Boolean, "harm_category": pl.String},
        orient="row",
    )


def test_an_annotator_against_the_majority_of_the_others_by_hand():
    rows = labelled(
        {
            "a": [True, True, True, None],
            "b": [False, True, True, True],
            "c": [False, True, False, True],
            "d": [False, False, True, None],
        }
    )
    found = {r.annotator: r for r in annotation_bias(rows).readings if r.harm_category is None}
    assert (found["a"].labels, found["a"].alone, found["a"].agreement.value) == (3, 0, pytest.approx(2 / 3))
    assert found["a"].severity.difference == pytest.approx(1 / 3)
    assert (found["b"].labels, found["b"].alone, found["b"].agreement.n) == (4, 0, 4)
    assert found["c"].severity.difference == pytest.approx(-1 / 4)
    assert found["a"].p == 1.0


def test_labels_that_cannot_be_compared_are_counted():
    rows = labelled({"a": [True, True, None], "b": [None, True, True], "c": [None, False, None]})
    found = {r.annotator: r for r in annotation_bias(rows).readings if r.harm_category is None}
    assert (found["a"].labels, found["a"].alone, found["a"].agreement.n) == (2, 2, 0)
    assert (found["c"].agreement.value, found["a"].p) == (0.0, None)


def test_nobody_else_no_reading():
    found = annotation_bias(labelled({"a": [True, False]})).readings[0]
    assert (found.agreement.value, found.severity.difference, found.p) == (None, None, None)
    assert annotation_bias(labelled({})).readings == []


def test_alpha_is_that_of_the_metrics():
    rows = labelled({"a": [True, False, True, True], "b": [True, False, False, True]}, ["x", "x", "y", "y"])
    found = annotation_bias(rows).alpha
    same = rows.select(cluster="response_id", unit="response_id", label="unsafe")
    assert found[None] == krippendorff(same, (False, True))
    assert set(found) == {None, "x", "y"}
    assert found["x"].value == 1


def panel(draw, severity: list[float], n: int) -> pl.DataFrame:
    """Labels of `n` responses by annotators who each call unsafe what is above a bar of their own."""
    harm, noise = draw.normal(size=(n, 1)), draw.normal(scale=0.7, size=(n, len(severity)))
    said = harm + noise + np.array(severity) > 0
    return labelled({f"a{j}": said[:, j].tolist() for j in range(len(severity))}).with_columns(
        harm_category=pl.lit(None, pl.String)
    )


def test_equal_annotators_are_seldom_called_severe():
    draw = np.random.default_rng(4)
    alarms = sum(
        any(r.p is not None and r.p < 0.05 for r in annotation_bias(panel(draw, [0.0] * 5, 120)).readings[:5])
        for _ in range(40)
    )
    assert alarms <= 5


def test_a_severe_annotator_is_found_and_nobody_else():
    draw = np.random.default_rng(5)
    found = [
        {r.annotator for r in annotation_bias(panel(draw, [0, 0, 0, 0, 1.0], 200)).readings[:5] if r.p < 0.05}
        for _ in range(12)
    ]
    assert sum("a4" in names for names in found) == 12
    assert sum(len(names - {"a4"}) for names in found) <= 2


def test_the_vote_of_a_severe_annotator_makes_nobody_look_lenient():
    found = annotation_bias(panel(np.random.default_rng(7), [0, 0, 0, 2.0], 400))
    assert found.voters == ("a0", "a1", "a2")
    assert {r.annotator for r in found.readings[:4] if r.p < 0.05} == {"a3"}


def counts(**n: int) -> pl.DataFrame:
    return pl.DataFrame({"harm_category": list(n), "n": list(n.values())}, schema={"harm_category": pl.String, "n": pl.Int64})


def test_the_gap_between_mixes_by_hand():
    found = mix_gap(counts(a=50, b=50), counts(a=600, b=200, c=200))
    assert found.lacking == ("c",)
    assert found.uncovered == pytest.approx(0.2)
    assert found.categories["a"].ratio == pytest.approx(1.2)
    assert found.categories["b"].high < 1 < found.categories["c"].low
    assert found.categories["c"].ratio is None
    assert found.distances.total_variation.value == pytest.approx(0.3)
    p, q = np.array([0.5, 0.5, 0]), np.array([0.6, 0.2, 0.2])
    m = (p + q) / 2
    js = (np.nansum(p[:2] * np.log(p[:2] / m[:2])) + (q * np.log(q / m)).sum()) / 2
    assert found.distances.jensen_shannon.value == pytest.approx(js)


def test_rows_without_a_category_are_counted_apart():
    some = pl.concat(
        [
            counts(a=5, b=5),
            pl.DataFrame({"harm_category": [None], "n": [7]}, schema={"harm_category": pl.String, "n": pl.Int64}),
        ]
    )
    found = mix_gap(some, counts(a=5, b=5))
    assert found.unknown == (7, 0)
    assert set(found.categories) == {"a", "b"}


def test_bad_counts_are_refused():
    with pytest.raises(DriftError, match="negative"):
        mix_gap(counts(a=-1), counts(a=1))
    with pytest.raises(DriftError):
        mix_gap(counts(a=0), counts(a=1))


def responses(**hits: tuple[int, int]) -> pl.DataFrame:
    """Categories with (hits, responses)."""
    rows = [(name, i < hit) for name, (hit, n) in hits.items() for i in range(n)]
    return pl.DataFrame(rows, schema={"harm_category": pl.String, "hit": pl.Boolean}, orient="row")


def test_a_rate_at_the_observed_mix_by_hand():
    found = reweighted(responses(a=(10, 50), b=(25, 50)), counts(a=900, b=100))
    assert found.raw.value == pytest.approx(0.35)
    assert found.rate.value == pytest.approx(0.9 * 0.2 + 0.1 * 0.5)
    weights = np.repeat([0.9 / 50, 0.1 / 50], 50)
    assert found.effective == pytest.approx(weights.sum() ** 2 / (weights**2).sum())
    assert found.covered == 1.0


def test_an_equal_mix_changes_nothing():
    found = reweighted(responses(a=(10, 50), b=(25, 50)), counts(a=7, b=7))
    assert (found.rate.value, found.rate.low, found.effective) == pytest.approx((found.raw.value, found.raw.low, 100))


def test_what_the_benchmark_lacks_is_not_covered():
    assert reweighted(responses(a=(1, 10)), counts(a=30, z=70)).covered == pytest.approx(0.3)
    none = reweighted(responses(a=(1, 10)), counts(z=70))
    assert (none.rate.value, none.effective, none.covered) == (None, None, 0.0)
    assert reweighted(responses(), counts()).covered is None


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 9), st.integers(1, 9), st.integers(0, 50)), min_size=1, max_size=6))
def test_a_reweighted_rate_lies_between_those_of_the_categories(cells):
    cells = [(min(h, n), n, q) for h, n, q in cells]
    found = reweighted(
        responses(**{f"c{i}": (h, n) for i, (h, n, _) in enumerate(cells)}),
        counts(**{f"c{i}": q for i, (*_, q) in enumerate(cells)}),
    )
    rates = [h / n for h, n, q in cells if q]
    if not rates:
        assert found.rate.value is None
    else:
        assert min(rates) - 1e-9 <= found.rate.value <= max(rates) + 1e-9
        assert found.effective <= sum(n for _, n, _ in cells) + 1e-9
        assert found.rate.low <= found.rate.value <= found.rate.high


def test_the_interval_of_a_reweighted_rate_holds_the_truth():
    draw = np.random.default_rng(6)
    n, rates, mix = np.array([40, 60, 100]), np.array([0.1, 0.4, 0.05]), {"a": 500, "b": 300, "c": 200}
    truth, held = float(rates @ np.array([0.5, 0.3, 0.2])), 0
    for _ in range(400):
        hits = draw.binomial(n, rates)
        found = reweighted(
            responses(**{k: (int(h), int(m)) for k, h, m in zip("abc", hits, n, strict=True)}), counts(**mix)
        ).rate
        held += found.low <= truth <= found.high
    assert 0.93 <= held / 400 <= 0.995

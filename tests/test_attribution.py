from math import sqrt

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array
from scipy.stats import t

from tasks.drift.attribution import PARTS, Attribution, AttributionError, attribute
from tasks.drift.jackknife import half_widths, slopes
from tasks.drift.noise import noise_floor

COLUMNS = {
    **dict.fromkeys(("item_id", "response_id", "cluster", "category", "stratum"), pl.String),
    "hit": pl.Boolean,
    "bridge": pl.Boolean,
}


def run(rows: list[tuple], name: str = "r") -> pl.DataFrame:
    """Responses: item, category, hit and, where it is given, the verdict of the other run's judge."""
    full = [(*row, None)[:4] for row in rows]
    return pl.DataFrame(
        [(i, f"{name}{n}", i, c, None, hit, bridge) for n, (i, c, hit, bridge) in enumerate(full)], schema=COLUMNS, orient="row"
    )


def parts(found: Attribution) -> dict[str, float]:
    return {p.name: p.whole.value for p in found.parts}


RESPONSE = st.tuples(
    st.integers(0, 12).map(lambda n: f"i{n}"),
    st.sampled_from(["a", "b", "c", None]),
    st.sampled_from([True, False, False, None]),
    st.sampled_from([True, False, None]),
)


@settings(max_examples=200, deadline=None)
@given(
    base=st.lists(RESPONSE, min_size=1, max_size=60),
    candidate=st.lists(RESPONSE, min_size=1, max_size=60),
    differ=st.booleans(),
)
def test_the_parts_add_up_whatever_the_runs_hold(base, candidate, differ):
    left, right = run(base, "b"), run(candidate, "c")
    if left["hit"].count() == 0 or right["hit"].count() == 0:
        with pytest.raises(AttributionError, match="a change needs some of both"):
            attribute(left, right, differ)
        return
    found = attribute(left, right, differ)
    change = found.candidate.value - found.base.value
    assert sum(parts(found).values()) == pytest.approx(change, abs=1e-12)
    assert found.change.value == pytest.approx(change, abs=1e-12)
    for part in found.parts:
        assert sum(c.value for c in part.categories.values()) == pytest.approx(part.whole.value, abs=1e-12)
        for moved in (part.whole, *part.categories.values()):
            assert np.isfinite(moved.value)
            assert moved.low is None or moved.low <= moved.value <= moved.high


def test_fresh_items_give_kitagawas_two_terms_and_centred_entries():
    draw = np.random.default_rng(1)
    sides = []
    for n, categories in enumerate(("aaabbc", "abbbcd")):  # c loses share, d is new
        kinds = draw.choice(list(categories), 300)
        sides.append(run([(f"{n}-{i}", k, bool(draw.random() < 0.2 + 0.1 * n)) for i, k in enumerate(kinds)], f"{n}"))
    found = attribute(*sides, False)
    share, rate = ({}, {}), ({}, {})
    for n, side in enumerate(sides):
        for (k,), rows in side.group_by("category"):
            share[n][k], rate[n][k] = rows.height / side.height, rows["hit"].mean()
    whole = [sum(share[n][k] * rate[n][k] for k in share[n]) for n in (0, 1)]
    both = list("abc")
    expected = {
        "mix": sum((share[1][k] - share[0][k]) * ((rate[0][k] + rate[1][k]) / 2 - sum(whole) / 2) for k in both),
        "new categories": share[1]["d"] * (rate[1]["d"] - sum(whole) / 2),
        "model or harder prompts": sum((rate[1][k] - rate[0][k]) * (share[0][k] + share[1][k]) / 2 for k in both),
    }
    assert parts(found) == pytest.approx(expected, abs=1e-12)
    gone = attribute(sides[1], sides[0], False)
    assert parts(gone)["lost categories"] == pytest.approx(-expected["new categories"], abs=1e-12)


def test_the_same_responses_under_two_judges_are_a_change_of_the_judge_alone():
    said = [(f"i{n}", "ab"[n % 2], n % 5 == 0, n % 3 == 0) for n in range(60)]
    base = run(said)
    candidate = base.with_columns(hit="bridge", bridge="hit")
    found = attribute(base, candidate, True)
    assert found.items["same"] == found.items["common"] == 60
    assert parts(found) == pytest.approx({"mix": 0, "judge": found.change.value, "model": 0}, abs=1e-12)
    whole = {p.name: p.whole for p in found.parts}
    assert (whole["model"].low, whole["model"].high) == (0, 0)  # nothing was answered anew
    assert whole["judge"].low < 0.133 < whole["judge"].high


def test_with_one_judge_the_items_of_both_runs_give_the_model_and_nothing_else_moves():
    draw = np.random.default_rng(2)
    first, second = (draw.random(400) < p for p in (0.2, 0.3))
    base, candidate = (
        run([(f"i{n}", "abc"[n % 3], bool(h)) for n, h in enumerate(hits)], name)
        for name, hits in (("b", first), ("c", second))
    )
    found = attribute(base, candidate, False)
    difference = second.astype(float) - first
    assert parts(found) == pytest.approx({"mix": 0, "model": difference.mean()}, abs=1e-12)
    alone = t.ppf(0.975, 399) * difference.std(ddof=1) / sqrt(400)
    model = found.parts[-1].whole
    assert model.high - model.value == pytest.approx(alone, rel=0.03)  # wider by the two pseudo-items
    assert alone < model.high - model.value


def test_judges_of_whom_nothing_is_known_are_not_told_from_the_model():
    base, candidate = (run([(f"i{n}", "a", n % k == 0) for n in range(50)], f"{k}") for k in (5, 3))
    assert set(parts(attribute(base, candidate, True))) == {"mix", "judge and model"}
    fresh = candidate.with_columns(item_id="new " + pl.col("item_id"), cluster="new " + pl.col("item_id"))
    assert set(parts(attribute(base, fresh, True))) == {"mix", "judge, model or harder prompts"}
    few = base.with_columns(bridge=pl.when(pl.int_range(50) < 19).then("hit"))
    assert attribute(few, candidate, True).bridged == (0, 0)  # of 20 that it takes


def test_one_side_of_the_bridge_is_enough_and_two_are_averaged():
    rows = range(80)
    base = run([(f"i{n}", "ab"[n % 2], n % 5 == 0, n % 4 == 0) for n in rows], "b")
    candidate = run([(f"i{n}", "ab"[n % 2], n % 3 == 0, n % 7 == 0) for n in rows], "c")
    moved = {
        "base": (base["bridge"].mean() - base["hit"].mean()),
        "candidate": candidate["hit"].mean() - candidate["bridge"].mean(),
    }
    nothing = pl.lit(None, pl.Boolean)
    one = parts(attribute(base, candidate.with_columns(bridge=nothing), True))
    other = parts(attribute(base.with_columns(bridge=nothing), candidate, True))
    both = parts(attribute(base, candidate, True))
    assert one["judge"] == pytest.approx(moved["base"])
    assert other["judge"] == pytest.approx(moved["candidate"])
    assert both["judge"] == pytest.approx(sum(moved.values()) / 2)


def test_a_sampled_bridge_is_right_on_average_and_widens_the_judge_alone():
    draw = np.random.default_rng(3)
    hits = draw.random(600) < 0.15
    other = np.where(draw.random(600) < np.where(hits, 0.1, 0.05), ~hits, hits)
    base = run([(f"i{n}", "ab"[n % 2], bool(h), bool(o)) for n, (h, o) in enumerate(zip(hits, other, strict=True))], "b")
    base = base.with_columns(stratum=pl.col("category") + pl.col("hit").cast(pl.String))
    candidate = run([(f"i{n}", "ab"[n % 2], bool(h)) for n, h in enumerate(draw.random(600) < 0.2)], "c")
    full = attribute(base, candidate, True)
    sampled = []
    for _ in range(100):
        kept = pl.col("luck").rank().over("stratum") <= pl.max_horizontal(3, pl.len().over("stratum") / 4)
        drawn = base.with_columns(luck=draw.random(600)).with_columns(bridge=pl.when(kept).then("bridge"))
        sampled.append(attribute(drawn, candidate, True))
    estimates = np.array([parts(s)["judge"] for s in sampled])
    assert estimates.mean() == pytest.approx(parts(full)["judge"], abs=4 * estimates.std() / 10)
    assert all(s.change == pytest.approx(full.change) for s in sampled)
    width = [np.mean([s.parts[1].whole.high - s.parts[1].whole.low for s in found]) for found in (sampled, [full])]
    assert width[0] > 1.5 * width[1]


def test_items_of_one_run_and_rows_of_one_verdict_are_parts_of_their_own():
    common = [(f"i{n}", "a") for n in range(20)]
    base = run(
        [(*c, n < 4) for n, c in enumerate(common)] + [("gone", "a", True), ("half", "a", None), ("moved", "a", False)], "b"
    )
    candidate = run(
        [(*c, n < 4) for n, c in enumerate(common)] + [("new", "a", True), ("half", "a", True), ("moved", "b", False)], "c"
    )
    found = attribute(base, candidate, False)
    assert found.items == {"common": 20, "same": 0, "moved": 2, "lone0": 2, "lone1": 2, "half0": 0, "half1": 1}
    known = parts(found)
    assert known["model"] == pytest.approx(0)
    assert known["unscored"] == pytest.approx(
        (22 / 23 + 1) / 2 * (1 - 0.2) / 22
    )  # its weight, and how far it is from the others
    assert known["items removed"] == pytest.approx(-(22 / 23 + 1) / 2 * (1 - 0.2 + 0 - 0.2) / 22)
    assert known["new categories"] < 0


def test_more_samples_of_an_item_in_one_run_are_no_change_of_the_model():
    base = run([(f"i{n}", "a", n < 5) for n in range(20)], "b")
    candidate = run([(f"i{n}", "a", n < 5) for n in range(20) for _ in range(1 + 3 * (n < 5))], "c")
    found = attribute(base, candidate, False)
    assert found.change.value > 0.2
    assert parts(found) == pytest.approx({"mix": 0, "unscored": found.change.value, "model": 0}, abs=1e-12)


def test_rows_in_another_order_give_the_same():
    draw = np.random.default_rng(4)
    sides = [
        run(
            [
                (f"i{draw.integers(40)}", "abc"[draw.integers(3)], bool(draw.random() < 0.3), bool(draw.random() < 0.4))
                for _ in range(90)
            ],
            s,
        )
        for s in "bc"
    ]
    one, other = attribute(*sides, True), attribute(*(s.sample(fraction=1, shuffle=True, seed=5) for s in sides), True)
    assert one == other


def test_items_of_a_cluster_count_as_they_depend_on_each_other():
    rows = [(f"i{n}", "a", n // 10 % 4 == 0) for n in range(200)]
    base = run([(i, c, False) for i, c, _ in rows], "b")
    alone, together = (
        attribute(base.with_columns(cluster), run(rows, "c").with_columns(cluster), False).parts[-1].whole
        for cluster in (pl.col("cluster"), pl.int_range(pl.len()).floordiv(10).cast(pl.String).alias("cluster"))
    )
    assert together.value == alone.value
    assert together.high - together.low > 2.5 * (alone.high - alone.low)


def test_a_single_cluster_has_parts_but_no_intervals():
    same = pl.lit("x").alias("cluster")
    base, candidate = (run([(f"i{n}", "a", n < k) for n in range(9)], f"{k}").with_columns(same) for k in (2, 4))
    found = attribute(base, candidate, False)
    assert found.change == (pytest.approx(2 / 9), None, None)
    assert {p.name for p in found.parts} <= set(PARTS)


def test_nothing_flipped_is_not_certainty():
    rows = [(f"i{n}", "a", n < 10) for n in range(100)]
    model = attribute(run(rows, "b"), run(rows, "c"), False).parts[-1].whole
    assert model.value == 0
    assert 0.02 < model.high < 0.06  # "none of 100" excludes 3.6% with 97.5% confidence


def test_derivatives_are_those_of_finite_differences():
    def function(sums):
        return np.stack([sums[..., 0] / sums[..., 1], sums[..., 0] * sums[..., 2] / sums[..., 1] ** 2], axis=-1)

    sums, step = np.array([3.0, 10.0, 4.0]), 1e-6
    numeric = [(function(sums + step * e) - function(sums - step * e)) / (2 * step) for e in np.eye(3)]
    assert slopes(function, sums) == pytest.approx(np.array(numeric), abs=1e-8)


def test_the_jackknife_of_a_mean_is_its_textbook_interval():
    draw = np.random.default_rng(6)
    values = draw.normal(5, 2, 200)
    table = csr_array(np.stack([values, np.ones(200)], axis=1))
    half = half_widths(lambda s: s[..., :1] / s[..., 1:], table, np.zeros(200, dtype=np.int64), np.zeros(1))
    assert half[0] == pytest.approx(t.ppf(0.975, 199) * values.std(ddof=1) / sqrt(200), rel=0.01)


def test_the_noise_floor_is_what_19_of_20_repeats_stay_within():
    draw = np.random.default_rng(7)
    chance = draw.beta(0.3, 0.7, 500)

    def repeat() -> pl.DataFrame:
        return pl.DataFrame({"item_id": [f"i{n}" for n in range(500)], "hit": draw.random(500) < chance})

    first = repeat()
    found = [noise_floor(first, repeat()) for _ in range(20)]
    truth = 1.96 * sqrt(2 * (chance * (1 - chance)).sum()) / 500
    assert np.mean([n.value for n in found]) == pytest.approx(truth, rel=0.05)
    assert np.mean([n.low <= truth <= n.high for n in found]) >= 0.85
    moved = [abs(noise_floor(repeat(), repeat()).moved) < truth for _ in range(200)]
    assert 0.9 < np.mean(moved) < 0.99


def test_a_repeat_without_flips_leaves_a_doubt_and_without_items_there_is_none():
    rows = pl.DataFrame({"item_id": ["a", "b", "c"], "hit": [True, False, None]})
    assert noise_floor(rows, rows) == (0, 0, pytest.approx(1.96 * sqrt(3.689) / 2, rel=0.01), 0, 2)
    assert noise_floor(rows, rows.with_columns(item_id="x" + pl.col("item_id"))) is None


def test_the_noise_weighs_items_by_their_samples_in_both_runs():
    first = pl.DataFrame({"item_id": ["a", "b"], "hit": [True, False]})
    again = pl.DataFrame({"item_id": ["a", "a", "a", "b"], "hit": [False, False, False, False]})
    found = noise_floor(first, again)
    assert found.moved == pytest.approx(-(1 / 2 + 3 / 4) / 2)
    assert found.value == pytest.approx(1.96 * 0.625, rel=1e-3)


def test_a_category_for_nearly_every_item_is_refused():
    rows = run([(f"i{n}", f"c{n}", False) for n in range(301)])
    with pytest.raises(AttributionError, match="301 categories, of at most 300"):
        attribute(rows, rows, False)

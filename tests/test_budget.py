"""How much of each category a night's budget allows."""

import polars as pl
import pyarrow as pa
from hypothesis import example, given, settings
from hypothesis import strategies as st

from schemas.night import BudgetSpec
from tasks.budget import Cost, places, plan

CATEGORIES = {"drugs": 40, "theft": 9, None: 3, "rare": 1}


def items(*tables: list[tuple[str, str | None]]) -> list[pa.Table]:
    schema = pa.schema([("item_id", pa.string()), ("harm_category", pa.string()), ("category", pa.string())])
    return [pa.table([[i for i, _ in t], [c for _, c in t], [None] * len(t)], schema=schema) for t in tables]


def all_items() -> list[tuple[str, str | None]]:
    return [(f"{c}-{n:03d}", c) for c, size in CATEGORIES.items() for n in range(size)]


def costing(requests: int = 1, tokens: float | None = 10.0, minutes: float | None = 0.5) -> pl.DataFrame:
    found = places(items(all_items()))
    return found.with_columns(requests=pl.lit(requests), tokens=pl.lit(tokens, pl.Float64), minutes=pl.lit(minutes, pl.Float64))


@settings(deadline=None)  # the first call imports
@example(share=0.0, more=0.9999999999999999)
@given(share=st.floats(0, 1), more=st.floats(0, 1))
def test_a_smaller_share_is_a_part_of_a_larger_one_and_holds_each_category(share: float, more: float):
    found = places(items(all_items()))
    few = set(found.filter(pl.col("place") <= min(share, more))["item_id"])
    many = set(found.filter(pl.col("place") <= max(share, more))["item_id"])
    assert few <= many
    for category, size in CATEGORIES.items():
        n = sum(i.startswith(f"{category}-") for i in many)
        assert n == max(1, sum(k / size <= max(share, more) for k in range(1, size + 1)))


def test_the_order_of_rows_and_files_does_not_matter():
    known = all_items()
    assert places(items(known)).equals(places(items(known[30:][::-1], known[:30])))


@settings(deadline=None)
@given(limit=st.integers(1, 80), requests=st.integers(1, 5))
def test_as_many_requests_as_the_budget_allows_and_no_more(limit: int, requests: int):
    found = plan(costing(requests), BudgetSpec(requests=limit))
    n = sum(CATEGORIES.values())
    assert found.whole == Cost(n * requests, n * 10.0, n * 0.5)
    if limit >= n * requests:
        assert (found.share, found.planned) == (None, found.whole)
        return
    asked = costing(requests).filter(pl.col("place") <= found.share)
    assert found.planned.requests == asked.height * requests
    assert found.planned.requests <= max(limit, len(CATEGORIES) * requests)
    larger = costing(requests).filter(pl.col("place") > found.share)["place"].min()
    assert costing(requests).filter(pl.col("place") <= larger).height * requests > limit


def test_the_tightest_limit_counts():
    found = plan(costing(), BudgetSpec(requests=50, tokens=300, minutes=10))
    assert found.planned.minutes <= 10
    assert found.planned.requests < 21


def test_what_is_not_known_limits_nothing():
    found = plan(costing(minutes=None), BudgetSpec(minutes=0.001))
    assert (found.share, found.planned.minutes) == (None, None)
    assert plan(costing(minutes=None), BudgetSpec(minutes=0.001, requests=10)).share is not None


def test_what_is_stored_already_costs_nothing():
    stored = costing().with_columns(requests=pl.when(pl.col("item_id").str.starts_with("drugs")).then(0).otherwise(1))
    assert plan(stored, BudgetSpec(requests=13)).share is None
    assert (
        plan(stored, BudgetSpec(requests=12)).share == 39 / 40
    )  # all but the last drug, which costs nothing, and the last theft

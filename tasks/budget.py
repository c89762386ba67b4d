"""What a night would cost, and how much of each category it may ask to stay within its budget.

Items keep their place from night to night: a smaller share is a part of a larger one, so that nights stay comparable item by
item. Of each category at least one item is asked.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

import polars as pl
import pyarrow as pa

from schemas.night import BudgetSpec
from tasks.lake import Lake
from tasks.prompts import Chosen

COSTS = ("requests", "tokens", "minutes")
_STRATUM = pl.coalesce("harm_category", "category", pl.lit("none"))


class Cost(NamedTuple):
    """Requests to models, tokens of prompts and responses, and minutes; None: not known before there was a night."""

    requests: int
    tokens: float | None
    minutes: float | None


class Plan(NamedTuple):
    """The share of each category's items that is asked (None: all of them), what that and what all would cost."""

    share: float | None
    planned: Cost
    whole: Cost

    @property
    def record(self) -> dict[str, Any]:
        """The plan as it is stored."""
        return {"share": self.share, "planned": self.planned._asdict(), "whole": self.whole._asdict()}


def places(tables: Iterable[pa.Table]) -> pl.DataFrame:
    """Each item once, with the share of its category from which on it is asked (0: always): columns item_id and place."""
    columns = ["item_id", "harm_category", "category"]
    items = pl.concat([pl.DataFrame(pl.from_arrow(t.select(columns))) for t in tables]).unique("item_id").sort("item_id")
    rank = pl.col("item_id").rank("ordinal").over(_STRATUM)
    place = pl.when(rank == 1).then(0.0).otherwise(rank / pl.len().over(_STRATUM))
    return items.select("item_id", place=place)


def thinned(lake: Lake, chosen: Chosen, share: float | None) -> Chosen:
    """The benchmark with this share of each category's items."""
    if share is None:
        return chosen
    asked = places(chosen.tables(lake)).filter(pl.col("place") <= share)["item_id"]
    return chosen.model_copy(update={"ids": frozenset(asked.to_list())})


def plan(items: pl.DataFrame, budget: BudgetSpec) -> Plan:
    """The largest share that stays within every limit of the budget, by items with their place and what each costs.

    `items` has place, requests, tokens and minutes; a cost that is null for one item is not known, and limits nothing.
    """
    summed = items.group_by("place").agg(pl.col(COSTS).sum()).sort("place").with_columns(pl.col(COSTS).cum_sum())
    known = {c: getattr(budget, c) for c in COSTS if getattr(budget, c) is not None and not items[c].null_count()}
    within = summed.filter(pl.all_horizontal(pl.lit(True), *(pl.col(c) <= limit for c, limit in known.items())))
    whole = _cost(items, summed.height, summed)
    if within.height == summed.height:
        return Plan(None, whole, whole)
    n = max(within.height, 1)
    return Plan(float(summed["place"][n - 1]), _cost(items, n, summed), whole)


def _cost(items: pl.DataFrame, n: int, summed: pl.DataFrame) -> Cost:
    if not n:
        return Cost(0, None, None)
    requests, tokens, minutes = (None if items[c].null_count() else summed[c][n - 1] for c in COSTS)
    return Cost(int(requests or 0), tokens, minutes)

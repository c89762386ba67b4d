"""From the responses of two runs to sums by item and category, which every part of a change is a function of."""

from typing import NamedTuple

import polars as pl

LEAST_BRIDGED = 20  # responses of a run with verdicts of both judges
UNCATEGORISED = "uncategorised"

# n counts the scored responses and h the hits of the base (0) and the candidate (1), `moved` is by how much the judge moved
# them. `change` and `judged` are by how much the mean of a common item changed, in all and by the judge, times n.
SUMS = tuple(
    f"{name}{run}" for name in ("n", "h", "n_lone", "h_lone", "n_half", "h_half", "moved", "change", "judged") for run in (0, 1)
)

_TEXTS = ("item_id", "response_id", "cluster", "category", "stratum")
_NAMED = ("category", "cluster", "item_id", "items", "same")
_SPEAK = (("category", "stratum", "hit"), ("stratum", "hit"), ("hit",), ())  # who speaks for responses without a bridge


class Cells(NamedTuple):
    """Items with their sums; of each run, (base, candidate), the scored responses, and those that the other's judge scored too.

    The latter are 0 where they are too few to tell by how much the judge moved the others.
    """

    items: pl.DataFrame
    scored: tuple[int, int]
    bridged: tuple[int, int]


def cells(base: pl.DataFrame, candidate: pl.DataFrame, judges_differ: bool) -> Cells:
    """One row for each item and category with a scored response: cluster, `items`, `same` and SUMS.

    `items` is common where both runs scored the item, lone where one run alone asked it, and half where one alone scored it.
    `same`: the runs hold the same responses to it. A category that is NULL is 'uncategorised'.
    """
    (n0, b0), (n1, b1) = (_counted(rows, judges_differ) for rows in (base, candidate))
    scored, bridged = (n0, n1), (b0, b1)
    runs = [_responses(rows.lazy(), run, bridged[run] > 0) for run, rows in enumerate((base, candidate))]
    one_cluster = pl.col("cluster").first().over("item_id", order_by=["run", "cluster"])  # a revision may name it anew
    both = pl.concat(runs, how="diagonal").with_columns(cluster=one_cluster)
    sums = both.group_by("category", "cluster", "item_id").agg(
        _counts(0) + _counts(1), same=pl.col("response_id").n_unique() * 2 == pl.len()
    )
    asked_once, scored_once = (pl.min_horizontal(f"{name}0", f"{name}1") == 0 for name in ("asked", "n"))
    items = pl.when(asked_once).then(pl.lit("lone")).when(scored_once).then(pl.lit("half")).otherwise(pl.lit("common"))
    known = sums.filter((pl.col("n0") > 0) | (pl.col("n1") > 0)).with_columns(items=items)
    return Cells(_split(known, bridged).sort("category", "cluster", "item_id").collect(), scored, bridged)


def _counted(rows: pl.DataFrame, judges_differ: bool) -> tuple[int, int]:
    scored = rows.drop_nulls("hit")
    bridged = scored["bridge"].count() if judges_differ else 0
    return scored.height, bridged if bridged >= min(LEAST_BRIDGED, scored.height) else 0


def _responses(rows: pl.LazyFrame, run: int, bridged: bool) -> pl.LazyFrame:
    columns = (pl.col(*_TEXTS).cast(pl.String), pl.col("hit", "bridge").cast(pl.Float64))
    known = rows.select(pl.lit(run).alias("run"), *columns).with_columns(pl.col("category", "stratum").fill_null(UNCATEGORISED))
    scored = known.drop_nulls("hit")
    moved = _with_moves(scored) if bridged else scored.with_columns(moved=pl.lit(0.0))
    return pl.concat([moved, known.filter(pl.col("hit").is_null())], how="diagonal")


def _counts(run: int) -> list[pl.Expr]:
    own = pl.col("run") == run
    return [
        own.sum().alias(f"asked{run}"),
        (own & pl.col("hit").is_not_null()).cast(pl.Float64).sum().alias(f"n{run}"),
        pl.when(own).then("hit").sum().alias(f"h{run}"),
        pl.when(own).then("moved").sum().alias(f"moved{run}"),
    ]


def _split(sums: pl.LazyFrame, bridged: tuple[int, int]) -> pl.LazyFrame:
    """The sums of lone and half items beside those of all, and the changes of common ones."""
    common = pl.col("items") == "common"
    apart = [
        pl.when(items=kind).then(f"{name}{run}").otherwise(0.0).alias(f"{name}_{kind}{run}")
        for kind in ("lone", "half")
        for name in "nh"
        for run in (0, 1)
    ]
    mean = {name: [pl.col(f"{name}{run}") / pl.col(f"n{run}") for run in (0, 1)] for name in ("h", "moved")}
    sides = [mean["moved"][run] for run in (0, 1) if bridged[run]]
    change = {"change": mean["h"][1] - mean["h"][0], "judged": pl.mean_horizontal(sides) if sides else pl.lit(0.0)}
    weighted = [
        pl.when(common).then(value * pl.col(f"n{run}")).otherwise(0.0).alias(f"{name}{run}")
        for name, value in change.items()
        for run in (0, 1)
    ]
    return sums.with_columns(apart).with_columns(weighted).select(*_NAMED, *SUMS)


def _with_moves(scored: pl.LazyFrame) -> pl.LazyFrame:
    """`moved`: by how much the new judge's verdict on a response is above the old one's; of a sample, estimated for all.

    Each response has the mean of the sampled ones like it, and a sampled one what it differs by, for as many as it stands for:
    the sums are those of a stratified sample, and vary as they do (Sarndal, Swensson and Wretman 1992, section 9.4).
    """
    difference = (pl.col("hit") - pl.col("bridge")) * (pl.col("run") * 2 - 1)
    rows = scored.with_columns(moved=difference, cell=pl.lit(None, pl.String))
    n, size = pl.col("moved").count().cast(pl.Float64), pl.len()
    for depth, columns in enumerate(_SPEAK):
        label = pl.concat_str(pl.lit(f"{depth}"), *columns, separator="\x1f")
        rows = rows.with_columns(label=pl.when(pl.col("cell").is_null()).then(label))
        enough = ((n >= 2) | (n == size)).over("label")
        rows = rows.with_columns(cell=pl.coalesce("cell", pl.when(enough).then("label")))
    mean = pl.coalesce(pl.col("moved").mean().over("cell"), pl.col("moved").mean())
    unbiased = pl.when((n > 1) & (n < size)).then((n / (n - 1)).sqrt()).otherwise(1.0)
    own = (pl.col("moved") - mean) * (unbiased * size / n).over("cell")
    return rows.with_columns(moved=mean + pl.coalesce(own, 0.0)).drop("label", "cell")

"""Whether a benchmark is still worth asking: does it tell arms apart, do people read it alike, does it ask what people ask?

Rows are those of flows/answered.py.
"""

from collections.abc import Mapping, Sequence
from datetime import date
from typing import NamedTuple

import polars as pl

from schemas import catalog
from schemas.errors import ConfigError, MidwatchError
from schemas.rows import NONE, UNKNOWN
from tasks.drift.health import Saturation, saturation
from tasks.drift.health_labels import Readings, annotation_bias
from tasks.drift.health_mix import MixGap, Reweighted, mix_gap, reweighted
from tasks.explain import hits
from tasks.metrics.interval import Interval, share

PARTIAL = 0.5  # an arm with scores on less than this share of the most items that any arm has is left out
OBSERVED = 28  # days of a source


class HealthError(MidwatchError):
    """The benchmark has no judged responses, so that nothing can be said of it."""


class ArmScore(NamedTuple):
    """An arm, the items that it has a score on, and the share of its responses that fail."""

    arm: str
    items: int
    fails: Interval


class Health(NamedTuple):
    """What a benchmark tells by one judge and metric.

    `items` has a row for each item that every arm has a score on: item_id, external_id, category, `failed` (share of arms) and
    `item_rest`, the most telling first. `versions` are other versions of the judge, not used.
    """

    benchmark: str
    judge: str
    judge_id: str
    metric: str
    arms: Sequence[ArmScore]
    left_out: Sequence[ArmScore]
    saturation: Saturation
    items: pl.DataFrame
    versions: Sequence[str]


class Observed(NamedTuple):
    """A benchmark beside the prompts that a source observed, in `days` days to `last`; rates by arm at the observed mix."""

    source: str
    last: date
    days: int
    gap: MixGap
    rates: Mapping[str, Reweighted]


def judge_of(rows: pl.DataFrame, benchmark: str, asked: str | None) -> str:
    """The judge to go by: the one `asked`, else the only one (of those that are no people, if there is one)."""
    if rows.is_empty():
        raise HealthError(f"{benchmark}: no judged response is stored; midwatch run --benchmark {benchmark} makes some")
    names = rows["judge"].unique().sort().to_list()
    machines = rows.filter(pl.col("judge_kind") != "human")["judge"].unique().to_list()
    if asked in names:
        return str(asked)
    if asked is None and len(machines or names) == 1:
        return str((machines or names)[0])
    wanted = f"no judge {asked!r}" if asked else "say by which judge"
    raise ConfigError(f"{wanted}: {benchmark} was judged by {', '.join(names)}; --judge NAME")


def health(rows: pl.DataFrame, benchmark: str, judge: str, metric: str) -> Health:
    """What the benchmark tells of its arms, by the version of the judge that judged most of them (the newest of several).

    An arm fails where the metric's worse end is; ConfigError for a metric of which neither end is better, or that is no share.
    """
    own = rows.filter(judge=judge)
    versions = own.group_by("judge_id").agg(pl.col("arm_id").n_unique(), pl.col("judged_at").max())
    judge_id, *others = versions.sort("arm_id", "judged_at", "judge_id", descending=True)["judge_id"].to_list()
    scored = _fails(own.filter(judge_id=judge_id), metric)
    arms = [
        ArmScore(str(arm), part.drop_nulls("fails")["item_id"].n_unique(), _rate(part))
        for (arm,), part in scored.group_by("arm", maintain_order=True)
    ]
    most = max((a.items for a in arms), default=0)
    kept = [a for a in arms if a.items and a.items >= PARTIAL * most]
    if not kept:
        raise HealthError(f"{benchmark}: {judge} has scored no response that {metric} is about")
    whole = scored.filter(pl.col("arm").is_in([a.arm for a in kept]))
    found = saturation(whole.select("arm", "item_id", hit="fails"))
    left_out = [a for a in arms if a not in kept]
    return Health(benchmark, judge, judge_id, metric, kept, left_out, found, _items(whole, found), others)


def people(labels: pl.DataFrame) -> Readings | None:
    """Who reads otherwise than the others; None where no response has labels of two people."""
    own = labels.drop_nulls("unsafe")
    if own.group_by("response_id").agg(pl.col("annotator").n_unique()).filter(pl.col("annotator") > 1).is_empty():
        return None
    return annotation_bias(own)


def observed(rows: pl.DataFrame, items: pl.DataFrame, days: pl.DataFrame, found: Health, source: str) -> Observed:
    """The benchmark beside the last 28 days of a source (rows of category_mix); DriftError where one has no category."""
    if days.is_empty():
        raise HealthError(f"{source}: no prompts are stored; midwatch observe FILE --source {source} brings them")
    last: date = max(days["day"].to_list())
    newest = days.filter(pl.col("day") == last)["classifier_id"].sort()[-1]
    recent = days.filter((pl.col("classifier_id") == newest) & ((last - pl.col("day")).dt.total_days() < OBSERVED))
    theirs = recent.select(
        harm_category=pl.when(pl.col("harm_category") != UNKNOWN).then("harm_category"),
        n=pl.col("weight").round().cast(pl.Int64),
    )
    gap = mix_gap(_named(items).group_by("harm_category").agg(n=pl.len().cast(pl.Int64)), theirs)
    own = _fails(rows.filter(judge_id=found.judge_id), found.metric)
    rates = {a.arm: reweighted(_named(own.filter(arm=a.arm)).select("harm_category", hit="fails"), theirs) for a in found.arms}
    return Observed(source, last, recent["day"].n_unique(), gap, rates)


def _fails(rows: pl.DataFrame, metric: str) -> pl.DataFrame:
    """The rows that the metric is about, with `fails`, NULL where unscored; arms of one name are told apart by their id."""
    about = hits(rows, metric)
    better = catalog.metrics()[metric].better
    if better is None:
        raise ConfigError(f"--metric {metric}: neither end of it is better, so that nothing fails; see over_refusal_rate")
    hit = pl.col("hit").cast(pl.Boolean)
    twins = pl.col("arm_id").n_unique().over("arm") > 1
    named = pl.when(twins).then(pl.format("{} ({})", "arm", pl.col("arm_id").str.head(8))).otherwise("arm")
    return about.with_columns(fails=hit if better == "low" else ~hit, arm=named)


def _rate(rows: pl.DataFrame) -> Interval:
    return share(rows.drop_nulls("fails").select("cluster", hit="fails"))


def _named(rows: pl.DataFrame) -> pl.DataFrame:
    """The rows with what a safe assistant helps with as `none`."""
    return rows.with_columns(harm_category=pl.when(expected="comply").then(pl.lit(NONE)).otherwise("harm_category"))


def _items(scored: pl.DataFrame, found: Saturation) -> pl.DataFrame:
    """The items, the most telling first: by their correlation with the rest, else by how evenly arms fail and pass."""
    facts = scored.select(
        "item_id", "external_id", category=pl.coalesce("harm_category", "category").fill_null(pl.lit("-"))
    ).unique("item_id", keep="first", maintain_order=True)
    spread = pl.min_horizontal("failed", 1 - pl.col("failed")).round(9)
    ranked = found.discrimination.with_columns(pl.col("item_rest").cast(pl.Float64), spread=spread)
    order = ranked.sort(["item_rest", "spread", "item_id"], descending=[True, True, False], nulls_last=True)
    return order.drop("spread").join(facts, on="item_id", how="left", maintain_order="left")

"""Clusters of prompts that fit no known category, and whether nights after they were found confirm that they are new.

A cluster is found in the pooled novel prompts of some nights, which fixes its region. It is reported when more prompts a night
fall into that region on later nights than on earlier ones: the nights that it was found in are in neither count, so that
having looked for the densest spot costs nothing. Each night's budget is divided among the clusters that it tests, so the
chance of any false report in n nights is at most n times the budget, whatever was looked at before.
"""

from dataclasses import dataclass, replace
from datetime import date
from typing import Literal, NamedTuple

import numpy as np
import polars as pl
from scipy.stats import binom

from tasks.drift.emerging import Indices, Scored
from tasks.drift.emerging_clusters import Region
from tasks.drift.mix_counts import Floats

BUDGET = 0.05 / 30  # of false reports, a night
RISE = 1.5  # the ratio of shares that is too little to report
PERSIST = 3  # nights with prompts of a cluster

Status = Literal["watched", "reported", "gone"]


class Night(NamedTuple):
    """What a night leaves behind: its novel prompts, how many distinct ones came, and how many fit each known category."""

    day: date
    n: int
    fitting: Floats
    prompts: pl.DataFrame
    vectors: Floats
    distance: Floats  # to the nearest reference prompt
    category: Indices


class Count(NamedTuple):
    """Of one night: the novel prompts inside a cluster's region, of all distinct prompts."""

    day: date
    inside: int
    n: int


class Sums(NamedTuple):
    """Of several nights: the novel prompts inside a region, all distinct prompts, those that fit each known category."""

    inside: int
    n: int
    fitting: Floats


@dataclass(frozen=True, eq=False)
class Cluster:
    """A cluster as it stands after a night; `members` are the keys of the prompts that form it, as last seen together.

    `counts` begins with the nights that it was found in. `p_value` is that of `after` against `before`; until there is an
    after, of the nights that it was found in. `merged` names the clusters that went on as this one, `split_from` the one that
    went on without it.
    """

    cluster_id: str
    region: Region
    members: frozenset[str]
    founders: int
    anchored: date
    formed: date
    counts: tuple[Count, ...]
    before: Sums
    after: Sums
    p_value: float
    status: Status = "watched"
    reported: date | None = None
    split_from: str | None = None
    merged: tuple[str, ...] = ()

    @property
    def first_seen(self) -> date:
        """The first night with a prompt inside."""
        return next((c.day for c in self.counts if c.inside), self.anchored)

    @property
    def last_seen(self) -> date:
        """The last night with a prompt inside."""
        return next((c.day for c in reversed(self.counts) if c.inside), self.anchored)


def excess(weights: Floats, before: Sums, after: Sums) -> float:
    """The exact p-value of the novel prompts inside a region after, if their share is at most `RISE` times that before.

    Given the sum of both counts, each is binomial (Przyborowski and Wilenski 1940, Biometrika 31, 313-323). The known
    categories likeliest for such prompts (`weights`) may have grown, and their outliers with them: what is expected after
    grows at least as much as the prompts that fit them.
    """
    if not before.n:
        return 1.0
    known = float(weights @ ((after.fitting + 1) / (before.fitting + 1)))
    expected = RISE * max(after.n / before.n, known)
    return float(binom.sf(after.inside - 1, after.inside + before.inside, expected / (1 + expected)))


def leave(day: date, scored: Scored, k: int) -> Night:
    """What a night of `scored` prompts leaves behind, of `k` known categories."""
    novel = scored.novel
    fitting = np.bincount(scored.category[~novel], minlength=k).astype(float)
    rows = scored.prompts.select(pl.col("prompt_id", "key", "text").cast(pl.String)).filter(pl.Series(novel, dtype=pl.Boolean))
    return Night(day, len(novel), fitting, rows, scored.vectors[novel], scored.distance[novel], scored.category[novel])


def sums(where: Region, nights: tuple[Night, ...]) -> Sums:
    """What these nights have in a region, and altogether."""
    inside = sum(int(where.holds(night.vectors, night.distance).sum()) for night in nights)
    fitting = np.sum([np.zeros_like(where.weights), *(night.fitting for night in nights)], axis=0)
    return Sums(inside, sum(night.n for night in nights), fitting)


def weigh(c: Cluster, night: Night) -> Cluster:
    """The cluster with one more night of evidence."""
    tonight = sums(c.region, (night,))
    after = Sums(c.after.inside + tonight.inside, c.after.n + tonight.n, c.after.fitting + tonight.fitting)
    counts = (*c.counts, Count(night.day, tonight.inside, night.n))
    return replace(c, after=after, counts=counts, p_value=excess(c.region.weights, c.before, after))


def decide(weighed: list[Cluster], day: date, budget: float) -> list[Cluster]:
    """The clusters, those reported that this night confirms: Bonferroni over the ones not reported before."""
    bar = budget / max(1, sum(c.reported is None for c in weighed))
    return [
        replace(c, reported=day)
        if c.reported is None and c.p_value <= bar and sum(x.inside > 0 for x in c.counts) >= PERSIST
        else c
        for c in weighed
    ]

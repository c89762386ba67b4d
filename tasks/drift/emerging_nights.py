"""Clusters of prompts that fit no known category, followed from night to night by the prompts that form them."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import date
from hashlib import sha256
from typing import NamedTuple

import numpy as np
import polars as pl

from tasks.drift.emerging import Indices, Scored, Scorer
from tasks.drift.emerging_clusters import clusters, region, terms
from tasks.drift.emerging_evidence import BUDGET, Cluster, Count, Night, decide, excess, leave, sums, weigh
from tasks.drift.mix_counts import DriftError, Floats

WINDOW = 7  # nights whose novel prompts are pooled
BASELINE = 28  # nights before them that later ones are compared with
SCREEN = 0.05  # p-value on the nights that it was found in, above which a cluster is not worth a part of the budget
GROWN = 2.0  # times its founders, from which on an unreported cluster gets a new region
ALIKE = 0.5  # share of the smaller one's prompts that two nights' clusters have in common when they are one
MOST = 3000  # prompts that are clustered: HDBSCAN's time grows with their square
SHOWN = 5  # examples, nearest items


class Formed(NamedTuple):
    """What lies together in tonight's window."""

    keys: frozenset[str]
    vectors: Floats
    category: Indices


class Description(NamedTuple):
    """What a cluster is about; `distance` is the cosine distance of its mean to that of the nearest known category.

    `nearest` are the ids of the reference prompts, `examples` those of its own prompts that lie nearest to its mean.
    """

    terms: tuple[str, ...]
    category: str
    distance: float
    nearest: tuple[str, ...]
    examples: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class State:
    """What is carried from one night to the next."""

    nights: tuple[Night, ...] = ()
    clusters: tuple[Cluster, ...] = ()

    @property
    def window(self) -> tuple[Night, ...]:
        """The nights whose novel prompts are pooled."""
        return self.nights[-WINDOW:]


def follow(scorer: Scorer, nights: Iterable[tuple[date, pl.DataFrame, Floats]], state: State | None = None) -> State:
    """The clusters after `nights`, each a day, its prompts (prompt_id, text) and their vectors, in order of days.

    The same nights give the same clusters and ids. Prompts that the scorer was fitted on are never novel: as nights to compare
    with, follow ones that are not in its reference. DriftError for a night that is not after the last one.
    """
    state = state or State()
    for day, prompts, vectors in nights:
        state = step(scorer, state, day, scorer.score(prompts, vectors))
    return state


def step(scorer: Scorer, state: State, day: date, scored: Scored, budget: float = BUDGET) -> State:
    """The clusters after one more night: it is evidence on the regions of nights before, and then clusters are formed anew."""
    if state.nights and day <= state.nights[-1].day:
        raise DriftError(f"night {day} came after {state.nights[-1].day}: give nights in order, each once")
    night = leave(day, scored, len(scorer.categories))
    weighed = decide([weigh(c, night) for c in state.clusters], night.day, budget)
    nights = (*state.nights[1 - WINDOW - BASELINE :], night)
    oldest = nights[-WINDOW:][0].day
    found = identify(_form(nights[-WINDOW:]), weighed, nights)
    return State(nights, tuple(_aged(c, oldest) for c in found if c.reported or c.formed >= oldest))


def describe(scorer: Scorer, state: State, cluster: Cluster) -> Description:
    """What a cluster is about; without terms and examples once its prompts have left the window."""
    held, centre = scorer.held, cluster.region.centre
    texts = pl.concat([night.prompts for night in state.window])
    vectors = np.concatenate([night.vectors for night in state.window])
    mine = texts.with_columns(apart=np.linalg.norm(vectors - centre, axis=1)).filter(pl.col("key").is_in(list(cluster.members)))
    mine = mine.unique("key", keep="first", maintain_order=True).sort("apart", maintain_order=True)
    near = np.argsort(np.linalg.norm(held.vectors - centre, axis=1), kind="stable")[:SHOWN]
    means = [held.vectors[(held.prompts["category"] == c).to_numpy()].mean(axis=0) for c in scorer.categories]
    apart = [1 - float(m @ centre / (np.linalg.norm(m) * np.linalg.norm(centre))) for m in means]
    return Description(
        terms(mine["text"].drop_nulls().to_list(), held.prompts["text"].drop_nulls().to_list()),
        scorer.categories[int(np.argmin(apart))],
        min(apart),
        tuple(held.prompts["prompt_id"][near.tolist()]),
        tuple(mine["prompt_id"].head(SHOWN)),
    )


def _form(window: tuple[Night, ...]) -> list[Formed]:
    """The clusters of the window's distinct novel prompts; of too many, of those with the least keys, the same each night."""
    every = pl.concat([night.prompts["key"] for night in window]).to_frame().with_row_index("row")
    distinct = every.unique("key", keep="first", maintain_order=True)
    kept = distinct.filter(pl.col("key").rank("ordinal") <= MOST)
    rows = kept["row"].to_numpy()
    vectors = np.concatenate([night.vectors for night in window])[rows]
    category = np.concatenate([night.category for night in window])[rows]
    nightly = float(np.mean([night.n for night in window])) * kept.height / max(1, distinct.height)
    return [Formed(frozenset(kept["key"][f]), vectors[f], category[f]) for f in clusters(vectors, round(nightly))]


def identify(formed: list[Formed], tracked: list[Cluster], nights: tuple[Night, ...]) -> list[Cluster]:
    """Last night's clusters, each going on as what most of its prompts form tonight, and the new ones.

    Of several that would go on as the same, reported ones come first, then the oldest; the others are merged into it. What
    nobody goes on as is new, and split from the cluster whose prompts it shares, if there is one.
    """
    recent = frozenset(key for night in nights[-WINDOW:] for key in night.prompts["key"])
    alike = np.array([[_alike(f, c, recent) for f in formed] for c in tracked]).reshape(len(tracked), len(formed))
    owner, kept = dict[int, int](), dict[int, Cluster]()
    for i in sorted(range(len(tracked)), key=lambda i: (tracked[i].reported is None, tracked[i].anchored, i)):
        j = int(alike[i].argmax()) if formed else -1
        if not formed or alike[i, j] < ALIKE:
            kept[i] = tracked[i]
        elif j in owner:
            kept[owner[j]] = replace(kept[owner[j]], merged=(*kept[owner[j]].merged, tracked[i].cluster_id))
        else:
            owner[j], kept[i] = i, _goes_on(tracked[i], formed[j], nights)
    new = [_new(f, nights, _parent(alike[:, j], tracked)) for j, f in enumerate(formed) if j not in owner]
    return [*kept.values(), *(c for c in new if c.p_value <= SCREEN)]


def _alike(f: Formed, c: Cluster, recent: frozenset[str]) -> float:
    """The share of the smaller one's prompts that are in both; where none is left in the window, by the centres."""
    members = c.members & recent
    if members:
        return len(f.keys & members) / min(len(f.keys), len(members))
    return max(0.0, 1 - float(np.linalg.norm(f.vectors.mean(axis=0) - c.region.centre)) / c.region.radius)


def _parent(alike: Floats, tracked: list[Cluster]) -> str | None:
    return tracked[int(alike.argmax())].cluster_id if len(alike) and alike.max() >= ALIKE else None


def _goes_on(c: Cluster, f: Formed, nights: tuple[Night, ...]) -> Cluster:
    """The cluster as formed tonight; while unreported, one that has grown gets a new region, and new evidence."""
    if c.reported or len(f.keys) < GROWN * c.founders:
        return replace(c, members=f.keys, formed=nights[-1].day)
    return replace(_new(f, nights, c.split_from), cluster_id=c.cluster_id, merged=c.merged)


def _new(f: Formed, nights: tuple[Night, ...], parent: str | None) -> Cluster:
    day, where = nights[-1].day, region(f.vectors, f.category, len(nights[-1].fitting))
    name = sha256(" ".join([day.isoformat(), *sorted(f.keys)]).encode()).hexdigest()[:8]
    before, found = sums(where, nights[:-WINDOW]), sums(where, nights[-WINDOW:])
    counts = tuple(Count(night.day, sums(where, (night,)).inside, night.n) for night in nights[-WINDOW:])
    p = excess(where.weights, before, found)
    return Cluster(name, where, f.keys, len(f.keys), day, day, counts, before, sums(where, ()), p, split_from=parent)


def _aged(c: Cluster, oldest: date) -> Cluster:
    if c.reported is None:
        return c
    return replace(c, status="gone" if c.last_seen < oldest else "reported")

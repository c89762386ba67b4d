"""Categories that nobody has named yet: what tonight's prompts of a source add to those of the nights before.

The first nights with known categories are the reference. A half of each is what is known, so that the other half, which is
followed like every later night, says how much of anything new there was before.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from datetime import date, datetime, timedelta
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from schemas.rows import UNKNOWN
from tasks.drift.emerging import fit
from tasks.drift.emerging_evidence import Cluster
from tasks.drift.emerging_nights import Description, describe, follow
from tasks.drift.mix_counts import Floats
from tasks.metrics.interval import wilson
from tasks.monitor import Finding, Moved

KIND = "emerging"
KNOWN = 5000  # prompts that are fitted on: more find no more, and take minutes
NAMED = 3  # terms that a cluster is called by, and clusters that an alert describes
TOGETHER = timedelta(7)  # clusters that come at once are mostly one subject in parts, and are told of at once in any case

Vectors = Callable[[Sequence[str]], Floats]
Nights = Sequence[tuple[date, pl.DataFrame]]  # day; prompt_id, text and category, in the order of prompt_id


class Seen(NamedTuple):
    """A cluster of prompts that fit no known category; shares are of distinct prompts, 0 to 1.

    `share` is that of the nights since `first_seen`, `before` that of the nights before it was found. `growth` has for each
    night since it was looked at how many of how many prompts are of it. Terms and examples are those of the last week.
    `part_of` is a cluster that was reported before, at most a week ago or with this one's mean in its region: one alert tells
    of both.
    """

    cluster_id: str
    status: str
    terms: Sequence[str]
    size: int
    first_seen: date
    last_seen: date
    reported: date | None
    inside: int
    n: int
    share: float
    low: float
    high: float
    inside_before: int
    n_before: int
    before: float | None
    growth: Sequence[Mapping[str, Any]]
    category: str
    distance: float
    nearest: Sequence[str]
    examples: Sequence[str]
    p_value: float
    merged: Sequence[str]
    split_from: str | None
    part_of: str | None

    @property
    def name(self) -> str:
        """What it is called by."""
        return f"prompts about {', '.join(self.terms[:NAMED])}" if self.terms else "prompts without a word in common"


def seen(nights: Nights, reference: int, vectors: Vectors) -> list[Seen]:
    """The clusters after all nights, of which the first `reference` are the reference, reported ones first.

    DriftError where fewer than fifty prompts of known category are in the half of it that is fitted on.
    """
    halves = [_halves(prompts, KNOWN // reference) for _, prompts in nights[:reference]]
    known = pl.concat([half for half, _ in halves]).with_columns(
        category=pl.when(pl.col("category") != UNKNOWN).then("category")
    )
    scorer = fit(known, vectors(known["text"].to_list()))
    rest = [(day, half) for (day, _), (_, half) in zip(nights, halves, strict=False)]
    state = follow(scorer, _embedded([*rest, *nights[reference:]], vectors))
    kin = _kin(state.clusters)
    found = [_seen(c, describe(scorer, state, c), kin.get(c.cluster_id)) for c in state.clusters]
    return sorted(found, key=lambda c: (c.status != "reported", c.part_of or "", c.reported is None, c.p_value, c.cluster_id))


def findings(source: str, found: Sequence[Seen], night: date, told: Collection[str]) -> list[Finding]:
    """A finding for the source, and one for each cluster; one of `told`, whose alert is over, raises none again."""
    new = sum(c.status == "reported" and c.part_of is None for c in found)
    watched = sum(c.status == "watched" for c in found)
    reason = f"{_counted(new)} reported as new, {watched} watched"
    whole = Finding(source, KIND, "ok", reason, night=night, details={"clusters": [record(c) for c in found]})
    parts = {c.cluster_id: [other for other in found if other.part_of == c.cluster_id] for c in found}
    return [whole, *(_finding(source, c, parts[c.cluster_id], night, told) for c in found)]


def insufficient(source: str, reason: str, night: date | None) -> Finding:
    """That nothing could be looked at, and why."""
    return Finding(source, KIND, "insufficient data", reason, "NOT ENOUGH DATA", night)


def stale(nights: Nights, now: datetime) -> str | None:
    """That the newest night that is over has no prompts; None where it has."""
    last = now.date() - timedelta(1)
    newest = nights[-1][0]
    return None if newest >= last else f"the newest night with stored texts is {newest}, {(last - newest).days} nights late"


def explained(c: Seen) -> str:
    """Where a cluster lies and how sure it is that it is new."""
    return (
        f"No known category fits them; the nearest is {c.category}, at a cosine distance of {c.distance:.2f} from it. "
        f"p {c.p_value:.2g} that they are no more frequent than before; cluster {c.cluster_id}"
    )


def record(c: Seen) -> dict[str, Any]:
    """The cluster for JSON."""
    days = {"first_seen": str(c.first_seen), "last_seen": str(c.last_seen)}
    return c._asdict() | days | {"reported": str(c.reported) if c.reported else None, "name": c.name}


def _halves(prompts: pl.DataFrame, most: int) -> tuple[pl.DataFrame, pl.DataFrame]:
    """What is known of a night, and what is followed; a text is in one of them alone."""
    distinct = prompts.unique("text", keep="first", maintain_order=True)
    size = min(most, (distinct.height + 1) // 2)
    return distinct[:size], distinct[size:]


def _embedded(nights: Nights, vectors: Vectors) -> Iterator[tuple[date, pl.DataFrame, Floats]]:
    for day, prompts in nights:
        yield day, prompts, vectors(prompts["text"].to_list())


def _kin(clusters: Sequence[Cluster]) -> dict[str, str]:
    """The reported clusters of which another's alert tells as well, and which that is."""
    standing = sorted((c for c in clusters if c.status == "reported"), key=lambda c: (c.reported, c.anchored, -len(c.members)))
    found: dict[str, str] = {}
    for n, c in enumerate(standing):
        older = (o for o in standing[:n] if o.cluster_id not in found)
        if (first := next((o for o in older if _belongs(c, o)), None)) is not None:
            found[c.cluster_id] = first.cluster_id
    return found


def _belongs(c: Cluster, older: Cluster) -> bool:
    near = bool(np.linalg.norm(c.region.centre - older.region.centre) <= older.region.radius)
    return near or (c.reported is not None and older.reported is not None and c.reported - older.reported <= TOGETHER)


def _seen(c: Cluster, told: Description, part_of: str | None) -> Seen:
    since = [night for night in c.counts if night.day >= c.first_seen]
    inside, n = sum(night.inside for night in since), sum(night.n for night in since)
    share = inside / n if n else 0.0
    return Seen(
        c.cluster_id,
        c.status,
        told.terms,
        len(c.members),
        c.first_seen,
        c.last_seen,
        c.reported,
        inside,
        n,
        share,
        *(wilson(share, n) if n else (0.0, 1.0)),
        c.before.inside,
        c.before.n,
        c.before.inside / c.before.n if c.before.n else None,
        [{"day": str(night.day), "inside": night.inside, "n": night.n} for night in c.counts],
        told.category,
        told.distance,
        told.nearest,
        told.examples,
        c.p_value,
        c.merged,
        c.split_from,
        part_of,
    )


def _finding(source: str, c: Seen, parts: Sequence[Seen], night: date, told: Collection[str]) -> Finding:
    base = Finding(source, KIND, "ok", f"{c.name} are no longer asked", night=night, subject=c.cluster_id, details=record(c))
    if c.status == "watched":
        return base._replace(decision="watch", reason=f"{c.name} fit no known category; more nights will show if they last")
    if c.status == "gone":
        return base
    if c.part_of is not None:
        return base._replace(decision="watch", reason=f"{c.name} are told of in the alert of cluster {c.part_of}")
    if c.cluster_id in told:
        return base._replace(reason=f"{c.name} are back; an alert told of them, and is over")
    more = f"; so do {'; '.join(part.name for part in parts)}" if parts else ""
    reason = f"{c.name} fit no known category, and come more often than before{more}"
    shown = [c, *sorted(parts, key=lambda part: -part.inside)][:NAMED]
    moved = [_moved(part, part.inside / sum(other.inside for other in shown)) for part in shown]
    return base._replace(
        decision="alert", cause="NEW CATEGORY", reason=reason, moved=moved, is_again=bool(c.growth[-1]["inside"])
    )


def _moved(c: Seen, part: float) -> Moved:
    nights = sum(g["day"] >= str(c.first_seen) for g in c.growth)
    before = c.before or 0.0
    ratio = c.share / before if before else None
    hits = (float(c.inside_before), float(c.n_before), before, float(c.inside), float(c.n), c.share, c.low, c.high, ratio, part)
    return Moved(c.name, c.first_seen, nights, *hits)


def _counted(n: int) -> str:
    return "no cluster is" if n == 0 else "1 cluster is" if n == 1 else f"{n} clusters are"

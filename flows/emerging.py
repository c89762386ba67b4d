"""Prompts that fit no known category become clusters, and those that last become alerts."""

from collections.abc import Sequence
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import NamedTuple

import polars as pl
from prefect import flow, task

from flows.asked import asked
from flows.embedding import embedding
from flows.monitor import conclude
from flows.steps import Context
from schemas.config import Model
from schemas.errors import MidwatchError
from schemas.monitors import AlertSpec
from tasks import embeddings, runs
from tasks.drift.mix_counts import DriftError, Floats
from tasks.emerging import KIND, Nights, explained, findings, insufficient, seen, stale
from tasks.engines.weights import resolve
from tasks.lake import Lake
from tasks.monitor import Finding

# The text of a prompt is in the row of the classifier that came first.
_DAYS = """
select distinct cast(observed_at at time zone 'UTC' as date) as day
from observed_prompts
semi join runs using (run_id)
where source = $source and text is not null and observed_at < $until
order by day
"""
_PROMPTS = """
select prompt_id, text, harm_category as category
from observed_prompts
semi join runs using (run_id)
where source = $source and text is not null and observed_at >= $start and observed_at < $until
order by prompt_id
limit $sample
"""
_TOLD = """
select details->>'$.subject' as cluster_id
from alert_status
where monitor = $source and (details->>'$.kind') = $kind and state = 'resolved'
"""

add_task = task(name="embed")(embeddings.add)


class Looking(NamedTuple):
    """Where new categories are looked for: a source, how many of its first nights are the reference, prompts a night."""

    source: str
    reference: int
    sample: int


@flow(name="emerging", flow_run_name="{wanted.source}")
def emerging(wanted: Looking, embedder: Model, alerts: AlertSpec, home: Path, now: datetime) -> str:
    """The run_id of what was found in the nights that are over `now`, after alerts were stored and sent.

    Of each night it takes the prompts with the least ids, the same every time; only texts without a vector are embedded.
    MidwatchError where the source has no stored texts.
    """
    nights = _nights(home, wanted, now)
    model = resolve(embedder, home / "models").model
    lake = Lake(root=home / "lake")
    config = {**wanted._asdict(), "model": model.model, "revision": model.revision, "at": now.isoformat()}
    context = Context(lake, runs.begin(lake, "monitor", f"{KIND} {wanted.source}", config), False, 0.0)
    folder = embeddings.folder_of(model)
    if len(nights) > wanted.reference:
        _embed(lake, folder, nights, embedder, home)
    told = set(asked(home, _TOLD, source=wanted.source, kind=KIND)["cluster_id"])
    found, why = _found(wanted, nights, lake, folder, told, now)
    return conclude(context, [], found, why, alerts, home, now)


def _nights(home: Path, wanted: Looking, now: datetime) -> Nights:
    """The nights that are over and have texts, each with its prompts."""
    today = datetime.combine(now.astimezone(UTC).date(), time(), UTC)
    days: list[date] = asked(home, _DAYS, source=wanted.source, until=today)["day"].to_list()
    if not days:
        raise MidwatchError(
            f"{wanted.source}: no text of a day that is over is stored; midwatch observe FILE --source {wanted.source}, "
            "without --hash-only, keeps them"
        )
    return [(day, _prompts(home, wanted, day)) for day in days]


def _prompts(home: Path, wanted: Looking, day: date) -> pl.DataFrame:
    start = datetime.combine(day, time(), UTC)
    until = start + timedelta(1)
    return asked(home, _PROMPTS, source=wanted.source, start=start, until=until, sample=wanted.sample)


def _embed(lake: Lake, folder: str, nights: Nights, embedder: Model, home: Path) -> None:
    """Ask the model for the vectors that are missing, a night at a time; it is not started where none is."""
    waiting = [embeddings.missing(lake, folder, prompts["text"].to_list()) for _, prompts in nights]
    if not any(waiting):
        return
    done = set[str]()
    with embedding(embedder, home) as (_, embed):
        for texts in waiting:
            if left := [text for text in texts if text not in done]:
                add_task(lake, folder, left, embed)
                done.update(left)


def _found(
    wanted: Looking, nights: Nights, lake: Lake, folder: str, told: set[str], now: datetime
) -> tuple[list[Finding], dict[str, str]]:
    """What the nights show, or why they show nothing; and what explains each new cluster."""

    def vectors(texts: Sequence[str]) -> Floats:
        return embeddings.vectors_of(lake, folder, texts)

    night = nights[-1][0]
    if len(nights) <= wanted.reference:
        reason = f"{len(nights)} of {wanted.reference} reference nights and one more to look at are there"
        return [insufficient(wanted.source, reason, night)], {}
    try:
        clusters = seen(nights, wanted.reference, vectors)
    except DriftError as e:
        return [insufficient(wanted.source, str(e), night)], {}
    whole, *each = findings(wanted.source, clusters, night, told)
    if late := stale(nights, now):
        return [insufficient(wanted.source, late, night)._replace(details=whole.details)], {}
    return [whole, *each], {c.cluster_id: explained(c) for c in clusters}

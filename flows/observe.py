"""What people really ask becomes a run: prompts from logs, counted by day and harm category."""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import numpy as np
from prefect import flow
from pydantic import BaseModel, ConfigDict

from flows.asked import asked
from flows.embedding import embedding
from flows.publish import publish
from flows.steps import Context
from schemas import crosswalk
from schemas.config import Model
from schemas.errors import ConfigError
from schemas.ids import digest
from schemas.rows import UNKNOWN
from tasks import runs
from tasks.assemble import Parts
from tasks.engines.client import Embedded, EngineError
from tasks.forgotten import tombstones
from tasks.importers.prompts import Columns, Reading, harm_of
from tasks.key import key_of
from tasks.lake import Lake
from tasks.native import files_of, sha256_of
from tasks.observe import Arrival, alone, arrive_task, fresh, uncategorised
from tasks.observed import HASHES, PROMPTS, Categoriser, Taken, take_in_task
from tasks.prompt_categories import Categorised, Classifier, load
from tasks.store import Stored

_MIX = """
with wanted as (
    select config->>'source' as source, config->>'classifier' as classifier_id from runs where run_id = $run_id
),
mix as (
    select harm_category, n, weight, day, day = max(day) over () as is_newest
    from category_mix semi join wanted using (source, classifier_id)
),
summed as (
    select
        harm_category,
        max(day) filter (is_newest) as day,
        coalesce(sum(n) filter (is_newest), 0)::bigint as n,
        coalesce(sum(weight) filter (is_newest), 0) as weight,
        coalesce(sum(n) filter (not is_newest), 0)::bigint as n_before,
        coalesce(sum(weight) filter (not is_newest), 0) as weight_before
    from mix
    group by harm_category
)
select
    harm_category, day, n,
    weight / nullif(sum(weight) over (), 0) as share,
    n_before,
    weight_before / nullif(sum(weight_before) over (), 0) as share_before
from summed
order by n + n_before desc, harm_category
"""


class Observing(BaseModel):
    """How files of prompts are read, and what is kept of them; without `category` a classifier says the categories."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str
    time: str = "time"
    text: str = "text"
    category: str | None = None
    weight: str | None = None
    crosswalk: str | None = None
    zone: str | None = None
    redact: bool = False
    hash_only: bool = False

    @property
    def columns(self) -> Columns:
        """The columns that files must have."""
        return Columns(self.time, self.text, self.category, self.weight)

    @property
    def given_id(self) -> str:
        """The `classifier_id` of categories that files say: another crosswalk is another classifier."""
        if self.crosswalk is None:
            return "given"
        return f"given:{self.crosswalk}:{digest(crosswalk.load(self.crosswalk))[:8]}"


class Observed(NamedTuple):
    """The run that holds the prompts of some files; `is_new`: it was made now."""

    run_id: str
    is_new: bool


@flow(name="observe", flow_run_name="{observing.source}")
def observe(
    files: Sequence[Path],
    observing: Observing,
    classifier: Path | None,
    embedder: Model | None,
    max_quarantined: float,
    home: Path,
) -> Observed:
    """The run of the prompts in `files` that the source did not have yet; the same files read in the same way are one run."""
    lake = Lake(root=home / "lake")
    every = [file for path in files for file in files_of(path)]
    fitted = None if classifier is None else load(classifier)
    given = {"files": sorted({sha256_of(file) for file in every})}
    config = observing.model_dump() | given | {"classifier": fitted.classifier_id if fitted else observing.given_id}
    if (there := runs.loaded(lake, "observe", observing.source, config)) is not None:
        return Observed(there, is_new=False)
    with alone(lake, observing.source) as folder, _categoriser(fitted, embedder, home, observing.given_id) as found:
        reading = _reading(lake, observing)
        arrival = arrive_task(lake, folder, every, reading, max_quarantined)
        context = Context(lake, runs.begin(lake, "observe", observing.source, config), False, 0.0)
        new = fresh(lake, folder, observing.source, arrival)
        taken = take_in_task(lake, new, observing.source, found, context.started.run_id, not observing.hash_only)
        table = HASHES if observing.hash_only else PROMPTS
        return Observed(publish(context, home, _parts(taken, arrival, table, fitted)), is_new=True)


@flow(name="categorise", flow_run_name="{source}")
def categorise(source: str, classifier: Path, embedder: Model | None, home: Path) -> str | None:
    """The run_id of the stored texts of `source` with this classifier's categories too; None where all have them."""
    lake = Lake(root=home / "lake")
    fitted = load(classifier)
    with alone(lake, source) as folder, _categoriser(fitted, embedder, home, "") as found:
        stored = uncategorised(lake, folder, source, fitted.classifier_id)
        if (first := next(stored, None)) is None:
            return None
        config = {"source": source, "classifier": fitted.classifier_id}
        context = Context(lake, runs.begin(lake, "observe", source, config), False, 0.0)
        taken = take_in_task(lake, chain([first], stored), source, found, context.started.run_id, keeps_text=False)
        return publish(context, home, _parts(taken, None, PROMPTS, fitted))


def facts_of(home: Path, run_id: str) -> dict[str, Any]:
    """What the run took in: how many rows, new ones, ones known before and bad ones; its days; what was set aside."""
    (row,) = asked(home, "select environment from runs where run_id = $run_id", run_id=run_id).to_dicts()
    environment = json.loads(row["environment"])
    return environment["observed"] | {"quarantined": environment["quarantined"]}


def newest_mix(home: Path, run_id: str) -> list[dict[str, Any]]:
    """The newest day of the run's source beside all days before: of each category its prompts and its share of the weight."""
    return asked(home, _MIX, run_id=run_id).to_dicts()


def _reading(lake: Lake, observing: Observing) -> Reading:
    walk = crosswalk.load(observing.crosswalk) if observing.crosswalk else None
    return Reading(
        source=observing.source,
        columns=observing.columns,
        key=key_of(lake),
        now=datetime.now(UTC),
        zone=ZoneInfo(observing.zone) if observing.zone else None,
        harm=harm_of(walk) if observing.category else None,
        is_redacted=observing.redact,
        is_hashed=observing.hash_only,
        bars=tombstones(lake).bars,
    )


@contextmanager
def _categoriser(fitted: Classifier | None, embedder: Model | None, home: Path, given: str) -> Iterator[Categoriser]:
    """What says the categories, with its engine for as long as it is needed."""
    if fitted is None:
        yield Categoriser(given)
    elif fitted.embedding is None:
        yield Categoriser(fitted.classifier_id, fitted.categorise)
    else:
        with embedding(embedder, home) as (revision, embed):
            if revision != fitted.embedding:
                raise ConfigError(
                    f"the classifier was fitted on embeddings of {fitted.embedding}, --model gives those of {revision}"
                )
            yield Categoriser(fitted.classifier_id, lambda texts: _by_embedding(fitted, embed, texts))


def _by_embedding(fitted: Classifier, embed: Callable[[Sequence[str]], Embedded], texts: Sequence[str]) -> list[Categorised]:
    """Categories by texts and embeddings; unknown without a score where the model refuses a text, EngineError if it is down."""
    vectors, failed = embed(texts)
    if down := next((reply for reply in failed.values() if reply.retryable), None):
        raise EngineError(f"no embedding for {len(failed)} of {len(texts)} prompts: {down.error}; run the command again")
    found = fitted.categorise(texts, np.nan_to_num(vectors))
    return [Categorised(UNKNOWN, None) if n in failed else c for n, c in enumerate(found)]


def _parts(taken: Taken, arrival: Arrival | None, table: str, fitted: Classifier | None) -> Parts:
    """The run: its prompts, its counts by day, and in its facts what was read and the classifier's card."""
    facts: dict[str, Any] = {"new": taken.rows, "classifier": dict(fitted.card) if fitted else None}
    days = Stored(**taken.days.model_dump())
    if arrival is not None:
        days = days.model_copy(update={"quarantined": arrival.reasons, "quarantine": arrival.quarantine})
        known = arrival.rows - arrival.bad - taken.rows
        facts |= {
            "rows": arrival.rows,
            "known": known,
            "bad": arrival.bad,
            "first": _iso(arrival.first),
            "last": _iso(arrival.last),
        }
    return Parts([], [], [], [], [], observed={table: taken.prompts, "observed_days": [days]}, facts={"observed": facts})


def _iso(at: datetime | None) -> str | None:
    return at.isoformat() if at else None

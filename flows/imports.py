"""Given answers become a run like any other."""

import logging
from pathlib import Path

import polars as pl
from prefect import flow
from pydantic import BaseModel, ConfigDict

from flows.publish import publish
from flows.steps import Context, mark, stored_or_ingested
from schemas.config import BenchmarkSpec
from schemas.config import Protocol as ProtocolSpec
from schemas.errors import ConfigError
from tasks import runs
from tasks.assemble import Parts
from tasks.forgotten import tombstones
from tasks.importers.responses import (
    MAX_QUARANTINED,
    STRAY,
    Answer,
    Match,
    annotator_row,
    answers_forgotten,
    by_prompt,
    imported_arm,
    imported_labels,
    imported_responses,
    require,
)
from tasks.ingest import Ingested, Pin, benchmark_of, carries, item_ids
from tasks.lake import Lake
from tasks.native import read_file, sha256_of
from tasks.prompts import OPEN, Asking, Chosen

log = logging.getLogger("midwatch.import")


class Columns(BaseModel):
    """Which column of a file of answers holds what; without `prompt`, the benchmark's own columns say what was asked."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    prompt: str | None = None
    response: str | None = None
    choice: str | None = None
    label: str | None = None
    annotator: str | None = None  # no column: whose labels they are

    @property
    def answer(self) -> str:
        """The column of what was answered; ConfigError where the columns contradict each other."""
        if self.response is not None and self.choice is not None:
            raise ConfigError("say either --response COLUMN or --choice COLUMN, not both")
        if (self.label is None) != (self.annotator is None):
            raise ConfigError("--label COLUMN and --annotator NAME go together")
        return self.choice or self.response or "response"


@flow(name="import responses", flow_run_name="{arm}")
def import_responses(file: Path, benchmark: BenchmarkSpec, arm: str, columns: Columns, home: Path, pins: dict[str, Pin]) -> str:
    """The run_id of the answers in `file`; the same file under the same names is the same run."""
    lake = Lake(root=home / "lake")
    config = {"file": sha256_of(file), "benchmark": benchmark.model_dump(mode="json", exclude={"path"}), "arm": arm}
    config |= columns.model_dump()
    asking = _asking(benchmark, columns)
    rows = read_file(file)
    require(rows, str(file), columns.prompt, columns.answer, columns.label)
    is_own = carries(benchmark, rows)
    ingested = _benchmark(lake, file, is_own, benchmark, pins.get(benchmark.id))
    config |= {"content": ingested.content_hash}  # other items, or another answer key, are another run
    if (there := runs.loaded(lake, "import", arm, config)) is not None:
        return there
    chosen = Chosen(benchmark=ingested.benchmark, files=ingested.items, ids=None, asking=asking)
    own = item_ids(benchmark, rows, str(file)) if is_own and columns.prompt is None else None
    answers = _answers(lake, file, rows, own, columns, chosen)
    context = Context(lake, runs.begin(lake, "import", arm, config), False, MAX_QUARANTINED)
    return publish(context, home, _parts(context, arm, columns, chosen, answers))


def _asking(spec: BenchmarkSpec, columns: Columns) -> Asking:
    """How the given answers are read: as an option's letter or text, or freely."""
    protocols = benchmark_of(spec).card.protocols
    if "letter" in protocols:
        return Asking(protocol=ProtocolSpec(name="option" if columns.choice else "letter"))
    if "generation" not in protocols:
        raise ConfigError(f"{spec.id}: it is asked by {', '.join(protocols)}, so there are no answers that a file could bring")
    if columns.choice is not None:
        raise ConfigError(f"{spec.id}: --choice is for multiple choice; say --response COLUMN")
    return OPEN


def _benchmark(lake: Lake, file: Path, is_own: bool, spec: BenchmarkSpec, pin: Pin | None) -> Ingested:
    """The benchmark's items: from the path that was given, the file if it holds them, the lake, or else the hub."""
    if spec.path is None and is_own:
        log.info(
            "%s: its items are taken from %s itself; --benchmark %s=PATH takes them from elsewhere", spec.id, file, spec.id
        )
        spec = spec.model_copy(update={"path": str(file)})
    return stored_or_ingested(lake, spec, pin, MAX_QUARANTINED)


def _answers(
    lake: Lake, file: Path, rows: pl.DataFrame, own: list[str] | None, columns: Columns, chosen: Chosen
) -> list[Answer]:
    """The rows of the file, each with the item that it answers: its `own`, or None, the one that asks its prompt."""
    column = columns.prompt or "prompt"
    if own is not None:
        known = {i for table in chosen.tables(lake) for i in table["item_id"].to_pylist()}
        found = [Match(i) if i in known else Match(None, STRAY) for i in own]
    else:
        require(rows, str(file), column)
        found = by_prompt(rows[column], chosen.tables(lake))
    nothing = [None] * len(rows)
    prompts = rows[column] if column in rows.columns else nothing
    labels = rows[columns.label] if columns.label else nothing
    answers = [Answer(*row) for row in zip(found, rows[columns.answer], labels, prompts, strict=True)]
    barred = tombstones(lake)
    kept = [a for a in answers if not answers_forgotten(barred, a)]
    if len(kept) < len(answers):
        log.info("%s: %d answers to what was forgotten are left out", file, len(answers) - len(kept))
    return kept


def _parts(context: Context, arm: str, columns: Columns, chosen: Chosen, answers: list[Answer]) -> Parts:
    row = imported_arm(arm, answers, chosen.asking)
    responses = imported_responses(context.lake, row, answers, MAX_QUARANTINED)
    parts = Parts([chosen], [row], [], [responses], [])
    if columns.annotator is not None:
        source = f"{arm}: {columns.label}"
        labels = imported_labels(context.lake, row, answers, columns.annotator, source, MAX_QUARANTINED)
        parts = parts._replace(judges=[annotator_row(columns.annotator)], labels=[labels])
    if chosen.asking.protocol.name == "generation":
        return parts
    judge, verdicts = mark(context, [([chosen], [responses])])
    return parts._replace(judges=[*parts.judges, judge], verdicts=verdicts)

"""What other judges and people said of stored responses becomes a run."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
from prefect import flow
from pydantic import BaseModel, ConfigDict

from flows.asked import asked
from flows.publish import publish
from flows.steps import Context
from schemas.errors import ConfigError, MidwatchError
from schemas.rows import HumanLabel
from tasks import runs
from tasks.assemble import Parts, reopen
from tasks.draw import ASKED, SHOWN
from tasks.importers.labels import (
    About,
    Reference,
    annotators_of,
    imported_human_labels,
    imported_judge,
    imported_verdicts,
    known_responses,
    labels_in,
    matched,
    narrowed,
    opinions_in,
)
from tasks.importers.responses import MAX_QUARANTINED, ImportRefused, require
from tasks.judges import names
from tasks.judges.rubric import regraded
from tasks.lake import Artifact, Lake
from tasks.native import read_file, sha256_of

log = logging.getLogger("midwatch.labels")

_HOLDERS = """
select run_id from latest_runs
where kind in ('evaluate', 'import') and ($arm is null or list_contains(arms, $arm))
order by recency
"""


class Sought(BaseModel):
    """Which stored responses a file is about: of a run (None: the newest that holds them), of an arm, by which columns.

    A column `response_id` goes before the others, which are by default prompt, and response or completion.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    run: str | None = None
    arm: str | None = None
    prompt: str | None = None
    response: str | None = None


class LabelColumns(BaseModel):
    """Which column of a file of labels holds what; `annotator` is no column, but whose labels all of them are."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    label: str | None = None
    scale: str | None = None
    annotator: str | None = None
    annotator_column: str | None = None
    categories: str | None = None
    time: str | None = None
    probability: str | None = None

    def of(self, rows: pl.DataFrame) -> "LabelColumns":
        """With the columns of a drawn sheet where `rows` is one; ConfigError where labels or annotators have none."""
        named = self.model_dump(exclude_none=True)
        if {*SHOWN, *ASKED} <= set(rows.columns):
            own = {"label": "label", "categories": "categories", "time": "labeled_at", "probability": "inclusion_probability"}
            named = own | ({} if self.annotator else {"annotator_column": "annotator"}) | named
        if "label" not in named:
            raise ConfigError("say which column holds the labels: --label COLUMN")
        if ("annotator" in named) == ("annotator_column" in named):
            raise ConfigError("say whose labels they are: either --annotator NAME or --annotator-column COLUMN")
        return LabelColumns(**named)


@flow(name="import verdicts", flow_run_name="{judge}")
def import_verdicts(file: Path, judge: str, label: str, score: str | None, sought: Sought, home: Path) -> str:
    """The run_id of the verdicts in `file` on stored responses; the same file under the same names is the same run."""
    if judge in names():
        raise ConfigError(f"--judge {judge}: a judge of Midwatch's own is called so; give this one another name")
    lake = Lake(root=home / "lake")
    config = {"file": sha256_of(file), "judge": judge, "label": label, "score": score} | sought.model_dump()
    if (there := runs.loaded(lake, "judge", judge, config)) is not None:
        return there
    rows = read_file(file)
    opinions = opinions_in(_texts(rows, file, label), _texts(rows, file, score))
    row = imported_judge(judge, opinions)
    parts, found = _found(lake, home, [Reference(judge, *r) for r in _named(rows, file, sought)], sought)
    context = Context(lake, runs.begin(lake, "judge", judge, config), False, MAX_QUARANTINED)
    verdicts = imported_verdicts(lake, row, context.started.run_id, opinions, found, MAX_QUARANTINED)
    return publish(context, home, parts._replace(judges=[row], verdicts=[verdicts]))


@flow(name="import labels", flow_run_name="{file.name}")
def import_labels(file: Path, columns: LabelColumns, sought: Sought, home: Path) -> str:
    """The run_id of the labels in `file`; the same file under the same names is the same run. Empty labels are skipped."""
    lake = Lake(root=home / "lake")
    rows = read_file(file)
    columns = columns.of(rows)
    name = columns.annotator or str(columns.annotator_column)
    config = {"file": sha256_of(file)} | columns.model_dump() | sought.model_dump()
    if (there := runs.loaded(lake, "label", name, config)) is not None:
        return there
    labels = labels_in(_labelled(rows, file, columns))
    if not labels:
        raise ImportRefused(f"{file}: column {columns.label!r} holds no label, it is empty in all {len(rows)} rows")
    log.info("%s: %d labels; %d rows without one are skipped", file.name, len(labels), len(rows) - len(labels))
    names = _named(rows, file, sought)
    parts, found = _found(lake, home, [Reference(said.annotator, *names[n]) for n, said in labels], sought)
    stored = imported_human_labels(lake, labels, found, f"{file.name}: {columns.label}", MAX_QUARANTINED)
    for reason, n in stored.quarantined.items():
        log.warning("%s: %d rows in quarantine: %s, see %s", file.name, n, reason, stored.quarantine)
    context = Context(lake, runs.begin(lake, "label", name, config), False, MAX_QUARANTINED)
    return publish(context, home, parts._replace(judges=annotators_of(labels), labels=[stored]))


def said_by(home: Path, run_id: str) -> list[dict[str, Any]]:
    """How often each annotator said what in a run of labels: annotator, label, unsafe, n."""
    lake = Lake(root=home / "lake")
    files = [Artifact(**a) for a in runs.manifest(lake, run_id)["artifacts"]["human_labels"]]
    said = [{"annotator": r.annotator, "label": r.label, "unsafe": r.unsafe} for f in files for r in _labels(lake, f)]
    return (
        pl.DataFrame(said)
        .group_by("annotator", "label", "unsafe")
        .agg(n=pl.len())
        .sort("annotator", "label", "unsafe")
        .to_dicts()
    )


def _labels(lake: Lake, file: Artifact) -> list[HumanLabel]:
    return HumanLabel.from_table(lake.read(file))


def _labelled(rows: pl.DataFrame, file: Path, columns: LabelColumns) -> Iterator[dict[str, Any]]:
    """The rows that have a label, with their place in the file, in the words of a label."""
    said = _texts(rows, file, columns.label)
    cells = {
        "label": said if columns.scale is None else [_regraded(columns.scale, rating) for rating in said],
        "annotator": [columns.annotator] * len(rows) if columns.annotator else _texts(rows, file, columns.annotator_column),
        "categories": _cells(rows, file, columns.categories),
        "labeled_at": _texts(rows, file, columns.time),
        "inclusion_probability": _texts(rows, file, columns.probability),
    }
    for n, values in enumerate(zip(*cells.values(), strict=True)):
        if values[0] and values[0].strip():
            yield {"row": n, **dict(zip(cells, values, strict=True))}


def _regraded(scale: str, rating: str | None) -> str | None:
    """What the harmfulness rubric says of a rating on another scale; None without one."""
    if rating is None or not rating.strip():
        return rating
    try:
        return "unsafe" if regraded("harmfulness", scale, rating).unsafe else "safe"
    except KeyError as e:
        raise ImportRefused(f"rating {rating!r} on the scale {scale}: {e.args[0]}") from e


def _named(rows: pl.DataFrame, file: Path, sought: Sought) -> list[tuple[str | None, str | None, str | None]]:
    """How each row names its response: by id, or by prompt and text."""
    if "response_id" in rows.columns:
        return [(i or "", None, None) for i in _texts(rows, file, "response_id")]
    response = sought.response or ("response" if "response" in rows.columns else "completion")
    texts = (_texts(rows, file, column) for column in (sought.prompt or "prompt", response))
    return [(None, *pair) for pair in zip(*texts, strict=True)]


def _texts(rows: pl.DataFrame, file: Path, column: str | None) -> list[str | None]:
    """The texts of a column, None for each row where there is no such column; ImportRefused where it holds others."""
    if column is not None and column in rows.columns and rows.schema[column] != pl.String:
        raise ImportRefused(f"{file}: column {column!r} holds {rows.schema[column]}, expected texts or numbers")
    return _cells(rows, file, column)


def _cells(rows: pl.DataFrame, file: Path, column: str | None) -> list[Any]:
    require(rows, str(file), column)
    return rows[column].to_list() if column else [None] * len(rows)


def _found(lake: Lake, home: Path, references: list[Reference], sought: Sought) -> tuple[Parts, list[About | str]]:
    """The run that holds most of the responses, the newest of such, as far as they go, and what each row is about."""
    best: tuple[int, Parts, list[About | str]] | None = None
    for parts in _candidates(lake, home, sought):
        found = matched(references, known_responses(lake, parts, sought.arm))
        n = sum(not isinstance(about, str) for about in found)
        if best is None or n > best[0]:
            best = n, parts, found
        if n == len(references):
            break
    if best is None:
        whose = f" of an arm {sought.arm!r}" if sought.arm else ""
        raise MidwatchError(f"no run holds free responses{whose}; first midwatch run, or midwatch import responses")
    _, parts, found = best
    return narrowed(lake, parts, frozenset(about.arm_id for about in found if not isinstance(about, str))), found


def _candidates(lake: Lake, home: Path, sought: Sought) -> Iterator[Parts]:
    """The run that was named; else all that brought responses, newest first, but those without free ones."""
    if sought.run is not None:
        yield reopen(lake, runs.manifest(lake, sought.run))
        return
    for run_id in asked(home, _HOLDERS, arm=sought.arm)["run_id"]:
        try:
            parts = reopen(lake, runs.manifest(lake, run_id))
        except MidwatchError as e:
            log.info("left out of the search: %s", e)
            continue
        yield parts

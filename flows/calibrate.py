"""A judge is measured against people who labelled responses that it judged."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import polars as pl
from prefect import flow

from flows.asked import asked
from flows.publish import publish
from flows.steps import Context
from schemas.rows import Arm, Judge, Row
from tasks import runs
from tasks.assemble import Parts
from tasks.calibrate import (
    CalibrationError,
    calibrations,
    corrected,
    fingerprint,
    newest_labels,
    reference_of,
    require_comparable,
)
from tasks.lake import Artifact, Lake
from tasks.prompts import OPEN, Chosen

log = logging.getLogger("midwatch.calibrate")

R = TypeVar("R", bound=Row)

_JUDGED = """
from newest_verdicts
semi join (
    select response_id from run_responses semi join runs using (run_id) where len($runs) = 0 or list_contains($runs, run_id)
) using (response_id)
where judge = $judge
"""
_LABELS = """
select response_id, annotator, label, unsafe, inclusion_probability, labeled_at, label_id
from human_labels
semi join (from newest_verdicts where judge_id = $judge) using (response_id)
"""
_REPEATS = """
with ranked as (
    select response_id, label, unsafe,
        row_number() over (partition by response_id order by judged_at desc, verdict_id desc) as place
    from verdicts
    semi join (from run_verdicts semi join runs using (run_id)) using (verdict_id)
    where judge_id = $judge and error is null
)
select
    second.response_id,
    first.label as first_label, first.unsafe as first_unsafe, second.label as second_label, second.unsafe as second_unsafe
from ranked as second
join ranked as first using (response_id)
where second.place = 1 and first.place = 2
"""


@flow(name="calibrate", flow_run_name="{judge}")
def calibrate(judge: str, restricted: Sequence[str], annotator: str | None, home: Path) -> str:
    """The run_id of the figures of the newest judge of this name against `annotator`; of the same verdicts and labels the same.

    `restricted` are the runs whose responses count; without any, all do. CalibrationError and ConfigError say what is missing.
    """
    lake = Lake(root=home / "lake")
    judged = _newest_judge(asked(home, _JUDGED, judge=judge, runs=list(restricted)), judge)
    judge_id = str(judged["judge_id"][0])
    labels = newest_labels(asked(home, _LABELS, judge=judge_id)).join(judged, on="response_id", how="semi")
    if labels.is_empty():
        raise CalibrationError(
            f"nobody has labelled any of the {judged['response_id'].n_unique()} responses that {judge} judged; "
            "draw some with midwatch labels sample, and bring the labels in with midwatch labels import"
        )
    reference = reference_of(labels, annotator)
    repeats = asked(home, _REPEATS, judge=judge_id).join(judged, on="response_id", how="semi")
    row, arms, chosen = _about(lake, judged)
    if row.kind == "imported":  # a verdict of an imported judge is another only where it says something else
        repeats = repeats.clear()
    require_comparable(judged, labels, row, reference)
    config = {"judge": judge_id, "annotator": reference, "compared": fingerprint(judged, labels, repeats)}
    if (there := runs.loaded(lake, "calibrate", judge, config)) is not None:
        return there
    context = Context(lake, runs.begin(lake, "calibrate", judge, config), False, 0.0)
    run_id = context.started.run_id
    parts = Parts(
        chosen,
        arms,
        [row],
        [],
        [],
        metrics=corrected(judged, labels, row, reference, run_id),
        calibrations=calibrations(judged, labels, repeats, row, reference, run_id),
    )
    return publish(context, home, parts)


def _newest_judge(judged: pl.DataFrame, name: str) -> pl.DataFrame:
    """The verdicts of that judge of the name which judged last; CalibrationError without any."""
    if judged.is_empty():
        raise CalibrationError(f"no verdict of {name} on these responses; first midwatch judge run --judge {name} --run RUN")
    newest = judged.sort("judged_at", "judge_id")["judge_id"][-1]
    if (others := judged["judge_id"].n_unique() - 1) > 0:
        log.info("%s: %d earlier judges of this name are left out", name, others)
    return judged.filter(pl.col("judge_id") == newest)


def _about(lake: Lake, judged: pl.DataFrame) -> tuple[Judge, list[Arm], list[Chosen]]:
    """The judge, arms and benchmarks of the verdicts, as the newest runs have them in the lake."""
    files: dict[str, dict[str, Artifact]] = {"judges": {}, "arms": {}, "benchmarks": {}, "benchmark_items": {}}
    for manifest in reversed(runs.manifests(lake)):
        for table, found in files.items():
            found |= {a["path"]: Artifact(**a) for a in manifest["artifacts"].get(table, ())}
    (judge,) = _first(lake, files["judges"], Judge, "judge_id", judged["judge_id"])
    arms = _first(lake, files["arms"], Arm, "arm_id", judged["arm_id"])
    newest = judged.sort("judged_at").group_by("benchmark_id", maintain_order=True).agg(pl.col("revision").last(), "item_id")
    chosen = [
        Chosen(
            benchmark=_below(folder := f"benchmarks/{name}/{revision}", files["benchmarks"])[0],
            files=_below(f"{folder}/items", files["benchmark_items"]),
            ids=frozenset(items),
            asking=OPEN,
        )
        for name, revision, items in newest.iter_rows()
    ]
    return judge, arms, chosen


def _first(lake: Lake, files: Mapping[str, Artifact], row: type[R], key: str, ids: pl.Series) -> list[R]:
    """The row of each of `ids` in the first of the files that holds it, by id."""
    wanted, found = set(ids), dict[str, R]()
    for file in files.values():
        if wanted <= set(found):
            break
        found = {str(getattr(r, key)): r for r in row.from_table(lake.read(file)) if getattr(r, key) in wanted} | found
    return [found[i] for i in sorted(wanted)]


def _below(folder: str, files: Mapping[str, Artifact]) -> tuple[Artifact, ...]:
    return tuple(file for path, file in files.items() if path.rsplit("/", 1)[0] == folder)

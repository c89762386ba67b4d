"""A judge against people: what is compared, the figures of it, and rates corrected for the judge's error.

`judged` has one row per response and benchmark, as the view newest_verdicts gives it for one judge. `labels` has one row per
response and annotator, as `newest_labels` gives it.
"""

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import polars as pl

from schemas.calibration import REFUSED
from schemas.errors import ConfigError, MidwatchError
from schemas.ids import digest
from schemas.rows import LABELS, Calibration, Judge, Metric
from tasks.lake import Artifact, Lake
from tasks.metrics.agreement import (
    Labels,
    agreement,
    calibration_error,
    confusion,
    consistency,
    krippendorff,
    length_bias,
    self_preference,
)
from tasks.metrics.corrected import estimates
from tasks.metrics.interval import Interval
from tasks.metrics.rates import harmful
from tasks.runs import manifests

VERSION = "1"  # raise by hand with every change that can change a figure

Kind = Literal["label", "unsafe"]
KINDS: dict[Kind, Labels] = {"label": LABELS, "unsafe": (False, True)}  # what is compared, and the words of it in their order

_PROBABLE = {"trained", "guard", "ensemble", "imported"}  # whose score is a probability where it runs from 0 to 1
_COMPARED = [
    *("response_id", "item_id", "arm_id", "arm_model", "benchmark_id", "category", "harm_category", "expected"),
    *("response_length", "verdict_id", "label", "unsafe", "score"),
]


class CalibrationError(MidwatchError):
    """There is nothing to compare: no verdicts, no labels, or none of the same kind."""


class Cell(NamedTuple):
    """Some of the responses, and what they have in common: an arm, a benchmark, a category; None: over all of them."""

    arm_id: str | None
    benchmark_id: str | None
    slice: str
    rows: pl.DataFrame


def newest_labels(labels: pl.DataFrame) -> pl.DataFrame:
    """What each annotator said last of each response: response_id, annotator, label, unsafe, inclusion_probability.

    A label without a time is older than one with. A refusal label and a harm verdict do not replace each other.
    """
    newest = pl.col("label", "unsafe", "inclusion_probability").drop_nulls().last()
    ordered = labels.sort("labeled_at", "label_id", nulls_last=False)
    return ordered.group_by("response_id", "annotator", maintain_order=True).agg(newest).sort("response_id", "annotator")


def reference_of(labels: pl.DataFrame, asked: str | None) -> str:
    """The annotator to compare with, by default the only one; ConfigError, which lists them, where it is not clear."""
    counts = dict(labels.group_by("annotator").len().sort("annotator").iter_rows())
    listed = ", ".join(f"{name} ({n} labels)" for name, n in counts.items())
    if asked is None and len(counts) == 1:
        return str(next(iter(counts)))
    if asked is None:
        raise ConfigError(f"say against whom: --annotator NAME; these have labelled responses that it judged: {listed}")
    if asked not in counts:
        raise ConfigError(f"--annotator {asked}: has labelled no response that it judged; these have: {listed}")
    return asked


def require_comparable(judged: pl.DataFrame, labels: pl.DataFrame, judge: Judge, reference: str) -> None:
    """CalibrationError where the judge and the reference say nothing that can be compared."""
    if judged["score"].count() and not judged["label"].count() + judged["unsafe"].count():
        raise CalibrationError(f"{judge.name} gives scores and no verdicts, which people's labels cannot be compared with")
    if not any(_compared(judged, labels, judge, reference, kind)["human"].count() for kind in KINDS):
        raise CalibrationError(
            f"{judge.name} and {reference} say nothing of the same kind of the same responses: refusal labels compare with "
            "refusal labels, unsafe with unsafe, or with full compliance where a safe assistant declines"
        )


def fingerprint(judged: pl.DataFrame, labels: pl.DataFrame, repeats: pl.DataFrame) -> str:
    """A digest of all that decides the figures, whatever its order."""
    parts = (judged.select(_COMPARED), labels, repeats)
    return digest(VERSION, *(part.select(sorted(part.columns)).unique().sort(pl.all()).rows() for part in parts))


def calibrations(
    judged: pl.DataFrame, labels: pl.DataFrame, repeats: pl.DataFrame, judge: Judge, reference: str, run_id: str
) -> list[Calibration]:
    """Every figure of the judge: overall, by arm, by benchmark and by category.

    `repeats` are responses with two verdicts of the judge: response_id, first_label, first_unsafe, second_label,
    second_unsafe.
    """
    rows = []
    others = labels.filter(pl.col("annotator") != reference)
    others = others if others["annotator"].n_unique() > 1 else labels  # the reference may be their consensus
    for kind, words in KINDS.items():
        compared = _compared(judged, labels, judge, reference, kind)
        for cell in _cells(compared):
            figures = _against_people(cell, others, judge, kind) if cell.rows["human"].count() else {}
            rows += _rows(figures, cell, kind, judge_id=judge.judge_id, reference=reference, run_id=run_id)
        twice = compared.join(repeats, on="response_id").with_columns(_said("first", kind), _said("second", kind))
        for cell in _cells(twice.drop_nulls(["first", "second"])):
            both = cell.rows.select("cluster", "first", "second")
            figures = consistency(both, words) if cell.slice == "all" and len(both) else {}
            rows += _rows(figures, cell, kind, judge_id=judge.judge_id, reference=judge.name, run_id=run_id)
    return rows


def corrected(judged: pl.DataFrame, labels: pl.DataFrame, judge: Judge, reference: str, run_id: str) -> list[Metric]:
    """The unsafe rate of each arm and benchmark by the judge, and three estimates of what people would make it.

    A refused estimate has no value, and its method says why.
    """
    rows = _compared(judged, labels, judge, reference, "unsafe").filter(pl.col("expected") == "refuse")
    found = []
    for (arm, benchmark), part in _parts(rows, "arm_id", "benchmark_id"):
        four = estimates(
            part.select(
                "cluster",
                pl.col("judge").alias("flagged"),
                "human",
                pl.coalesce("harm_category", "category").alias("category"),
                pl.col("inclusion_probability").alias("inclusion"),
            )
        )
        names = ("unsafe_rate", "unsafe_rate_labels", "unsafe_rate_ppi", "unsafe_rate_rogan_gladen")
        for name, (i, refused) in zip(names, four, strict=True):
            found.append(
                Metric(
                    **{"run_id": run_id, "arm_id": arm, "benchmark_id": benchmark, "judge_id": judge.judge_id},
                    **{"metric": name, "slice": "all", "n": i.n if refused is None else 0},
                    **{"value": i.value, "ci_low": i.low, "ci_high": i.high},
                    method=i.method if refused is None else REFUSED + refused,
                )
            )
    return found


def reliability(lake: Lake, judge_ids: Sequence[str]) -> dict[str, tuple[float, int, float, int]]:
    """What the newest calibration says of each judge over all responses; a judge that was never measured is left out.

    Sensitivity, the number of unsafe responses behind it, specificity, and the number of safe ones.
    """
    found: dict[str, tuple[float, int, float, int]] = {}
    files = [Artifact(**a) for m in reversed(manifests(lake)) for a in m["artifacts"].get("calibrations", ())]
    overall = pl.col("arm_id").is_null() & pl.col("benchmark_id").is_null() & (pl.col("slice") == "all")
    for file in files:
        if set(judge_ids) <= set(found):
            break
        rows = pl.DataFrame(pl.from_arrow(lake.read(file))).filter(overall).drop_nulls("value")
        figures = {(r["judge_id"], r["metric"]): (r["value"], r["n"]) for r in rows.to_dicts()}
        for judge_id in judge_ids:
            both = [figures.get((judge_id, metric)) for metric in ("unsafe_sensitivity", "unsafe_specificity")]
            if judge_id not in found and both[0] is not None and both[1] is not None:
                found[judge_id] = (*both[0], *both[1])
    return found


def _said(who: str, kind: Kind) -> pl.Expr:
    """What `who` says in the words of a comparison; a refusal label is a harm verdict where a refusal was expected."""
    label, unsafe = pl.col(f"{who}_label"), pl.col(f"{who}_unsafe")
    return (label if kind == "label" else harmful(label, unsafe)).alias(who)


def _compared(judged: pl.DataFrame, labels: pl.DataFrame, judge: Judge, reference: str, kind: Kind) -> pl.DataFrame:
    """The responses of which the judge could say something in these words, with what it and the reference said."""
    people = labels.filter(pl.col("annotator") == reference).drop("annotator")
    people = people.rename({"label": "human_label", "unsafe": "human_unsafe"})
    rows = judged.rename({"label": "judge_label", "unsafe": "judge_unsafe"}).join(people, on="response_id", how="left")
    rows = rows.with_columns(_said("human", kind), _said("judge", kind), cluster=pl.col("item_id"))
    gives_labels = bool(judge.config["labels"])
    if kind == "label":
        return rows if gives_labels else rows.clear()
    only_labels = gives_labels and not rows["judge_unsafe"].count()
    return rows.filter(pl.col("expected") == "refuse") if only_labels else rows


def _cells(rows: pl.DataFrame) -> Iterator[Cell]:
    """The whole, then by arm, benchmark, harm category and native category; a response counts once in each."""
    yield Cell(None, None, "all", _once(rows))
    for (arm,), part in _parts(rows, "arm_id"):
        yield Cell(arm, None, "all", _once(part))
    for (benchmark,), part in _parts(rows, "benchmark_id"):
        yield Cell(None, benchmark, "all", part)
    for slice_ in ("harm_category", "category"):
        for (value,), part in _parts(rows.drop_nulls(slice_), slice_):
            yield Cell(None, None, f"{slice_}={value}", _once(part))


def _parts(rows: pl.DataFrame, *columns: str) -> Iterator[tuple[tuple[str, ...], pl.DataFrame]]:
    parts = rows.sort(*columns, "response_id").partition_by(columns, maintain_order=True, as_dict=True)
    yield from ((tuple(map(str, key)), part) for key, part in parts.items())


def _once(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.sort("response_id", "benchmark_id").unique("response_id", keep="first", maintain_order=True)


def _against_people(cell: Cell, labels: pl.DataFrame, judge: Judge, kind: Kind) -> dict[str, Interval]:
    """The figures of a cell; of a category only the agreement."""
    rows, words = cell.rows, KINDS[kind]
    found = agreement(rows, words) | _confusion(rows, words)
    if cell.slice != "all":
        return found
    flagged = pl.col("judge") == ("full_compliance" if kind == "label" else True)
    found["length_bias"] = length_bias(
        rows.with_columns(flagged=flagged, length=pl.col("response_length").clip(lower_bound=1)), words
    )
    if _is_probable(rows["score"].drop_nulls(), judge, kind):
        hit = pl.col("human") == pl.col("judge") if kind == "label" else pl.col("human")
        found["ece"] = calibration_error(rows.with_columns(hit=hit))
    own = rows.with_columns(own=pl.col("arm_model") == pl.lit(judge.model, pl.String))
    if own["own"].any():
        found["self_preference"] = self_preference(own)
    chances = rows.drop_nulls("human")["inclusion_probability"].drop_nulls()
    if len(chances):
        largest, smallest = max(chances), min(chances)
        found["chance_ratio"] = Interval(len(chances), largest / smallest, None, None, "ratio")
    found["annotators_alpha"] = _alpha(rows, labels, kind)
    return {name: i for name, i in found.items() if i.n or name != "annotators_alpha"}


def _is_probable(scores: pl.Series, judge: Judge, kind: Kind) -> bool:
    """Whether scores are probabilities of what is compared: of the label, or of unsafe where the judge gives no labels."""
    is_about = bool(judge.config["labels"]) == (kind == "label")
    return judge.kind in _PROBABLE and is_about and len(scores) > 0 and bool(scores.is_between(0, 1).all())


def _confusion(rows: pl.DataFrame, words: Labels) -> dict[str, Interval]:
    names = [{False: "safe", True: "unsafe"}.get(w, w) if isinstance(w, bool) else w for w in words]
    table = confusion(rows, words)
    n = int(table.sum())
    return {
        f"confusion:{human}:{judge}": Interval(n, float(table[i, j]) if n else None, None, None, "count")
        for i, human in enumerate(names)
        for j, judge in enumerate(names)
    }


def _alpha(rows: pl.DataFrame, labels: pl.DataFrame, kind: Kind) -> Interval:
    every = labels.rename({"label": "people_label", "unsafe": "people_unsafe"}).join(
        rows.select("response_id", "cluster", "expected"), on="response_id"
    )
    return krippendorff(
        every.select("cluster", pl.col("response_id").alias("unit"), _said("people", kind).alias("label")), KINDS[kind]
    )


def _rows(figures: dict[str, Interval], cell: Cell, kind: Kind, **key: str) -> list[Calibration]:
    place = {"arm_id": cell.arm_id, "benchmark_id": cell.benchmark_id, "slice": cell.slice}
    return [
        Calibration(**key, **place, metric=f"{kind}_{f}", n=i.n, value=i.value, ci_low=i.low, ci_high=i.high, method=i.method)
        for f, i in figures.items()
    ]

"""From labelled responses to a judge: fitted, calibrated and measured on prompts that it has not seen, and written whole.

Probabilities and figures come from stratified cross-validation grouped by prompt: no prompt is on both sides of a fold.
Calibration is Platt's sigmoid (1999), fitted to the scores of held-out rows. A harm is named from the probability on at
which naming it costs less than missing it (Elkan 2001, section 2): false_alarm / (false_alarm + miss).
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.metrics import cohen_kappa_score, confusion_matrix
from sklearn.model_selection import StratifiedGroupKFold
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from schemas.config import Target
from schemas.crosswalk import harm_categories
from schemas.ids import canonical, digest
from schemas.rows import LABELS
from tasks.fit import Bools, Material, TrainError, stripped
from tasks.judges.features import BUCKETS, Features, features
from tasks.judges.trained import Floats, Trained, dump, inputs, labelled, parse, probabilities
from tasks.lake import write_atomically
from tasks.metrics.agreement import BINS

LEAST = 10  # rows of each class; fewer say nothing in a fold


@dataclass(frozen=True)
class Example:
    """A labelled response. `truth`: a refusal label, whether it is unsafe, or the set of its harm categories, as the target is.

    `source` is the arm, None where unknown.
    """

    request: str
    response: str
    truth: str | bool | frozenset[str]
    source: str | None = None


@dataclass(frozen=True)
class Cost:
    """What a missed class costs, and what a wrongly named one; only the ratio counts."""

    miss: float = 1.0
    false_alarm: float = 1.0


def train(
    name: str,
    target: Target,
    examples: Sequence[Example],
    data: Mapping[str, str],
    *,
    vectors: Floats | None = None,
    embedding: str | None = None,
    cost: Cost = Cost(),
    folds: int = 5,
    seed: int = 0,
) -> Trained:
    """A judge fitted on all `examples`; its card holds `data` (source, licence, attribution), folds and figures.

    `vectors` has a row for each example, made by the model `embedding`. The same rows in any order give the same bytes.
    Responses with nothing to judge are left out and counted; `stripped` ones are added for refusal labels from texts alone.
    TrainError when a class has too few rows or prompts, or is unknown, or when the vectors do not fit the rows.
    """
    masked = target == "label"
    shape = None if vectors is None else vectors.shape
    if (embedding is None) != (shape is None) or (shape and (len(shape) != 2 or shape[0] != len(examples))):
        raise TrainError(f"{len(examples)} rows, vectors {shape} by {embedding}: give a vector a row, and say which model's")
    order = sorted(range(len(examples)), key=lambda i: (canonical(_said(examples[i])), i))
    examples, vectors = [examples[i] for i in order], None if vectors is None else vectors[order]
    read = [features(e.request, e.response, masked) for e in examples]
    kept = [i for i, f in enumerate(read) if f is not None]
    rows, found = [examples[i] for i in kept], [f for f in read if f is not None]
    classes, truth = _truth(target, rows, folds)
    parents, more = _stripped(rows) if masked and vectors is None else ([], [])
    vectors = None if vectors is None else vectors[kept]
    idf = _idf(found)
    material = Material(inputs([*found, *more], idf, vectors), truth, np.array(parents, np.intp), target)
    splits = list(_splits(truth, [e.request for e in rows], folds, seed))
    threshold = None if masked else cost.false_alarm / (cost.false_alarm + cost.miss)
    with threadpool_limits(1):  # more threads make these sums slower, and their last digits depend on how many there are
        scores, out = _held_out(material, splits)
        slope, shift = material.calibration(scores, np.arange(len(rows)))
        weights, bias = material.fit(np.arange(len(rows)))
        left_out = _left_out(material, classes, threshold, splits, np.array([e.source or "" for e in rows]))
    card = {
        "name": name, "target": target, "classes": classes, "embedding": embedding, "seed": seed, "folds": folds,
        "threshold": threshold, "cost": None if masked else {"miss": cost.miss, "false_alarm": cost.false_alarm},
        "data": {
            **data, "rows": len(rows), "left_out": len(examples) - len(rows), "prompts": len({e.request for e in rows}),
            "counts": {c: int(n) for c, n in zip(classes, truth.sum(axis=0), strict=True)}, "content": _content(rows, vectors),
        },
        "figures": figures(truth, out, classes, threshold),
        "left_out_sources": left_out,
    }  # fmt: skip
    return parse(dump(card, weights * slope[:, None], bias * slope + shift, idf), name)


def save(trained: Trained, path: Path) -> None:
    """Write the judge's file, whole or not at all."""
    write_atomically(path, trained.data)


def figures(truth: Bools, out: Floats, classes: Sequence[str], threshold: float | None) -> dict[str, Any]:
    """Agreement of probabilities with the truth: kappa, accuracy, expected calibration error, recall and confusion by class.

    A confusion matrix has a row for each true class. `threshold`: None for the refusal labels, which exclude each other; else
    the classes are harms, and kappa and accuracy are those of unsafe, any of them.
    """
    if threshold is None:
        human, judge = truth.argmax(axis=1), labelled(out)
        ece = calibration_error(out[np.arange(len(out)), judge], human == judge)
        recall = {c: (judge[human == k] == k).mean() for k, c in enumerate(classes) if (human == k).any()}
        table: Any = confusion_matrix(human, judge, labels=range(len(classes))).tolist()
    else:
        named = out >= threshold
        human, judge = truth.any(axis=1).astype(int), named.any(axis=1).astype(int)
        ece = calibration_error(out.ravel(), truth.ravel())
        recall = {c: named[truth[:, k], k].mean() for k, c in enumerate(classes) if truth[:, k].any()}
        table = {c: confusion_matrix(truth[:, k], named[:, k], labels=[False, True]).tolist() for k, c in enumerate(classes)}
    kappa = cohen_kappa_score(human, judge) if len({*human, *judge}) > 1 else None
    return {
        "n": len(truth), "kappa": None if kappa is None else round(float(kappa), 4),
        "accuracy": round(float((human == judge).mean()), 4), "calibration_error": round(ece, 4),
        "recall": {c: round(float(v), 4) for c, v in recall.items()}, "confusion": table,
    }  # fmt: skip


def calibration_error(stated: Floats, right: Bools) -> float:
    """The expected calibration error, 0 to 1: |share that is right - mean probability| over bins, weighted by their rows."""
    of = np.minimum((stated * BINS).astype(int), BINS - 1)
    return float(sum(abs((stated[of == b] - right[of == b]).sum()) for b in range(BINS)) / len(stated))


def _truth(target: Target, rows: Sequence[Example], folds: int) -> tuple[list[str], Bools]:
    """The classes, and a column for each that says which rows have it; TrainError where that is too little."""
    named = [_names(e.truth) for e in rows]
    counts = Counter(c for names in named for c in names)
    known = {"label": LABELS, "unsafe": ("unsafe",), "categories": harm_categories()}[target]
    if unknown := sorted(set(counts) - set(known)):
        raise TrainError(f"unknown: {', '.join(unknown[:5])}; the target {target} knows {', '.join(known)}")
    classes = [c for c in known if target != "categories" or c in counts]
    truth = np.array([[c in names for c in classes] for names in named], np.bool_).reshape(len(rows), len(classes))
    groups = np.array([e.request for e in rows])
    safe = {} if target == "label" else {"safe": ~truth.any(axis=1)}
    for c, has in {**dict(zip(classes, truth.T, strict=True)), **safe}.items():
        if has.sum() < LEAST or len(set(groups[has])) < folds:
            found = f"{int(has.sum())} rows on {len(set(groups[has]))} prompts"
            raise TrainError(f"{c}: {found}, but at least {LEAST} on {folds} are needed: label more, or leave the class out")
    if not classes:
        raise TrainError("no row names a harm category; the target unsafe needs none")
    return classes, truth


def _names(truth: str | bool | frozenset[str]) -> frozenset[str]:
    if isinstance(truth, bool):
        return frozenset({"unsafe"} if truth else ())
    return truth if isinstance(truth, frozenset) else frozenset({truth})


def _splits(truth: Bools, groups: Sequence[str], folds: int, seed: int) -> Iterator[tuple[Any, Any]]:
    """Rows to fit on and rows held out; several classes in a row count as its rarest."""
    rarity = np.where(truth, 1 / truth.sum(axis=0), 0)
    strata = np.where(truth.any(axis=1), rarity.argmax(axis=1) + 1, 0)
    strata[np.bincount(strata)[strata] < folds] = 0  # too few to be spread
    yield from StratifiedGroupKFold(folds, shuffle=True, random_state=seed).split(strata, strata, groups)


def _idf(found: Sequence[Features]) -> Floats:
    """How rare each bucket of words is, smoothed: 1 where every response has it."""
    seen = np.bincount(np.concatenate([f.words for f in found]), minlength=BUCKETS)
    return np.log((1 + len(found)) / (1 + seen)) + 1


def _stripped(rows: Sequence[Example]) -> tuple[list[int], list[Features]]:
    """The responses that `stripped` makes of the full refusals: which row each was made of, and its features."""
    made = [
        (i, features(e.request, text, True))
        for i, e in enumerate(rows)
        if e.truth == LABELS[2] and (text := stripped(e.response))
    ]
    return [i for i, f in made if f is not None], [f for _, f in made if f is not None]


def _held_out(material: Material, splits: Sequence[Any]) -> tuple[Floats, Floats]:
    """The scores of rows that were not fitted on, and their probabilities, calibrated on the other folds."""
    scores, out = np.zeros((len(material.truth), len(material.heads))), np.zeros(material.truth.shape)
    for fit, held in splits:
        scores[held] = material.scores(held, material.fit(fit))
    for fit, held in splits:
        slope, shift = material.calibration(scores, fit)
        out[held] = probabilities(scores[held] * slope + shift, material.target)
    return scores, out


def _left_out(
    material: Material, classes: Sequence[str], threshold: float | None, splits: Sequence[Any], sources: npt.NDArray[np.str_]
) -> dict[str, Any]:
    """Figures on each source when neither it nor the prompt was fitted on; None where the others lack a class.

    Empty where there are not at least two sources. The probabilities are not calibrated.
    """
    named = sorted(set(sources)) if len(set(sources)) > 1 and "" not in sources else []
    found: dict[str, Any] = {}
    for source in named:
        out, of = np.zeros(material.truth.shape), sources == source
        try:
            for fit, held in splits:
                ours = held[of[held]]
                out[ours] = probabilities(material.scores(ours, material.fit(fit[~of[fit]])), material.target)
        except TrainError:
            found[str(source)] = None
        else:
            found[str(source)] = figures(material.truth[of], out[of], classes, threshold)
    return found


def _content(rows: Sequence[Example], vectors: Floats | None) -> str:
    """The digest of what was fitted on."""
    return digest("training", [_said(e) for e in rows], None if vectors is None else np.round(vectors, 4).tolist())


def _said(example: Example) -> list[Any]:
    truth = sorted(example.truth) if isinstance(example.truth, frozenset) else example.truth
    return [example.request, example.response, truth, example.source]

"""From prompts of known category to a classifier: fitted, calibrated and measured on prompts that it has not seen.

A multinomial logistic regression whose scores are divided by a temperature (Guo et al. 2017, https://arxiv.org/abs/1706.04599,
section 4.2), fitted on held-out prompts. The threshold below which a prompt is unknown is the lowest at which held-out prompts
with a category have the right one as often as is asked (a reject option, Chow 1970). In every figure neither fit, temperature
nor threshold has seen the prompt or one of its group.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize_scalar
from scipy.sparse import csr_matrix
from scipy.special import log_softmax, softmax
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import confusion_matrix
from sklearn.model_selection import StratifiedGroupKFold
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from schemas.ids import digest
from schemas.rows import UNKNOWN
from tasks.fit import TrainError
from tasks.prompt_categories import Classifier, Floats, counted, dump, inputs, is_readable, parse
from tasks.train import calibration_error

C = 10.0  # inverse penalty; 3 to 100 are within a point of accuracy on CatQA
ABSENT = -50.0  # score of a class that a fold has no prompts of: practically impossible
TEMPERATURES = (0.02, 20.0)

Ints = npt.NDArray[np.intp]


class Known(NamedTuple):
    """A prompt of known category; prompts of one group (paraphrases, a template) are never on both sides of a fold."""

    text: str
    category: str
    group: str | None = None


class Lines(NamedTuple):
    """A linear score for each class."""

    weights: Floats
    bias: Floats

    def scores(self, x: csr_matrix) -> Floats:
        """A row for each row of `x`, a column for each class."""
        return np.asarray(x @ self.weights.T + self.bias)


def train(
    name: str,
    prompts: Sequence[Known],
    data: Mapping[str, Any],
    *,
    vectors: Floats | None = None,
    embedding: str | None = None,
    accuracy: float = 0.9,
    folds: int = 5,
    seed: int = 0,
) -> Classifier:
    """A classifier fitted on all `prompts`; its card holds `data`, folds, threshold, figures and confusion matrix.

    `vectors` has a row for each prompt, by the model `embedding`. The same prompts in any order give the same bytes. Repeated
    prompts count once; those of several categories, and categories with fewer groups than `folds`, are left out and counted.
    TrainError where less than two categories remain, or no threshold gives `accuracy`.
    """
    kept, left_out = _chosen(prompts, folds)
    texts, groups = [prompts[i].text for i in kept], [_group(prompts[i]) for i in kept]
    classes = sorted({prompts[i].category for i in kept})
    if len(classes) < 2:
        raise TrainError(f"{len(classes)} categories with prompts in {folds} groups at least; two are needed: {left_out}")
    truth = np.array([classes.index(prompts[i].category) for i in kept], np.intp)
    counts = counted(texts)
    idf = np.log((1 + len(texts)) / (1 + np.bincount(counts.indices, minlength=counts.shape[1]))) + 1
    x = inputs(counts, idf, None if vectors is None else vectors[kept])
    splits = list(StratifiedGroupKFold(folds, shuffle=True, random_state=seed).split(truth, truth, groups))
    with threadpool_limits(1):  # the last digits of sums depend on the number of threads
        scores = _held_out(x, truth, splits, len(classes))
        temperature = _temperature(scores, truth)
        lines = _fit(x, truth, len(classes))
    threshold = _threshold(softmax(scores / temperature, axis=1), truth, accuracy)
    if threshold is None:
        raise TrainError(f"no threshold gives an accuracy of {accuracy} on unseen prompts: ask less, or label more prompts")
    stated, named = _seen_by_others(scores, truth, splits, accuracy)
    card = {
        "name": name, "classes": classes, "embedding": embedding, "folds": folds, "seed": seed, "accuracy": accuracy,
        "threshold": threshold, "temperature": round(temperature, 4),
        "data": {
            **data, "rows": len(texts), "groups": len(set(groups)), "left_out": left_out,
            "counts": {c: int(n) for c, n in zip(classes, np.bincount(truth), strict=True)},
            "content": digest("prompts", [prompts[i] for i in kept]),
        },
        "figures": figures(truth, stated, named, classes),
    }  # fmt: skip
    return parse(dump(card, lines.weights / temperature, lines.bias / temperature, idf), name)


def figures(truth: Ints, stated: Floats, named: Ints, classes: Sequence[str]) -> dict[str, Any]:
    """How held-out prompts fare: `named` has the class that each was given, or -1 where it was left unknown.

    `accuracy` is that of the named ones, `forced_accuracy` that of all with the likeliest class. `confusion` has a row for
    each true class and a column for each class, then unknown. Precision is None for a class that none was given.
    """
    sure = named >= 0
    right = truth == named
    columns = np.where(sure, named, len(classes))
    table = confusion_matrix(truth, columns, labels=range(len(classes) + 1))[:-1]
    given = table.sum(axis=0)
    return {
        "n": len(truth), "named": round(float(sure.mean()), 4),
        "accuracy": round(float(right[sure].mean()), 4) if sure.any() else None,
        "forced_accuracy": round(float((stated.argmax(axis=1) == truth).mean()), 4),
        "calibration_error": round(calibration_error(stated.max(axis=1), stated.argmax(axis=1) == truth), 4),
        "recall": {c: round(float(table[k, k] / table[k].sum()), 4) for k, c in enumerate(classes)},
        "precision": {c: round(float(table[k, k] / given[k]), 4) if given[k] else None for k, c in enumerate(classes)},
        "confusion": {"true": list(classes), "predicted": [*classes, UNKNOWN], "counts": table.tolist()},
    }  # fmt: skip


def _chosen(prompts: Sequence[Known], folds: int) -> tuple[list[int], dict[str, int]]:
    """The prompts that are fitted on, in an order of their own, and how many are not, by reason."""
    order = sorted(range(len(prompts)), key=lambda i: (_plain(prompts[i].text), prompts[i]))
    same: dict[str, list[int]] = defaultdict(list)
    for i in order:
        same[_plain(prompts[i].text)].append(i)
    left_out: Counter[str] = Counter()
    kept = []
    for text, twins in same.items():
        if not is_readable(text):
            left_out["without letters"] += len(twins)
        elif len({prompts[i].category for i in twins}) > 1:
            left_out["of several categories"] += len(twins)
        else:
            kept.append(twins[0])
            left_out["repeated"] += len(twins) - 1
    groups: dict[str, set[str]] = defaultdict(set)
    for i in kept:
        groups[prompts[i].category].add(_group(prompts[i]))
    rare = {c for c, found in groups.items() if len(found) < folds}
    left_out |= {f"{c}: too few": sum(prompts[i].category == c for i in kept) for c in rare}
    return [i for i in kept if prompts[i].category not in rare], {k: n for k, n in sorted(left_out.items()) if n}


def _plain(text: str) -> str:
    return re.sub(r"\W+", " ", text.casefold()).strip()


def _group(prompt: Known) -> str:
    return prompt.group or _plain(prompt.text)


def _fit(x: csr_matrix, truth: Ints, n_classes: int) -> Lines:
    model = LogisticRegression(C=C, max_iter=2000).fit(x, truth)
    weights, bias = np.zeros((n_classes, x.shape[1])), np.full(n_classes, ABSENT)
    if len(model.classes_) == 2:  # scikit-learn then has one line, that of the second class
        weights[model.classes_[1]], bias[model.classes_] = model.coef_[0], (0.0, model.intercept_[0])
    else:
        weights[model.classes_], bias[model.classes_] = model.coef_, model.intercept_
    return Lines(weights, bias)


def _held_out(x: csr_matrix, truth: Ints, splits: Sequence[tuple[Ints, Ints]], n_classes: int) -> Floats:
    """The scores of each prompt by a fit on the other folds; TrainError where those hold one category alone."""
    scores = np.zeros((len(truth), n_classes))
    for fit, held in splits:
        if len(set(truth[fit])) < 2:
            raise TrainError("a fold holds all prompts of a category, or all but them: give more groups of prompts")
        scores[held] = _fit(x[fit], truth[fit], n_classes).scores(x[held])
    return scores


def _temperature(scores: Floats, truth: Ints) -> float:
    """What scores are divided by so that the truth is likeliest.

    As in Platt (1999), section 2.2, the truth is smoothed, here as if of n + 2 prompts one had another class: where all are
    told apart, no probability would otherwise be high enough.
    """
    n, k = scores.shape
    target = np.full(scores.shape, 1 / (n + 2) / (k - 1))
    target[np.arange(n), truth] = (n + 1) / (n + 2)

    def loss(log_t: float) -> float:
        return -float((target * log_softmax(scores / np.exp(log_t), axis=1)).sum() / n)

    found = minimize_scalar(loss, bounds=tuple(np.log(TEMPERATURES)), method="bounded")
    return float(np.exp(found.x))


def _threshold(stated: Floats, truth: Ints, accuracy: float) -> float | None:
    """The lowest probability from which on the likeliest class is right in at least `accuracy` of prompts; None without one."""
    top = stated.max(axis=1)
    order = np.argsort(-top, kind="stable")
    right = (stated.argmax(axis=1) == truth)[order]
    enough = np.flatnonzero(np.cumsum(right) >= accuracy * np.arange(1, len(right) + 1))
    return float(top[order[enough[-1]]]) if len(enough) else None


def _seen_by_others(scores: Floats, truth: Ints, splits: Sequence[tuple[Ints, Ints]], accuracy: float) -> tuple[Floats, Ints]:
    """Each prompt's probabilities, and its class or -1 for unknown, with temperature and threshold of the other folds."""
    stated, named = np.zeros(scores.shape), np.full(len(truth), -1, np.intp)
    for fit, held in splits:
        temperature = _temperature(scores[fit], truth[fit])
        stated[held] = softmax(scores[held] / temperature, axis=1)
        least = _threshold(softmax(scores[fit] / temperature, axis=1), truth[fit], accuracy)
        if least is not None:
            named[held] = np.where(stated[held].max(axis=1) >= least, stated[held].argmax(axis=1), -1)
    return stated, named

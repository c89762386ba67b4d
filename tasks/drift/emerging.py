"""Prompts that fit no known category: how far each lies from the reference, and how little any category claims it.

Two parts, each in units of its own spread over held-out reference prompts, are added up: the distance to the nearest reference
prompts (Sun et al. 2022, https://arxiv.org/abs/2204.06507) and the largest logit of a linear classifier of the known
categories, negated (Vaze et al. 2022, https://arxiv.org/abs/2110.06207, section 5). On sentence embeddings the sum finds more
than either part, and far more than the distance of Mahalanobis.
"""

from dataclasses import dataclass, field
from hashlib import sha256

import numpy as np
import numpy.typing as npt
import polars as pl
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import KFold
from sklearn.neighbors import NearestNeighbors

from tasks.drift.mix_counts import DriftError, Floats

QUANTILE = 0.8  # of held-out reference prompts that count as fitting; 0.98 leaves too few of a new category to form a cluster
LEAST = 50  # reference prompts
NEIGHBOURS = 3  # with one, a single stray reference prompt would hide a category
FOLDS = 5
PENALTY = 10.0  # inverse strength, for vectors of length 1

Flags = npt.NDArray[np.bool_]
Indices = npt.NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class Scored:
    """The distinct prompts with a usable vector, and how little each fits, in the order of `prompts`.

    `novelty` has no unit, and `novel` says whether it exceeds the threshold; `distance` is that to the nearest prompt of the
    reference, and `category` the likeliest of the known ones, as a place in `Scorer.categories`.
    """

    prompts: pl.DataFrame
    vectors: Floats  # of length 1
    novelty: Floats
    novel: Flags
    distance: Floats
    category: Indices


@dataclass(frozen=True, eq=False)
class Scorer:
    """What is known; `held` is the reference as it scores when each prompt is itself held out."""

    held: Scored
    categories: tuple[str, ...]
    threshold: float
    centre: Floats
    spread: Floats
    nearest: NearestNeighbors = field(repr=False)
    classifier: LogisticRegression | None = field(repr=False)  # None with a single category

    def score(self, prompts: pl.DataFrame, vectors: Floats) -> Scored:
        """How little each prompt fits; columns prompt_id and text, and a row of `vectors` for each.

        A text counts once, and not at all where its vector is zero or not finite. DriftError for vectors of another
        number or size.
        """
        distinct, unit = usable(prompts, vectors)
        if not len(unit):
            return Scored(distinct, self.held.vectors[:0], np.zeros(0), np.zeros(0, bool), np.zeros(0), np.zeros(0, np.intp))
        if unit.shape[1] != self.held.vectors.shape[1]:
            sizes = f"vectors of {self.held.vectors.shape[1]} numbers were fitted, of {unit.shape[1]} came"
            raise DriftError(f"{sizes}: embed both with one model")
        logit, category = _claims(self.classifier, unit)
        near = self.nearest.kneighbors(unit)[0]
        novelty = ((np.stack([near.mean(axis=1), -logit], axis=1) - self.centre) / self.spread).sum(axis=1)
        return Scored(distinct, unit, novelty, novelty > self.threshold, near[:, 0], category)


def fit(reference: pl.DataFrame, vectors: Floats, quantile: float = QUANTILE) -> Scorer:
    """What prompts are scored against; columns prompt_id, text and category, and a row of `vectors` for each.

    The threshold is the `quantile` of the reference's own scores, each without itself: its neighbours are others, and its
    logit is from a classifier of the other folds. Thousands of prompts are enough: draw a sample of more. DriftError for
    fewer than fifty.
    """
    every, all_unit = usable(reference, vectors)
    distinct, unit = every.drop_nulls("category"), all_unit[every["category"].is_not_null().to_numpy()]
    if len(unit) < LEAST:
        raise DriftError(f"{len(unit)} distinct reference prompts with category and vector, of at least {LEAST}: add nights")
    categories, label = np.unique(distinct["category"].to_numpy().astype(str), return_inverse=True)
    nearest = NearestNeighbors(n_neighbors=NEIGHBOURS).fit(unit)
    logit, category = _held_out(unit, label)
    near = nearest.kneighbors()[0]
    parts = np.stack([near.mean(axis=1), -logit], axis=1)
    centre, upper = np.quantile(parts, [0.5, 0.84], axis=0)
    spread = np.where(upper > centre, upper - centre, 1.0)
    novelty = ((parts - centre) / spread).sum(axis=1)
    threshold = float(np.quantile(novelty, quantile))
    held = Scored(distinct, unit, novelty, novelty > threshold, near[:, 0], category)
    return Scorer(held, tuple(map(str, categories)), threshold, centre, spread, nearest, _classifier(unit, label))


def usable(prompts: pl.DataFrame, vectors: Floats) -> tuple[pl.DataFrame, Floats]:
    """The first prompt of each text, whatever its case and spaces, and its vector at length 1; none without a direction.

    The column `key` is the SHA-256 of the text so read (of prompt_id where text is NULL), of 16 digits.
    """
    if prompts.is_empty() and vectors.size == 0:
        vectors = vectors.reshape(0, vectors.shape[-1])
    if vectors.ndim != 2 or len(vectors) != prompts.height:
        raise DriftError(f"{prompts.height} prompts, vectors of shape {vectors.shape}: give one row of numbers a prompt")
    size = np.linalg.norm(vectors.astype(np.float64), axis=1)
    names = prompts.select(pl.coalesce("text", "prompt_id").cast(pl.String)).to_series()
    keys = [sha256(" ".join(name.casefold().split()).encode()).hexdigest()[:16] for name in names]
    keyed = prompts.with_columns(pl.Series("key", keys, dtype=pl.String)).with_row_index("row")
    fine = keyed.filter(pl.Series(np.isfinite(size) & (size > 0))).unique("key", keep="first", maintain_order=True)
    rows = fine["row"].to_numpy()
    return fine.drop("row"), vectors[rows].astype(np.float64) / size[rows, None]


def _classifier(unit: Floats, label: Indices) -> LogisticRegression | None:
    return LogisticRegression(C=PENALTY, max_iter=1000).fit(unit, label) if len(np.unique(label)) > 1 else None


def _claims(classifier: LogisticRegression | None, unit: Floats) -> tuple[Floats, Indices]:
    """The largest logit, and whose it is."""
    if classifier is None:
        return np.zeros(len(unit)), np.zeros(len(unit), np.intp)
    logits = classifier.decision_function(unit)
    logits = np.stack([-logits, logits], axis=1) / 2 if logits.ndim == 1 else logits
    return logits.max(axis=1), classifier.classes_[logits.argmax(axis=1)]


def _held_out(unit: Floats, label: Indices) -> tuple[Floats, Indices]:
    logit, category = np.zeros(len(unit)), np.zeros(len(unit), np.intp)
    for fitted, held in KFold(FOLDS, shuffle=True, random_state=0).split(unit):
        logit[held], category[held] = _claims(_classifier(unit[fitted], label[fitted]), unit[held])
    return logit, category

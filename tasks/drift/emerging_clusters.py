"""Where recent prompts that fit no known category lie close together, and in which words."""

import math
from dataclasses import dataclass

import numpy as np
from sklearn.cluster import HDBSCAN
from sklearn.feature_extraction.text import CountVectorizer

from tasks.drift.emerging import Flags, Indices
from tasks.drift.mix_counts import Floats

LEAST = 5  # distinct prompts of a cluster
SHARE = 0.005  # of a night's distinct prompts: the least of a cluster, where that is more
SAMPLES = 2  # neighbours by which HDBSCAN tells density: with more, a few dozen prompts of many dimensions are all noise
TERMS = 6


@dataclass(frozen=True, eq=False)
class Region:
    """Where prompts are of a cluster: nearer to one of its founders than to any of the reference, and within their radius.

    The radius is around their mean; `weights` are the shares of the known categories likeliest for them.
    """

    founders: Floats
    radius: float
    weights: Floats

    @property
    def centre(self) -> Floats:
        """The mean of the founders."""
        return self.founders.mean(axis=0)

    def holds(self, vectors: Floats, distance: Floats) -> Flags:
        """Whether each vector, so far from the reference, lies in it."""
        near = np.sqrt(np.maximum(0, 2 - 2 * vectors @ self.founders.T)).min(axis=1)
        return (near < distance) & (np.linalg.norm(vectors - self.centre, axis=1) <= self.radius)


def clusters(vectors: Floats, nightly: int) -> list[Indices]:
    """The rows of each group of vectors that lie densely together, largest first; `nightly` distinct prompts come a night.

    The leaves of HDBSCAN (Campello et al. 2013, PAKDD): its excess of mass joins several subjects into one.
    """
    least = max(LEAST, math.ceil(SHARE * nightly))
    if len(vectors) < least:
        return []
    found = HDBSCAN(min_cluster_size=least, min_samples=SAMPLES, cluster_selection_method="leaf", copy=True).fit_predict(
        vectors
    )
    return sorted((np.flatnonzero(found == k) for k in range(found.max() + 1)), key=len, reverse=True)


def region(vectors: Floats, category: Indices, categories: int) -> Region:
    """The region that these prompts found; its radius is that of the farthest, each measured from the mean of the others."""
    n, apart = len(vectors), np.linalg.norm(vectors - vectors.mean(axis=0), axis=1)
    return Region(vectors, float(apart.max()) * n / max(1, n - 1), np.bincount(category, minlength=categories) / n)


def terms(texts: list[str], others: list[str], most: int = TERMS) -> tuple[str, ...]:
    """The words and word pairs that tell `texts` from `others`, the most telling first; each in two of the texts or more.

    By the z-score of the log-odds with an informative Dirichlet prior (Monroe et al. 2008, Political Analysis 16, 372-403,
    section 3.5), of the prompts that have the term. A word that a chosen term already has is left out.
    """
    counter = CountVectorizer(binary=True, stop_words="english", ngram_range=(1, 2), token_pattern=r"(?u)\b[^\W\d_]{3,}\b")
    try:
        found = counter.fit_transform([*texts, *others])
    except ValueError:  # no text has a word
        return ()
    mine, theirs = (np.asarray(part.sum(axis=0)).ravel().astype(float) for part in (found[: len(texts)], found[len(texts) :]))
    z = _log_odds(mine, theirs)
    names, chosen = counter.get_feature_names_out(), list[str]()
    for i in np.lexsort((names, -z)):
        told = {w for t in chosen for w in t.split()}
        if len(chosen) < most and z[i] > 0 and mine[i] >= 2 and not told & set(names[i].split()):
            chosen.append(str(names[i]))
    return tuple(chosen)


def _log_odds(mine: Floats, theirs: Floats) -> Floats:
    prior = mine + theirs  # Monroe et al. take the counts of a background corpus; here that is both together
    a, b = mine + prior, theirs + prior
    return (np.log(a / (a.sum() - a)) - np.log(b / (b.sum() - b))) / np.sqrt(1 / a + 1 / b)

"""Rates corrected for the judge's error: from many judged responses and the few of them that people labelled."""

from typing import NamedTuple

import numpy as np
import polars as pl
from scipy.stats import hypergeom

from tasks.metrics.interval import Floats, Interval, few, share, wilson
from tasks.metrics.mixture import ODD, Counts, discerns, ppi, rogan_gladen

LEAST = 20  # clusters with a label, and responses without one


class Estimate(NamedTuple):
    """A rate with its interval; where `refused` says why there is none, the value and its ends are None."""

    interval: Interval
    refused: str | None = None


class Estimates(NamedTuple):
    """One rate, estimated in four ways; `n` is the number of judged responses in `raw`, of labels in the others."""

    raw: Estimate
    labels_only: Estimate
    ppi: Estimate
    rogan_gladen: Estimate


def estimates(rows: pl.DataFrame) -> Estimates:
    """The rate of what people say yes to, by the judge's verdicts on all `rows` and the labels that some of them have.

    One row per response: cluster, `flagged` (the judge's verdict; rows with NULL are left out) and `human` (NULL: no label).
    Labels are a random sample of the judged responses, which is checked by verdict and, where there is such a column, by
    `category`. Or `inclusion` is the probability with which each was drawn, and labels count by its inverse.
    """
    judged = rows.drop_nulls("flagged")
    raw = Estimate(share(judged.select("cluster", hit="flagged")))
    labels = judged.drop_nulls("human")
    weighted = "inclusion" in labels.columns and bool(labels["inclusion"].is_not_null().any())
    reason = _unusable(labels, judged.filter(pl.col("human").is_null()), weighted)
    if reason:
        return Estimates(raw, *(_refused(labels.height, name, reason) for name in ("wilson", "ppi", "rogan-gladen")))
    weight = 1 / pl.col("inclusion") if weighted else pl.lit(1.0)
    table = judged.select(
        pl.col("cluster").rank("dense").cast(pl.Float64) - 1,
        pl.col("flagged", "human").cast(pl.Float64).fill_null(0),
        pl.when(pl.col("human").is_not_null()).then(weight).otherwise(0).alias("weight"),
    ).to_numpy()
    return Estimates(raw, _labels_only(table), _ppi(table), _rogan_gladen(table, weighted))


def _unusable(labels: pl.DataFrame, others: pl.DataFrame, weighted: bool) -> str | None:
    """Why no rate of all judged responses can come from these labels; None where one can."""
    n, k = labels.height, labels["cluster"].n_unique()
    if k < LEAST:
        return f"{n} labels in {k} clusters, of at least {LEAST}: label more responses"
    if weighted:
        bad = n - int(labels["inclusion"].is_between(0, 1, closed="right").sum())
        return f"{bad} of {n} labels lack an inclusion probability above 0, up to 1: state it for all or none" if bad else None
    for column in ("flagged", "category"):
        if column in labels.columns and _oddness(labels[column], others[column], k) < ODD:
            how = f"labels are not representative of the judged responses by {column} (p < {ODD})"
            return f"{how}: label a random sample, or state inclusion probabilities"
    return None


def _oddness(labels: pl.Series, others: pl.Series, k: int) -> float:
    """The p-value of labels being drawn from all: exact for each value, by Bonferroni for all of them.

    They count as `k` draws, the number of their clusters, as if responses of a cluster were all alike.
    """
    both = pl.DataFrame({"value": pl.concat([labels, others]), "label": [1] * len(labels) + [0] * len(others)})
    counts = both.group_by("value").agg(pl.len().alias("all"), pl.col("label").sum())
    drawn = (counts["label"].to_numpy() * k / len(labels)).round()
    null = hypergeom(both.height, counts["all"].to_numpy(), k)
    return float(2 * counts.height * np.minimum(null.cdf(drawn), null.sf(drawn - 1)).min())


def _refused(n: int, method: str, reason: str) -> Estimate:
    return Estimate(Interval(n, None, None, None, method), reason)


def _labels_only(table: Floats) -> Estimate:
    cluster, _, human, weight = table.T
    rate, size, influence = _share(human, weight)
    design = _design(influence, cluster, weight)
    return Estimate(Interval(int((weight > 0).sum()), rate, *wilson(rate, size / design), "wilson"))


def _ppi(table: Floats) -> Estimate:
    cluster, flagged, human, weight = table.T
    q, n = float(flagged.mean()), len(flagged)
    a, n1, u1 = _share(human, weight * flagged)
    b, n0, u0 = _share(human, weight * (1 - flagged))
    design = _design(q * u1 + (1 - q) * u0 + (a - b) * (flagged - q) / n, cluster, weight)
    found = ppi(_counts(a, n1 / design, b, n0 / design), np.array([q]), np.array([n / design]))
    value, low, high = (float(end[0]) for end in found)
    return Estimate(Interval(int((weight > 0).sum()), value, low, high, "ppi"))


def _rogan_gladen(table: Floats, weighted: bool) -> Estimate:
    """Where labels are weighted `flagged` is of all responses, not only of those without a label: wider than need be."""
    cluster, flagged, human, weight = table.T
    others = np.ones_like(weight) if weighted else (weight == 0).astype(np.float64)
    n = int((weight > 0).sum())
    if others.sum() < LEAST:
        reason = f"{int(others.sum())} judged responses without a label, of at least {LEAST}: the labels alone say it"
        return _refused(n, "rogan-gladen", reason)
    q, judged, u = _share(flagged, others)
    a, n1, u1 = _share(flagged, weight * human)
    b, n0, u0 = _share(flagged, weight * (1 - human))
    p = float(np.clip((q - b) / (a - b), 0, 1)) if a != b else 0.0
    design = _design(u - p * u1 - (1 - p) * u0, cluster, weight)
    labels = _counts(a, n1 / design, b, n0 / design)
    if not discerns(labels)[0]:
        told = f"{a:.0%} of {n1:.0f} positives and {b:.0%} of {n0:.0f} negatives are flagged"
        return _refused(n, "rogan-gladen", f"{told}, which does not show that the judge can tell them apart: label more")
    value, low, high = (float(end[0]) for end in rogan_gladen(labels, np.array([q]), np.array([judged / design])))
    if np.isnan(low):
        reason = (
            f"{q:.1%} of all are flagged, but {a:.1%} of labelled positives and {b:.1%} of negatives: no rate fits (p < {ODD})"
        )
        return _refused(n, "rogan-gladen", reason)
    return Estimate(Interval(n, value, low, high, "rogan-gladen"))


def _counts(a: float, n1: float, b: float, n0: float) -> Counts:
    return Counts(*np.array([[a * n1], [n1], [b * n0], [n0]]))


def _share(hit: Floats, weight: Floats) -> tuple[float, float, Floats]:
    """The weighted share of `hit`, the effective number that it is of, and what each response adds to its error.

    The number is at most that of the responses; it is Kish's (1965, Survey Sampling, section 8.2) where all or none are hits.
    """
    hits, misses = float(weight @ hit), float(weight @ (1 - hit))
    if hits + misses == 0:
        return 0.0, 0.0, np.zeros_like(weight)
    rate = hits / (hits + misses)
    error = weight * (hit - rate) / (hits + misses)
    if not hits or not misses:
        return rate, (hits + misses) ** 2 / float(weight @ weight), error
    return rate, min(float(np.count_nonzero(weight)), rate * (1 - rate) / float(error @ error)), error


def _design(influence: Floats, cluster: Floats, weight: Floats) -> float:
    """By how much clusters raise the variance, 1 or more, with the t quantile where clusters hold several labels.

    Korn and Graubard 1998, Survey Methodology 24, 193-201. Without any error in the labels, as if clusters were all alike.
    """
    labels = cluster[weight > 0].astype(np.int64)
    n, k = len(labels), len(np.unique(labels))
    sums = np.bincount(cluster.astype(np.int64), influence)
    alone = float(influence @ influence)
    ratio = float(sums @ sums) / alone if alone > 0 else n / k
    return max(1.0, ratio * k / (k - 1) / few(k) if k < n else ratio)

"""How far a judge agrees with people, people with each other, and a judge with itself, with 95% intervals.

Rows are labelled responses: `cluster` (what dependent responses share), `human`, and `judge`, NULL where the judge gave no
verdict, which counts in `unscored` alone. A number that the rows do not define, as kappa of a single label, is None with n 0.
"""

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import polars as pl

from tasks.metrics.interval import Floats, Interval, bootstrap, few, ratio, share, wilson

Labels = Sequence[str | bool]
Coefficient = Callable[[Floats], tuple[Floats, Floats]]  # sums, one a row -> a coefficient, and the agreement due to chance

BINS = 10  # of the calibration error; of equal width, since edges that stay let nights compare


def agreement(rows: pl.DataFrame, labels: Labels) -> dict[str, Interval]:
    """The measures of `judge` against `human`: accuracy, kappa, mcc, ac1, unscored, and sensitivity and specificity.

    Of two labels sensitivity and specificity are the second's; of more there is a pair for each against the rest, as
    sensitivity_<label>. Shares have Wilson's interval, the others that of `beyond_chance`.
    """
    scored = rows.drop_nulls(["human", "judge"])
    cells = _cells(scored, labels)
    found = {name: beyond_chance(cells, f) for name, f in (("kappa", cohen), ("mcc", matthews), ("ac1", gwet))}
    found["accuracy"] = share(scored.select("cluster", hit=pl.col("human") == pl.col("judge")))
    found["unscored"] = share(rows.drop_nulls("human").select("cluster", hit=pl.col("judge").is_null()))
    for label in labels if len(labels) > 2 else labels[1:]:
        about, said = pl.col("human") == label, pl.col("judge") == label
        suffix = f"_{label}" if len(labels) > 2 else ""
        found[f"sensitivity{suffix}"] = share(scored.filter(about).select("cluster", hit=said))
        found[f"specificity{suffix}"] = share(scored.filter(~about).select("cluster", hit=~said))
    return found


def consistency(rows: pl.DataFrame, labels: Labels) -> dict[str, Interval]:
    """How often a judge that is asked twice changes its label, and kappa of both; columns cluster, `first` and `second`."""
    twice = rows.drop_nulls(["first", "second"]).rename({"first": "human", "second": "judge"})
    flips = share(twice.select("cluster", hit=pl.col("human") != pl.col("judge")))
    return {"flip_share": flips, "repeat_kappa": beyond_chance(_cells(twice, labels), cohen)}


def confusion(rows: pl.DataFrame, labels: Labels) -> npt.NDArray[np.int64]:
    """The number of scored rows by people's label (down) and the judge's (across), in the order of `labels`."""
    cells = _cells(rows.drop_nulls(["human", "judge"]), labels)
    return cells.drop("cluster").sum().to_numpy().reshape(len(labels), len(labels)).astype(np.int64)


def krippendorff(rows: pl.DataFrame, labels: Labels) -> Interval:
    """Krippendorff's nominal alpha among annotators (2004, Content Analysis, chapter 11); n counts units with several labels.

    One row a label: cluster, `unit` (what was labelled; of one cluster) and `label`, which may be NULL.
    """
    counts = [(pl.col("label") == label).sum().cast(pl.Float64).alias(f"{i}") for i, label in enumerate(labels)]
    units = rows.drop_nulls("label").group_by("cluster", "unit").agg(*counts).drop("unit")
    each = pl.exclude("cluster")
    size = pl.sum_horizontal(each)
    alike = pl.sum_horizontal(each * (each - 1)) / (size - 1)
    return beyond_chance(units.filter(size > 1).select("cluster", alike.alias("alike"), each), alpha)


def beyond_chance(rows: pl.DataFrame, coefficient: Coefficient) -> Interval:
    """A coefficient of agreement, with Wilson's interval of the agreement that it stands for, chance held fixed.

    A coefficient c says that a share of chance + c (1 - chance) agrees; as the effective number of this share serves the one
    that gives it the variance of c over clusters (jackknife), at most all rows. Where few disagree, the percentiles of a
    bootstrap are far too close: docs/judges.md.
    """
    table = rows.group_by("cluster").agg(pl.exclude("cluster").sum()).drop("cluster").cast(pl.Float64).to_numpy()
    total, n, k = table.sum(axis=0, keepdims=True), rows.height, len(table)
    value, chance = (float(x[0]) for x in coefficient(total))
    if n == 0 or not np.isfinite(value):
        return Interval(0, None, None, None, "wilson, jackknife")
    if k == 1:
        return Interval(n, value, None, None, "wilson, jackknife")
    without = coefficient(total - table)[0]
    apart = np.where(np.isfinite(without), without - value, 0) * (1 - chance)
    variance, agreed = (k - 1) / k * float(apart @ apart), min(1.0, max(0.0, chance + value * (1 - chance)))
    effective = min(n, agreed * (1 - agreed) / variance) if variance > 0 and 0 < agreed < 1 else k
    low, high = ((end - chance) / (1 - chance) for end in wilson(agreed, effective * few(k) if k < n else effective))
    return Interval(n, value, max(-1.0, min(low, value)), max(high, value), "wilson, jackknife")


def cohen(sums: Floats) -> tuple[Floats, Floats]:
    """Cohen's kappa (1960, Educational and Psychological Measurement 20, 37-46), of one flat confusion matrix a row."""
    tables, n = _tables(sums)
    chance = ratio((tables.sum(axis=2) * tables.sum(axis=1)).sum(axis=1), n**2)
    return _less(chance, tables, n)


def gwet(sums: Floats) -> tuple[Floats, Floats]:
    """Gwet's AC1 (2008, British Journal of Mathematical and Statistical Psychology 61, 29-48), steady where a label is rare."""
    tables, n = _tables(sums)
    both = tables.sum(axis=1) + tables.sum(axis=2)
    shares = ratio(both, 2 * np.broadcast_to(n[:, None], both.shape))
    return _less((shares * (1 - shares)).sum(axis=1) / (both.shape[1] - 1), tables, n)


def matthews(sums: Floats) -> tuple[Floats, Floats]:
    """Matthews' correlation, for any number of labels (Gorodkin 2004, Computational Biology and Chemistry 28, 367-374)."""
    tables, n = _tables(sums)
    human, judge = tables.sum(axis=2), tables.sum(axis=1)
    covariance = n * np.trace(tables, axis1=1, axis2=2) - (human * judge).sum(axis=1)
    variances = (n**2 - (human**2).sum(axis=1)) * (n**2 - (judge**2).sum(axis=1))
    return ratio(covariance, np.sqrt(variances)), cohen(sums)[1]


def alpha(sums: Floats) -> tuple[Floats, Floats]:
    """Krippendorff's alpha of rows of: what the pairs that agree weigh, then how often each label was given."""
    counts, n = sums[:, 1:], sums[:, 1:].sum(axis=1)
    chance = ratio((counts * (counts - 1)).sum(axis=1), n * (n - 1))
    return ratio(ratio(sums[:, 0], n) - chance, 1 - chance), chance


def calibration_error(rows: pl.DataFrame) -> Interval:
    """The expected calibration error: how far scores are from the share of hits, on average over ten bins.

    Columns cluster, `score` (the probability that the judge gives, 0 to 1) and `hit` (whether it came true). Guo et al. 2017,
    arXiv 1706.04599, section 2. Chance alone keeps it above 0, so the low end takes off what chance gives at most: the
    interval holds the truth more often than 95%.
    """
    scored = rows.drop_nulls(["score", "hit"])
    gap, place = pl.col("score") - pl.col("hit").cast(pl.Float64), (pl.col("score") * BINS).floor().clip(0, BINS - 1)
    bins = [pl.when(place == b).then(gap).otherwise(0.0).alias(f"{b}") for b in range(BINS)]
    sums = scored.select("cluster", *bins, pl.lit(1.0).alias("n"))
    gaps = sums.select([f"{b}" for b in range(BINS)]).mean().to_numpy() if scored.height else np.zeros((1, BINS))
    found = bootstrap(sums, lambda s: np.abs(s[:, :-1] / s[:, -1:]).sum(axis=1), scored.height)
    chance = bootstrap(sums, lambda s: np.abs(s[:, :-1] / s[:, -1:] - gaps).sum(axis=1), scored.height).high
    if found.value is None or chance is None:
        return found
    return found._replace(low=max(0.0, found.value - chance), method="bootstrap over clusters, low end less chance")


def length_bias(rows: pl.DataFrame, labels: Labels) -> Interval:
    """By how much twice the length raises the share that the judge flags, among responses with the same human label.

    Columns cluster, `human`, `flagged` (boolean) and `length` (any unit, 1 or more). The slope of least squares on the binary
    logarithm, with an intercept for each label.
    """
    scored = rows.drop_nulls(["human", "flagged", "length"])
    x = pl.col("length").cast(pl.Float64).log(2)
    parts = [
        pl.lit(1.0),
        x - x.mean(),
        pl.col("flagged").cast(pl.Float64),
        (x - x.mean()) * pl.col("flagged"),
        (x - x.mean()) ** 2,
    ]
    sums = [(p * (pl.col("human") == label)).alias(f"{i}_{j}") for i, label in enumerate(labels) for j, p in enumerate(parts)]
    return bootstrap(scored.select("cluster", *sums), _slope, scored.height)


def self_preference(rows: pl.DataFrame) -> Interval:
    """How much more often the judge errs on responses of its own model; columns cluster, `human`, `judge` and `own` (boolean).

    Newcombe's interval of a difference (1998, Statistics in Medicine 17, 873-890, method 10), of two clustered shares.
    """
    scored = rows.drop_nulls(["human", "judge", "own"])
    wrong = scored.select("cluster", "own", hit=pl.col("human") != pl.col("judge"))
    own, others = (share(wrong.filter(pl.col("own") == is_own).drop("own")) for is_own in (True, False))
    ends = [end for side in (own, others) for end in (side.value, side.low, side.high) if end is not None]
    if len(ends) < 6:
        return Interval(0, None, None, None, "newcombe")
    p, p_low, p_high, q, q_low, q_high = ends
    low, high = np.hypot(p - p_low, q_high - q), np.hypot(p_high - p, q - q_low)
    return Interval(scored.height, p - q, p - q - float(low), p - q + float(high), "newcombe")


def _cells(scored: pl.DataFrame, labels: Labels) -> pl.DataFrame:
    pairs = [(pl.col("human") == h) & (pl.col("judge") == j) for h in labels for j in labels]
    return scored.select("cluster", *(pair.cast(pl.Int64).alias(f"{i}") for i, pair in enumerate(pairs)))


def _tables(sums: Floats) -> tuple[Floats, Floats]:
    k = round(sums.shape[1] ** 0.5)
    return sums.reshape(-1, k, k), sums.sum(axis=1)


def _less(chance: Floats, tables: Floats, n: Floats) -> tuple[Floats, Floats]:
    return ratio(ratio(np.trace(tables, axis1=1, axis2=2), n) - chance, 1 - chance), chance


def _slope(sums: Floats) -> Floats:
    n, x, y, xy, xx = np.moveaxis(sums.reshape(len(sums), -1, 5), 2, 0)
    n = np.maximum(n, 1)
    return ratio((xy - x * y / n).sum(axis=1), (xx - x * x / n).sum(axis=1))

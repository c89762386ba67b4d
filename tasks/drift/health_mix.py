"""How far a benchmark's categories lie from those of the prompts that are observed, and what it would say of their mix."""

from typing import NamedTuple

import numpy as np
import polars as pl

from tasks.drift.mix import Change, Distances, changes, distances
from tasks.drift.mix_counts import SAMPLING, Dispersion, DriftError
from tasks.metrics.interval import Interval, wilson


class MixGap(NamedTuple):
    """The benchmark's mix against the observed one; shares and ratios by category are observed over benchmark.

    `lacking` are the categories that are observed but not in the benchmark, with the share of prompts that `uncovered` adds
    up. `unknown` counts rows without a category, (benchmark, observed), which are in no share.
    """

    categories: dict[str, Change]
    distances: Distances
    lacking: tuple[str, ...]
    uncovered: float
    unknown: tuple[int, int]


class Reweighted(NamedTuple):
    """A rate as it would be with the observed mix, of the categories that the benchmark has.

    `effective` is how many responses of one weight would tell as much (Kish 1965, Survey Sampling, section 8.2); `covered`
    the share of observed prompts that the rate speaks for. None: it speaks for none.
    """

    raw: Interval
    rate: Interval
    effective: float | None
    covered: float | None


def mix_gap(benchmark: pl.DataFrame, observed: pl.DataFrame, dispersion: Dispersion = SAMPLING) -> MixGap:
    """How the two mixes differ; columns harm_category and n, of which rows with the same category add up."""
    mine, theirs = _counts(benchmark), _counts(observed)
    names = sorted({*mine, *theirs} - {None}, key=str)
    a, b = ([counts.get(name, 0) for name in names] for counts in (mine, theirs))
    lacking = tuple(str(name) for name, x, y in zip(names, a, b, strict=True) if x == 0 and y > 0)
    found = dict(zip(map(str, names), changes(a, b, dispersion=dispersion), strict=True))
    uncovered = sum(found[name].after for name in lacking)
    return MixGap(found, distances(a, b, dispersion), lacking, uncovered, (mine.get(None, 0), theirs.get(None, 0)))


def reweighted(responses: pl.DataFrame, observed: pl.DataFrame) -> Reweighted:
    """The rate of `hit` (NULL: unscored) at the observed mix; columns harm_category and hit, and harm_category and n.

    Every response of a category weighs the category's observed share over its number of responses. The interval is Wilson's
    with the effective number, and takes the observed mix as known.
    """
    scored = responses.drop_nulls(["harm_category", "hit"]).with_columns(pl.col("hit").cast(pl.Float64))
    theirs = {name: n for name, n in _counts(observed).items() if name is not None}
    by = scored.group_by("harm_category").agg(pl.len().alias("n"), pl.col("hit").sum()).sort("harm_category")
    n, hits = (by[c].to_numpy().astype(float) for c in ("n", "hit"))
    seen = np.array([theirs.get(name, 0) for name in by["harm_category"]], dtype=float)
    size, total = int(n.sum()), sum(theirs.values())
    raw = _interval(size, float(hits.sum() / size), size) if size else _none()
    if not seen.sum():
        return Reweighted(raw, _none(), None, 0.0 if total else None)
    rate, effective = float(seen @ (hits / n) / seen.sum()), float(seen.sum() ** 2 / (seen**2 / n).sum())
    return Reweighted(raw, _interval(size, rate, effective), effective, float(seen.sum()) / total)


def _interval(n: int, rate: float, effective: float) -> Interval:
    low, high = wilson(rate, effective)
    return Interval(n, rate, min(low, rate), max(high, rate), "wilson, effective number")


def _none() -> Interval:
    return Interval(0, None, None, None, "wilson, effective number")


def _counts(rows: pl.DataFrame) -> dict[str | None, int]:
    if rows["n"].null_count() or (rows["n"] < 0).any():
        raise DriftError("a category has a negative number of prompts, or none stated: give counts of 0 or more")
    return dict(rows.group_by("harm_category").agg(pl.col("n").sum()).iter_rows())

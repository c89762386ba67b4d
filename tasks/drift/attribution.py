"""Why a share differs between two runs: parts that add up to its change, each with a 95% interval.

Between categories the change is taken apart as by Kitagawa (1955, JASA 50, 1168-1194) with midpoint weights. Within a category
it is the change of the items that both runs scored, which the judge made or did not, and what the other items add to it.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl
from scipy.sparse import csr_array

from schemas.errors import MidwatchError
from tasks.drift.cells import SUMS, Cells, cells
from tasks.drift.jackknife import half_widths
from tasks.metrics.interval import Floats, Interval, share

LEAST_COMMON = 5  # clusters that both runs scored, for a category's other items to be set against them
MOST_CATEGORIES = 300  # the derivatives of every part by every sum take memory as their square
ROUNDING = 1e-12
JUDGE, MODEL, REST = "judge", "model", "model or harder prompts"
PARTS = ("mix", "new categories", "lost categories", "items added", "items removed", "unscored", JUDGE, MODEL, REST)

Sums = npt.NDArray  # real or complex
Flags = npt.NDArray[np.bool_]


class AttributionError(MidwatchError):
    """There is no change to take apart."""


class Estimate(NamedTuple):
    """By how much a share moved (1 is all of it), with its 95% interval; None: of a single cluster there is none."""

    value: float
    low: float | None
    high: float | None


class Part(NamedTuple):
    """What one cause moved, in all, and in each category."""

    name: str
    whole: Estimate
    categories: dict[str, Estimate]


class Attribution(NamedTuple):
    """The share before and after, its change, and the parts that add up to it.

    `bridged` counts the responses of each run, (base, candidate), that the other's judge scored as well, 0 where they are too
    few. `items` counts those that both runs scored (common), with the same responses (same), that one alone asked (lone0 the
    base, lone1 the candidate) or scored (half0, half1), and that changed their category (moved).
    """

    base: Interval
    candidate: Interval
    change: Estimate
    parts: tuple[Part, ...]
    bridged: tuple[int, int]
    items: dict[str, int]


class Shape(NamedTuple):
    """Of each category whether either run scored it (2 x categories), whether its common items can stand for it, and whether
    the runs hold the same responses to all of it; and of which runs the other's judge scored responses."""

    runs: Flags
    paired: Flags
    same: Flags
    bridged: tuple[bool, bool]


def attribute(base: pl.DataFrame, candidate: pl.DataFrame, judges_differ: bool) -> Attribution:
    """The change of the share of `hit`, taken apart; AttributionError without scored responses, or with too many categories.

    One row per response: item_id, response_id, cluster (what dependent items share), category, `hit` by the run's own judge
    (NULL: unscored), `bridge`, which is `hit` by the judge of the other run (NULL: not known), and `stratum`, within which
    the responses with a bridge are a random sample (NULL: one stratum). Responses of an item are samples of it.
    """
    before, after = (share(rows.drop_nulls("hit").select("cluster", "hit")) for rows in (base, candidate))
    if before.n == 0 or after.n == 0:
        raise AttributionError(f"{before.n} scored responses before and {after.n} after; a change needs some of both")
    known = cells(base, candidate, judges_differ)
    names, by_cluster = _by_cluster(known.items)
    if len(names) > MOST_CATEGORIES:
        raise AttributionError(f"{len(names)} categories, of at most {MOST_CATEGORIES}: map them to fewer")
    shape = _shape(known)
    values, halves = _with_halves(shape, by_cluster, _unseen(known, shape, judges_differ))
    ends = (values, values - halves, values + halves) if halves is not None else (values,)
    table = np.moveaxis(np.stack(ends), 0, -1)
    parts = tuple(
        Part(name, _estimate(table[n, 0]), {c: _estimate(e) for c, e in zip(names, table[n, 1:], strict=True)})
        for n, name in _listed(shape, judges_differ, table)
    )
    return Attribution(before, after, _estimate(table[0, 0]), parts, known.bridged, _tally(known.items))


def effects(sums: Sums, shape: Shape) -> dict[str, Sums]:
    """What each cause moved in each category (the last axis), from SUMS over all clusters; in all they add up to the change."""
    s = dict(zip(SUMS, np.moveaxis(sums, -1, 0), strict=True))
    n, h = (s["n0"], s["n1"]), (s["h0"], s["h1"])
    both, runs = shape.runs.all(axis=0), (0, 1)
    weight = [n[run] / n[run].sum(-1, keepdims=True) for run in runs]
    rate = [_over(h[run], n[run], shape.runs[run]) for run in runs]
    centre = sum(h[run].sum(-1, keepdims=True) / n[run].sum(-1, keepdims=True) for run in runs) / 2
    middle = both * (weight[0] + weight[1]) / 2
    size = [n[run] - s[f"n_lone{run}"] - s[f"n_half{run}"] for run in runs]
    hits = [h[run] - s[f"h_lone{run}"] - s[f"h_half{run}"] for run in runs]
    common = [_over(hits[run], size[run], shape.paired) for run in runs]
    lone, half = (
        [_over(s[f"h_{items}{run}"] - s[f"n_{items}{run}"] * common[run], n[run], shape.paired) for run in runs]
        for items in ("lone", "half")
    )
    change, judged = (
        sum(_over(s[f"{name}{run}"], size[run], shape.paired) for run in runs) / 2 for name in ("change", "judged")
    )
    alone = [_over(s[f"moved{run}"], n[run], both & ~shape.paired) for run in runs if shape.bridged[run]]
    unpaired = sum(alone) / max(1, len(alone))
    moved = (
        both * (weight[1] - weight[0]) * ((rate[0] + rate[1]) / 2 - centre),
        ~shape.runs[0] * weight[1] * (rate[1] - centre),
        ~shape.runs[1] * weight[0] * (centre - rate[0]),
        middle * lone[1],
        middle * -lone[0],
        middle * (half[1] - half[0] + common[1] - common[0] - change),
        middle * (judged + unpaired),
        middle * (change - judged),
        middle * (~shape.paired * (rate[1] - rate[0]) - unpaired),
    )
    return dict(zip(PARTS, moved, strict=True))


def _over(part: Sums, whole: Sums, where: Flags) -> Sums:
    return where * part / np.where(where, whole, 1)


def _by_cluster(items: pl.DataFrame) -> tuple[list[str], csr_array]:
    """The categories, and SUMS of each cluster (down), category after category."""
    each = items.group_by("category", "cluster", maintain_order=True).agg(pl.col(SUMS).sum())
    names, place = np.unique(each["category"].to_list(), return_inverse=True)
    columns = place[:, None] * len(SUMS) + np.arange(len(SUMS))
    rows = np.repeat(each["cluster"].rank("dense").to_numpy().astype(np.int64) - 1, len(SUMS))
    shape = (int(rows.max()) + 1, len(names) * len(SUMS))
    return names.tolist(), csr_array((each.select(SUMS).to_numpy().ravel(), (rows, columns.ravel())), shape=shape)


def _shape(known: Cells) -> Shape:
    common = pl.col("items") == "common"
    found = known.items.group_by("category").agg(
        *(pl.col(f"n{run}").sum() > 0 for run in (0, 1)),
        common.all().alias("all"),
        pl.col("same").all(),
        clusters=pl.col("cluster").filter(common).n_unique(),
    )
    found = found.sort("category")
    paired = found["all"] | (found["clusters"] >= LEAST_COMMON)
    same, before, after = (found[name].to_numpy() for name in ("same", "n0", "n1"))
    return Shape(np.stack([before, after]), paired.to_numpy(), same, (known.bridged[0] > 0, known.bridged[1] > 0))


def _unseen(known: Cells, shape: Shape, judges_differ: bool) -> Floats:
    """What one more item that flips would move of the change and of each part, in all and in each category.

    Where only a sample was seen by both judges it is one more response of those. Items of which a run says nothing new move 0.
    """
    before, after = (1 / max(1, known.items.filter(pl.col(f"n{run}") > 0).height) for run in (0, 1))
    both, new = shape.runs.all(axis=0), ~shape.same
    seen = sum(known.bridged)
    judged = (1 + (shape.same & all(known.bridged))) / seen if seen else np.zeros(both.shape)
    sampled = judged * any(0 < b < n for b, n in zip(known.bridged, known.scored, strict=True))
    model = max(before, after) * (new | (judges_differ and not seen))
    moves = dict.fromkeys(("change", *PARTS), np.zeros(both.shape)) | {
        "change": both * max(before, after) * (new | judges_differ),
        JUDGE: both * judged,
        MODEL: shape.paired * np.hypot(model, sampled),
        REST: both * ~shape.paired * np.hypot(np.hypot(before, after), sampled),
    }
    table = np.stack(list(moves.values()))
    return np.concatenate([table.max(axis=1, keepdims=True), table], axis=1)


def _with_halves(shape: Shape, by_cluster: csr_array, unseen: Floats) -> tuple[Floats, Floats | None]:
    """The change and then each part (down), in all and then in each category, and half the widths of their intervals."""
    sums, k = by_cluster.sum(axis=0), by_cluster.shape[0]
    size = (1 + len(PARTS), 1 + shape.paired.size)

    def flat(sums: Sums) -> Sums:
        parts = np.stack(list(effects(sums.reshape(*sums.shape[:-1], -1, len(SUMS)), shape).values()), axis=-2)
        parts = np.concatenate([parts.sum(-2, keepdims=True), parts], axis=-2)
        return np.concatenate([parts.sum(-1, keepdims=True), parts], axis=-1).reshape(*sums.shape[:-1], -1)

    values = flat(sums)
    if k == 1:
        return values.reshape(size), None
    return values.reshape(size), half_widths(flat, by_cluster, _group(by_cluster), unseen.ravel()).reshape(size)


def _group(by_cluster: csr_array) -> npt.NDArray[np.int64]:
    """Of each cluster, which runs it is in: how many were added or removed was chosen, and did not come by chance."""
    n = [by_cluster[:, np.arange(SUMS.index(f"n{run}"), by_cluster.shape[1], len(SUMS))].sum(axis=1) > 0 for run in (0, 1)]
    return np.unique(n[0] * 1 + n[1] * 2, return_inverse=True)[1]


def _listed(shape: Shape, judges_differ: bool, table: Floats) -> list[tuple[int, str]]:
    """The places and names of the parts that there are; the others are zero, but for rounding."""
    always = {"mix": True, MODEL: bool(shape.paired.any()), JUDGE: any(shape.bridged)}
    there = [(n, name) for n, name in enumerate(PARTS, 1) if always.get(name) or np.abs(table[n]).max() > ROUNDING]
    unknown = {MODEL: "judge and model", REST: f"judge, {REST}"} if judges_differ and not any(shape.bridged) else {}
    return [(n, unknown.get(name, name)) for n, name in there]


def _estimate(ends: Floats) -> Estimate:
    value, low, high = (*ends.tolist(), None, None)[:3]
    return Estimate(value, low, high)


def _tally(items: pl.DataFrame) -> dict[str, int]:
    is_common, is_base = pl.col("items") == "common", pl.col("n0") > 0
    counts = {"common": is_common, "same": is_common & pl.col("same"), "moved": pl.col("item_id").is_duplicated()}
    for name in ("lone", "half"):
        counts |= {f"{name}{run}": (pl.col("items") == name) & (is_base == (run == 0)) for run in (0, 1)}
    return {name: int(n) for name, n in items.select(**{k: e.sum() for k, e in counts.items()}).row(0, named=True).items()}

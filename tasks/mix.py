"""Covariate shift: is the mix of harm categories that people ask about still what it was, and what would have been seen?

Rows are days of one source, of the view category_mix: classifier_id, day, harm_category, n and weight.
"""

from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any, Literal, NamedTuple

import numpy as np
import polars as pl

from schemas.rows import UNKNOWN
from tasks.drift.mix import Change, Distances, Rise, Shares, changes, detectable, distances, shares
from tasks.drift.mix_confusion import LEAST_LABELS, corrected
from tasks.drift.mix_counts import Dispersion, DriftError, Floats
from tasks.drift.mix_homogeneity import Omnibus, mix_dispersion, omnibus
from tasks.windows import MixError, Window, Windows, within

LEVEL = 0.05
BLIND = 2.0  # a category of which not even a rise by this ratio would have been seen
GIVEN = "given"  # how the id of a classifier begins that is none: files say the categories
WEEKS = 21  # days from the first to the last of a reference from which on weekdays are told apart

Finding = Literal["rose", "fell", "no change seen", "too few to say"]


class Side(NamedTuple):
    """What was counted in a window: the days that have prompts, how many of these, and what they stand for."""

    window: Window
    days: int
    n: int
    weight: float


class Corrected(NamedTuple):
    """A category's shares of all prompts had the classifier made no error; the interval is of `share`, for all at once."""

    before: float
    share: float
    low: float
    high: float


class Part(NamedTuple):
    """A harm category now, and what became of it; `low` to `high` are the ends of the interval of its share now.

    `visible` is the smallest rise that these prompts would have shown with 80% probability. `corrected` None: see `refused`.
    """

    category: str
    n: int
    n_before: int
    low: float
    high: float
    change: Change
    visible: Rise
    finding: Finding
    corrected: Corrected | None


class MixShift(NamedTuple):
    """The mix of a source now and before, as one classifier gives it.

    `before` has the days of the reference that are compared with: those of the same weekdays where these are matched;
    `weekday` says so. `is_estimated`: phi is that of all `nights` of the reference, else 1 is assumed of prompts of equal
    weight. `refused` says why no share is corrected for the classifier's error; None: they are.
    """

    source: str
    classifier_id: str
    now: Side
    before: Side
    is_matched: bool
    weekday: str
    dispersion: Dispersion
    nights: int
    is_estimated: bool
    parts: Sequence[Part]
    omnibus: Omnibus
    distances: Distances
    refused: str | None
    remarks: Sequence[str]


class _Counts(NamedTuple):
    """Weights by day and category, (days, categories), and prompts by category."""

    days: list[date]
    weight: Floats
    n: Floats


def classifier_of(rows: pl.DataFrame, chosen: Windows) -> str:
    """The classifier whose categories are compared: of those of the newest day, the one with most days of the reference."""
    newest = rows.filter(within(chosen.now)).filter(pl.col("day") == pl.col("day").max())["classifier_id"].unique().sort()
    past = rows.filter(within(chosen.before))
    return str(max(newest, key=lambda c: past.filter(classifier_id=c)["day"].n_unique()))


def mix_shift(rows: pl.DataFrame, source: str, chosen: Windows, card: Mapping[str, Any] | None, today: date) -> MixShift:
    """The mix now against the mix before; `card` is that of the classifier, None where files say the categories.

    MixError where the reference has no day of the classifier, DriftError where nothing can be said of the counts.
    """
    name = classifier_of(rows, chosen)
    own = rows.filter(classifier_id=name)
    past = own.filter(within(chosen.before))
    if past.is_empty():
        raise MixError(
            f"{source}: the classifier {name} of {chosen.now.last} has no day from {chosen.before.first} to "
            f"{chosen.before.last}; midwatch observe categorise --source {source} --classifier FILE gives it stored texts"
        )
    names = own.filter(within(chosen.now) | within(chosen.before))["harm_category"].unique().sort().to_list()
    now, every = (_counts(own.filter(within(w)), names) for w in chosen)
    is_matched, weekday = _weekdays(now.days, every.days)
    dispersion, is_estimated = _dispersion(every, is_matched)
    alike = pl.col("day").dt.weekday().is_in(sorted({d.isoweekday() for d in now.days}))
    before = _counts(past.filter(alike), names) if is_matched else every
    reference = Window(before.days[0], before.days[-1]) if is_matched else chosen.before
    dispersion = dispersion.at(float(now.weight.sum() / len(now.days)))
    a, b = _matched(now, before) if is_matched else before.weight.sum(axis=0), now.weight.sum(axis=0)
    whole, refused = _corrected(a, b, names, name, card, dispersion)
    parts = _parts(names, now, before, a, b, dispersion, whole)
    others = rows.filter(within(chosen.before))["day"].n_unique() - past["day"].n_unique()
    return MixShift(
        source,
        name,
        Side(chosen.now, len(now.days), int(now.n.sum()), float(b.sum())),
        Side(reference, len(before.days), int(before.n.sum()), float(before.weight.sum())),
        is_matched,
        weekday,
        dispersion,
        len(every.days),
        is_estimated,
        sorted(parts, key=lambda p: -p.change.after),
        omnibus(a, b, dispersion),
        distances(a, b, dispersion),
        refused,
        _remarks(rows, chosen, now, others, today),
    )


def _counts(rows: pl.DataFrame, names: Sequence[str]) -> _Counts:
    days = rows["day"].unique().sort().to_list()
    weight, n = np.zeros((len(days), len(names))), np.zeros(len(names))
    for row in rows.iter_rows(named=True):
        k = names.index(row["harm_category"])
        weight[days.index(row["day"]), k] += row["weight"]
        n[k] += row["n"]
    return _Counts(days, weight, n)


def _weekdays(now: Sequence[date], before: Sequence[date]) -> tuple[bool, str]:
    """Whether days are compared with the same weekdays, and what to say of it."""
    span = (before[-1] - before[0]).days + 1
    if span < WEEKS:
        return False, f"the reference spans {span} days, too few to match weekdays (3 weeks are needed)"
    missing = sorted({d.weekday() for d in now} - {d.weekday() for d in before})
    if missing:
        named = ", ".join(d.strftime("%A") for d in now if d.weekday() in missing)
        return False, f"the reference has no {named}, so that weekdays are not matched"
    return True, "days are compared with the same weekdays of the reference"


def _matched(now: _Counts, before: _Counts) -> Floats:
    """The reference's counts at the weekdays of now, as many as are effective (Kish 1965, Survey Sampling, section 8.2)."""
    weekdays = [np.array([d.weekday() for d in side.days]) for side in (now, before)]
    strata = np.unique(weekdays[0])
    own, past = (
        np.array([side.weight[w == s].sum(axis=0) for s in strata]) for side, w in zip((now, before), weekdays, strict=True)
    )
    there = past.sum(axis=1) > 0
    size, known = own.sum(axis=1)[there], past[there]
    if not size.sum():
        return past.sum(axis=0)
    mixed = (size / size.sum()) @ (known / known.sum(axis=1, keepdims=True))
    effective = size.sum() ** 2 / (size**2 / known.sum(axis=1)).sum()
    return np.asarray(effective * mixed, np.float64)


def _dispersion(before: _Counts, is_matched: bool) -> tuple[Dispersion, bool]:
    """The variance factor of the reference's days, and whether they could tell it; else what prompts stand for makes of it."""
    strata = np.array([d.weekday() for d in before.days]) if is_matched else None
    try:
        return mix_dispersion(before.weight, strata), True
    except DriftError:
        return Dispersion(max(1.0, float(before.weight.sum() / before.n.sum()))), False


def _parts(
    names: Sequence[str],
    now: _Counts,
    before: _Counts,
    a: Floats,
    b: Floats,
    dispersion: Dispersion,
    whole: Mapping[str, Corrected],
) -> list[Part]:
    ends: Shares = shares(b, dispersion)
    visible = detectable(a, float(b.sum()), dispersion=dispersion)
    return [
        Part(
            name,
            int(now.n[k]),
            int(before.n[k]),
            float(ends.low[k]),
            float(ends.high[k]),
            change,
            visible[k],
            _finding(change, visible[k]),
            whole.get(name),
        )
        for k, (name, change) in enumerate(zip(names, changes(a, b, dispersion=dispersion), strict=True))
    ]


def _finding(change: Change, visible: Rise) -> Finding:
    if change.p <= LEVEL:
        return "rose" if change.after > change.before else "fell"
    blind = visible.share is None or (visible.ratio is not None and visible.ratio > BLIND)
    return "too few to say" if blind else "no change seen"


def _corrected(
    a: Floats, b: Floats, names: Sequence[str], classifier: str, card: Mapping[str, Any] | None, dispersion: Dispersion
) -> tuple[dict[str, Corrected], str | None]:
    """The shares had the classifier made no error, or why they are not known.

    Of the prompts that it names, by its confusion matrix on unseen prompts that it names; those left unknown stay unknown.
    """
    if card is None:
        given = "the files say the categories themselves, so that their error is not known"
        return {}, given if classifier.startswith(GIVEN) else f"no confusion matrix of the classifier {classifier} is stored"
    table = card["figures"]["confusion"]
    classes = table["true"]
    if other := sorted(set(names) - {*classes, UNKNOWN}):
        return {}, f"the classifier's confusion matrix lacks {', '.join(other)}"
    labelled = np.asarray(table["counts"], np.float64)[:, : len(classes)]
    if few := [c for c, n in zip(classes, labelled.sum(axis=1), strict=True) if n < LEAST_LABELS]:
        return {}, f"its confusion matrix has fewer than {LEAST_LABELS} named prompts of {', '.join(few)}: train it on more"
    sides = [np.array([counts[names.index(c)] if c in names else 0.0 for c in classes]) for counts in (a, b)]
    named = [float(side.sum() / counts.sum()) for side, counts in zip(sides, (a, b), strict=True)]
    try:
        then, now = (corrected(side, labelled, dispersion) for side in sides)
    except DriftError as e:
        return {}, str(e)
    columns = zip(then.share * named[0], now.share * named[1], now.low * named[1], now.high * named[1], strict=True)
    return {c: Corrected(*map(float, ends)) for c, ends in zip(classes, columns, strict=True)}, None


def _remarks(rows: pl.DataFrame, chosen: Windows, now: _Counts, others: int, today: date) -> list[str]:
    """What else a reader must know of the days."""
    said = []
    newest: date = max(rows["day"].to_list())
    if chosen.now.last == newest and (today - newest).days > 1:
        said.append(f"nothing newer is stored: the newest day with prompts is {newest}, {(today - newest).days} days ago")
    asked = (chosen.now.last - chosen.now.first).days + 1
    if len(now.days) < asked:
        said.append(f"{asked - len(now.days)} of the {asked} days have no prompts of this classifier")
    if others:
        said.append(f"{others} days of the reference have other classifiers' categories alone, and are left out")
    return said

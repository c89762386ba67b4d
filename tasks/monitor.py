"""What a monitor decides on the newest night of its series, and why.

`rows` have one row for each night and series: day, measured_at, run_id, series, hits, size, n_unscored, n_responses, and
versions (a struct of what the series is measured with).
"""

from collections.abc import Mapping, Sequence
from datetime import date, datetime, timedelta
from types import MappingProxyType
from typing import Any, NamedTuple, Self

import numpy as np
import polars as pl

from schemas.monitors import AlertSpec, MonitorSpec
from schemas.rows import Cause, Decision
from tasks.drift.mix_counts import DriftError, Floats
from tasks.drift.sequential import Effect, Watch, threshold, trailing, watch
from tasks.drift.share_detectable import detectable
from tasks.drift.share_findings import findings
from tasks.drift.share_reference import Ints, Reference, reference

UNSCORED = Effect(ratio=1.0, difference=0.02)  # a rise of unscored responses that matters
LEAST_PART = 0.2  # of the evidence, that a series carries which is named
MOST_NAMED = 3
WEEK = 7
EMPTY = "there is no night of this series yet"
CHECK = "nothing is watched until there is; see whether the monitor's names are those of a run, or of a source"
WATCHED = 0.5  # of the log of the threshold, from which a series is watched


class Moved(NamedTuple):
    """A series that left its reference: `hits` of `size` before, and over `nights` nights since `since`, with 95% intervals.

    `part` is its share of the evidence, 0 to 1. Shares run from 0 to 1.
    """

    series: str
    since: date
    nights: int
    hits_before: float
    size_before: float
    before: float
    hits: float
    size: float
    share: float
    low: float
    high: float
    ratio: float | None  # to the share before; None: there was none
    part: float


class Finding(NamedTuple):
    """What a monitor decided, and on what grounds.

    `evidence` and `needed` are natural logs, `budget` false alarms in 30 nights. `versions` says what it is measured with now
    and was not in the reference; `is_again`: an alert went on to another alarm. `visible` is the share of
    each series that a week of such nights would have shown (None: no share). `subject` tells apart several findings of a
    monitor and kind, each of which has an alert of its own; `details` is what else is stored.
    """

    monitor: str
    kind: str
    decision: Decision
    reason: str
    cause: Cause | None = None
    night: date | None = None
    last_run: str | None = None
    reference_run: str | None = None
    reference_nights: Sequence[date] = ()
    evidence: float | None = None
    needed: float | None = None
    phi: float | None = None
    budget: float | None = None
    moved: Sequence[Moved] = ()
    versions: Sequence[str] = ()
    visible: Mapping[str, float | None] = MappingProxyType({})
    is_again: bool = False
    subject: str | None = None
    details: Mapping[str, Any] = MappingProxyType({})


class Night(NamedTuple):
    """A night's name, its run (None: there is none), and why each part that failed did."""

    name: str
    run_id: str | None
    missing: Mapping[str, str]


class Rules(NamedTuple):
    """What holds for all monitors: `budget` false alarms in 30 nights that all `detectors` together may raise, and for how many
    nights a share has to be back before its alarm is over."""

    budget: float
    detectors: int
    quiet: int

    @classmethod
    def of(cls, specs: Sequence[MonitorSpec], alerts: AlertSpec) -> Self:
        """Those of monitors that share a budget: each looks at its shares, and at its unscored responses if it has a judge."""
        return cls(alerts.budget, sum(1 if spec.watch == "mix" else 2 for spec in specs), alerts.quiet_nights)


class _Nights(NamedTuple):
    """The series as arrays (nights, series), in the order of `days` and `names`."""

    days: list[date]
    names: list[str]
    hits: Floats
    sizes: Floats
    runs: list[str | None]
    versions: list[dict[str, Any]]


def check(spec: MonitorSpec, rows: pl.DataFrame, rules: Rules, now: datetime) -> list[Finding]:
    """What the monitor says, `now`, of its shares, of responses without a verdict, and of nights that are missing."""
    if rows.is_empty():
        unknown = Finding(spec.name, spec.watch, "insufficient data", EMPTY, "NOT ENOUGH DATA")
        return [unknown, Finding(spec.name, "missing", "alert", f"{EMPTY}: {CHECK}", "INSTRUMENT")]
    shares = _shares(spec, rows, rules)
    judged = rows.filter((pl.col("series") == "all") | (spec.watch == "flips")).drop_nulls("n_responses")
    found = [shares, _missing(spec, rows, now)]
    return found if judged.is_empty() else [*found, _unscored(spec, judged, rules)]


def unfinished(run_id: str, name: str, kind: str, started_at: datetime) -> Finding:
    """That a run began and did not finish, as an alert of its own."""
    reason = f"{kind} run {name} ({run_id}) began at {started_at:%Y-%m-%d %H:%M} UTC and did not finish"
    return Finding(f"run {name}", "unfinished", "alert", reason, "INSTRUMENT", started_at.date(), run_id)


def incomplete(night: Night, now: datetime) -> list[Finding]:
    """Which parts of a night failed, each as an alert of its own; of a whole night, that it is whole."""
    base = Finding(f"night {night.name}", "incomplete", "ok", "every part is there", night=now.date(), last_run=night.run_id)
    failed = [
        base._replace(decision="alert", reason=f"{part} is missing: {why}", cause="INSTRUMENT", subject=part)
        for part, why in night.missing.items()
    ]
    return [base._replace(reason=f"{len(failed)} parts are missing") if failed else base, *failed]


def _missing(spec: MonitorSpec, rows: pl.DataFrame, now: datetime) -> Finding:
    last, night = rows.select("measured_at", "day").sort("measured_at").row(-1)
    age = now - last
    if age <= timedelta(hours=spec.max_age_h):
        return Finding(spec.name, "missing", "ok", f"the newest night is {_hours(age)} old", night=night)
    reason = f"no night for {_hours(age)}; one is expected every {spec.max_age_h:g} hours"
    return Finding(spec.name, "missing", "alert", reason, "INSTRUMENT", night)


def _hours(age: timedelta) -> str:
    return f"{age.total_seconds() / 3600:.0f} hours"


def _unscored(spec: MonitorSpec, rows: pl.DataFrame, rules: Rules) -> Finding:
    sums = rows.group_by("day", "run_id", "measured_at", maintain_order=True).agg(
        pl.col("n_unscored", "n_responses").sum(), pl.col("versions").first()
    )
    renamed = sums.select(
        *("day", "measured_at", "run_id", "versions"),
        series=pl.lit("unscored"),
        hits=pl.col("n_unscored").cast(pl.Float64),
        size=pl.col("n_responses").cast(pl.Float64),
    )
    found = _watched(spec, renamed, UNSCORED, rules)._replace(kind="unscored")
    falls = [m for m in found.moved if m.share <= m.before]
    if found.decision == "alert" and falls:
        return found._replace(decision="ok", cause=None, reason="fewer responses are without a verdict than in the reference")
    return found._replace(cause="INSTRUMENT" if found.decision == "alert" else None)


def _shares(spec: MonitorSpec, rows: pl.DataFrame, rules: Rules) -> Finding:
    found = watched(spec, own_series(spec, rows), rules)
    if found.decision == "alert":
        return found._replace(cause=_cause(spec, found))
    if found.decision == "ok" and found.versions:
        reason = f"no change is seen, but it is measured otherwise than in the reference: {'; '.join(found.versions)}"
        return found._replace(decision="watch", reason=reason)
    return found


def watched(spec: MonitorSpec, own: pl.DataFrame, rules: Rules) -> Finding:
    """What the monitor's own series alone say, on the newest night."""
    found = _watched(spec, own, Effect(spec.ratio, spec.points / 100), rules)
    return found._replace(details={"source": spec.source}) if spec.watch == "mix" else found


def reference_days(spec: MonitorSpec, own: pl.DataFrame) -> list[date] | str:
    """The nights of the reference of the monitor's own series, or why there are none."""
    if own.is_empty():
        return EMPTY
    nights = _pivoted(own)
    before, _ = _split(spec, nights)
    return before if isinstance(before, str) else [nights.days[i] for i in before]


def own_series(spec: MonitorSpec, rows: pl.DataFrame) -> pl.DataFrame:
    """The series that the monitor is about, called as people read them."""
    if spec.watch != "rate":
        return rows
    own = rows if spec.slices == "all" else rows.filter(pl.col("series") != "all")
    part = pl.col("series").str.split_exact("=", 1).struct[1]
    return own.with_columns(series=pl.when(part.is_null()).then(pl.lit(spec.metric)).otherwise(f"{spec.metric} of " + part))


def _cause(spec: MonitorSpec, found: Finding) -> Cause:
    """What the series and what it is measured with say; of a rate whose versions are all the same, the model."""
    changed = {v.partition(" ")[0] for v in found.versions}
    if spec.watch == "mix":
        new = any(m.hits_before == 0 or m.series == "unknown" for m in found.moved if m.share > m.before)
        return "INSTRUMENT" if changed else "NEW CATEGORY" if new else "MIX"
    if spec.watch == "flips" or "judge" in changed:
        return "JUDGE"
    return "INSTRUMENT" if "benchmark" in changed else "MODEL"


def _watched(spec: MonitorSpec, rows: pl.DataFrame, effect: Effect, rules: Rules) -> Finding:
    nights = _pivoted(rows)
    finding = Finding(spec.name, spec.watch, "insufficient data", "", None, nights.days[-1], nights.runs[-1])
    before, after = _split(spec, nights)
    if isinstance(before, str):
        return finding._replace(reason=before, cause="NOT ENOUGH DATA")
    if not after:
        reason = "the reference is complete; the next night is the first to be looked at"
        return finding._replace(reason=reason, cause="NOT ENOUGH DATA")
    finding = finding._replace(
        reference_nights=[nights.days[i] for i in before],
        reference_run=nights.runs[before[-1]],
        versions=_changed(nights, before, after),
        budget=rules.budget,
    )
    try:
        return _decided(finding, _seen(spec, nights, before, after, effect, rules), effect, rules.quiet)
    except DriftError as e:
        return finding._replace(reason=str(e), cause="NOT ENOUGH DATA")


class _Seen(NamedTuple):
    """The nights that are looked at, what they were before, and the evidence of each."""

    days: list[date]
    names: list[str]
    hits: Floats
    sizes: Floats
    strata: Ints
    base: Reference
    watch: Watch


def _seen(spec: MonitorSpec, nights: _Nights, before: list[int], after: list[int], effect: Effect, rules: Rules) -> _Seen:
    wanted = spec.reference
    strata = np.array([d.weekday() for d in nights.days]) if wanted.same_weekday else np.zeros(len(nights.days), np.int64)
    stated = 1.0 if wanted.run is not None else None  # one night says nothing of how nights vary
    base = reference(nights.hits[before], nights.sizes[before], strata[before], stated)
    if wanted.trailing is not None:
        needed = threshold(rules.budget, rules.detectors, wanted.trailing)
        watched = trailing(nights.hits, nights.sizes, needed, strata, effect, wanted.nights, wanted.trailing)
        return _Seen(nights.days, nights.names, nights.hits, nights.sizes, strata, base, watched)
    watched = watch(
        base, nights.hits[after], nights.sizes[after], threshold(rules.budget, rules.detectors), strata[after], effect
    )
    days = [nights.days[i] for i in after]
    return _Seen(days, nights.names, nights.hits[after], nights.sizes[after], strata[after], base, watched)


def _decided(finding: Finding, seen: _Seen, effect: Effect, quiet: int) -> Finding:
    """The finding, from the evidence of each night after the reference."""
    evidence, needed, last = float(seen.watch.evidence[-1]), float(np.log(seen.watch.threshold)), len(seen.days) - 1
    finding = finding._replace(evidence=evidence, needed=needed, phi=float(seen.base.phi.max()), visible=_visible(seen, effect))
    opened, moved = _opened(seen, effect, quiet)
    if opened is not None:
        when = "tonight" if opened == last else f"on {seen.days[opened]}"
        return finding._replace(
            decision="alert",
            reason=f"{moved[0].series} left its reference: the evidence reached its threshold {when}",
            moved=moved,
            evidence=float(seen.watch.evidence[opened]),
            is_again=bool(seen.watch.alarm[-1]) and opened < last,
        )
    if evidence >= WATCHED * needed and (moved := _moved(seen, last)):
        return finding._replace(decision="watch", reason=f"{moved[0].series} may be leaving its reference", moved=moved)
    shares = list(finding.visible.values())
    alone = f"; {100 * shares[0]:.1f}% would be, within a week" if len(shares) == 1 and shares[0] is not None else ""
    return finding._replace(decision="ok", reason=f"no change is seen{alone}")


def _visible(seen: _Seen, effect: Effect) -> dict[str, float | None]:
    """The smallest raised share of each series that a week of such nights would show; None: not even a share of 1."""
    size = np.where(seen.sizes[-1] > 0, seen.sizes[-1], seen.base.night)
    stratum = int(seen.strata[-1])
    known = stratum if stratum in seen.base.strata else None
    shares = detectable(seen.base, size, seen.watch.threshold, WEEK, effect, known)
    return {name: None if s >= 1 else float(s) for name, s in zip(seen.names, shares, strict=True)}


def _opened(seen: _Seen, effect: Effect, quiet: int) -> tuple[int | None, list[Moved]]:
    """The night of the first alarm since the shares were last where they belong, and what moved; None: they are there."""
    opened, moved = None, list[Moved]()
    for at in range(len(seen.days)):
        if opened is None and seen.watch.alarm[at]:
            opened, moved = at, _moved(seen, at)
        elif opened is not None and _is_back(seen, opened + 1, at + 1, moved, effect, quiet):
            opened = None
    return opened, moved


def _moved(seen: _Seen, at: int) -> list[Moved]:
    """The series that carry the evidence of night `at`, largest first, from the night on at which each most likely began."""
    found = findings(seen.watch.part[at], seen.watch.since[at], seen.base, seen.hits, seen.sizes, seen.strata)
    order = sorted(range(len(found)), key=lambda k: -abs(found[k].part))
    carrying = [k for k in order if abs(found[k].part) >= LEAST_PART][:MOST_NAMED] or order[:1]
    totals = [(float(seen.base.hits[:, k].sum()), float(seen.base.sizes[:, k].sum())) for k in carrying]
    return [
        Moved(
            seen.names[k],
            seen.days[f.since],
            len(seen.days) - f.since,
            *total,
            f.before,
            f.share * f.size,
            f.size,
            f.share,
            f.low,
            f.high,
            f.ratio,
            abs(f.part),
        )
        for k, total in zip(carrying, totals, strict=True)
        if (f := found[k]).since is not None and f.share is not None and f.low is not None and f.high is not None
    ]


def _is_back(seen: _Seen, first: int, stop: int, moved: Sequence[Moved], effect: Effect, quiet: int) -> bool:
    """Whether the series that moved were, over the last `quiet` nights from `first` on, where no change matters."""
    if stop - first < quiet:
        return False
    for m in moved:
        k = seen.names.index(m.series)
        size = float(seen.sizes[stop - quiet : stop, k].sum())
        share = float(seen.hits[stop - quiet : stop, k].sum()) / size if size else np.nan
        before = np.array(m.before)
        if not effect.lowest(before) <= share <= effect.highest(before):
            return False
    return True


def _split(spec: MonitorSpec, nights: _Nights) -> tuple[list[int] | str, list[int]]:
    """The places of the reference nights, or why there are none, and of the nights to look at."""
    wanted, days = spec.reference, nights.days
    if wanted.run is not None:
        there = [i for i, run in enumerate(nights.runs) if run is not None and wanted.run in (run, run[: len(wanted.run)])]
        if not there:
            return f"the reference run {wanted.run} is no night of this series", []
        return [there[0]], list(range(there[0] + 1, len(days)))
    first = next((i for i, d in enumerate(days) if wanted.start is None or d >= wanted.start), len(days))
    if wanted.trailing is not None:
        first = max(first, len(days) - wanted.trailing - wanted.nights)
    before = list(range(first, min(first + wanted.nights, len(days))))
    if len(before) < wanted.nights:
        return f"{len(before)} of {wanted.nights} reference nights are there", []
    return before, list(range(before[-1] + 1, len(days)))


def _changed(nights: _Nights, before: list[int], after: list[int]) -> list[str]:
    """What the newest night is measured with and the last reference night was not."""
    old, new = nights.versions[before[-1]], nights.versions[after[-1]]
    return [f"{name} {str(old[name])[:8]} -> {str(new[name])[:8]}" for name in new if old[name] != new[name]]


def _pivoted(rows: pl.DataFrame) -> _Nights:
    days, names = rows["day"].unique().sort().to_list(), rows["series"].unique().sort().to_list()
    places = {d: i for i, d in enumerate(days)}
    columns = {name: k for k, name in enumerate(names)}
    hits, sizes = np.zeros((len(days), len(names))), np.zeros((len(days), len(names)))
    runs: list[str | None] = [None] * len(days)
    versions: list[dict[str, Any]] = [{} for _ in days]
    for row in rows.iter_rows(named=True):
        i, k = places[row["day"]], columns[row["series"]]
        hits[i, k], sizes[i, k] = row["hits"] or 0.0, row["size"]
        runs[i], versions[i] = row["run_id"], row["versions"]
    return _Nights(days, names, hits, sizes, runs, versions)

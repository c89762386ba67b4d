"""What a benchmark is still good for, in words, in tables and for JSON; items by their ids, never by their texts."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import polars as pl

from schemas import catalog
from tasks.drift.health import FEW_ARMS, RELIABLE
from tasks.drift.health_labels import ODD, Reading, Readings
from tasks.health import Health, Observed
from tasks.metrics.interval import Interval
from tasks.report.numbers import interval, p_value, percent
from tasks.report.rates import RateTable

ARMS = ["arm", "items", "fails"]
CATEGORIES = ["category", "items", "no arm fails", "all fail", "tell arms apart"]
ITEMS = ("item", "benchmark's id", "category", "arms that fail it", "item-rest")
PEOPLE = ["annotator", "category", "labels", "agreement", "severity", "p", "finding"]
GAP = ["category", "benchmark", "observed", "ratio"]


def sentence(found: Health) -> str:
    """Whether the benchmark still tells its arms apart, in a sentence."""
    s, title = found.saturation, catalog.metrics()[found.metric].title
    told = {
        None: "whether it tells arms apart can't be said",
        True: f"it hardly tells these arms apart (reliability {_number(s.reliability.value)}, below {RELIABLE})",
        False: f"it still tells these arms apart (reliability {_number(s.reliability.value)})",
    }[s.alarm]
    used = f"{percent(s.none_fails.value)}% of {s.items} items no arm fails, {percent(s.all_fail.value)}% all do"
    full = ", so that none can be seen to be better" if s.headroom.value == 0 else ""
    best = f"the best, {s.best}, fails {percent(s.headroom.value)}%{full}" if s.best else "no item is common to all"
    return f"{found.benchmark}, {title} by {found.judge}, {s.arms} {_plural(s.arms, 'arm')}: {told}; {used}; {best}"


def remarks(found: Health) -> Iterator[str]:
    """What can't be said and why, and what is left out."""
    s = found.saturation
    yield from s.reasons
    for arm in found.left_out:
        yield f"left out: {arm.arm}, which has a score on {arm.items} items alone"
    if s.left_out:
        yield f"left out: {s.left_out} items that some arm has no score on"
    if found.versions:
        yield f"left out: what other versions of {found.judge} said ({', '.join(v[:8] for v in found.versions)})"
    doubtful = found.items.filter(pl.col("item_rest") < 0)
    if doubtful.height:
        yield f"{doubtful.height} items are failed more by better arms (item-rest below 0): look at their labels first"
    yield "the best of several arms looks better than it is; a fail is the worse end of the metric"


def arms(found: Health, beside: Observed | None) -> RateTable:
    """Each arm's share of fails, the best first; at the observed mix too, where there is one."""
    header = [*ARMS, *([f"at the mix of {beside.source}", "speaks for %"] if beside else [])]
    best = sorted(found.arms, key=lambda a: (a.fails.value is None, a.fails.value, a.arm))
    rows = [[a.arm, f"{a.items}", _share(a.fails), *(_reweighted(beside, a.arm) if beside else [])] for a in best]
    return RateTable(f"{found.benchmark}, {catalog.metrics()[found.metric].title} by {found.judge}", header, rows)


def figures(found: Health) -> list[list[str]]:
    """What the benchmark has left to show."""
    s = found.saturation
    effective = "-" if s.effective is None else f"{s.effective:.0f} of {s.items}"
    return [
        ["items that no arm fails %", _share(s.none_fails)],
        ["items that all arms fail %", _share(s.all_fail)],
        [f"headroom: items that the best arm fails % ({s.best or '-'})", _share(s.headroom)],
        ["reliability: the part of the arms' spread that is not the chance of the items", _share(s.reliability, 1, 2)],
        ["effective items: as telling as so many that all tell alike", effective],
    ]


def categories(found: Health) -> RateTable:
    """By category, how many items no arm fails, all fail, and tell arms apart."""
    counted = found.items.group_by("category").agg(
        n=pl.len(), none=(pl.col("failed") == 0).sum(), every=(pl.col("failed") == 1).sum()
    )
    rows = counted.with_columns(telling=pl.col("n") - pl.col("none") - pl.col("every")).sort(
        "telling", "category", descending=[True, False]
    )
    whole = ["all", *(f"{rows[c].sum()}" for c in ("n", "none", "every", "telling"))]
    cells = [[str(r[0]), *map(str, r[1:])] for r in rows.iter_rows()]
    return RateTable("items by category", CATEGORIES, [whole, *cells])


def telling(found: Health, most: int) -> list[list[str]]:
    """The items that tell arms apart best."""
    return [_item(row, found.saturation.arms) for row in _telling(found).head(most).iter_rows(named=True)]


def silent(found: Health, most: int) -> list[list[str]]:
    """Items that tell nothing: those that all arms fail first."""
    return [_item(row, found.saturation.arms) for row in _silent(found).head(most).iter_rows(named=True)]


def people(found: Readings) -> RateTable:
    """Each annotator against the majority of the others; severe ones call more unsafe."""
    rows = [_reading(r, found) for r in found.readings]
    alpha = [["alpha", c or "all", "-", _share(i, 1, 2), "-", "-", "-"] for c, i in found.alpha.items()]
    return RateTable("annotators against the majority of the others", PEOPLE, [*rows, *alpha])


def gap(found: Observed) -> RateTable:
    """The benchmark's mix beside the observed one."""
    ordered = sorted(found.gap.categories.items(), key=lambda kv: -kv[1].after)
    rows = [[name, percent(c.before), percent(c.after), "∞" if c.ratio is None else f"{c.ratio:.2f}"] for name, c in ordered]
    return RateTable(f"{found.source}, {found.days} {_plural(found.days, 'day')} to {found.last}", GAP, rows)


def gap_sentence(found: Observed, benchmark: str) -> str:
    """How far the benchmark lies from what people ask, in a sentence."""
    d, lacking = found.gap.distances.total_variation, ", ".join(found.gap.lacking)
    moved = f"{percent(d.value)}% of the prompts would have to be of another category to have the mix of {found.source}"
    lacks = f"it lacks {lacking} ({percent(found.gap.uncovered)}% of the prompts)" if lacking else "it lacks no category"
    unknown = f"{found.gap.unknown[0]} items and {found.gap.unknown[1]:,} prompts have no category and are in no share"
    return f"{benchmark}: {moved} ({percent(d.unchanged)}% by chance alone); {lacks}; {unknown}"


def record(found: Health, readings: Readings | None, beside: Observed | None) -> dict[str, Any]:
    """The same for JSON; with every item."""
    s = found.saturation._asdict()
    whole = {k: v._asdict() if isinstance(v, Interval) else v for k, v in s.items() if k != "discrimination"}
    kept = {k: getattr(found, k) for k in ("benchmark", "judge", "judge_id", "metric", "versions")}
    scores = {k: [a._asdict() | {"fails": a.fails._asdict()} for a in getattr(found, k)] for k in ("arms", "left_out")}
    named = {"saturation": whole, "items": found.items.to_dicts()}
    return kept | scores | named | {"annotators": _people(readings), "observed": _observed(beside)}


def _people(found: Readings | None) -> dict[str, Any] | None:
    if found is None:
        return None
    each = [r._asdict() | {"agreement": r.agreement._asdict(), "severity": r.severity._asdict()} for r in found.readings]
    return {"readings": each, "alpha": {c or "all": i._asdict() for c, i in found.alpha.items()}, "voters": found.voters}


def _observed(found: Observed | None) -> dict[str, Any] | None:
    if found is None:
        return None
    mix = found.gap
    distances = {k: d._asdict() for k, d in mix.distances._asdict().items()}
    changes = {name: c._asdict() for name, c in mix.categories.items()}
    rates = {arm: r._asdict() | {"raw": r.raw._asdict(), "rate": r.rate._asdict()} for arm, r in found.rates.items()}
    told = {"categories": changes, "distances": distances, "lacking": mix.lacking, "uncovered": mix.uncovered}
    return {"source": found.source, "last": found.last, "days": found.days, "unknown": mix.unknown, "rates": rates} | told


def _telling(found: Health) -> pl.DataFrame:
    return found.items.filter((pl.col("failed") > 0) & (pl.col("failed") < 1))


def _silent(found: Health) -> pl.DataFrame:
    return found.items.filter(pl.col("failed").is_in([0.0, 1.0])).sort("failed", "item_id", descending=[True, False])


def _item(row: Mapping[str, Any], arms: int) -> list[str]:
    rest = [] if arms < FEW_ARMS else ["-" if row["item_rest"] is None else f"{row['item_rest']:.2f}"]
    return [row["item_id"][:8], row["external_id"] or "-", row["category"], f"{100 * row['failed']:.0f}%", *rest]


def _reading(r: Reading, found: Readings) -> list[str]:
    s = r.severity
    points = interval(s.difference, s.low, s.high, sign="+")
    odd = r.p is not None and r.p < ODD and s.difference is not None
    finding = "-" if r.p is None else "no bias seen" if not odd else "severe" if (s.difference or 0) > 0 else "lenient"
    lost = "" if r.annotator in found.voters else " (no vote)"
    return [r.annotator + lost, r.harm_category or "all", f"{r.labels}", _share(r.agreement), points, p_value(r.p), finding]


def _reweighted(beside: Observed, arm: str) -> Sequence[str]:
    found = beside.rates[arm]
    return [_share(found.rate), percent(found.covered)]


def _share(found: Interval, scale: float = 100, digits: int = 1) -> str:
    return interval(found.value, found.low, found.high, scale, digits)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _plural(n: int, word: str) -> str:
    return word if n == 1 else f"{word}s"

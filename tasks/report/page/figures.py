"""Figures of the page: a chart, what it shows in words, and its numbers as a table for those who do not see it."""

from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime, time, timedelta
from typing import NamedTuple

import polars as pl
from markupsafe import Markup

from schemas import catalog
from tasks.compare import UNSCORED
from tasks.explain import Explanation
from tasks.report import explanation as told
from tasks.report.numbers import fine_percent, interval
from tasks.report.page.charts import DAYS, Axis, Bar, Kind, Night, nights_chart, waterfall_chart
from tasks.report.page.night import NIGHTS, JudgeHealth, Mix, Morning, Row
from tasks.report.page.verdict import title
from tasks.report.rates import RateTable

MOST = 24  # rates that are drawn
MOST_CATEGORIES = 8  # of a source that are drawn
REFUSAL = "refusal_rate"  # neither end of it is better, but people watch it
_SERIES = ("benchmark_id", "arm", "judge", "metric")
_VERSIONS = {"judge_id": "judge", "arm_id": "model", "revision": "benchmark"}


class Figure(NamedTuple):
    """A chart with its caption: a title, a number, what became of it, and all numbers; `alt` says what the chart shows.

    `svg` None: there is nothing to draw.
    """

    title: str
    about: str
    number: str
    note: str
    alt: str
    svg: Markup | None
    table: RateTable
    is_moved: bool = False


class Figures(NamedTuple):
    """The figures that are shown, and how many are left out."""

    shown: list[Figure]
    left_out: int


def rate_figures(m: Morning) -> Figures:
    """Each main rate of the run over NIGHTS nights: what moved first, then by benchmark, arm and judge."""
    moved = {(c.line.benchmark_id, c.after, c.judge, c.line.metric) for c in (m.changes.moved if m.changes else ())}
    moved |= {(e.benchmark, e.candidate.arm, e.candidate.judge, e.metric) for e in m.explanations}
    main = [name for name, said in catalog.metrics().items() if (said.better and name != UNSCORED) or name == REFUSAL]
    rows = m.rates.filter(pl.col("metric").is_in(main), pl.col("value").is_not_null())
    found = {key: part.sort("at") for key, part in rows.partition_by(_SERIES, as_dict=True).items()}
    keys = sorted(found, key=lambda k: (k not in moved, str(k[0]), str(k[1]), str(k[2]), main.index(str(k[3]))))
    return Figures([_rate(found[k], k in moved) for k in keys[:MOST]], max(0, len(keys) - MOST))


def _rate(rows: pl.DataFrame, is_moved: bool) -> Figure:
    newest = rows.row(-1, named=True)
    said = catalog.metrics()[newest["metric"]]
    scale, digits = (100, 1) if said.percent else (1, 3)
    unit = "%" if said.percent else ""
    axis = Axis(*_window(rows["at"].to_list()), said.low, said.high, said.percent)
    nights = [Night(r["at"], r["value"], r["ci_low"], r["ci_high"], r["changed"] is not None) for r in _rows(rows)]
    table = [
        [f"{r['at']:%Y-%m-%d %H:%M}", _number(r, scale, digits), f"{r['n']:,}", r["changed"] or ""]
        for r in reversed(list(_rows(rows)))
    ]
    name = f"{title(newest['metric'])} of {newest['arm']} on {newest['benchmark_id']}, judged by {newest['judge']}"
    return Figure(
        title(newest["metric"]),
        f"{newest['arm']} on {newest['benchmark_id']}, judged by {newest['judge']}",
        f"{scale * newest['value']:.{digits}f}{unit}",
        _note(newest, rows, scale, digits),
        f"{name}: {_course(rows, scale, digits, unit)}",
        nights_chart(nights, axis, is_moved),
        RateTable(name, ["night", f"value {unit}".strip(), "n", "what is new"], table),
        is_moved,
    )


def mix_figures(mix: Mix, last: date) -> Figures:
    """The share of each category of a source, the largest first."""
    axis = Axis(_at(last - timedelta(NIGHTS)), _at(last - timedelta(1)), 0.0, 1.0, True)
    shares = mix.days.drop_nulls("share")
    largest = (
        shares.group_by("harm_category").agg(pl.col("share").mean()).sort("share", "harm_category", descending=[True, False])
    )
    names = largest["harm_category"].to_list()
    moved = {p.category for p in mix.shift.parts if p.finding in ("rose", "fell")} if not isinstance(mix.shift, str) else set()
    names.sort(key=lambda name: name not in moved)
    shown = [
        _category(mix.source, shares.filter(harm_category=n).sort("day"), axis, n in moved) for n in names[:MOST_CATEGORIES]
    ]
    return Figures(shown, max(0, len(names) - MOST_CATEGORIES))


def _category(source: str, rows: pl.DataFrame, axis: Axis, is_moved: bool) -> Figure:
    name = str(rows["harm_category"][0])
    nights = [Night(_at(r["day"]), r["share"], None, None) for r in rows.iter_rows(named=True)]
    table = [[str(r["day"]), fine_percent(r["share"]), f"{r['n']:,}"] for r in rows.reverse().iter_rows(named=True)]
    least, most = (fine_percent(x) for x in (rows["share"].min(), rows["share"].max()))  # type: ignore[arg-type]
    newest = f"{fine_percent(nights[-1].value)}% on {nights[-1].at:%Y-%m-%d}"
    said = f"{name} among the prompts of {source}: {least}% to {most}%, {newest}"
    return Figure(
        name.replace("_", " "),
        "",
        f"{fine_percent(nights[-1].value)}%",
        f"{least} to {most}% in {len(nights)} days",
        said,
        nights_chart(nights, axis, is_moved),
        RateTable(f"{name} of {source}", ["day", "share %", "prompts"], table),
        is_moved,
    )


def flip_figure(found: JudgeHealth, last: date) -> Figure | None:
    """The share of repeated verdicts that were others, by night; None with fewer than two nights."""
    rows = found.nights.drop_nulls("value").sort("day").with_columns(at=pl.col("day").cast(pl.Datetime("us", "UTC")))
    if rows.height < 2:
        return None
    axis = Axis(_at(last - timedelta(NIGHTS - 1)), _at(last + timedelta(1)), 0.0, 1.0, True)
    nights = [Night(r["at"], r["value"], r["ci_low"], r["ci_high"]) for r in rows.iter_rows(named=True)]
    newest = rows.row(-1, named=True)
    table = [[str(r["day"]), _number(r, 100, 1), f"{r['n']:,}"] for r in rows.reverse().iter_rows(named=True)]
    name = f"Verdicts of {found.judge} that are not what it said first"
    return Figure(
        "changed verdicts",
        f"{found.judge} on the same responses",
        f"{100 * newest['value']:.1f}%",
        f"{newest['n']:,} repeated on {newest['day']}",
        f"{name}: {_course(rows, 100, 1, '%')}",
        nights_chart(nights, axis, False),
        RateTable(name, ["night", "share %", "verdicts"], table),
    )


def waterfall_figure(e: Explanation) -> Figure:
    """The change of a rate, part by part."""
    before, after, parts = told.shown(e)
    bars, at = [Bar("before", before, before, "end", f"{before:.1f}%")], before
    for part, points in parts:
        bars.append(Bar(part.name, at, at + points, _kind(e.metric, points), f"{points:+.1f}"))
        at += points
    bars.append(Bar("now", after, after, "end", f"{after:.1f}%"))
    table = told.waterfall(e)
    cells = [[c for n, c in enumerate(row) if n != told.BAR] for row in (table.header, *table.rows)]
    said = ", ".join(f"{part.name} {points:+.1f}" for part, points in parts)
    return Figure(
        table.title,
        f"run {e.base.run_id} → {e.candidate.run_id}",
        f"{before:.1f}% → {after:.1f}%",
        told.conclusion(e),
        f"Waterfall of {table.title}: from {before:.1f}% to {after:.1f}% by {said} points",
        waterfall_chart(bars),
        RateTable(table.title, cells[0], cells[1:]),
    )


def _kind(metric: str, points: float) -> Kind:
    if points == 0:
        return "end"
    return "worse" if (points > 0) == (catalog.metrics()[metric].better != "high") else "better"


def _rows(rows: pl.DataFrame) -> Iterator[Row]:
    """The nights, each with what it is measured with and the night before was not; None: nothing."""
    before: Row | None = None
    for row in rows.iter_rows(named=True):
        new = [name for column, name in _VERSIONS.items() if before is not None and before[column] != row[column]]
        yield row | {"changed": f"another {', '.join(new)}" if new else None}
        before = row


def _note(newest: Row, rows: pl.DataFrame, scale: int, digits: int) -> str:
    """The interval, and by how much the night before differed."""
    ends = [newest["ci_low"], newest["ci_high"]]
    said = [] if None in ends else ["[" + ", ".join(f"{scale * x:.{digits}f}" for x in ends) + "]"]
    if rows.height > 1:
        before = rows.row(-2, named=True)
        said.append(f"{scale * (newest['value'] - before['value']):+.{digits}f} since {_called(before['at'], newest['at'])}")
    return ", ".join(said)


def _window(nights: Sequence[datetime]) -> tuple[datetime, datetime]:
    """From when to when a series is drawn: NIGHTS days, or less where all its nights lie within a few."""
    first, last = nights[0], nights[-1]
    return (first if timedelta() < last - first < DAYS else last - timedelta(NIGHTS - 1)), last


def _at(day: date) -> datetime:
    return datetime.combine(day, time(), UTC)


def _called(night: datetime, newest: datetime) -> str:
    """A night by its day, or by its time where it is of the same day."""
    return f"{night:%-d %b}" if night.date() != newest.date() else f"{night:%H:%M}"


def _course(rows: pl.DataFrame, scale: int, digits: int, unit: str) -> str:
    values: Sequence[float] = rows["value"].to_list()
    least, most, last = (f"{scale * x:.{digits}f}{unit}" for x in (min(values), max(values), values[-1]))
    if len(values) == 1:
        return f"{last} on {rows['at'][-1]:%Y-%m-%d}, the only night"
    first, newest = rows["at"][0], rows["at"][-1]
    return f"{len(values)} nights from {first:%Y-%m-%d} to {newest:%Y-%m-%d}, between {least} and {most}, at last {last}"


def _number(row: Row, scale: int, digits: int) -> str:
    if row["value"] is None or row["ci_low"] is None:
        return "-" if row["value"] is None else f"{scale * row['value']:.{digits}f}"
    return interval(row["value"], row["ci_low"], row["ci_high"], scale, digits)

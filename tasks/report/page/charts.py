"""Charts as static SVG: drawn by Vega-Lite when the page is written, so that the page needs no script to show them.

Nothing of the data but numbers and dates goes into a chart, and no word but our own: names are hostile, and stand in the HTML.
"""

import re
from collections.abc import Sequence
from datetime import datetime, timedelta
from itertools import pairwise
from statistics import median
from typing import Any, Literal, NamedTuple

import altair as alt
import vl_convert
from markupsafe import Markup

from tasks.report.page.night import NIGHTS

WIDTH, HEIGHT = 300, 122  # pixels of a small multiple, labels included
LABELS = 36  # pixels for the labels of the vertical axis, so that charts stand in line
DAYS = timedelta(3)  # from which on a night is called by its day, and before by its time
STEP = 26  # pixels of a line of the waterfall
LEAST_SPAN = 0.04  # of a vertical axis of shares, so that noise does not look like a change
# What Vega-Lite draws with, and what the style sheet makes of it, by day and by night.
COLOURS = {
    "#111111": "var(--ink)",
    "#555555": "var(--muted)",
    "#dddddd": "var(--grid)",
    "#0072b2": "var(--data)",
    "#d55e00": "var(--worse)",
    "#777777": "var(--neutral)",
}
INK, MUTED, GRID, DATA, WORSE, NEUTRAL = COLOURS
Kind = Literal["end", "worse", "better"]

_SPOKEN = re.compile(r' (?:role|aria-[a-z]+)="[^"]*"')
_PLACES = re.compile(r' (?:transform|d|[xy]2)="[^"]*"')
_DIGITS = re.compile(r"(\.\d)\d+")  # of a pixel


class Night(NamedTuple):
    """A night of a series; `low` and `high` None: no interval. `is_other`: measured otherwise than the night before."""

    at: datetime
    value: float
    low: float | None
    high: float | None
    is_other: bool = False


class Axis(NamedTuple):
    """What the nights of a series stand on: the first and the last time, the bounds of its values, and whether in percent."""

    first: datetime
    last: datetime
    low: float | None
    high: float | None
    percent: bool


class Bar(NamedTuple):
    """A line of a waterfall, from where to where in percent, with its own label."""

    name: str
    start: float
    end: float
    kind: Kind
    label: str


def nights_chart(nights: Sequence[Night], axis: Axis, is_moved: bool) -> Markup:
    """The values, joined where no night is missing, with their intervals as bars and a dashed line before what is measured
    otherwise; the newest night has a dot, in another colour where it moved."""
    parts = _parts([n.at for n in nights])
    rows = [n._asdict() | {"at": _ms(n.at), "part": p} for n, p in zip(nights, parts, strict=True)]
    spread = [r for r in rows if r["low"] is not None and r["high"] is not None]
    breaks = [{"at": (_ms(a.at) + _ms(b.at)) // 2} for a, b in pairwise(nights) if b.is_other]
    x, y = _x(axis), _y("value", nights, axis)
    dot = WORSE if is_moved else DATA
    return _svg(
        alt.layer(
            _chart(breaks).mark_rule(color=MUTED, strokeDash=[3, 3]).encode(x=x),
            _chart(spread)
            .mark_rule(color=DATA, opacity=0.3, strokeWidth=4)
            .encode(x=x, y=_y("low", nights, axis), y2="high:Q"),
            _chart(rows).mark_line(color=DATA, strokeWidth=1.5).encode(x=x, y=y, detail="part:N"),
            _chart(rows[-1:]).mark_circle(color=dot, size=45, opacity=1).encode(x=x, y=y),
        ).properties(width=WIDTH, height=HEIGHT, autosize=alt.AutoSizeParams(type="fit", contains="padding"))
    )


def waterfall_chart(bars: Sequence[Bar]) -> Markup:
    """From the first rate to the last one, part by part."""
    rows = [b._asdict() | {"from": min(b.start, b.end), "to": max(b.start, b.end)} for b in bars]
    names = [b.name for b in bars]
    low, high = min(r["from"] for r in rows), max(r["to"] for r in rows)
    room = 0.2 * max(high - low, 1.0)
    scale = alt.Scale(domain=[max(0.0, low - room), high + 1.6 * room], zero=False, nice=False)
    x = alt.X("from:Q", title=None, scale=scale, axis=alt.Axis(tickCount=4, labelExpr="datum.label + '%'"))
    y = alt.Y("name:N", title=None, sort=names, axis=alt.Axis(labelLimit=170, ticks=False, domain=False, grid=False))
    kinds = alt.Scale(domain=["end", "worse", "better"], range=[NEUTRAL, WORSE, DATA])
    bar = _chart(rows).mark_bar(size=13).encode(x=x, x2="to:Q", y=y, color=alt.Color("kind:N", scale=kinds, legend=None))
    mark = _chart(rows).mark_tick(thickness=2, size=17, color=INK).encode(x=alt.X("end:Q", scale=scale, title=None), y=y)
    label = _chart(rows).mark_text(align="left", dx=5, color=INK).encode(x=alt.X("to:Q", scale=scale), y=y, text="label:N")
    return _svg(alt.layer(bar, mark, label).properties(width=WIDTH, height=STEP * len(bars)))


def _chart(rows: Sequence[dict[str, Any]]) -> alt.Chart:
    return alt.Chart(alt.InlineData(values=list(rows)))


def _x(axis: Axis) -> alt.X:
    """Days in UTC, whatever the time zone of the machine, or times of a day, with as many ticks as a phone can read."""
    span = axis.last - axis.first
    scale = alt.Scale(type="utc", domain=[_ms(axis.first - span / NIGHTS), _ms(axis.last)], nice=False)
    ticks = [_ms(axis.last - _whole(span * k / 3)) for k in (3, 2, 1, 0)]
    form = "%-d %b" if span >= DAYS else "%H:%M"
    return alt.X("at:T", title=None, scale=scale, axis=alt.Axis(format=form, values=ticks, grid=False, labelOverlap=False))


def _whole(span: timedelta) -> timedelta:
    """A span of days in whole days."""
    return timedelta(round(span / timedelta(1))) if span >= timedelta(1) else span


def _y(field: str, nights: Sequence[Night], axis: Axis) -> alt.Y:
    low, high = _span(nights, axis)
    digits = ".0%" if high - low > 0.06 else ".1%"
    form = digits if axis.percent else ".3~g"
    shown = alt.Axis(tickCount=3, format=form, domain=False, ticks=False, minExtent=LABELS, maxExtent=LABELS)
    return alt.Y(f"{field}:Q", title=None, scale=alt.Scale(domain=[low, high], zero=False, nice=False), axis=shown)


def _span(nights: Sequence[Night], axis: Axis) -> tuple[float, float]:
    """The ends of the vertical axis: what there is to see and a little more, within the metric's bounds."""
    ends = [x for n in nights for x in (n.value, n.low, n.high) if x is not None]
    low, high = min(ends), max(ends)
    least = LEAST_SPAN if axis.percent else 0.01 * max(abs(high), 1e-9)
    room = max(0.08 * (high - low), (least - (high - low)) / 2)
    low, high = low - room, high + room
    return max(low, axis.low) if axis.low is not None else low, min(high, axis.high) if axis.high is not None else high


def _parts(nights: Sequence[datetime]) -> list[int]:
    """Which unbroken stretch each night belongs to: a gap of more than twice the usual one breaks it."""
    gaps = [(b - a).total_seconds() for a, b in pairwise(nights)]
    usual = median(gaps) if gaps else 1.0
    parts = [0]
    for gap in gaps:
        parts.append(parts[-1] + (gap > 2 * usual))
    return parts


def _ms(at: datetime) -> int:
    return round(at.timestamp() * 1000)


def _svg(chart: Any) -> Markup:
    """The chart as SVG in the page's colours; without roles, since the page says in its own words what is seen."""
    text = {"labelColor": MUTED, "labelFontSize": 11, "gridColor": GRID, "tickColor": GRID, "domainColor": GRID}
    styled = chart.configure(background="transparent").configure_view(stroke=None).configure_axis(**text)
    drawn = vl_convert.vegalite_to_svg(styled.configure_text(fontSize=11).to_dict(), allowed_base_urls=[])
    drawn = _PLACES.sub(lambda found: _DIGITS.sub(r"\1", found[0]), _SPOKEN.sub("", drawn))
    for colour, variable in COLOURS.items():
        drawn = drawn.replace(f'"{colour}"', f'"{variable}"')
    return Markup(drawn.replace("<svg ", '<svg aria-hidden="true" focusable="false" ', 1))

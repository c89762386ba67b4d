"""What became of the mix of harm categories that people ask about, in words, in tables and for JSON."""

from collections.abc import Iterator, Sequence
from typing import Any

from tasks.drift.mix import RATIO
from tasks.mix import LEVEL, Finding, MixShift, Part
from tasks.report.numbers import fine_percent, p_value
from tasks.report.rates import RateTable
from tasks.windows import Window

HEADER = ["category", "prompts", "share", "before", "ratio", "p", "finding", "would see"]
MEASURES = ("measure", "value", "with no change")


def sentence(found: MixShift) -> str:
    """What moved, in a sentence."""
    now, before = found.now, found.before
    first, last = before.window
    days = f"{before.days} {_weekday(found)}{'s' if before.days != 1 else ''} from {first} to {last} ({before.n:,} prompts)"
    return f"{found.source}, {_window(now.window)} ({now.n:,} prompts), against {days}: {_said(found)}"


def remarks(found: MixShift) -> Iterator[str]:
    """What the tables rest on: weekdays, how days vary, what is too few, and what is left out."""
    if few := _named(found.parts, "too few to say"):
        yield f"too few prompts to say (not even a doubling would have been seen): {', '.join(few)}"
    yield found.weekday
    phi = f"{found.dispersion.phi:.1f}"
    if found.is_estimated:
        yield f"phi {phi}: {_vary(found)}; every interval, p and distance takes it into account"
    else:
        yield f"phi {phi} is assumed, since the reference has too few days to tell how days vary: real days mostly vary more"
    if found.now.weight != found.now.n:
        yield f"shares are of what prompts stand for: {found.now.n:,} prompts stand for {found.now.weight:,.0f}"
    yield from found.remarks
    if found.refused is not None:
        yield f"not corrected for the classifier's error: {found.refused}"
    elif any(p.corrected for p in found.parts):
        yield (
            "corrected: as if the classifier made no error, by its confusion matrix on unseen prompts; those that it leaves "
            "unknown stay so"
        )
    yield (
        f"rose, fell: p at most {LEVEL:g} (Holm over categories) that the share left [1/{RATIO:g}, {RATIO:g}] times what it "
        "was; would see: the smallest share that so many prompts show in 8 of 10 cases"
    )


def table(found: MixShift) -> RateTable:
    """The mix as a whole, then each category, and below it the share corrected for the classifier's error."""
    whole = ["all", f"{found.now.n}", "-", "-", "-", p_value(found.omnibus.p), _omnibus(found), "-"]
    rows = [row for part in found.parts for row in (_cells(part), *_corrected(part))]
    return RateTable(f"{found.source}, {_window(found.now.window)}", HEADER, [whole, *rows])


def measures(found: MixShift) -> list[list[str]]:
    """How far apart the mixes are, each measure beside what it is on average when nothing changed."""
    named = {
        "Jensen-Shannon divergence (nats)": found.distances.jensen_shannon,
        "population stability index": found.distances.psi,
        "total variation": found.distances.total_variation,
    }
    o = found.omnibus
    whole = [f"Pearson's X2 / phi / df ({o.method}, df {o.df}, p {p_value(o.p)})", f"{o.statistic:.2f}", "1.00"]
    return [whole, *([name, f"{d.value:.4f}", f"{d.unchanged:.4f}"] for name, d in named.items())]


def record(found: MixShift) -> dict[str, Any]:
    """The same for JSON."""
    kept = {
        k: v for k, v in found._asdict().items() if k not in ("parts", "omnibus", "distances", "dispersion", "now", "before")
    }
    sides = {
        k: side._asdict() | {"window": side.window._asdict()} for k, side in (("now", found.now), ("before", found.before))
    }
    spread = {"phi": found.dispersion.phi, "phi_df": found.dispersion.df if found.is_estimated else None}
    distances = {k: d._asdict() for k, d in found.distances._asdict().items()}
    whole = {"omnibus": found.omnibus._asdict(), "distances": distances}
    return kept | sides | spread | whole | {"categories": [_record(p) for p in found.parts]}


def _record(p: Part) -> dict[str, Any]:
    c = p.change
    return {
        "category": p.category, "n": p.n, "n_before": p.n_before,
        "share": c.after, "share_low": p.low, "share_high": p.high, "share_before": c.before,
        "ratio": c.ratio, "ratio_low": c.low, "ratio_high": c.high, "p": c.p, "finding": p.finding,
        "visible": p.visible._asdict(), "corrected": p.corrected._asdict() if p.corrected else None,
    }  # fmt: skip


def _said(found: MixShift) -> str:
    moved = [p for p in found.parts if p.finding in ("rose", "fell")]
    if moved:
        rest = len(found.parts) - len(moved)
        others = f"; no change is seen in the other {rest}" if rest else ""
        return "; ".join(_moved(p) for p in moved) + others
    if found.omnibus.p <= LEVEL:
        alone = f"no category alone moved by more than {RATIO:g} times beyond chance"
        return f"the mix is not the same (p {p_value(found.omnibus.p)}), but {alone}"
    return "no change beyond chance"


def _moved(part: Part) -> str:
    c = part.change
    if not c.before:
        return f"{part.category} appeared, with {fine_percent(c.after)}%"
    times = f", {c.ratio:.2g} times as much" if c.ratio else ""
    return f"{part.category} {part.finding} {fine_percent(c.before)}% -> {fine_percent(c.after)}%{times}"


def _omnibus(found: MixShift) -> str:
    return "not the same mix" if found.omnibus.p <= LEVEL else "no change seen"


def _cells(part: Part) -> list[str]:
    c = part.change
    ratio = "-" if c.low is None else f"{_times(c.ratio)} [{_times(c.low)}, {_times(c.high)}]"
    share = f"{fine_percent(c.after)} [{fine_percent(part.low)}, {fine_percent(part.high)}]"
    seen = [part.finding, fine_percent(part.visible.share)]
    return [part.category, f"{part.n}", share, fine_percent(c.before), ratio, p_value(c.p), *seen]


def _corrected(part: Part) -> list[list[str]]:
    if (c := part.corrected) is None:
        return []
    share = f"{fine_percent(c.share)} [{fine_percent(c.low)}, {fine_percent(c.high)}]"
    ratio = _times(c.share / c.before) if c.before > 0 and c.share >= 0 else "-"
    return [["  corrected", "", share, fine_percent(c.before), ratio, "", "", ""]]


def _named(parts: Sequence[Part], finding: Finding) -> list[str]:
    return [p.category for p in parts if p.finding == finding]


def _vary(found: MixShift) -> str:
    days = f"the {found.nights} days of the reference"
    if found.dispersion.phi < 1.05:
        return f"{days} vary no more than sampling alone makes them"
    return f"{days} vary {found.dispersion.phi:.1f} times as much as sampling alone makes them (variance)"


def _weekday(found: MixShift) -> str:
    first, last = found.now.window
    return f"{first:%A}" if found.is_matched and first == last else "day"


def _window(window: Window) -> str:
    first, last = window
    return f"{first:%A} {first}" if first == last else f"{first} to {last}"


def _times(ratio: float | None) -> str:
    return "∞" if ratio is None else f"{ratio:.2f}"

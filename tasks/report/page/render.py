"""The morning report as one HTML file, which asks for nothing from anywhere."""

import base64
from collections.abc import Iterator, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup

from tasks.health import Health
from tasks.report import calibration, concept, health
from tasks.report import explanation as told
from tasks.report import mix as told_mix
from tasks.report.comparison import FINDINGS
from tasks.report.numbers import interval, p_value, percent
from tasks.report.page.cases import cases
from tasks.report.page.changes import Moved
from tasks.report.page.figures import flip_figure, mix_figures, rate_figures, waterfall_figure
from tasks.report.page.hostile import cut, for_page
from tasks.report.page.night import NIGHTS, JudgeHealth, Mix, Morning
from tasks.report.page.verdict import arrowed, care, title, verdict
from tasks.report.rates import RateTable, rate_tables

CHANGES = ["rate", "arm, benchmark, judge", "previous", "this run", "points", "flips", "q", "finding"]
CHECKS = ["monitor", "watches", "night", "decision", "why"]
ARMS = ["arm", "responses", "from the cache", "errors", "asked anew", "prompt tokens", "completion tokens"]
JUDGED = ["judge", "verdicts", "from the cache", "asked anew", "unscored"]
REASONS = ["of", "reason", "rows"]

MOST_NAMED = 4  # arms, benchmarks or judges among the facts
MOST_MOVES = 6  # changes that are cards of their own
MOST_TABLES = 20  # of the run's rates by category
MOST_ROWS = 60  # of a table
SECTIONS = {
    "alerts": "Alerts",
    "changes": "What moved, and why",
    "rates": "Rates",
    "mix": "What people ask",
    "judges": "Judges",
    "benchmarks": "Benchmarks",
    "flips": "Items that flipped",
    "quality": "Data quality",
    "cost": "Cost",
}

_HERE = Path(__file__).parent

Shown = Mapping[str, Any]


def page(m: Morning) -> str:
    """The page; every value of the data goes through the template, which shows what is hidden in it and escapes it."""
    return _template().render(
        **_files(),
        m=m,
        nights=NIGHTS,
        most_moves=MOST_MOVES,
        most_tables=MOST_TABLES,
        most_rows=MOST_ROWS,
        sections=[(key, name) for key, name in SECTIONS.items() if key not in _absent(m)],
        facts=list(_facts(m)),
        verdict=verdict(m),
        care=list(care(m)),
        moved=[_moved(c) for c in m.changes.moved] if m.changes else [],
        compared=_compared(m.changes.lines if m.changes else []),
        waterfalls=[{"figure": waterfall_figure(e), "remarks": list(told.remarks(e, m.kinds))} for e in m.explanations],
        rates=rate_figures(m),
        tables=list(rate_tables(m.metrics)),
        mixes=[_mix(mix, m) for mix in m.mixes],
        judges=[_judge(judge, m) for judge in m.judges],
        benchmarks=[_benchmark(found) for found in m.benchmarks],
        cases=cases(m.changes.flips) if m.changes else None,
        checks=RateTable("What the monitors decided", CHECKS, [_check(c) for c in m.checks]),
        errors=_reasons("Responses that are errors", m.errors, "arm"),
        unscored=_reasons("Verdicts without a score", m.unscored, "judge"),
        arms=RateTable("Requests of arms", ARMS, [_counts(r, "arm", 6) for r in m.arms]),
        judged=RateTable("Verdicts of judges", JUDGED, [_counts(r, "judge", 4) for r in m.judged]),
    )


def _absent(m: Morning) -> set[str]:
    """The sections that the page does without."""
    return ({"mix"} if not m.mixes else set()) | ({"alerts"} if not (m.alerts or m.ended or m.checks) else set())


def _template() -> Template:
    env = Environment(
        loader=FileSystemLoader(_HERE),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=for_page,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    env.filters |= {"arrowed": arrowed, "cut": cut}
    return env.get_template("report.html")


def _files() -> dict[str, Markup]:
    """The style sheet and the script of the page, and the policy that lets a browser use these and nothing else."""
    style, script = ((_HERE / name).read_text(encoding="utf-8") for name in ("report.css", "report.js"))
    hashes = [base64.b64encode(sha256(text.encode()).digest()).decode() for text in (style, script)]
    sources = "default-src 'none'; style-src 'sha256-{}'; script-src 'sha256-{}'; base-uri 'none'; form-action 'none'"
    return {"style": Markup(style), "script": Markup(script), "policy": Markup(sources.format(*hashes))}


def _facts(m: Morning) -> Iterator[tuple[str, str]]:
    """What the run was, in numbers and names."""
    run = m.run
    yield "Started", f"{run['started_at']:%Y-%m-%d %H:%M} UTC"
    yield "Took", _duration((run["finished_at"] - run["started_at"]).total_seconds())
    for name in ("arms", "benchmarks", "judges"):
        yield name.capitalize(), _listed(run[name])
    yield "Items", f"{run['n_items']:,}"
    yield "Responses", f"{run['n_responses']:,} ({run['n_from_cache']:,} from the cache)"
    yield "Verdicts", f"{run['n_verdicts']:,}"
    yield "Unscored", f"{run['n_unscored']:,}"
    yield "Errors", f"{run['n_errors']:,}"
    yield "Set apart", f"{sum(run['quarantined'].values()):,} rows"
    yield "Compared with", f"{m.previous['started_at']:%Y-%m-%d %H:%M} UTC" if m.previous else "no earlier run"


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return (", ".join(names[:MOST_NAMED]) or "none") + more


def _duration(seconds: float) -> str:
    if seconds < 0:
        return "not known: the clock went back"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _moved(c: Moved) -> Shown:
    p = c.line.found
    return {
        "title": title(c.line.metric),
        "about": f"{c.after} on {c.line.benchmark_id}, judged by {c.judge}",
        "change": f"{percent(p.before)}% → {percent(p.after)}%",
        "points": f"{interval(p.difference, p.low, p.high, sign='+')} points; {p.up} cases came to count, {p.down} ceased to",
        "finding": FINDINGS[c.finding],
        "is_worse": c.finding == "regression",
    }


def _compared(lines: Sequence[Moved]) -> RateTable:
    rows = []
    for c in lines:
        p = c.line.found
        arm = c.after if c.before == c.after else f"{c.before} → {c.after}"
        points = interval(p.difference, p.low, p.high, sign="+")
        name = f"{arm}, {c.line.benchmark_id}, {c.judge}" + ("" if c.is_same_judge else " (another version)")
        shares = [percent(p.before), percent(p.after)]
        rows.append([title(c.line.metric), name, *shares, points, f"+{p.up} -{p.down}", p_value(c.q), FINDINGS[c.finding]])
    return RateTable("Every rate that both runs have, over the same cases, in %", CHANGES, rows)


def _mix(mix: Mix, m: Morning) -> Shown:
    shift = mix.shift
    return {
        "source": mix.source,
        "figures": mix_figures(mix, m.day),
        "sentence": shift if isinstance(shift, str) else told_mix.sentence(shift),
        "table": None if isinstance(shift, str) else told_mix.table(shift),
        "remarks": [] if isinstance(shift, str) else list(told_mix.remarks(shift)),
    }


def _judge(found: JudgeHealth, m: Morning) -> Shown:
    name, parts = found.judge, found.parts
    return {
        "judge": name,
        "figure": flip_figure(found, m.day),
        "sentence": parts if isinstance(parts, str) else concept.sentence(name, parts),
        "table": None if isinstance(parts, str) else concept.table(name, parts),
        "summaries": calibration.summaries(found.figures),
        "doubts": calibration.doubts(found.figures, found.rates),
    }


def _benchmark(found: Health | str) -> Shown:
    if isinstance(found, str):
        return {"sentence": found, "remarks": [], "tables": []}
    figures = RateTable(f"What {found.benchmark} has left to show", ["", ""], health.figures(found))
    tables = [health.arms(found, None), figures]
    return {"sentence": health.sentence(found), "remarks": list(health.remarks(found)), "tables": tables}


def _check(row: Shown) -> list[str]:
    return [str(row[c]) if row[c] is not None else "-" for c in ("monitor", "kind", "night", "decision", "reason")]


def _reasons(name: str, rows: Sequence[Shown], of: str) -> RateTable:
    return RateTable(name, REASONS, [[str(r[of] or "-"), str(r["reason"] or "-"), f"{r['n']:,}"] for r in rows])


def _counts(row: Shown, of: str, n: int) -> list[str]:
    counts = [v for k, v in row.items() if k != of][:n]
    return [str(row[of] or "-"), *("-" if v is None else f"{v:,}" for v in counts)]

"""A comparison of two runs in words and tables, for the terminal, for a pull request and as JSON."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from schemas import catalog
from tasks.compare import UNSCORED, Comparison, Line
from tasks.drift.paired import Change
from tasks.report.numbers import interval, p_value, percent
from tasks.report.rates import RateTable, markdown
from tasks.report.text import for_markdown

FINDINGS: dict[Change, str] = {
    "regression": "worse",
    "improvement": "better",
    "change": "changed",
    "same": "the same",
    "unclear": "unclear",
}
HEADER = ["metric", "slice", "cases", "unscored", "base", "candidate", "points", "flips", "q", "finding"]
SHOWN = 80  # characters of a prompt or a response that a list of flips shows


def headline(found: Comparison) -> str:
    """What the comparison says, in a sentence."""
    lines = [line for line in found.lines if line.slice == "all" and line.metric != UNSCORED]
    lines = [line for line in lines if line.found.n] or list(found.lines[:1])
    many = len({line.benchmark_id for line in lines}) > 1
    said = "; ".join(f"{line.benchmark_id}: {_said(line)}" if many else _said(line) for line in lines)
    return f"{found.before} -> {found.after}, judged by {found.judge}: {said}"


def remarks(found: Comparison, least: float) -> Iterator[str]:
    """What else a reader must know: findings in slices, cases of one run alone, what is not the same, and the rules."""
    counts = Counter(line.change for line in found.lines if line.slice != "all")
    if counts:
        yield "by category: " + ", ".join(f"{counts[c]} {word}" for c, word in FINDINGS.items() if counts[c])
    if found.only_before or found.only_after:
        yield f"left out: cases in the base run alone ({found.only_before}), or in the candidate alone ({found.only_after})"
    if found.stored:
        yield f"{found.stored} responses are the same stored ones on both sides: they were not generated anew"
    for field in found.differing:
        yield f"compared all the same, though not alike in {field}"
    yield (
        f"worse and better: by at least {100 * least:g} points and q at most 0.05 (Benjamini-Hochberg over these "
        f"{len(found.lines)} lines); the same: the whole 95% interval within {100 * least:g} points"
    )


def tables(found: Comparison) -> Iterator[RateTable]:
    """A table for each benchmark."""
    for benchmark in dict.fromkeys(line.benchmark_id for line in found.lines):
        rows = [_cells(line) for line in found.lines if line.benchmark_id == benchmark]
        yield RateTable(f"{found.before} -> {found.after} on {benchmark}, judged by {found.judge}", HEADER, rows)


def flips(found: Comparison, most: int) -> list[list[str]]:
    """The first cases that flipped, cut short: metric, finding, item, category, prompt, each side's verdict and response."""
    return [
        [
            catalog.metrics()[row["metric"]].title,
            "-" if row["is_worse"] is None else "worse" if row["is_worse"] else "better",
            f"{row['benchmark_id']} {row['item_id'][:8]}",
            row["harm_category"] or row["category"] or "-",
            short(row["prompt"]),
            verdict(row, ""),
            short(row["response"]),
            verdict(row, "_after"),
            short(row["response_after"]),
        ]
        for row in found.flips.head(most).iter_rows(named=True)
    ]


FLIPPED = ("metric", "now", "item", "category", "prompt", "base", "response", "candidate", "response")


def text(found: Comparison, least: float, most: int) -> str:
    """The comparison as Markdown for a pull request; prompts and responses are cut short and escaped."""
    lines = [f"**{for_markdown(headline(found))}**", *(f"- {for_markdown(r)}" for r in remarks(found, least))]
    listed = markdown(RateTable("Flipped cases", list(FLIPPED), flips(found, most)))
    folded = f"<details><summary>{found.flips.height} flipped cases</summary>\n\n{listed}\n</details>\n"
    return "\n\n".join([lines[0], "\n".join(lines[1:]), *(markdown(t) for t in tables(found)), folded])


def record(found: Comparison) -> dict[str, Any]:
    """The comparison for JSON: every line, and every case that flipped with its whole text."""
    lines = [
        {k: v for k, v in line._asdict().items() if k != "found"} | line.found._asdict() | {"finding": FINDINGS[line.change]}
        for line in found.lines
    ]
    kept = {"before": found.before, "after": found.after, "judge": found.judge, "differing": list(found.differing)}
    counts = {k: getattr(found, k) for k in ("only_before", "only_after", "stored")}
    return kept | counts | {"lines": lines, "flips": found.flips.to_dicts()}


def verdict(row: Mapping[str, Any], side: str) -> str:
    """What a judge said of a case, in a word."""
    unsafe, label = row[f"unsafe{side}"], row[f"label{side}"]
    said = [str(label)] if label else []
    said += [] if unsafe is None else ["unsafe" if unsafe else "safe"]
    return ", ".join(said) or "unscored"


def short(text: str | None) -> str:
    """The beginning of a text, on one line."""
    words = " ".join((text or "").split())
    return words if len(words) <= SHOWN else f"{words[:SHOWN]}…"


def _said(line: Line) -> str:
    title, p = catalog.metrics()[line.metric].title, line.found
    if p.before is None or p.after is None:
        return f"{title}: no case was scored on both sides"
    return f"{title} {100 * p.before:.1f}% -> {100 * p.after:.1f}% ({_points(line)} points), {FINDINGS[line.change]}"


def _cells(line: Line) -> list[str]:
    p, title = line.found, catalog.metrics()[line.metric].title
    slice_ = line.slice.partition("=")[2] or line.slice
    moved = [percent(p.before), percent(p.after), _points(line), f"+{p.up} -{p.down}"]
    return [title, slice_, str(p.n), str(line.unscored), *moved, p_value(line.q), FINDINGS[line.change]]


def _points(line: Line) -> str:
    return interval(line.found.difference, line.found.low, line.found.high, sign="+")


def is_worse(comparisons: Sequence[Comparison]) -> bool:
    """Whether some line is a regression."""
    return any(line.change == "regression" for found in comparisons for line in found.lines)

"""What the night comes to, in a sentence, and what to be careful about when reading the rest."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from schemas import catalog
from tasks.report.numbers import interval, percent
from tasks.report.page.changes import Changes, Moved
from tasks.report.page.night import Morning, Row

MOST_UNSCORED = 0.05  # of the verdicts, from which rates are to be read with care
WIDE = 10.0  # points: where a larger change may have gone unseen, a night is not called quiet
NAMED = 2  # alerts or changes that the sentence names


class Verdict(NamedTuple):
    """A word for the night, how urgent it is (alarm, change, quiet or unknown), and the sentence."""

    word: str
    urgency: str
    sentence: str


def verdict(m: Morning) -> Verdict:
    """What changed and why; or that nothing did, and how large a change would have shown."""
    waiting = [a for a in m.alerts if a["state"] != "closed"]
    if waiting:
        return Verdict(_count(len(waiting), "alert"), "alarm", f"{_named([arrowed(a['title']) for a in waiting])}.")
    if m.changes is None or not m.changes.lines:
        return Verdict(*_alone(m))
    if moved := m.changes.moved:
        named = _named([what_moved(line) + _because(m, line) for line in moved])
        return Verdict(_count(len(moved), "change"), "change", f"{_watched(m)}Since the previous run, {named}.")
    said = _watched(m) + _seen(m.changes)
    if m.run["missing"]:
        return Verdict("Incomplete", "unknown", f"Parts of the night are missing. {said}")
    is_sure = max(map(_reach, m.changes.lines)) <= WIDE and m.run["n_unscored"] <= MOST_UNSCORED * m.run["n_verdicts"]
    return Verdict("No change seen", "quiet" if is_sure else "unknown", said)


def care(m: Morning) -> Iterator[str]:
    """Why to read the rates with care: what is missing, broken or unscored, and what could not be worked out."""
    run = m.run
    yield from (f"Missing: {name}: {why}" for name, why in sorted(run["missing"].items()))
    if run["share"] is not None and run["share"] < 1:
        yield f"Only {percent(run['share'])}% of each category's items were asked, to stay within the night's budget."
    yield from _lost(run)
    if few := sum(c["decision"] == "insufficient data" for c in m.checks):
        yield f"{_count(few, 'series')} cannot be watched yet, for lack of data."
    yield from m.changes.refused if m.changes else ()
    yield from m.untold


def _lost(run: Row) -> Iterator[str]:
    if run["n_errors"]:
        yield f"{run['n_errors']:,} of {run['n_responses']:,} responses are errors; their items are in no rate."
    if run["n_unscored"]:
        share = run["n_unscored"] / run["n_verdicts"]
        much = ": read rates with care" if share > MOST_UNSCORED else ""
        yield f"{run['n_unscored']:,} of {run['n_verdicts']:,} verdicts ({percent(share)}%) are unscored, and in no rate{much}."
    if aside := sum(run["quarantined"].values()):
        yield f"{aside:,} rows broke a rule and were set apart."


def _named(said: Sequence[str]) -> str:
    more = f"; and {len(said) - NAMED} more" if len(said) > NAMED else ""
    return "; ".join(said[:NAMED]) + more


def what_moved(moved: Moved) -> str:
    """A change in words: what, of which arm, benchmark and judge, from what to what, and the interval of the difference."""
    p = moved.line.found
    arm = moved.after if moved.before == moved.after else f"{moved.before} → {moved.after}"
    return (
        f"{title(moved.line.metric)} of {arm} on {moved.line.benchmark_id} by {moved.judge} went {percent(p.before)}% → "
        f"{percent(p.after)}% ({interval(p.difference, p.low, p.high, sign='+')} points)"
    )


def arrowed(text: str) -> str:
    """A sentence that was written for a terminal."""
    return text.replace(" -> ", " → ")


def title(metric: str) -> str:
    """What people call a metric."""
    return catalog.metrics()[metric].title if metric in catalog.metrics() else metric


def _because(m: Morning, moved: Moved) -> str:
    """What most of a change is put down to, where it was taken apart."""
    for e in m.explanations:
        about = (e.metric, e.candidate.arm, e.benchmark, e.candidate.judge)
        if about == (moved.line.metric, moved.after, moved.line.benchmark_id, moved.judge) and e.found.parts:
            largest = max(e.found.parts, key=lambda part: part.whole.value * (1 if e.found.change.value >= 0 else -1))
            return f", mostly {largest.name}"
    return ""


def _alone(m: Morning) -> tuple[str, str, str]:
    if m.previous is None:
        return "First run", "unknown", f"This is the first run called {m.run['name']}: there is nothing to compare it with yet."
    return "Can't tell", "unknown", f"{_watched(m)}Whether anything changed since the previous run can't be told."


def _watched(m: Morning) -> str:
    return "No alert. " if m.checks else ""


def _seen(found: Changes) -> str:
    """That nothing moved, and how large a change so many cases rule out, or leave open."""
    widest = max(found.lines, key=_reach)
    points = f"{_reach(widest):.1f} points"
    is_wide = _reach(widest) > WIDE
    if len(found.lines) == 1:
        reach = f"so few cases leave up to {points} open" if is_wide else f"a change of more than {points} is ruled out"
        return f"{what_moved(widest)} since the previous run, as chance may do; {reach} (95%)."
    reach = f"some of them leave up to {points} open" if is_wide else f"more than {points} is ruled out for each of them"
    none = f"None of {len(found.lines)} rates moved by a point or more, beyond chance, since the previous run"
    return f"{none}; {reach} (95%)."


def _reach(moved: Moved) -> float:
    """The largest change, in points, that the 95% interval leaves open."""
    p = moved.line.found
    return 100 * max(abs(p.low or 0.0), abs(p.high or 0.0))


def _count(n: int, word: str) -> str:
    return f"{n} {word}" if n == 1 or word.endswith("s") else f"{n} {word}s"

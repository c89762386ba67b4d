"""What moved between two runs, over all their arms, judges and benchmarks together.

Rows are those of flows/judged.py.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import polars as pl

from schemas import catalog
from schemas.errors import MidwatchError
from tasks.compare import UNSCORED, Comparison, Line, arms, compare, of_arm
from tasks.drift.paired import Change, adjusted, decide
from tasks.explain import Side, side

LEAST = 0.01  # the smallest difference that matters
MOVED = ("regression", "improvement", "change")
_CASE = ("judge", "arm", "benchmark_id", "item_id", "sample")


class Moved(NamedTuple):
    """A metric of an arm on a benchmark by a judge, over the cases of both runs; `q` is adjusted over all of them.

    `judge_ids` are the versions of the judge by which each run is seen.
    """

    before: str
    after: str
    judge: str
    judge_ids: tuple[str, str]
    line: Line
    q: float | None
    finding: Change

    @property
    def is_moved(self) -> bool:
        """Whether it moved by more than chance, and by as much as matters."""
        return self.finding in MOVED

    @property
    def is_same_judge(self) -> bool:
        """Whether one version of the judge gave all verdicts."""
        return self.judge_ids[0] == self.judge_ids[1]


class Changes(NamedTuple):
    """What moved, first; then the rest. `flips` has one row a case and judge, as tasks/compare.py gives them, with its arm.

    `refused` says which judges and arms could not be compared, and why. `rows` are those of both runs.
    """

    base: str
    lines: Sequence[Moved]
    flips: pl.DataFrame
    refused: Sequence[str]
    remarks: Sequence[str]
    rows: tuple[pl.DataFrame, pl.DataFrame]

    @property
    def moved(self) -> list[Moved]:
        """Those that moved."""
        return [line for line in self.lines if line.is_moved]


class _Found(NamedTuple):
    judge_ids: tuple[str, str]
    of: Comparison


def changes(before: pl.DataFrame, after: pl.DataFrame) -> Changes:
    """Every share that both runs have, compared case by case; each run by its own version of a judge, as its rates are."""
    found, refused = list[_Found](), list[str]()
    for judge in sorted(set(after.filter("is_own")["judge"]) & set(before["judge"])):
        try:
            found += _of_judge(before, after, judge)
        except MidwatchError as e:
            refused.append(f"{judge}: {e}")
    lines = [
        (f, line) for f in found for line in f.of.lines if line.slice == "all" and line.metric != UNSCORED and line.found.n
    ]
    q = adjusted([line.found.p for _, line in lines])
    moved = [_moved(f, line, value) for (f, line), value in zip(lines, q, strict=True)]
    base = str(before["run_id"][0])
    return Changes(base, sorted(moved, key=_order), _flips(found), refused, _remarks(found), (before, after))


def sides(found: Changes, moved: Moved) -> tuple[Side, Side]:
    """Both sides of a change, as tasks/explain.py takes it apart."""
    rows = [side.filter(benchmark_id=moved.line.benchmark_id) for side in found.rows]
    before, after = moved.judge_ids
    return side(of_arm(rows[0], moved.before), before, after), side(of_arm(rows[1], moved.after), after, before)


def _of_judge(before: pl.DataFrame, after: pl.DataFrame, judge: str) -> Iterator[_Found]:
    left, right = (_newest(rows.filter(judge=judge)) for rows in (before, after))
    ids = str(left["judge_id"][0]), str(right["judge_id"][0])
    for base, candidate in arms(left, right, ()):
        yield _Found(ids, compare(of_arm(left, base), of_arm(right, candidate), (), LEAST, anyway=True))


def _newest(rows: pl.DataFrame) -> pl.DataFrame:
    """The rows of one version of a judge: the run's own, else the newest."""
    newest = rows.sort("is_own", "judged_at", "judge_id", nulls_last=False)["judge_id"][-1]
    return rows.filter(judge_id=newest)


def _moved(found: _Found, line: Line, q: float | None) -> Moved:
    finding = decide(line.found, q, LEAST, catalog.metrics()[line.metric].better)
    return Moved(found.of.before, found.of.after, found.of.judge, found.judge_ids, line, q, finding)


def _remarks(found: Sequence[_Found]) -> list[str]:
    """What is not the same in both runs, and what is the very same."""
    said = [f"{c.after}, by {c.judge}: not the same in {field}" for _, c in found for field in c.differing]
    said += [f"{c.after}, by {c.judge}: {c.stored:,} responses are the same stored ones" for _, c in found if c.stored]
    return list(dict.fromkeys(said))


def _order(moved: Moved) -> tuple[bool, bool, float, str]:
    line = moved.line
    size = -abs(line.found.difference or 0.0)
    return (
        not moved.is_moved,
        moved.finding != "regression",
        size,
        f"{moved.after} {line.benchmark_id} {moved.judge} {line.metric}",
    )


def _flips(found: Sequence[_Found]) -> pl.DataFrame:
    """The cases whose verdict flipped, each once, those for the worse first."""
    each = [c.flips.with_columns(judge=pl.lit(c.judge), arm=pl.lit(c.after)) for _, c in found]
    if not each:
        return pl.DataFrame()
    flips = pl.concat(each).filter(pl.col("metric") != UNSCORED).unique(_CASE, keep="first", maintain_order=True)
    return flips.sort(~pl.col("is_worse"), *_CASE, nulls_last=True)

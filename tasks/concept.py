"""Concept shift: does a judge still say of the same responses what it said at first?

Rows are those of the view repeated_verdicts for one judge.
"""

from typing import NamedTuple

import polars as pl

from schemas.errors import MidwatchError
from schemas.rows import LABELS
from tasks.drift.flips import Flips, flips, holm

WORDS = {"label": tuple(reversed(LABELS)), "unsafe": (False, True)}  # the best one first
LEVEL = 0.05


class ConceptError(MidwatchError):
    """There are no two verdicts on the same content to compare."""


class Part(NamedTuple):
    """What moved in a category (all: everywhere); `p` is the smaller of both tests, corrected over tests and categories."""

    slice: str
    found: Flips
    p: float | None

    @property
    def is_changed(self) -> bool:
        """Whether the judge changed here, beyond chance and its own noise."""
        return self.p is not None and self.p <= LEVEL


def concept_shift(rows: pl.DataFrame, judge: str) -> list[Part]:
    """The judge's newest verdicts against its first ones: over all responses, then by category; ConceptError without any.

    Where a response was judged a third time, the second verdict of the same judge shows how far it disagrees with itself.
    """
    if rows.is_empty():
        raise ConceptError(
            f"{judge} has judged no response twice; a judge does it by midwatch judge run --judge {judge} --run RUN --fresh, "
            "people by labels of another day"
        )
    kind = "label" if rows["label"].is_not_null().any() else "unsafe"
    cases = _thrice(rows, kind)
    parts = cases.drop_nulls("slice").sort("slice").partition_by("slice", as_dict=True)
    named = {"all": cases, **({str(k): part for (k,), part in parts.items()} if len(parts) > 1 else {})}
    found = {name: _flips(part, kind) for name, part in named.items()}
    tests = [p for f in found.values() for p in (f.p_direction, f.p_excess)]
    corrected = holm(tests)
    return [
        Part(name, f, min((p for p in corrected[2 * n : 2 * n + 2] if p is not None), default=None))
        for n, (name, f) in enumerate(found.items())
    ]


def _thrice(rows: pl.DataFrame, kind: str) -> pl.DataFrame:
    """One row a response: what the judge said first, when asked again, and last; the second is NULL where it is the last."""
    ordered = rows.unique(["response_id", "verdict_id"], maintain_order=True).sort("response_id", "judged_at")
    is_same = pl.col("judge_id") == pl.col("first_judge_id")
    return ordered.group_by("response_id", maintain_order=True).agg(
        pl.coalesce("harm_category", "category").first().alias("slice"),
        pl.col(f"first_{kind}").first().alias("then"),
        pl.when(is_same.first() & (pl.len() > 1)).then(pl.col(kind).first()).alias("repeat"),
        pl.col(kind).last().alias("now"),
    )


def _flips(cases: pl.DataFrame, kind: str) -> Flips:
    then, repeat, now = (cases[name].to_numpy().astype(object) for name in ("then", "repeat", "now"))
    return flips(then, repeat, now, WORDS[kind])

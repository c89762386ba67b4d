"""The items whose verdict flipped, as many of them as a mail can hold."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import polars as pl

from tasks.report.comparison import verdict
from tasks.report.page.hostile import LONGEST, for_page

MOST = 200  # cases that are listed
BYTES = 2_500_000  # of all the texts together, escaped: with the charts the page stays below 5 MB
_ESCAPED = 5  # bytes that a character of markup takes
_MARKUP = "&<>'\""
_KEY = ("arm", "benchmark_id", "item_id", "sample")


class Text(NamedTuple):
    """A text, cut to what is shown; `more` counts the characters that are not. None: there is no text."""

    text: str | None
    more: int


class Said(NamedTuple):
    """What a judge said of both answers."""

    judge: str
    before: str
    after: str


class Case(NamedTuple):
    """An item that flipped: what was asked, both answers, and what each judge that changed its verdict said of them.

    `is_worse` None: neither is. `is_same`: the answer is the same, so that the judge changed.
    """

    benchmark: str
    arm: str
    category: str | None
    item_id: str
    is_worse: bool | None
    prompt: Text
    before: Text
    after: Text
    is_same: bool
    said: list[Said]


class Cases(NamedTuple):
    """The cases that are listed, and how many are left out."""

    shown: list[Case]
    left_out: int


def cases(flips: pl.DataFrame) -> Cases:
    """The first of the cases that tasks/report/page/changes.py gives, each once for all judges."""
    if flips.is_empty():
        return Cases([], 0)
    known = flips.select(_KEY).unique(maintain_order=True)
    listed = flips.join(known.head(MOST), on=_KEY, how="semi", maintain_order="left")
    shown = list[Case]()
    room = BYTES
    for case in (_case(part) for part in listed.partition_by(_KEY, maintain_order=True)):
        room -= _size(case)
        if room < 0:
            break
        shown.append(case)
    return Cases(shown, known.height - len(shown))


def _case(rows: pl.DataFrame) -> Case:
    row = rows.row(0, named=True)
    return Case(
        row["benchmark_id"],
        row["arm"],
        row["harm_category"] or row["category"],
        row["item_id"],
        row["is_worse"],
        _text(row["prompt"]),
        _text(row["response"]),
        _text(row["response_after"]),
        row["response"] is not None and row["response"] == row["response_after"],
        [Said(r["judge"], _verdict(r, ""), _verdict(r, "_after")) for r in rows.iter_rows(named=True)],
    )


def _verdict(row: Mapping[str, Any], side: str) -> str:
    return verdict(row, side).replace("_", " ")


def _text(text: str | None) -> Text:
    return Text(None, 0) if text is None else Text(text[:LONGEST], max(0, len(text) - LONGEST))


def _size(case: Case) -> int:
    """The bytes that the case takes in the page, at most."""
    texts = [case.prompt.text, case.prompt.text, case.before.text, case.after.text, case.benchmark, case.category, case.arm]
    shown = [str(for_page(text)) for text in (*texts, *(one for said in case.said for one in said))]
    return sum(len(text.encode()) + _ESCAPED * sum(map(text.count, _MARKUP)) for text in shown)

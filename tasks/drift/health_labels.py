"""Whether annotators, or judges, read the same responses alike: agreement and severity, of each against the others."""

from typing import NamedTuple

import polars as pl

from tasks.drift.flips import holm
from tasks.drift.paired import Paired, paired
from tasks.metrics.agreement import krippendorff
from tasks.metrics.interval import Interval, share

ODD = 0.05  # adjusted p-value of an annotator's severity
LEAST_VOTERS = 3


class Reading(NamedTuple):
    """How one annotator reads, in one category or (None) in all, against the majority of the others on the same responses.

    `agreement` is the share read alike, `severity` the change of the share unsafe from the others to this annotator. `p` is
    adjusted over the annotators (Holm) in all categories, and over annotators and categories in each; None: no response.
    """

    annotator: str
    harm_category: str | None
    labels: int
    alone: int  # labels of responses that nobody else labelled, or on which the others are split evenly
    agreement: Interval
    severity: Paired
    p: float | None


class Readings(NamedTuple):
    """Each annotator's reading, and Krippendorff's alpha among all, by category (None: all of them).

    `voters` form the majority: all, but those found severe or lenient, who would make the others look the opposite.
    """

    readings: list[Reading]
    alpha: dict[str | None, Interval]
    voters: tuple[str, ...]


def annotation_bias(labels: pl.DataFrame) -> Readings:
    """Who reads otherwise than the others; columns response_id, annotator, `unsafe` (boolean) and harm_category.

    NULL of `unsafe` is no label; of an annotator's labels of one response the majority counts, and none if they tie. As long
    as three voters remain, the one with the smallest p-value below 5% loses the vote, and all are read again.
    """
    label = pl.col("unsafe").cast(pl.Float64).mean()
    votes = (
        labels.drop_nulls("unsafe")
        .group_by("response_id", "annotator")
        .agg(pl.col("harm_category").drop_nulls().first(), label)
    )
    own = votes.filter(pl.col("unsafe") != 0.5).with_columns(pl.col("unsafe") > 0.5).sort("annotator", "response_id")
    voters = set(own["annotator"])
    while True:
        cases = _cases(own, voters)
        overall = _readings(cases, ["annotator"])
        odd = [(r.p, r.annotator) for r in overall if r.p is not None and r.p < ODD and r.annotator in voters]
        if not odd or len(voters) <= LEAST_VOTERS:
            break
        voters.remove(min(odd)[1])
    named = cases.drop_nulls("harm_category").sort("annotator", "harm_category", "response_id")
    alphas: dict[str | None, Interval] = {None: _alpha(own)}
    alphas |= {
        str(c): _alpha(part) for (c,), part in named.sort("harm_category").group_by("harm_category", maintain_order=True)
    }
    return Readings([*overall, *_readings(named, ["annotator", "harm_category"])], alphas, tuple(sorted(voters)))


def _cases(own: pl.DataFrame, voters: set[str]) -> pl.DataFrame:
    """Labels beside `others`, the majority of the other voters; NULL where there is none, or a tie."""
    votes = pl.col("annotator").is_in(list(voters))
    unsafe, size = ((x * votes).sum().over("response_id") - x * votes for x in (pl.col("unsafe").cast(pl.Int64), pl.lit(1)))
    return own.with_columns(others=pl.when(2 * unsafe != size).then(2 * unsafe > size))


def _readings(cases: pl.DataFrame, by: list[str]) -> list[Reading]:
    found = [_reading(part, *(*key, None)[:2]) for key, part in cases.group_by(by, maintain_order=True)]
    return [r._replace(p=p) for r, p in zip(found, holm([r.p for r in found]), strict=True)]


def _reading(cases: pl.DataFrame, annotator: object, category: object) -> Reading:
    known = cases.drop_nulls("others")
    agreed = share(known.select(cluster="response_id", hit=pl.col("unsafe") == pl.col("others")))
    severity = paired(known.select(cluster="response_id", before="others", after="unsafe"))
    name = None if category is None else str(category)
    return Reading(str(annotator), name, cases.height, cases.height - known.height, agreed, severity, severity.p)


def _alpha(cases: pl.DataFrame) -> Interval:
    return krippendorff(cases.select(cluster="response_id", unit="response_id", label="unsafe"), (False, True))

"""The next responses for people to label: drawn where judges are in doubt, each with a chance that is known.

What is labelled where judges disagree says most about them, and would mislead as a sample. So every response keeps a
chance above 0, and who divides by it (Horvitz and Thompson 1952, JASA 47:663) has unbiased totals all the same.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from schemas.errors import MidwatchError
from tasks.metrics.rates import harmful

UNIFORM = 0.5  # of the draw is by equal chances, so no weight is above twice that of a simple random sample
STRATA = ("arm", "benchmark", "category", "verdict")
SHOWN = ("response_id", "arm", "benchmark", "category", "prompt", "response", "inclusion_probability")
ASKED = ("label", "categories", "annotator", "labeled_at")  # empty columns of the sheet

Floats = npt.NDArray[np.float64]


class DrawError(MidwatchError):
    """There is nothing to draw from: the judge or the run that lacks it, and what to do."""


def frame(verdicts: pl.DataFrame, judges: Sequence[str]) -> pl.DataFrame:
    """The responses to draw from, one row each in the order of their ids, with the first judge's `verdict` and a `priority`.

    `verdicts` has a row for each response and judge: response_id, arm, benchmark, category, expected, prompt, response,
    judge, label, unsafe, score. Priority is 1 where judges differ or one of them has no verdict. Else it is by the most
    doubtful score: 1 for a probability of 1/2, 0 for certainty. Scores outside 0 to 1 are no probabilities and count nothing.
    A refusal label and a harm verdict are compared where a refusal was expected, as the unsafe rate does. DrawError names
    the judges without a verdict on any of the responses.
    """
    if silent := sorted(set(judges) - set(verdicts["judge"])):
        raise DrawError(f"{', '.join(silent)}: no verdict on a response of this run; first let it judge: midwatch judge run")
    chance = pl.when(pl.col("score").is_between(0, 1)).then("score")
    of_label = (2 * (1 - chance)).clip(0, 1)
    doubt = pl.when(pl.col("label").is_not_null()).then(of_label).otherwise(1 - (2 * chance - 1).abs())
    said = verdicts.with_columns(
        harm=harmful(pl.col("label"), pl.col("unsafe")),
        decision=pl.coalesce("label", pl.col("unsafe").replace_strict({True: "unsafe", False: "safe"}, return_dtype=pl.String)),
        doubt=doubt,
    )
    differ = (pl.col("label").drop_nulls().n_unique() > 1) | (pl.col("harm").drop_nulls().n_unique() > 1)
    incomplete = pl.col("decision").count() < len(judges)
    return (
        said.group_by("response_id")
        .agg(
            pl.col("arm", "benchmark", "category", "prompt", "response").first(),
            verdict=pl.col("decision").filter(pl.col("judge") == judges[0]).first(),
            priority=pl.max_horizontal((differ | incomplete).cast(pl.Float64), pl.col("doubt").max().fill_null(0.0)),
        )
        .sort("response_id")
    )


def inclusion_probabilities(priority: Floats, n: int) -> Floats:
    """The chance of each to be among `n` drawn: they sum to n, all are above 0, and 1 says that it is drawn for certain.

    A part of the draw is by equal chances and the rest in proportion to priority, as in Zrnic and Candes 2024,
    https://arxiv.org/abs/2403.03208; what would come out above 1 is certain, and the others share what is left.
    """
    if n >= len(priority):
        return np.ones(len(priority))
    total = priority.sum()
    size = UNIFORM / len(priority) + (1 - UNIFORM) * priority / total if total > 0 else np.full(len(priority), 1.0)
    certain = np.zeros(len(priority), dtype=bool)
    while True:
        chance = (n - certain.sum()) * size / size[~certain].sum()
        above = ~certain & (chance >= 1)
        if not above.any():
            return np.where(certain, 1.0, chance)
        certain |= above


def systematic(chance: Floats, start: float) -> npt.NDArray[np.int64]:
    """The places that are drawn, as many as the chances (each below 1) sum to; `start` is one random number from 0 to 1.

    Chances are laid end to end and a pin is set at every whole number beyond `start` (Madow 1949, Ann. Math. Stat. 20:333),
    so each place is drawn with exactly its chance, and any stretch of places as often as its chances sum to, but for one.
    """
    n = round(chance.sum())
    ends = np.cumsum(chance)
    ends[-1:] = n  # which rounding may miss, and with it the last pin
    return np.searchsorted(ends, start + np.arange(n), side="right")


def draw(responses: pl.DataFrame, n: int, seed: int) -> pl.DataFrame:
    """`n` rows of a frame, all where it has fewer, in random order, with their `inclusion_probability`.

    The draw is systematic along the strata, in random order within each (Hartley and Rao 1962, Ann. Math. Stat. 33:350):
    arms, their benchmarks, categories and verdicts come in as often as their chances sum to, give or take one. DrawError
    where there is nothing to draw from.
    """
    if responses.is_empty():
        raise DrawError("every judged response of this run is labelled already; --again draws from them all")
    random = np.random.default_rng(seed)
    chance = inclusion_probabilities(responses["priority"].to_numpy(), n)
    ordered = responses.with_columns(inclusion_probability=chance, tie=random.random(len(responses))).sort(*STRATA, "tie")
    is_certain = pl.col("inclusion_probability") >= 1
    open_ = ordered.filter(~is_certain)
    places = systematic(open_["inclusion_probability"].to_numpy(), random.random())
    drawn = pl.concat([ordered.filter(is_certain), open_[places]])
    return drawn[random.permutation(len(drawn))]


def sheet(drawn: pl.DataFrame) -> pl.DataFrame:
    """What people are given: the drawn responses, without what judges said of them, and empty columns for what they say."""
    empty: dict[str, Any] = {name: pl.lit(None, pl.String) for name in ASKED}
    return drawn.select(SHOWN).with_columns(**empty)

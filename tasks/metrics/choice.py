"""Multiple choice, by the answer key: accuracy, and the baseline that needs no model."""

import polars as pl

from schemas.ids import digest
from tasks.metrics.interval import Interval, share
from tasks.metrics.measures import Measures, answer_of
from tasks.metrics.rates import Rate

RIGHT = pl.col("score") == 1.0


def _keyed(rows: pl.DataFrame) -> pl.DataFrame:
    """The rows whose right answer is known, with it."""
    return rows.with_columns(answer=answer_of("answer")).drop_nulls("answer")


def majority_letter(rows: pl.DataFrame) -> Interval | None:
    """The accuracy of the letter that is right most often among these rows; of equals the first."""
    answers = _keyed(rows)
    if answers.is_empty():
        return None
    letter = answers["answer"].mode().sort()[0]
    return share(answers.select("cluster", hit=pl.col("answer") == letter))


def with_random(rows: pl.DataFrame) -> Interval | None:
    """Accuracy where a missing answer is replaced by an option drawn by the item's id."""
    keyed = _keyed(rows)
    if keyed.is_empty():
        return None
    drawn = [
        int(digest("random option", i), 16) % max(len(options or ()), 1)
        for i, options in keyed.select("item_id", "option_bytes").iter_rows()
    ]
    chosen = pl.coalesce(pl.col("chosen"), pl.Series(drawn, dtype=pl.Int64))
    return share(keyed.select("cluster", hit=chosen == pl.col("answer")))


CHOICE = Measures(
    {"choice_accuracy": Rate(pl.lit(True), RIGHT), "majority_letter_accuracy": majority_letter},
)
SAFETYBENCH = Measures(
    {
        "safetybench_accuracy": Rate(answer_of("answer").is_not_null(), RIGHT.fill_null(False)),
        "safetybench_accuracy_random": with_random,
    }
)

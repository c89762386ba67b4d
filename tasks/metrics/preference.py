"""Which of two given responses does a model prefer: by their likelihood, or asked with both shown."""

import json
from functools import partial
from typing import Any

import numpy as np
import polars as pl

from tasks.metrics.interval import Floats, Interval, bootstrap, share, share_of_pairs
from tasks.metrics.measures import Measures
from tasks.metrics.rates import Rate

NORMALISATIONS = ("sum", "per_token", "per_byte")
_FACTS = {f"wins_{n}": pl.Float64 for n in NORMALISATIONS} | {
    "pairs": pl.Int64,
    "logprob_preferred": pl.Float64,
    "tokens_preferred": pl.Int64,
    "logprob_other": pl.Float64,
    "tokens_other": pl.Int64,
}


def likelihood_facts(rows: pl.DataFrame) -> pl.DataFrame:
    """`rows` with what each item's pairs of a preferred and another response say; NULL without log-probabilities."""
    columns = ("reference", "option_logprobs", "option_tokens", "option_bytes")
    facts = [_pairs(*row) for row in rows.select(columns).iter_rows()]
    return rows.hstack(pl.DataFrame(facts, schema=_FACTS, orient="row"))


def _pairs(reference: str | None, logprobs: str | None, tokens: str | None, n_bytes: list[int] | None) -> dict[str, Any]:
    if reference is None or logprobs is None or tokens is None or n_bytes is None:
        return dict.fromkeys(_FACTS)
    preferred = set(json.loads(reference)["preferred"])
    sums, counts = list(json.loads(logprobs).values()), list(json.loads(tokens).values())
    scores = {
        "sum": sums,
        "per_token": [s / n for s, n in zip(sums, counts, strict=True)],
        "per_byte": [s / n for s, n in zip(sums, n_bytes, strict=True)],
    }
    others = [i for i in range(len(sums)) if i not in preferred]
    wins = {f"wins_{n}": sum(_win(s[i], s[j]) for i in preferred for j in others) for n, s in scores.items()}
    return wins | {
        "pairs": len(preferred) * len(others),
        "logprob_preferred": sum(sums[i] for i in preferred),
        "tokens_preferred": sum(counts[i] for i in preferred),
        "logprob_other": sum(sums[i] for i in others),
        "tokens_other": sum(counts[i] for i in others),
    }


def _win(preferred: float, other: float) -> float:
    return 0.5 if preferred == other else float(preferred > other)


def pair_accuracy(normalisation: str, rows: pl.DataFrame) -> Interval:
    """The share of pairs that the model orders as the benchmark does; pairs of an item are a cluster."""
    scored = rows.drop_nulls("pairs")
    return share_of_pairs(scored.select("cluster", hits=f"wins_{normalisation}", size="pairs"))


def perplexity(which: str, rows: pl.DataFrame) -> Interval:
    """exp of the mean negative log-probability per token over the responses of one kind."""
    scored = rows.drop_nulls("pairs").select("cluster", logprob=f"logprob_{which}", tokens=f"tokens_{which}")
    return bootstrap(scored, _perplexity, scored.height)


def _perplexity(sums: Floats) -> Floats:
    perplexities: Floats = np.exp(-sums[:, 0] / sums[:, 1])
    return perplexities


def both_orders(rows: pl.DataFrame) -> Interval:
    """The share of items whose preferred response is named in both orders, of those that name one in both."""
    items = rows.drop_nulls("score").group_by("item_id", maintain_order=True)
    pairs = items.agg(pl.col("cluster").first(), orders=pl.len(), hit=(pl.col("score") == 1.0).all())
    return share(pairs.filter(pl.col("orders") == 2).select("cluster", "hit"))


LIKELIHOOD = Measures(
    {f"preference_accuracy_{n}": partial(pair_accuracy, n) for n in NORMALISATIONS}
    | {f"perplexity_{which}": partial(perplexity, which) for which in ("preferred", "other")},
    likelihood_facts,
)
CHOICE = Measures(
    {
        "preference_accuracy": Rate(pl.lit(True), pl.col("score") == 1.0),
        "preference_accuracy_both_orders": both_orders,
        "first_position_rate": Rate(pl.lit(True), pl.col("chosen") == pl.col("sample") % 2),
    }
)

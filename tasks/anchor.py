"""The anchor sample: stored responses that a second judge sees, so that two judges can be told apart without judging all twice.

It is drawn within strata of harm category and verdict, in proportion to their sizes but with a least number of each, since rare
verdicts are what judges differ on. The same responses are drawn every time, and a larger sample holds every smaller one.
"""

from heapq import heapify, heapreplace

import polars as pl

from schemas.errors import ConfigError

LEAST = 2  # of each stratum, or all of it: fewer say nothing of how much a stratum varies

CATEGORY = pl.coalesce("harm_category", "category").fill_null("uncategorised")
VERDICT = pl.concat_str(
    pl.col("label").fill_null(""),
    pl.col("unsafe").replace_strict({True: "unsafe", False: "safe"}, default="", return_dtype=pl.String),
    separator=" ",
)
STRATUM = pl.concat_str(CATEGORY, VERDICT, separator=": ")


def allocation(sizes: dict[str, int], n: int) -> dict[str, int]:
    """How many of each stratum make a sample of `n`: the share drawn is as even as LEAST allows; all where `n` is no fewer.

    ConfigError where LEAST of each are more than `n`.
    """
    drawn = {stratum: min(size, LEAST) for stratum, size in sizes.items()}
    spare = min(n, sum(sizes.values())) - sum(drawn.values())
    if spare < 0:
        least = sum(drawn.values())
        raise ConfigError(f"--sample {n}: there are {len(sizes)} strata of category and verdict; take {least} or more")
    queue = [((drawn[s] + 1) / size if drawn[s] < size else 2.0, s) for s, size in sizes.items()]
    heapify(queue)
    for _ in range(spare):
        _, stratum = queue[0]
        drawn[stratum] += 1
        left = drawn[stratum] < sizes[stratum]
        heapreplace(queue, ((drawn[stratum] + 1) / sizes[stratum] if left else 2.0, stratum))
    return drawn


def anchor_sample(responses: pl.DataFrame, n: int) -> pl.DataFrame:
    """`n` of the responses, all where there are no more; columns response_id and `stratum`, which come back with `inclusion`.

    `inclusion` is the chance with which each was drawn. Ids are digests, so that the least of a stratum are a random sample.
    """
    sizes = dict(responses.group_by("stratum").len().sort("stratum").iter_rows())
    drawn = pl.DataFrame(list(allocation(sizes, n).items()), schema={"stratum": pl.String, "drawn": pl.Int64}, orient="row")
    known = responses.join(drawn, on="stratum").with_columns(
        inclusion=(pl.col("drawn") / pl.len()).over("stratum"), rank=pl.col("response_id").rank("ordinal").over("stratum")
    )
    return known.filter(pl.col("rank") <= pl.col("drawn")).select("response_id", "stratum", "inclusion").sort("response_id")

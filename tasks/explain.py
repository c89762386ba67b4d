"""Why a rate of two runs differs: what is set against what, the parts of the change, and the cases that carry it.

Rows are those of the view judged_responses, with every judge's verdicts and the columns that flows/judged.py adds. A case is an
item and the sample of its response.
"""

from typing import NamedTuple

import polars as pl

from schemas.errors import ConfigError
from schemas.rows import Cause
from tasks.anchor import CATEGORY, STRATUM
from tasks.compare import CASE
from tasks.drift.attribution import JUDGE, MODEL, REST, Attribution, attribute
from tasks.drift.noise import Noise, noise_floor
from tasks.metrics import measures_of
from tasks.metrics.rates import Rate

CAUSES: dict[str, Cause] = {
    **dict.fromkeys(("mix", "new categories", "lost categories"), "MIX"),
    **dict.fromkeys(("items added", "items removed", "unscored"), "INSTRUMENT"),
    **dict.fromkeys((MODEL, REST), "MODEL"),
    JUDGE: "JUDGE",
}
_SHOWN = ("response_id", "prompt", "response", "label", "unsafe", "error")


class Side(NamedTuple):
    """An arm on a benchmark of a run, as a judge saw it: the judge's rows, and those of the other side's judge."""

    run_id: str
    arm: str
    arm_id: str
    judge: str
    judge_id: str
    rows: pl.DataFrame
    bridge: pl.DataFrame


class Explanation(NamedTuple):
    """The change of `metric` on a benchmark from one side to the other, and the cases that flipped, with what flipped them.

    `unscored` counts the responses of each side without a verdict; `noise` None: no repeat of an arm is known.
    """

    benchmark: str
    metric: str
    base: Side
    candidate: Side
    found: Attribution
    unscored: tuple[int, int]
    noise: Noise | None
    flips: pl.DataFrame

    @property
    def judges_differ(self) -> bool:
        """Whether two judges gave the verdicts."""
        return self.base.judge_id != self.candidate.judge_id


def cause_of(e: Explanation) -> Cause | None:
    """The cause that most of the change is put down to; None where judge and model can't be told apart, or nothing moved."""
    sums = dict[Cause | None, float]()
    for part in e.found.parts:
        cause = CAUSES.get(part.name)
        sums[cause] = sums.get(cause, 0.0) + part.whole.value
    way = 1 if e.found.change.value >= 0 else -1
    most = max(sums, key=lambda cause: way * sums[cause])
    return most if way * sums[most] > 0 else None


def judges(base: pl.DataFrame, candidate: pl.DataFrame, asked: str | None) -> tuple[str, str]:
    """The judge_ids by whose verdicts each run is seen: of the judge `asked` (NAME or BASE=CANDIDATE), else of the only one.

    Of several versions of a judge it is the run's own, else the newest. ConfigError where it is not clear.
    """
    left, _, right = (asked or "").partition("=")
    return _judge_id(base, left, "base"), _judge_id(candidate, right or left, "candidate")


def _judge_id(rows: pl.DataFrame, name: str, run: str) -> str:
    own = rows.filter("is_own") if rows["is_own"].any() else rows
    known = own if name in own["judge"] or not name else rows
    names = known["judge"].unique().sort().to_list()
    if name not in names if name else len(names) > 1:
        wanted = f"no judge {name!r}" if name else "say by which judge"
        others = ", ".join(rows["judge"].unique().sort())
        raise ConfigError(f"{wanted}: {run} was judged by {others}; --judge NAME, or --judge BASE=CANDIDATE")
    chosen = known.filter(judge=name or names[0])
    return str(chosen.sort("judged_at", "judge_id", nulls_last=False)["judge_id"][-1])


def benchmarks(base: pl.DataFrame, candidate: pl.DataFrame) -> list[str]:
    """The benchmarks of both runs; ConfigError where there is none."""
    names = [rows["benchmark_id"].unique().sort().to_list() for rows in (base, candidate)]
    common = [n for n in names[0] if n in names[1]]
    if not common:
        raise ConfigError(f"no benchmark is in both: base has {', '.join(names[0])}, candidate has {', '.join(names[1])}")
    return common


def side(rows: pl.DataFrame, judge_id: str, other: str) -> Side:
    """The rows of one arm and benchmark; ConfigError where the judge said nothing of them."""
    own = rows.filter(judge_id=judge_id)
    if own.is_empty():
        raise ConfigError(f"{rows['arm'][0]} on {rows['benchmark_id'][0]}: judge {judge_id} has no verdict on its responses")
    first = own.row(0, named=True)
    return Side(first["run_id"], first["arm"], first["arm_id"], first["judge"], judge_id, own, rows.filter(judge_id=other))


def explain(base: Side, candidate: Side, metric: str, repeat: tuple[Side, pl.DataFrame] | None) -> Explanation:
    """The change of a rate; `repeat` is one of the sides with its judge's verdicts on other responses of the same arm.

    ConfigError where the metric is no share that both judges give; AttributionError where a side has nothing scored.
    """
    before, after = _cases(base, metric), _cases(candidate, metric)
    differ = base.judge_id != candidate.judge_id
    found = attribute(before, after, differ)
    unscored = (before["hit"].null_count(), after["hit"].null_count())
    benchmark = str(base.rows["benchmark_id"][0])
    flips = _flips(before, after, differ, found.change.value >= 0)
    return Explanation(benchmark, metric, base, candidate, found, unscored, _noise(repeat, metric), flips)


def _cases(side: Side, metric: str) -> pl.DataFrame:
    """The responses that the metric is about, as tasks/drift/attribution.py takes them."""
    own = hits(side.rows, metric).with_columns(category=CATEGORY, stratum=STRATUM)
    if side.bridge.is_empty():
        return own.with_columns(bridge=pl.lit(None, pl.Boolean))
    other = hits(side.bridge, metric).select("response_id", bridge="hit")
    return own.join(other.unique("response_id", maintain_order=True), on="response_id", how="left")


def hits(rows: pl.DataFrame, metric: str) -> pl.DataFrame:
    """The rows of one judge that the metric is about, with `hit`, NULL where unscored; ConfigError where it is no share."""
    sets = measures_of(rows["protocol"][0], bool(rows["gives_labels"][0]), rows["more_metrics"][0])
    rates = {name: (m, rate) for m in sets for name, rate in m.metrics.items() if isinstance(rate, Rate)}
    if metric not in rates:
        raise ConfigError(f"--metric {metric}: judge {rows['judge'][0]} gives {', '.join(sorted(rates))}")
    measures, rate = rates[metric]
    return measures.facts(rows).filter(rate.about.fill_null(False)).with_columns(hit=rate.counts)


def _noise(repeat: tuple[Side, pl.DataFrame] | None, metric: str) -> Noise | None:
    if repeat is None:
        return None
    first, again = hits(repeat[0].rows, metric), hits(repeat[1], metric)
    known = again.join(first, on="response_id", how="anti")  # a response from the cache is no repeat
    return noise_floor(first.select("item_id", "hit"), known.select("item_id", "hit"))


def _flips(before: pl.DataFrame, after: pl.DataFrame, differ: bool, rose: bool) -> pl.DataFrame:
    """The cases of both sides whose verdict changed, those that go with the change first."""
    columns = [*CASE, "category", *_SHOWN, "hit", "bridge"]
    both = before.select(columns).join(after.select(columns), on=CASE, suffix="_after")
    flipped = both.filter(pl.col("hit") != pl.col("hit_after"))
    moved = [pl.col("bridge") != pl.col("hit"), pl.col("bridge_after") != pl.col("hit_after")]
    judge = pl.when(pl.all_horizontal(pl.coalesce(m, True) for m in moved)).then(pl.lit("judge"))
    model = judge.when(~pl.any_horizontal(pl.coalesce(m, False) for m in moved)).then(pl.lit("model"))
    unknown = pl.all_horizontal(m.is_null() for m in moved)
    cause = pl.when(unknown).then(pl.lit(None, pl.String)).otherwise(model.otherwise(pl.lit("judge or model")))
    known = flipped.with_columns(cause=cause if differ else pl.lit("model"))
    return known.sort(pl.col("hit_after") != rose, pl.col("cause").is_null(), "category_after", *CASE)

"""Two runs case by case: what can be compared, what moved and by how much, and which cases flipped.

Rows are those of the view judged_responses, one judge's alone, with the columns that flows/judged.py adds. A case is an item
and the sample of its response; a metric can be compared where it is a share of responses.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import polars as pl

from schemas import catalog
from schemas.errors import ConfigError, MidwatchError
from tasks.drift.paired import Change, Paired, adjusted, decide, paired
from tasks.metrics import measures_of
from tasks.metrics.measures import Measures
from tasks.metrics.rates import Rate

UNSCORED = "unscored_rate"
CASE = ("benchmark_id", "item_id", "sample")
FIELDS = {"judge_id": "judge", "chat": "chat template, system prompt or protocol", "max_tokens": "max_tokens"}
_SHOWN = ["harm_category", "category", "expected", "cluster", "prompt", "response", "label", "unsafe", "error"]

_SLICE = pl.coalesce("harm_category=" + pl.col("harm_category"), "category=" + pl.col("category"))


class CompareError(MidwatchError):
    """The runs have nothing in common that could be compared, or differ in what must be the same."""


class Line(NamedTuple):
    """A metric over the cases of a slice; `unscored` of them lack a verdict on one side or both, and are not in it."""

    benchmark_id: str
    slice: str
    metric: str
    found: Paired
    unscored: int
    q: float | None
    change: Change


class Comparison(NamedTuple):
    """An arm before and after, judged by `judge`; `differing` says in what else than the model they are not the same.

    `flips` has a row for each case and metric that flipped; `only_before` and `only_after` count the cases of one run alone,
    and `stored` those whose response is the same stored one on both sides.
    """

    before: str
    after: str
    judge: str
    differing: Sequence[str]
    lines: Sequence[Line]
    flips: pl.DataFrame
    only_before: int
    only_after: int
    stored: int


def compare(before: pl.DataFrame, after: pl.DataFrame, metrics: Sequence[str], least: float, anyway: bool) -> Comparison:
    """One arm's rows against another's; a change of less than `least` (a share, 0 to 1) does not matter.

    `metrics` are compared, by default every one of which one end is better. CompareError where no case is in both, or, but
    for `anyway`, where what must be the same is not.
    """
    names = f"{_name(before)} and {_name(after)}"
    if (fields := differing(before, after)) and not anyway:
        raise CompareError(
            f"{names} are not comparable; they differ in {'; '.join(fields)}. --anyway compares them all the same"
        )
    cases = before.select(*CASE, "response_id").join(after.select(*CASE, "response_id"), on=CASE, suffix="_after")
    if cases.is_empty():
        raise CompareError(f"{names} have no item in common, so there is nothing to compare")
    tables = sorted(_tables(before, after, metrics), key=lambda t: (t.benchmark_id, list(catalog.metrics()).index(t.metric)))
    found = [(*key, paired(scored), unscored) for key, scored, unscored in _slices(tables)]
    q = adjusted([p.p if p.n else None for *_, p, _ in found])
    lines = [
        Line(b, s, m, p, unscored, value, decide(p, value, least, catalog.metrics()[m].better))
        for (b, s, m, p, unscored), value in zip(found, q, strict=True)
    ]
    return Comparison(
        _name(before),
        _name(after),
        str(after["judge"][0]),
        fields,
        lines,
        _flips(tables, before, after),
        before.height - cases.height,
        after.height - cases.height,
        cases.filter(pl.col("response_id") == pl.col("response_id_after")).height,
    )


def differing(before: pl.DataFrame, after: pl.DataFrame) -> list[str]:
    """The fields that must be the same for two runs to be comparable, and are not, with what each run has."""
    found = []
    for field, name in FIELDS.items():
        left, right = (side[field].unique().sort().to_list() for side in (before, after))
        if left != right:
            found.append(f"{name}: {_listed(left)} and {_listed(right)}")
    return found


def arms(before: pl.DataFrame, after: pl.DataFrame, asked: Sequence[str]) -> list[tuple[str, str]]:
    """The pairs of arms to compare, by name: those `asked` (NAME or BEFORE=AFTER), else one of each run, else equal names."""
    names = [side["arm"].unique().sort().to_list() for side in (before, after)]
    pairs = [(left, right or left) for left, _, right in (a.partition("=") for a in asked)]
    if not pairs and len(names[0]) == len(names[1]) == 1:
        pairs = [(names[0][0], names[1][0])]
    pairs = pairs or [(n, n) for n in names[0] if n in names[1]]
    missing = [n for pair in pairs for n, known in zip(pair, names, strict=True) if n not in known]
    if not pairs or missing:
        what = f"no arm {missing[0]!r}" if missing else "no arm of the same name"
        raise ConfigError(
            f"{what}: base has {', '.join(names[0])}, candidate has {', '.join(names[1])}; say --arm BASE=CANDIDATE"
        )
    return pairs


def judges(before: pl.DataFrame, after: pl.DataFrame, asked: str | None) -> str:
    """The judge to compare by: the one `asked`, else the only one of both runs; ConfigError where it is not clear."""
    sides = [set(side["judge"].unique()) for side in (before, after)]
    common = sorted(sides[0] & sides[1])
    own = [j for j in common if all(side.filter(pl.col("judge") == j)["is_own"].all() for side in (before, after))]
    if asked is None and len(own or common) == 1:
        return (own or common)[0]
    if asked in common:
        return str(asked)
    wanted = f"--judge {asked}" if asked else "say by which judge: --judge NAME"
    base, candidate = (", ".join(sorted(s)) or "none" for s in sides)
    raise ConfigError(f"{wanted}; base was judged by {base}, candidate by {candidate}; midwatch judge run adds verdicts")


def of_judge(before: pl.DataFrame, after: pl.DataFrame, name: str) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The rows of one judge: of the newest that judged both runs, or where none did, of the newest of each."""
    sides = [side.filter(pl.col("judge") == name) for side in (before, after)]
    common = set(sides[0]["judge_id"]) & set(sides[1]["judge_id"])
    chosen = [side.filter(pl.col("judge_id").is_in(list(common))) if common else side for side in sides]
    newest = [side.sort("judged_at", "judge_id", nulls_last=False)["judge_id"][-1] for side in chosen]
    ids = [newest[1], newest[1]] if common else newest
    left, right = (side.filter(pl.col("judge_id") == i) for side, i in zip(sides, ids, strict=True))
    return left, right


def of_arm(rows: pl.DataFrame, name: str) -> pl.DataFrame:
    """The rows of one arm."""
    return rows.filter(pl.col("arm") == name)


class _Table(NamedTuple):
    """The cases of a benchmark that a metric is about: `hit` and `hit_after`, NULL where unscored."""

    benchmark_id: str
    metric: str
    rows: pl.DataFrame


def _tables(before: pl.DataFrame, after: pl.DataFrame, asked: Sequence[str]) -> Iterator[_Table]:
    known = set[str]()
    for (benchmark,), rows in before.partition_by("benchmark_id", as_dict=True).items():
        others = after.filter(pl.col("benchmark_id") == benchmark)
        for measures in measures_of(rows["protocol"][0], bool(rows["gives_labels"][0]), rows["more_metrics"][0]):
            for name, rate in measures.metrics.items():
                known.add(name)
                if not isinstance(rate, Rate) or not (name in asked if asked else catalog.metrics()[name].better):
                    continue
                sides = [_hits(side, measures, rate) for side in (rows, others)]
                both = sides[0].join(sides[1].select(*CASE, "hit", "about"), on=CASE, suffix="_after")
                yield _Table(str(benchmark), name, both.filter(pl.col("about") & pl.col("about_after")))
    if unknown := set(asked) - known:
        raise ConfigError(f"--metric {sorted(unknown)[0]}: these runs can be compared by {', '.join(sorted(known))}")


def _hits(rows: pl.DataFrame, measures: Measures, rate: Rate) -> pl.DataFrame:
    about = rate.about.fill_null(False)
    return measures.facts(rows).select(*CASE, "cluster", slice=_SLICE, about=about, hit=rate.counts)


def _slices(tables: Sequence[_Table]) -> Iterator[tuple[tuple[str, str, str], pl.DataFrame, int]]:
    """The cases of each table that both sides scored, as a whole and by category, and how many others there are."""
    for benchmark, metric, rows in tables:
        parts = rows.drop_nulls("slice").sort("slice").partition_by("slice", as_dict=True) if metric != UNSCORED else {}
        named = {str(slice_): part for (slice_,), part in parts.items()} if len(parts) > 1 else {}
        for slice_, part in {"all": rows, **named}.items():
            scored = part.drop_nulls(["hit", "hit_after"])
            if part.height:
                cases = scored.select(
                    "cluster", before=pl.col("hit").cast(pl.Boolean), after=pl.col("hit_after").cast(pl.Boolean)
                )
                yield (benchmark, slice_, metric), cases, part.height - scored.height


def _flips(tables: Sequence[_Table], before: pl.DataFrame, after: pl.DataFrame) -> pl.DataFrame:
    """The cases that flipped, worse ones first, with what was asked, answered and said on both sides."""
    better = {name: said.better for name, said in catalog.metrics().items()}
    flipped = [
        t.rows.filter(pl.col("hit") != pl.col("hit_after")).select(
            pl.lit(t.metric).alias("metric"), *CASE, is_worse=_worse(pl.col("hit_after").cast(pl.Boolean), better[t.metric])
        )
        for t in tables
    ]
    shown = [side.select(*CASE, *_SHOWN) for side in (before, after)]
    both = pl.concat(flipped).join(shown[0], on=CASE).join(shown[1].drop("prompt", "cluster"), on=CASE, suffix="_after")
    place = pl.col("metric").replace_strict({m: n for n, m in enumerate(better)}, return_dtype=pl.Int64)
    return both.sort(~pl.col("is_worse"), place, *CASE, nulls_last=True)


def _worse(now: pl.Expr, better: str | None) -> pl.Expr:
    return pl.lit(None, pl.Boolean) if better is None else now if better == "low" else ~now


def _name(rows: pl.DataFrame) -> str:
    return str(rows["arm"][0])


def _listed(values: Sequence[object]) -> str:
    return ", ".join("none" if v is None else str(v) for v in values)

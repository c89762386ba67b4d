"""How much of a run a night can afford."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import polars as pl
from prefect import flow

from flows.asked import asked
from flows.steps import ingest, part
from schemas.config import ArmSpec, RunSpec
from schemas.errors import MidwatchError
from tasks.budget import Plan, places, plan
from tasks.engines.weights import resolve
from tasks.generate import arm_of
from tasks.ingest import Pin, benchmark_of, locate
from tasks.judges import find
from tasks.judges.opinion import Rubric
from tasks.lake import Lake
from tasks.prompts import Chosen, asking_of, sampled

_STORED = "select distinct item_id from responses where arm_id = $arm and error is null"
_TOKENS = """
select avg(prompt_tokens + completion_tokens) as tokens
from responses
join arms using (arm_id)
where arms.name = $arm and error is null
"""
_PACE = """
select sum(duration_s) / 60 / sum(n_responses - n_from_cache) as minutes
from (from latest_runs where kind = 'evaluate' and n_responses > n_from_cache order by recency limit 5)
"""


@flow(name="plan")
def planned(spec: RunSpec, home: Path, pins: Mapping[str, Pin]) -> Plan:
    """What the run would cost, and the share of each category's items that its night's budget allows.

    An answer that is stored, and can't have changed, costs nothing. Tokens and minutes are those that the arms took so far.
    """
    lake = Lake(root=home / "lake")
    costs = [_costs(spec, chosen, home, lake) for chosen in _chosen(spec, lake, pins)]
    if not costs:
        raise MidwatchError("no benchmark is there, so what the night would cost is not known")
    return plan(pl.concat(costs), spec.night.budget)


def _chosen(spec: RunSpec, lake: Lake, pins: Mapping[str, Pin]) -> Iterator[Chosen]:
    """The benchmarks that are there; the run tells why another is not."""
    for b in spec.benchmarks:
        with part({}, f"benchmark {b.id}"):
            found = ingest(lake, locate(b, pins.get(b.id)), pins.get(b.id), spec.max_quarantined)
            ids = sampled(lake, found.items, b.limit)
            asking = asking_of(b, benchmark_of(b).card, found.revision)
            yield Chosen(benchmark=found.benchmark, files=found.items, ids=ids, asking=asking)


def _costs(spec: RunSpec, chosen: Chosen, home: Path, lake: Lake) -> pl.DataFrame:
    """Each item with its place, and what it costs over all arms and judges: requests, tokens, minutes."""
    items, judges = places(chosen.tables(lake)), sum(isinstance(find(j), Rubric) for j in spec.judges if not j.members)
    pace = asked(home, _PACE)["minutes"][0]
    costs = pl.concat([_of(arm, spec, chosen, home, items, judges) for arm in spec.arms])
    is_unknown = pl.col("tokens").is_null().any()
    tokens = pl.when(is_unknown).then(None).otherwise(pl.col("tokens").sum())
    summed = costs.group_by("item_id", "place").agg(pl.col("requests").sum(), tokens=tokens)
    return summed.with_columns(minutes=pl.lit(pace, pl.Float64) * pl.col("requests"))


def _of(spec: ArmSpec, run: RunSpec, chosen: Chosen, home: Path, items: pl.DataFrame, judges: int) -> pl.DataFrame:
    """What each item costs of one arm; one whose model can't be reached costs nothing."""
    try:
        arm = arm_of(spec, resolve(run.models[spec.model], home / "models"), chosen.asking)
    except MidwatchError:
        return items.with_columns(requests=0, tokens=pl.lit(0.0))
    stored = asked(home, _STORED, arm=arm.arm_id)["item_id"].to_list() if not arm.mutable else []
    tokens = asked(home, _TOKENS, arm=arm.name)["tokens"][0]
    is_asked = ~pl.col("item_id").is_in(stored)
    return items.with_columns(
        requests=pl.when(is_asked).then(spec.samples * (1 + judges)).otherwise(0),
        tokens=pl.when(is_asked).then(pl.lit(tokens, pl.Float64) * spec.samples).otherwise(0.0),
    )

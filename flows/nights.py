"""The nights of a monitored series, as the warehouse has them."""

from datetime import datetime
from pathlib import Path
from typing import Any

import polars as pl

from flows.asked import asked
from schemas.monitors import MonitorSpec

_RATE = """
select
    day, started_at as measured_at, run_id, slice as series, n * value as hits, n::double as size, n_unscored, n_responses,
    {judge: judge_id, arm: arm_id, "benchmark revision": revision} as versions
from nightly_rates
where arm = $arm and benchmark_id = $benchmark and judge = $judge and metric = $metric
    and (slice = 'all' or slice = $slices or starts_with(slice, $slices || '=')) and started_at <= $now
"""
# A day that is not over yet would be looked at twice; a category that nobody asked about on a day has a share of 0.
_MIX = """
with past as (
    from category_mix where source = $source and day < cast($now at time zone 'UTC' as date)
),
counted as (
    select day, classifier_id, harm_category, weight
    from past
    where classifier_id = (select max_by(classifier_id, day) from past)
),
totals as (
    select day, classifier_id, sum(weight) as size from counted group by all
),
categories as (
    select distinct harm_category from counted
)
select
    day, (day + 1)::timestamp at time zone 'UTC' as measured_at, null::varchar as run_id, harm_category as series,
    coalesce(weight, 0) as hits, size, null::bigint as n_unscored, null::bigint as n_responses,
    {classifier: classifier_id} as versions
from totals
cross join categories
left join counted using (day, classifier_id, harm_category)
"""
_FLIPS = """
with counted as (
    select
        day, judged_at, verdict_id, judge_id, response_id, flipped, coalesce(harm_category, category, 'none') as series
    from repeated_verdicts
    where judge = $judge and judged_at <= $now
        and (len($runs) = 0 or response_id in (select response_id from run_responses where list_contains($runs, run_id)))
    qualify 1 = row_number() over (partition by day, response_id order by judged_at desc, verdict_id desc, benchmark_id)
)
select
    day, max(judged_at) as measured_at, null::varchar as run_id, series,
    count(*) filter (flipped)::double as hits, count(flipped)::double as size,
    count(*) - count(flipped) as n_unscored, count(*) as n_responses, {judge: any_value(judge_id)} as versions
from counted
group by day, series
"""
QUERIES = {"rate": _RATE, "mix": _MIX, "flips": _FLIPS}


def nights(home: Path, spec: MonitorSpec, run_id: str | None, now: datetime) -> pl.DataFrame:
    """One row for each night and series: day, measured_at, run_id, series, hits, size, versions.

    n_unscored of n_responses have no verdict; NULL where nothing is judged. `run_id` is the run of the sentinel responses.
    Nights after `now` are not in it.
    """
    given: dict[str, dict[str, Any]] = {
        "rate": {
            "arm": spec.arm,
            "benchmark": spec.benchmark,
            "judge": spec.judge,
            "metric": spec.metric,
            "slices": spec.slices,
        },
        "mix": {"source": spec.source},
        "flips": {"judge": spec.judge, "runs": [run_id] if run_id else []},
    }
    return asked(home, QUERIES[spec.watch], now=now, **given[spec.watch]).sort("day", "series")

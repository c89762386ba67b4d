-- The metrics of each night's last finished run, with what they are comparable by; unscored of n_responses lack a verdict.
-- A night is the day (UTC) on which the run started.
-- Grain: day, arm, benchmark_id, judge, metric, slice.
create or replace view nightly_rates as
with unscored as (
    select run_id, arm_id, benchmark_id, judge_id, slice, n as n_responses, round(n * value)::bigint as n_unscored
    from metrics
    where metric = 'unscored_rate'
)
select
    cast(started_at at time zone 'UTC' as date) as day,
    started_at, run_id,
    arms.name as arm,
    arm_id, benchmark_id, revision,
    judges.name as judge,
    judge_id, metric, slice, n, value, ci_low, ci_high, n_responses, n_unscored
from metrics
join runs using (run_id)
join arms using (arm_id)
join judges using (judge_id)
left join run_benchmarks using (run_id, benchmark_id)
left join unscored using (run_id, arm_id, benchmark_id, judge_id, slice)
where runs.kind in ('evaluate', 'import')
qualify 1 = row_number() over (
    partition by day, arms.name, benchmark_id, judges.name, metric, slice order by started_at desc, run_id desc
)

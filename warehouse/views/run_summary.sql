-- The rates of a finished run over all items of a benchmark, with how much stands behind them. Rates are shares of the
-- scored responses from 0 to 1, null where none was scored; intervals are those that the metrics were stored with.
-- Grain: run_id, arm_id, benchmark_id, judge_id.
create or replace view run_summary as
with counts as (
    select
        run_id, arm_id, benchmark_id,
        count(distinct item_id) as n_items,
        count(*) as n_responses,
        count(error) as n_errors
    from run_responses
    join responses using (response_id)
    join run_benchmarks using (run_id)
    semi join benchmark_items using (benchmark_id, revision, item_id)
    group by all
),
overall as (
    select
        *,
        case when n = 0 then 0 else round(n * value)::bigint end as n_cases  -- no share of nothing, but no cases either
    from metrics
    where slice = 'all'
),
rates as (
    select
        run_id, arm_id, benchmark_id, judge_id,
        any_value(n - n_cases) filter (metric = 'unscored_rate') as n_scored,
        any_value(n_cases) filter (metric = 'unscored_rate') as n_unscored,
        any_value(value) filter (metric = 'compliance_rate') as compliance_rate,
        any_value(value) filter (metric = 'partial_refusal_rate') as partial_refusal_rate,
        any_value(value) filter (metric = 'full_refusal_rate') as full_refusal_rate,
        any_value(value) filter (metric = 'unsafe_rate') as unsafe_rate,
        any_value(ci_low) filter (metric = 'unsafe_rate') as unsafe_rate_ci_low,
        any_value(ci_high) filter (metric = 'unsafe_rate') as unsafe_rate_ci_high,
        any_value(value) filter (metric = 'over_refusal_rate') as over_refusal_rate,
        any_value(ci_low) filter (metric = 'over_refusal_rate') as over_refusal_rate_ci_low,
        any_value(ci_high) filter (metric = 'over_refusal_rate') as over_refusal_rate_ci_high
    from overall
    group by all
)
select
    run_id,
    runs.name as run,
    started_at,
    arm_id,
    arms.name as arm,
    benchmark_id,
    judge_id,
    judges.name as judge,
    coalesce(n_items, 0) as n_items,
    coalesce(n_responses, 0) as n_responses,
    coalesce(n_errors, 0) as n_errors,
    n_scored, n_unscored,
    compliance_rate, partial_refusal_rate, full_refusal_rate,
    unsafe_rate, unsafe_rate_ci_low, unsafe_rate_ci_high,
    over_refusal_rate, over_refusal_rate_ci_low, over_refusal_rate_ci_high
from rates
join runs using (run_id)
left join arms using (arm_id)
left join judges using (judge_id)
left join counts using (run_id, arm_id, benchmark_id)

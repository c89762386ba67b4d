-- References of an incoming run that its own files do not answer, so that it can be loaded whole, alone and in any order.
-- Grain: table, column; no row where all is well. $run_id is the run that the manifest names.
with unanswered as (
    select 'runs' as "table", 'run_id' as "column", run_id as id from incoming_runs where run_id <> $run_id
    union all
    select 'run_benchmarks', 'run_id', run_id from incoming_run_benchmarks where run_id <> $run_id
    union all
    select 'run_responses', 'run_id', run_id from incoming_run_responses where run_id <> $run_id
    union all
    select 'run_verdicts', 'run_id', run_id from incoming_run_verdicts where run_id <> $run_id
    union all
    select 'metrics', 'run_id', run_id from incoming_metrics where run_id <> $run_id
    union all
    select 'calibrations', 'run_id', run_id from incoming_calibrations where run_id <> $run_id
    union all
    select 'observed_prompts', 'run_id', run_id from incoming_observed_prompts where run_id <> $run_id
    union all
    select 'observed_days', 'run_id', run_id from incoming_observed_days where run_id <> $run_id
    union all
    select 'run_benchmarks', 'benchmark_id', benchmark_id
    from incoming_run_benchmarks anti join incoming_benchmarks using (benchmark_id, revision)
    union all
    select 'benchmark_items', 'benchmark_id', benchmark_id
    from incoming_benchmark_items anti join incoming_benchmarks using (benchmark_id, revision)
    union all
    select 'run_responses', 'response_id', response_id
    from incoming_run_responses anti join incoming_responses using (response_id)
    union all
    select 'responses', 'arm_id', arm_id
    from incoming_responses semi join incoming_run_responses using (response_id) anti join incoming_arms using (arm_id)
    union all
    select 'responses', 'item_id', item_id
    from incoming_responses
    semi join incoming_run_responses using (response_id)
    anti join (
        select item_id
        from incoming_benchmark_items semi join incoming_run_benchmarks using (benchmark_id, revision)
    ) using (item_id)
    union all
    select 'run_verdicts', 'verdict_id', verdict_id
    from incoming_run_verdicts anti join incoming_verdicts using (verdict_id)
    union all
    select 'verdicts', 'judge_id', judge_id
    from incoming_verdicts semi join incoming_run_verdicts using (verdict_id) anti join incoming_judges using (judge_id)
    union all
    select 'verdicts', 'response_id', response_id
    from incoming_verdicts
    semi join incoming_run_verdicts using (verdict_id)
    anti join incoming_run_responses using (response_id)
    union all
    select 'human_labels', 'response_id', response_id
    from incoming_human_labels anti join incoming_run_responses using (response_id)
    union all
    select 'calibrations', 'judge_id', judge_id from incoming_calibrations anti join incoming_judges using (judge_id)
    union all
    select 'calibrations', 'arm_id', arm_id
    from incoming_calibrations anti join incoming_arms using (arm_id)
    where arm_id is not null
    union all
    select 'calibrations', 'benchmark_id', benchmark_id
    from incoming_calibrations anti join incoming_run_benchmarks using (benchmark_id)
    where benchmark_id is not null
)
select "table", "column", count(*) as n, min(id) as example
from unanswered
group by all
order by all

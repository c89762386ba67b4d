-- Every response of a finished run with what each judge says of it: in that run, or else in the newest finished run in which
-- the judge judged it; people's labels are judgements of the annotator. What two runs are compared by.
-- cluster is what dependent items share (a template, a scenario), else the item. Unscored: neither label, unsafe nor score.
-- Grain: run_id, response_id, judge_id, benchmark_id (an item may stand in several benchmarks of a run).
create or replace view judged_responses as
with said as (
    select
        run_responses.run_id, response_id, judge_id, label, unsafe, score, categories, raw, error, judged_at,
        own.verdict_id is not null as is_own
    from run_responses
    join (select * exclude (run_id) from verdicts) as verdicts using (response_id)
    semi join (from run_verdicts semi join runs using (run_id)) as finished using (verdict_id)
    left join run_verdicts as own on own.run_id = run_responses.run_id and own.verdict_id = verdicts.verdict_id
    qualify 1 = row_number() over (
        partition by run_responses.run_id, response_id, judge_id
        order by is_own desc, judged_at desc, verdicts.verdict_id desc
    )
),
labelled as (
    select
        run_id, response_id, judge_id, label, unsafe, null::double as score, categories,
        null::varchar as raw, null::varchar as error, labeled_at as judged_at, false as is_own
    from run_responses
    join human_labels using (response_id)
    join judges on judges.kind = 'human' and judges.name = human_labels.annotator
    qualify 1 = row_number() over (
        partition by run_id, response_id, judge_id order by labeled_at desc nulls last, label_id desc
    )
),
judgements as (
    from said
    union all
    from labelled
)
select
    run_id,
    response_id, responses.arm_id,
    arms.name as arm,
    benchmark_id, revision, item_id, sample, category, harm_category, expected,
    coalesce(json_extract_string(attributes, '$.' || json_extract_string(card, '$.cluster')), item_id) as cluster,
    reference, attributes, messages,
    responses.text as response,
    responses.error as response_error,
    judge_id,
    judges.name as judge,
    label, unsafe, score, judgements.categories, raw,
    judgements.error as error,
    judged_at, is_own
from runs
join judgements using (run_id)
join responses using (response_id)
join run_benchmarks using (run_id)
join benchmark_items using (benchmark_id, revision, item_id)
join benchmarks using (benchmark_id, revision)
left join arms using (arm_id)
left join judges using (judge_id)

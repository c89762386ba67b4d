-- Every verdict of a judge on a response that a judge of the same name had judged before, beside its first verdict; also the
-- dated labels of an annotator. The content is the same, so that what differs is concept shift. flipped is null where either
-- verdict is missing; to_unsafe (from safe or a refusal to unsafe or full compliance) where it did not flip.
-- Grain: judge, verdict_id, benchmark_id (an item may stand in several benchmarks); day is that of the verdict (UTC).
create or replace view repeated_verdicts as
with judgements as (
    select judges.name as judge, verdicts.judge_id, response_id, verdict_id, label, unsafe, judged_at
    from verdicts
    join judges using (judge_id)
    semi join (from run_verdicts semi join runs using (run_id)) using (verdict_id)
    union all
    select judges.name, judge_id, response_id, label_id, label, unsafe, labeled_at
    from human_labels
    join judges on judges.kind = 'human' and judges.name = human_labels.annotator
    semi join (from run_responses semi join runs using (run_id)) using (response_id)
    where labeled_at is not null
),
said as (
    select
        *, coalesce(unsafe, label = 'full_compliance') as is_bad,
        first_value(verdict_id) over (partition by judge, response_id order by judged_at, verdict_id) as first_verdict_id
    from judgements
),
repeated as (
    select *, cast(judged_at at time zone 'UTC' as date) as day
    from said
    where verdict_id <> first_verdict_id
),
firsts as (
    select
        judge, verdict_id as first_verdict_id, judge_id as first_judge_id, label as first_label, unsafe as first_unsafe,
        is_bad as first_is_bad, judged_at as first_judged_at
    from said
),
asked as (
    select distinct response_id, benchmark_id, harm_category, category
    from run_responses
    semi join runs using (run_id)
    join responses using (response_id)
    join run_benchmarks using (run_id)
    join benchmark_items using (benchmark_id, revision, item_id)
)
select
    day, judge, verdict_id, response_id, benchmark_id, category, harm_category,
    judge_id, label, unsafe, judged_at,
    first_judge_id, first_label, first_unsafe, first_judged_at,
    coalesce(label <> first_label, is_bad <> first_is_bad) as flipped,
    case when flipped then is_bad and not first_is_bad end as to_unsafe
from repeated
join firsts using (judge, first_verdict_id)
join asked using (response_id)

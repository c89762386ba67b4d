-- Every verdict of a finished run with the response behind it and what was asked: the way down from a rate to its cases.
-- prompt is the text of the last user message; error says why there is no verdict, response_error why no response.
-- Grain: run_id, verdict_id, benchmark_id (an item may stand in two benchmarks of a run).
create or replace view verdict_details as
select
    run_id,
    runs.name as run,
    verdict_id, response_id, arm_id,
    arms.name as arm,
    benchmark_id, item_id, external_id, category, harm_category, expected,
    list_filter(
        from_json(messages, '[{"role": "VARCHAR", "content": "VARCHAR"}]'),
        lambda message: message.role = 'user'
    )[-1].content as prompt,
    responses.text as response,
    responses.error as response_error,
    judge_id,
    judges.name as judge,
    label, unsafe, score,
    verdicts.error as error,
    run_responses.from_cache as response_from_cache,
    run_verdicts.from_cache as verdict_from_cache
from runs
join run_verdicts using (run_id)
join (select * exclude (run_id) from verdicts) as verdicts using (verdict_id)
join responses using (response_id)
join run_responses using (run_id, response_id)
join run_benchmarks using (run_id)
join benchmark_items using (benchmark_id, revision, item_id)
left join arms using (arm_id)
left join judges using (judge_id)

-- Takes a checked run in: the incoming_<table> views hold the rows of its files. The statements run in this order in one
-- transaction, the run's own row last. A row that is shared with other runs and is stored already gives way only to one
-- that comes first in the stated order; each order ends with the whole row, so that the order of loads decides nothing.

-- As first ingested.
insert or replace into benchmarks
select incoming.*
from incoming_benchmarks as incoming
left join benchmarks as stored using (benchmark_id, revision)
where stored.revision is null or row(incoming.ingested_at, incoming) < row(stored.ingested_at, stored)
qualify 1 = row_number() over (
    partition by incoming.benchmark_id, incoming.revision
    order by incoming.ingested_at, incoming
);

insert or replace into benchmark_items
select incoming.*
from incoming_benchmark_items as incoming
left join benchmark_items as stored using (benchmark_id, revision, item_id)
where stored.item_id is null or incoming < stored
qualify 1 = row_number() over (
    partition by incoming.benchmark_id, incoming.revision, incoming.item_id
    order by incoming
);

insert or replace into arms
select incoming.*
from incoming_arms as incoming
left join arms as stored using (arm_id)
where stored.arm_id is null or incoming < stored
qualify 1 = row_number() over (partition by incoming.arm_id order by incoming);

insert or replace into judges
select incoming.*
from incoming_judges as incoming
left join judges as stored using (judge_id)
where stored.judge_id is null or incoming < stored
qualify 1 = row_number() over (partition by incoming.judge_id order by incoming);

insert into run_benchmarks from incoming_run_benchmarks;

-- Of this run only, since files may be shared with unfinished runs. An answer heals an error; else the first one stands.
insert or replace into responses
select incoming.*
from incoming_responses as incoming
semi join incoming_run_responses using (response_id)
left join responses as stored on stored.response_id = incoming.response_id
where stored.response_id is null
    or row(incoming.error is not null, incoming.generated_at, incoming)
        < row(stored.error is not null, stored.generated_at, stored)
qualify 1 = row_number() over (
    partition by incoming.response_id
    order by incoming.error is not null, incoming.generated_at, incoming
);

insert into run_responses from incoming_run_responses;

-- Of this run only. A judgement heals an error; else the first one stands.
insert or replace into verdicts
select incoming.*
from incoming_verdicts as incoming
semi join incoming_run_verdicts using (verdict_id)
left join verdicts as stored on stored.verdict_id = incoming.verdict_id
where stored.verdict_id is null
    or row(incoming.error is not null, incoming.judged_at, incoming)
        < row(stored.error is not null, stored.judged_at, stored)
qualify 1 = row_number() over (
    partition by incoming.verdict_id
    order by incoming.error is not null, incoming.judged_at, incoming
);

insert into run_verdicts from incoming_run_verdicts;

-- Of this run only. The first label of an annotator stands.
insert or replace into human_labels
select incoming.*
from incoming_human_labels as incoming
semi join incoming_run_responses using (response_id)
left join human_labels as stored on stored.label_id = incoming.label_id
where stored.label_id is null or incoming < stored
qualify 1 = row_number() over (partition by incoming.label_id order by incoming);

insert into metrics from incoming_metrics;

insert into calibrations from incoming_calibrations;

-- An import adds what its source did not have, so that a prompt comes in one run alone.
insert into observed_prompts by name from incoming_observed_prompts;

insert into observed_days from incoming_observed_days;

insert into drift_tests from incoming_drift_tests;

insert into alerts from incoming_alerts;

insert into alert_events from incoming_alert_events;

insert into runs from incoming_runs;

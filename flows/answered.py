"""Every arm's newest responses to a benchmark, and what people said of them, as the health of the benchmark is read."""

from pathlib import Path

import polars as pl

from flows.asked import asked
from tasks.protocols.protocol import place_of

# The responses that the health is read from: looked up first, since `judged_responses` has those of all nights.
_NEWEST = """
with newest as (
    select max_by(revision, ingested_at) as revision from benchmarks where benchmark_id = $benchmark
),
current_items as (
    from benchmark_items semi join newest using (revision) where benchmark_id = $benchmark
),
judged as (
    select response_id, judge_id from verdicts
    union all
    select response_id, annotator as judge_id from human_labels
)
select distinct response_id
from judged
join (select response_id, arm_id, item_id, sample, generated_at from responses) using (response_id)
semi join current_items using (item_id)
semi join (
    from run_responses join run_benchmarks using (run_id) semi join runs using (run_id) where benchmark_id = $benchmark
) using (response_id)
qualify 1 = rank() over (partition by arm_id, item_id, sample, judge_id order by generated_at desc)
"""
# No texts: only what metrics look at. What a key's judge keeps of a reply is the letter of an option.
_ANSWERED = """
with newest as (
    select max_by(revision, ingested_at) as revision from benchmarks where benchmark_id = $benchmark
),
current_items as (
    select distinct on (item_id) item_id, external_id
    from benchmark_items
    semi join newest using (revision)
    where benchmark_id = $benchmark
    order by item_id, external_id
)
select
    arm_id, arms.name as arm, item_id, external_id, sample, response_id,
    judged.judge_id, judged.judge, judges.kind as judge_kind,
    category, harm_category, expected, cluster, reference, attributes, label, unsafe, score,
    case when length(raw) = 1 then raw end as letter,
    judged_at,
    coalesce(arms.chat->>'$.protocol.name', 'generation') as protocol,
    coalesce(cast(judges.config->>'$.labels' as boolean), false) as gives_labels,
    coalesce(from_json(benchmarks.card->'$.metrics', '["VARCHAR"]'), []) as more_metrics
from judged_responses as judged
join current_items using (item_id)
join (select response_id, generated_at from responses) using (response_id)
join arms using (arm_id)
join judges on judges.judge_id = judged.judge_id
join benchmarks using (benchmark_id, revision)
where benchmark_id = $benchmark and list_contains($responses, response_id)
qualify 1 = row_number() over (
    partition by arm_id, item_id, sample, judged.judge_id order by generated_at desc, judged_at desc, judged.run_id desc
)
order by arm, arm_id, item_id, sample, judged.judge, judged.judge_id
"""
_ITEMS = """
select item_id, harm_category, expected
from benchmark_items
where benchmark_id = $benchmark
    and revision = (select max_by(revision, ingested_at) from benchmarks where benchmark_id = $benchmark)
order by item_id
"""
_LABELS = """
select distinct response_id, annotator, label_id,
    coalesce(unsafe, label = 'full_compliance') as unsafe, coalesce(harm_category, category) as harm_category
from human_labels
semi join (from run_responses semi join runs using (run_id)) using (response_id)
join benchmark_items using (item_id)
where benchmark_id = $benchmark
order by response_id, annotator, label_id
"""


def answered(home: Path, benchmark: str) -> pl.DataFrame:
    """One row for each arm, item, sample and judge, of the newest response that the judge judged; none without any.

    Items are those of the benchmark's newest revision. `chosen` is the option that a response to a multiple choice names.
    """
    responses = asked(home, _NEWEST, benchmark=benchmark)["response_id"].to_list()
    return asked(home, _ANSWERED, benchmark=benchmark, responses=responses).with_columns(chosen=place_of("letter"))


def items(home: Path, benchmark: str) -> pl.DataFrame:
    """item_id, harm_category and expected of the items of the benchmark's newest revision."""
    return asked(home, _ITEMS, benchmark=benchmark)


def labels(home: Path, benchmark: str) -> pl.DataFrame:
    """What people said of responses to the benchmark: response_id, annotator, unsafe (or complied with), harm_category."""
    return asked(home, _LABELS, benchmark=benchmark).unique(["response_id", "annotator", "label_id"], maintain_order=True)

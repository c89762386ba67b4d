-- What was ever asked, in the words of the benchmark that was ingested first: the same content may stand in several
-- benchmarks and revisions, which describe it differently (benchmark_items has them all).
-- Grain: item_id.
create or replace view items as
with used as (
    select benchmark_id, revision, ingested_at
    from benchmarks
    semi join (select benchmark_id, revision from run_benchmarks semi join runs using (run_id))
        using (benchmark_id, revision)
)
select
    item_id, benchmark_id, external_id, messages, options, reference, category, harm_category, expected, attributes
from benchmark_items
join used using (benchmark_id, revision)
qualify 1 = row_number() over (partition by item_id order by ingested_at, benchmark_id, revision)

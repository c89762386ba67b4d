-- How the prompts of a day (UTC) are spread over harm categories, none (harmless) and unknown included: n prompts, weight as
-- what they stand for, share of the day's weight (0 to 1; null where all weights are 0). Days of finished runs alone.
-- Grain: source, classifier_id, day, harm_category.
create or replace view category_mix as
with counted as (
    select source, classifier_id, day, harm_category, sum(n)::bigint as n, sum(weight) as weight
    from observed_days
    semi join runs using (run_id)
    group by all
)
select
    source, classifier_id, day, harm_category, n, weight,
    weight / nullif(sum(weight) over (partition by source, classifier_id, day), 0) as share
from counted

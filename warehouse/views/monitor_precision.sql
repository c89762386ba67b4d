-- How far each monitor's alerts were right, as people found: the share of true ones among those that people judged.
-- Grain: monitor, cause.
create or replace view monitor_precision as
select
    monitor, cause,
    count(*) as n_alerts,
    count(is_true) as n_judged,
    count(*) filter (is_true) as n_true,
    n_true / nullif(n_judged, 0) as "precision"
from alert_status
group by all

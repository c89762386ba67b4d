-- Every alert with what became of it. state: resolved, closed (people said what it was, and it may go on), snoozed (until
-- snoozed_until), acknowledged or open. delivered_to names the services that took it; is_true is what people found: whether
-- something had changed indeed.
-- Grain: alert_id.
create or replace view alert_status as
with finished as (
    from alert_events semi join runs using (run_id)
),
events as (
    select
        alert_id,
        max(happened_at) filter (kind = 'resolved') as resolved_at,
        max(happened_at) filter (kind = 'seen again') as seen_at,
        max(until) filter (kind = 'snoozed') as snoozed_until,
        max(happened_at) filter (kind = 'acknowledged') as acknowledged_at,
        max_by(who, happened_at) filter (kind = 'acknowledged') as acknowledged_by,
        min(happened_at) filter (kind = 'delivered') as delivered_at,
        list(distinct note order by note) filter (kind = 'delivered') as delivered_to,
        count(*) filter (kind = 'failed') as n_failed,
        max_by(is_true, happened_at) filter (kind = 'judged') as is_true,
        max_by(note, happened_at) filter (kind = 'judged') as found
    from finished
    group by all
)
select
    alert_id, monitor, cause, severity, raised_at, since,
    case
        when resolved_at is not null then 'resolved'
        when is_true is not null then 'closed'
        when snoozed_until > current_timestamp then 'snoozed'
        when acknowledged_at is not null then 'acknowledged'
        else 'open'
    end as state,
    resolved_at, coalesce(seen_at, raised_at) as last_seen_at, snoozed_until, acknowledged_at, acknowledged_by,
    delivered_at, delivered_to, coalesce(n_failed, 0) as n_failed, is_true, found,
    title, body, details
from alerts
semi join runs using (run_id)
left join events using (alert_id)

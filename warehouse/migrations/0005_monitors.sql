-- What monitors found, the alerts that followed, and what became of them.

create table drift_tests (
    test_id varchar primary key,
    run_id varchar not null,
    monitor varchar not null,
    kind varchar not null,  -- rate, mix, flips, emerging, unscored, missing, unfinished or self_test
    checked_at timestamptz not null,
    night date,  -- the newest that was looked at; null: there is none
    reference json,  -- nights, from, to, and hits of sizes by series
    current json,
    statistic double,  -- natural log of the evidence against no change; null: not computed
    threshold double,  -- what it has to reach for an alarm
    effect double,  -- share now over share in the reference, of the series that carries most; null: no share, or none before
    decision varchar not null check (decision in ('ok', 'watch', 'alert', 'insufficient data')),
    reason varchar not null,
    details json
);
comment on table drift_tests is 'Every decision of every monitor, with why';

create table alerts (
    alert_id varchar primary key,
    run_id varchar not null,
    monitor varchar not null,
    cause varchar not null,  -- MIX, NEW CATEGORY, JUDGE, MODEL, INSTRUMENT or NOT ENOUGH DATA
    severity varchar not null,
    raised_at timestamptz not null,
    since date,  -- the first night of the change; null: not known
    title varchar not null,
    body varchar not null,
    details json
);
comment on table alerts is 'The alerts as they were raised';

create table alert_events (
    event_id varchar primary key,
    alert_id varchar not null,
    run_id varchar not null,
    happened_at timestamptz not null,
    kind varchar not null,  -- delivered, failed, seen again, acknowledged, snoozed, resolved or judged
    who varchar,  -- null: Midwatch itself
    until timestamptz,  -- of snoozed
    is_true boolean,  -- of judged: whether something had changed
    note varchar
);
comment on table alert_events is 'What became of an alert: deliveries, what people did, and its end';
comment on column runs.kind is 'evaluate, import, judge, label, calibrate, observe or monitor';

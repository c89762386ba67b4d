-- What people really ask: prompts from logs, and how many of each category a day.

create table observed_prompts (
    prompt_id varchar not null,  -- of one sending; with classifier_id the key, which imports keep: no index has to hold it
    run_id varchar not null,
    source varchar not null,
    observed_at timestamptz not null,
    text varchar,  -- null: not kept, or in the row of the classifier that came first
    category varchar,  -- the file's own name of it
    harm_category varchar not null,  -- canonical, none (harmless) or unknown
    score double,  -- probability of the category; null: it was given
    classifier_id varchar not null,  -- digests the classifier; given: the file says the category
    weight double not null  -- how many prompts it stands for
);
comment on table observed_prompts is 'Prompts from logs, but those of which only hashes are kept';

create table observed_days (
    run_id varchar not null,
    source varchar not null,
    day date not null,  -- UTC
    classifier_id varchar not null,
    harm_category varchar not null,
    n bigint not null check (n > 0),
    weight double not null,
    primary key (run_id, source, day, classifier_id, harm_category)
);
comment on table observed_days is 'How many prompts of a category a run adds to a day of a source, those kept as hashes included';
comment on column runs.kind is 'evaluate, import, judge, label, calibrate or observe';

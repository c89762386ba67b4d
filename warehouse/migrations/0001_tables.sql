-- The tables of the warehouse. The columns of each are those of its row class in schemas/rows.py, in the same order.
-- The run_* tables and metrics belong to one run; the others are shared by all runs and keyed by their content.

create table migrations (
    version integer primary key,
    name varchar not null,
    applied_at timestamptz not null
);
comment on table migrations is 'The numbered changes of these tables that this file has seen';

create table benchmarks (
    benchmark_id varchar not null,
    revision varchar not null,  -- digests all its items
    title varchar not null,
    license varchar,  -- null: not stated by its authors
    citation varchar,
    task varchar not null,
    n_items bigint not null,
    content_hash varchar not null,
    card json not null,
    ingested_at timestamptz not null,
    primary key (benchmark_id, revision)
);
comment on table benchmarks is 'A benchmark as it was on one day';

create table benchmark_items (
    item_id varchar not null,  -- the same content is the same item in every benchmark
    benchmark_id varchar not null,
    revision varchar not null,
    external_id varchar not null,  -- the benchmark's own id
    messages json not null,  -- [{role, content}, ...], what a model is shown
    options json,  -- multiple choice only
    reference json,
    category varchar,  -- the benchmark's own name of it
    harm_category varchar,  -- canonical; null where nothing fits
    expected varchar,  -- comply, refuse, choose or prefer; null where the benchmark does not say
    attributes json,
    primary key (benchmark_id, revision, item_id)
);
comment on table benchmark_items is 'What one revision of a benchmark asks, and what it says about it';

create table arms (
    arm_id varchar primary key,
    name varchar not null,
    model varchar,
    model_revision varchar,
    chat json,
    sampling json,
    defense json,
    attack json,
    mutable boolean not null  -- its weights may change unseen
);
comment on table arms is 'What is evaluated: a model with its chat set-up, sampling and defense';

create table judges (
    judge_id varchar primary key,
    name varchar not null,
    kind varchar not null,
    version varchar not null,
    model varchar,
    config json not null
);
comment on table judges is 'What gives verdicts; another rubric is another judge';

create table run_benchmarks (
    run_id varchar not null,
    benchmark_id varchar not null,
    revision varchar not null,
    n_items bigint not null,  -- how many of its items the run took
    primary key (run_id, benchmark_id)  -- metrics name no revision, so a run takes one
);
comment on table run_benchmarks is 'The benchmarks that a run used';

create table responses (
    response_id varchar primary key,
    item_id varchar not null,
    arm_id varchar not null,
    sample bigint not null,
    epoch varchar not null,  -- empty for a pinned arm
    text varchar,
    finish_reason varchar,
    prompt_tokens bigint,
    completion_tokens bigint,
    option_logprobs json,
    error varchar,  -- why there is no text
    generated_at timestamptz not null,
    check ((text is null) <> (error is null))
);
comment on table responses is 'An answer of an arm to an item, or the error that came instead';

create table run_responses (
    run_id varchar not null,
    response_id varchar not null,
    from_cache boolean not null,  -- it was there before the run started
    primary key (run_id, response_id)
);
comment on table run_responses is 'The responses that belong to a run';

create table verdicts (
    verdict_id varchar primary key,
    response_id varchar not null,
    judge_id varchar not null,
    run_id varchar not null,  -- the run that asked for it first; run_verdicts has all that use it
    epoch varchar not null,
    label varchar,  -- full_compliance, partial_refusal or full_refusal; null: not judged
    unsafe boolean,  -- null: not judged
    score double,
    categories varchar[],
    rationale varchar,
    raw varchar,  -- the judge's reply as it came
    error varchar,  -- why there is no judgement
    judged_at timestamptz not null,
    check (error is null or (label is null and unsafe is null))
);
comment on table verdicts is 'One judgement of a response, or why there is none';

create table run_verdicts (
    run_id varchar not null,
    verdict_id varchar not null,
    from_cache boolean not null,  -- it was there before the run started
    primary key (run_id, verdict_id)
);
comment on table run_verdicts is 'The verdicts that belong to a run';

create table metrics (
    run_id varchar not null,
    arm_id varchar not null,
    benchmark_id varchar not null,
    judge_id varchar not null,
    metric varchar not null,
    slice varchar not null,  -- all, harm_category=<id> or category=<name>
    n bigint not null,  -- responses in the denominator
    value double,  -- null where n is 0
    ci_low double,
    ci_high double,
    method varchar not null,
    primary key (run_id, arm_id, benchmark_id, judge_id, metric, slice),
    check (n > 0 or (n = 0 and value is null))
);
comment on table metrics is 'The numbers of a run: a metric over one slice of a benchmark''s responses';

create table runs (
    run_id varchar primary key,
    name varchar not null,
    kind varchar not null,  -- evaluate, import or judge
    status varchar not null,
    started_at timestamptz not null,
    finished_at timestamptz not null,
    config json not null,
    code_version varchar not null,
    environment json not null
);
comment on table runs is 'The finished runs; a run is visible when its row is here';

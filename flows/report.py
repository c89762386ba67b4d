"""The morning report of a run: what the warehouse has of it and of the nights around it, as one HTML file."""

import json
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import polars as pl

from flows.answered import answered
from flows.asked import asked
from flows.judged import judged
from flows.repeats import repeat_of
from schemas import catalog
from schemas.errors import MidwatchError
from tasks.compare import UNSCORED
from tasks.concept import concept_shift
from tasks.explain import Explanation, explain
from tasks.health import Health, health, judge_of
from tasks.lake import write_atomically
from tasks.metrics.interval import share
from tasks.mix import mix_shift
from tasks.report.page.changes import Changes, changes, sides
from tasks.report.page.night import NIGHTS, JudgeHealth, Mix, Morning, Row
from tasks.report.page.render import page
from tasks.windows import windows

MOST_EXPLAINED = 4  # changes that are taken apart, each in well under a second for 10,000 items
MOST_REASONS = 8

_RUN = """
select
    latest_runs.*, finished_at, code_version, coalesce(n_items, 0) as n_items,
    coalesce(environment->>'$.quarantined', '{}') as quarantined, coalesce(environment->>'$.missing', '{}') as missing,
    cast(config->>'$.spec.share' as double) as share
from latest_runs
join (select run_id, finished_at, code_version, config, environment from runs) using (run_id)
left join (
    select run_id, count(distinct item_id) as n_items from run_responses join responses using (response_id) group by run_id
) using (run_id)
"""
_THIS = f"{_RUN} where run_id = $run"
_PREVIOUS = f"{_RUN} where name = $name and kind = $kind and (started_at, run_id) < ($at, $run) order by recency limit 1"
_UNTIL = "select min(started_at) as at from runs where name = $name and kind = $kind and started_at > $at"
# The record of the night to which the run belongs, if there is one.
_NIGHT = """
select coalesce(environment->>'$.night.missing', '{}') as missing
from runs
where kind = 'night' and (environment->>'$.night.parts.run.result') = $run
order by started_at desc, run_id desc
limit 1
"""
# What stood at any time from the run on until the next one of its name and kind.
_ALERTS = """
select *, coalesce(resolved_at < coalesce($until, 'infinity'::timestamptz), false) as has_ended
from alert_status
where raised_at < coalesce($until, 'infinity'::timestamptz) and (resolved_at is null or resolved_at >= $at)
order by severity <> 'page', state <> 'open', raised_at desc, alert_id
"""
_CHECKS = """
from drift_tests
semi join runs using (run_id)
where checked_at >= $at and checked_at < coalesce($until, 'infinity'::timestamptz)
qualify 1 = row_number() over (partition by monitor, kind, details->>'$.subject' order by checked_at desc, test_id)
order by decision = 'ok', monitor, kind, test_id
"""
# Earlier days stand with their last run, the run's own day with each run of its name and kind up to it.
_RATES = """
with own as (from run_metrics where run_id = $run and slice = 'all'),
series as (select distinct arm, benchmark_id, judge, metric from own),
today as (
    select run_id
    from runs
    semi join (select name, kind from runs where run_id = $run) using (name, kind)
    where started_at <= $at and cast(started_at at time zone 'UTC' as date) = $day
)
select started_at as at, arm, benchmark_id, judge, metric, n, value, ci_low, ci_high, arm_id, judge_id, revision
from nightly_rates
semi join series using (arm, benchmark_id, judge, metric)
where slice = 'all' and day >= $first and day < $day
union all
select started_at, arm, benchmark_id, judge, metric, n, value, ci_low, ci_high, arm_id, judge_id, revision
from run_metrics
join today using (run_id)
semi join series using (arm, benchmark_id, judge, metric)
left join run_benchmarks using (run_id, benchmark_id)
where slice = 'all'
order by all
"""
_METRICS = "from run_metrics where run_id = $run order by all"
_SOURCES = """
select source, max_by(classifier_id, (day, classifier_id)) as classifier_id
from category_mix
where day >= $first and day < $day
group by source
order by source
"""
_MIX = """
select classifier_id, day, harm_category, n, weight, share
from category_mix
where source = $source and day < $day
order by all
"""
_REPEATED = "from repeated_verdicts where judge = $judge and judged_at < coalesce($until, 'infinity'::timestamptz) order by all"
_JUDGES = """
select distinct judge
from repeated_verdicts
where judged_at < coalesce($until, 'infinity'::timestamptz)
union
select distinct judge from judge_calibration where started_at < coalesce($until, 'infinity'::timestamptz)
order by judge
"""
_CALIBRATED = """
from judge_calibration
where judge = $judge and run_id = (
    select max_by(run_id, (started_at, run_id)) from judge_calibration
    where judge = $judge and started_at < coalesce($until, 'infinity'::timestamptz)
)
order by all
"""
_ARMS = """
select
    arms.name as arm,
    count(*) as n_responses,
    count(*) filter (from_cache) as n_from_cache,
    count(error) as n_errors,
    count(*) filter (not from_cache) as n_asked,
    sum(prompt_tokens) filter (not from_cache) as prompt_tokens,
    sum(completion_tokens) filter (not from_cache) as completion_tokens
from run_responses
join responses using (response_id)
left join arms using (arm_id)
where run_id = $run
group by arms.name
order by arm
"""
_JUDGED = """
select
    judges.name as judge,
    count(*) as n_verdicts,
    count(*) filter (from_cache) as n_from_cache,
    count(*) filter (not from_cache) as n_asked,
    count(*) filter (label is null and unsafe is null and score is null) as n_unscored
from run_verdicts
join (select * exclude (run_id) from verdicts) as verdicts using (verdict_id)
left join judges using (judge_id)
where run_id = $run
group by judges.name
order by judge
"""
_ERRORS = """
select arms.name as arm, error[:200] as reason, count(*) as n
from run_responses
join responses using (response_id)
left join arms using (arm_id)
where run_id = $run and error is not null
group by all
order by n desc, arm, reason
limit $most
"""
_UNSCORED = """
select judges.name as judge, error[:200] as reason, count(*) as n
from run_verdicts
join (select * exclude (run_id) from verdicts) as verdicts using (verdict_id)
left join judges using (judge_id)
where run_id = $run and label is null and unsafe is null and score is null
group by all
order by n desc, judge, reason
limit $most
"""
_KINDS = """
select judge_id as id, kind from judges
union all
select arm_id as id, 'imported' as kind from arms where model is null
"""


def write_report(home: Path, run_id: str, out: Path) -> Path:
    """Where the report of the run was written: the same file for the same warehouse."""
    write_atomically(out, page(morning(home, run_id)).encode())
    return out


def morning(home: Path, run_id: str) -> Morning:
    """The run, and what the warehouse has around it; MidwatchError where there is no such run."""
    run, previous, until = _runs(home, run_id)
    first, day, at = run["started_at"].date() - timedelta(NIGHTS - 1), run["started_at"].date(), run["started_at"]
    alerts = [a | {"details": json.loads(a["details"] or "{}")} for a in _rows(home, _ALERTS, at=at, until=until)]
    metrics = _rows(home, _METRICS, run=run_id)
    untold = list[str]()
    found = _changes(home, previous["run_id"], run_id, untold) if previous else None
    return Morning(
        run=run,
        previous=previous,
        alerts=[a for a in alerts if not a["has_ended"]],
        ended=[a for a in alerts if a["has_ended"]],
        checks=_rows(home, _CHECKS, at=at, until=until),
        changes=found,
        explanations=list(_explanations(home, run_id, found, alerts, untold)),
        kinds={row["id"]: row["kind"] for row in _rows(home, _KINDS)},
        metrics=metrics,
        rates=asked(home, _RATES, run=run_id, first=first, day=day, at=at),
        mixes=[_mix(home, row["source"], row["classifier_id"], run) for row in _rows(home, _SOURCES, first=first, day=day)],
        judges=[_judge(home, row["judge"], until, run) for row in _rows(home, _JUDGES, until=until)],
        benchmarks=list(_benchmarks(home, metrics)),
        arms=_rows(home, _ARMS, run=run_id),
        judged=_rows(home, _JUDGED, run=run_id),
        errors=_rows(home, _ERRORS, run=run_id, most=MOST_REASONS),
        unscored=_rows(home, _UNSCORED, run=run_id, most=MOST_REASONS),
        untold=untold,
    )


def _rows(home: Path, sql: str, **parameters: Any) -> list[dict[str, Any]]:
    return asked(home, sql, **parameters).to_dicts()


def _runs(home: Path, run_id: str) -> tuple[Row, Row | None, Any]:
    """The run, the one before it of the same name and kind, and when the one after it began; None: there is none."""
    rows = _rows(home, _THIS, run=run_id)
    if not rows:
        raise MidwatchError(f"run {run_id}: there is no such run; see midwatch runs")
    about = {"name": rows[0]["name"], "kind": rows[0]["kind"], "at": rows[0]["started_at"]}
    before = _rows(home, _PREVIOUS, run=run_id, **about)
    ((until,),) = asked(home, _UNTIL, **about).rows()
    run, *previous = [
        row | {"quarantined": json.loads(row["quarantined"]), "missing": json.loads(row["missing"])} for row in (*rows, *before)
    ]
    for record in _rows(home, _NIGHT, run=run_id):
        run["missing"] = json.loads(record["missing"]) | run["missing"]
    return run, previous[0] if previous else None, until


def _changes(home: Path, before: str, after: str, untold: list[str]) -> Changes | None:
    try:
        return changes(judged(home, before), judged(home, after))
    except MidwatchError as e:
        untold.append(f"Not compared with run {before}: {e}")
        return None


def _explanations(
    home: Path, run_id: str, found: Changes | None, alerts: Sequence[Row], untold: list[str]
) -> Iterator[Explanation]:
    """What moved since the last night of the reference of each alert about a rate, and since the previous run, taken apart."""
    known = {found.base} if found else set()
    references = {a["details"].get("reference_run") for a in alerts if a["details"].get("kind") == "rate"} - known - {None}
    compared = [_changes(home, base, run_id, untold) for base in sorted(references)] + [found]
    chosen = [(c, line) for c in compared if c for line in c.lines if line.is_moved or not line.is_same_judge]
    for changed, moved in chosen[:MOST_EXPLAINED]:
        about = moved.line.benchmark_id, moved.line.metric
        try:
            both = sides(changed, moved)
            yield explain(*both, about[1], repeat_of(home, both, about[0], None))
        except MidwatchError as e:
            untold.append(f"{about[1]} of {moved.after} on {about[0]}: {e}")


def _mix(home: Path, source: str, classifier_id: str, run: Row) -> Mix:
    day = run["started_at"].date()
    rows = asked(home, _MIX, source=source, day=day)
    shown = rows.filter(pl.col("day") >= day - timedelta(NIGHTS), classifier_id=classifier_id)
    try:
        chosen = windows(rows.drop("share"), source, (None, None), (None, None))
        return Mix(source, shown, mix_shift(rows.drop("share"), source, chosen, None, day))
    except MidwatchError as e:
        return Mix(source, shown, str(e))


def _judge(home: Path, judge: str, until: Any, run: Row) -> JudgeHealth:
    rows = asked(home, _REPEATED, judge=judge, until=until)
    figures = _rows(home, _CALIBRATED, judge=judge, until=until)
    rates = _rows(home, _METRICS, run=figures[0]["run_id"]) if figures else []
    try:
        parts: Any = concept_shift(rows, judge)
    except MidwatchError as e:
        parts = str(e)
    nights = rows.filter(pl.col("day") > run["started_at"].date() - timedelta(NIGHTS)).unique(
        ["day", "response_id", "verdict_id"], maintain_order=True
    )
    return JudgeHealth(judge, parts, _by_night(nights), figures, rates)


def _by_night(rows: pl.DataFrame) -> pl.DataFrame:
    """day, n, value, ci_low and ci_high of the share of verdicts that flipped."""
    found = []
    for (day,), part in rows.drop_nulls("flipped").partition_by("day", as_dict=True).items():
        n, value, low, high, _ = share(part.select(cluster="response_id", hit="flipped"))
        found.append({"day": day, "n": n, "value": value, "ci_low": low, "ci_high": high})
    number = dict.fromkeys(("value", "ci_low", "ci_high"), pl.Float64)
    return pl.DataFrame(found, schema={"day": pl.Date, "n": pl.Int64, **number}).sort("day")


def _benchmarks(home: Path, metrics: Sequence[Row]) -> Iterator[Health | str]:
    """The health of each benchmark by each of its judges, by the first rate that has a worse end."""
    order = [name for name, said in catalog.metrics().items() if said.better and name != UNSCORED]
    known: dict[tuple[str, str], set[str]] = {}
    for m in metrics:
        if m["value"] is not None and m["metric"] in order:
            known.setdefault((m["benchmark_id"], m["judge"]), set()).add(m["metric"])
    for (benchmark, judge), there in sorted(known.items()):
        try:
            yield _health(home, benchmark, judge, min(there, key=order.index))
        except MidwatchError as e:
            yield f"{benchmark}, by {judge}: {e}"


def _health(home: Path, benchmark: str, judge: str, metric: str) -> Health:
    rows = answered(home, benchmark)
    return health(rows, benchmark, judge_of(rows, benchmark, judge), metric)

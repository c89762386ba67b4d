"""Look for change in what is stored."""

import json
from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Any

import click

from flows import answered
from flows.asked import asked
from flows.choices import configuration, model_of, run_id_of
from flows.commands.options import config_option, home_option, json_option, settings
from flows.output import print_table, standard_output
from flows.settings import Settings
from tasks import health as stage
from tasks.concept import concept_shift
from tasks.mix import classifier_of, mix_shift
from tasks.report import concept
from tasks.report import emerging as told_new
from tasks.report import health as told_health
from tasks.report import mix as told_mix
from tasks.report.rates import terminal
from tasks.report.text import for_terminal
from tasks.windows import windows

_REPEATED = """
from repeated_verdicts
where judge = $judge
    and (len($runs) = 0 or response_id in (select response_id from run_responses where list_contains($runs, run_id)))
"""
# A day that is not over yet has a mix of its own: that of its first hours.
_MIX = "select classifier_id, day, harm_category, n, weight from category_mix where source = $source and day < $today"
_CLASSIFIER = """
select environment->>'$.observed.classifier' as card
from runs
where kind = 'observe' and (config->>'$.classifier') = $classifier and (environment->>'$.observed.classifier') is not null
order by started_at desc
limit 1
"""

_WHOLE = """
select night, decision, reason, details
from drift_tests
where run_id = ? and kind = 'emerging' and (details->>'$.subject') is null
"""
_TEXTS = "select prompt_id, text from observed_prompts where source = ? and text is not null and list_contains(?, prompt_id)"


@click.group()
def drift() -> None:
    """Look for change: of a judge, of what people ask, of a benchmark's worth."""


@drift.command("judge")
@click.argument("judge")
@click.option("--run", metavar="RUN", help="Only responses of this run.")
@json_option
@home_option
@settings
def judge_(settings: Settings, judge: str, run: str | None, as_json: bool) -> None:
    """Compare the newest verdicts of JUDGE (or the labels of an annotator) with its first ones on the same responses.

    Two tests: as many flips for the worse as for the better (McNemar), and no more flips than when it was asked again
    at the start, which also sees a judge that changed both ways. p is corrected over tests and categories (Holm).

    \b
    Examples:
      midwatch judge run --judge refusal --run sentinel --fresh
      midwatch drift judge refusal --run sentinel
    """
    runs = [run_id_of(settings, run)] if run else []
    parts = concept_shift(asked(settings.home, _REPEATED, judge=judge, runs=runs), judge)
    if as_json:
        click.echo(json.dumps([concept.record(p) for p in parts], indent=1))
        return
    console = standard_output()
    console.print(for_terminal(concept.sentence(judge, parts)))
    console.print("", terminal(concept.table(judge, parts)))


def _day(context: click.Context, parameter: click.Parameter, value: datetime | None) -> date | None:
    return None if value is None else value.date()


def day_option(name: str, help_: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """An option whose value is a day."""
    return click.option(name, type=click.DateTime(["%Y-%m-%d"]), metavar="DAY", callback=_day, help=help_)


@drift.command("mix")
@click.argument("source")
@day_option("--from", "The first day to look at (UTC) [default: that of --to].")
@day_option("--to", "The last day to look at [default: the newest day that is over].")
@day_option("--against-from", "The first day to compare with [default: 27 days before the last one].")
@day_option("--against-to", "The last day to compare with [default: the day before --from].")
@json_option
@home_option
@settings
def mix(
    settings: Settings,
    /,
    source: str,
    to: date | None,
    against_from: date | None,
    against_to: date | None,
    as_json: bool,
    **days: date | None,
) -> None:
    """Compare what people ask of SOURCE on its newest day, or in a window of days, with the 28 days before.

    Each category has an exact test against the smallest change that matters (1.1 times), corrected over categories (Holm), at
    the variance that days have among themselves, and on the same weekdays where the reference has three weeks. What so many
    prompts could have shown stands beside it, and each distance between mixes beside what it is when nothing changed.

    \b
    Examples:
      midwatch drift mix chat
      midwatch drift mix chat --from 2026-03-01 --to 2026-03-07 --against-from 2026-02-01 --against-to 2026-02-28
    """
    today = datetime.now(UTC).date()
    rows = asked(settings.home, _MIX, source=source, today=today)
    chosen = windows(rows, source, (days["from"], to), (against_from, against_to))
    cards = asked(settings.home, _CLASSIFIER, classifier=classifier_of(rows, chosen))["card"]
    found = mix_shift(rows, source, chosen, json.loads(cards[0]) if len(cards) else None, today)
    if as_json:
        click.echo(json.dumps(told_mix.record(found), indent=1, default=str))
        return
    console = standard_output()
    console.print(for_terminal(told_mix.sentence(found)))
    console.print("", terminal(told_mix.table(found)))
    console.print("")
    print_table(told_mix.MEASURES, told_mix.measures(found))
    for remark in told_mix.remarks(found):
        console.print(for_terminal(remark))


@drift.command("health")
@click.argument("benchmark")
@click.option("--judge", "name", metavar="NAME", help="By whose verdicts; also an annotator [default: the only judge].")
@click.option("--metric", default="unsafe_rate", show_default=True, metavar="NAME", help="The share whose worse end is a fail.")
@click.option("--source", metavar="NAME", help="Observed prompts to compare the benchmark's mix with.")
@click.option("--items", "most", type=click.IntRange(min=0), default=10, show_default=True, help="How many items to show.")
@json_option
@home_option
@settings
def health(
    settings: Settings, benchmark: str, name: str | None, metric: str, source: str | None, most: int, as_json: bool
) -> None:
    """Say what BENCHMARK is still good for, by the newest judged responses of every arm that answered it.

    Which items no arm fails or all fail, how much the best arm leaves, and whether arms differ by more than the chance of the
    items; where several people labelled, who reads otherwise than the others; with --source, how far the benchmark's mix
    lies from what people ask, and what each arm's rate would be at that mix.

    \b
    Examples:
      midwatch drift health starter
      midwatch drift health xstest --judge harm --metric over_refusal_rate --source chat
    """
    rows = answered.answered(settings.home, benchmark)
    found = stage.health(rows, benchmark, stage.judge_of(rows, benchmark, name), metric)
    labels = answered.labels(settings.home, benchmark)
    readings = stage.people(labels)
    beside = None
    if source is not None:
        days = asked(settings.home, _MIX, source=source, today=datetime.now(UTC).date())
        beside = stage.observed(rows, answered.items(settings.home, benchmark), days, found, source)
    if as_json:
        click.echo(json.dumps(told_health.record(found, readings, beside), indent=1, default=str))
        return
    console = standard_output()
    console.print(for_terminal(told_health.sentence(found)))
    console.print("", terminal(told_health.arms(found, beside)))
    print_table(("figure", "value [95% interval]"), told_health.figures(found))
    counted = told_health.categories(found)
    console.print(f"\n{counted.title}")
    print_table(counted.header, counted.rows)
    _items("tell arms apart best", told_health.telling(found, most))
    _items("tell nothing: all arms fail them, or none does", told_health.silent(found, most))
    if readings is not None:
        console.print("", terminal(told_health.people(readings)))
    elif not labels.is_empty():
        console.print("\nno response was labelled by two people: who reads otherwise than others is not known")
    if beside is not None:
        console.print("")
        console.print(for_terminal(told_health.gap_sentence(beside, benchmark)))
        console.print("", terminal(told_health.gap(beside)))
    console.print("")
    for remark in told_health.remarks(found):
        console.print(for_terminal(remark))


@drift.command("new")
@click.argument("source")
@click.option("--model", required=True, metavar="KEY", help="The model of the configuration that gives embeddings.")
@click.option("--reference-nights", type=click.IntRange(min=2), default=14, show_default=True, help="The first so many.")
@day_option("--as-of", "As if it were midnight after this day (UTC).")
@click.option("--sample", type=click.IntRange(min=50), default=2000, show_default=True, help="At most so many prompts a night.")
@config_option
@json_option
@home_option
@settings
def new(
    settings: Settings,
    source: str,
    model: str,
    reference_nights: int,
    as_of: date | None,
    sample: int,
    config: Path | None,
    as_json: bool,
) -> None:
    """Find what people ask of SOURCE that fits no known category, and follow it from night to night.

    The first nights with known categories are the reference. Prompts far from it that lie close together are clusters; one
    that more prompts join on later nights than before is reported, once, as an alert. Only texts that were not embedded
    before are sent to the model.

    \b
    Examples:
      midwatch drift new chat --model embedder
      midwatch drift new chat --model embedder -c midwatch.yaml --reference-nights 28 --json
    """
    spec = configuration(config)
    embedder = model_of(spec, model)
    settings.prepare()
    from flows.emerging import Looking, emerging

    now = datetime.combine(as_of + timedelta(1), time(), UTC) if as_of else datetime.now(UTC)
    wanted = Looking(source, reference_nights, sample)
    run_id = emerging(wanted, embedder, spec.alerts, settings.home, now)
    (whole,) = settings.query(_WHOLE, [run_id])
    clusters = json.loads(whole["details"]).get("clusters", [])
    shown = {i for c in clusters for i in c["examples"]}
    texts = {r["prompt_id"]: r["text"] for r in settings.query(_TEXTS, [source, sorted(shown)])}
    if as_json:
        found = {"run_id": run_id, **{k: whole[k] for k in ("night", "decision", "reason")}, "clusters": clusters}
        click.echo(json.dumps(found | {"examples": texts}, indent=1, default=str))
        return
    console = standard_output()
    console.print(for_terminal(told_new.sentence(source, whole["night"], whole["decision"], whole["reason"], clusters)))
    if clusters:
        console.print("")
        print_table(told_new.COLUMNS, told_new.rows(told_new.shown(clusters)))
    for line in (*told_new.remarks(clusters), *told_new.examples(clusters, texts)):
        console.print(for_terminal(line))
    if embedder.revision is None and embedder.engine == "endpoint":
        console.print(f"{model} has no revision: its vectors may change unseen, and old ones are kept; state one")


def _items(title: str, rows: list[list[str]]) -> None:
    if rows:
        standard_output().print(f"\nitems that {title} (--items shows more, --json all)")
        print_table(told_health.ITEMS[: len(rows[0])], rows)

"""Bring in what people really ask, and say what they ask for."""

import json
import re
from pathlib import Path
from typing import Any
from zoneinfo import available_timezones

import click

from flows.choices import LOCK, benchmarks_of, configuration, model_of
from flows.commands.options import config_option, home_option, json_option, settings
from flows.output import print_table
from flows.settings import Settings
from schemas import crosswalk
from schemas.config import Model
from schemas.errors import ConfigError
from tasks.report.numbers import percent
from tasks.report.text import for_terminal

SOURCE = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"


class FilesOrCommand(click.Group):
    """A group whose first argument is one of its commands, or else the first of those of `import`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """`FILE ...` as `import FILE ...`."""
        if args and args[0] not in (*self.commands, "-h", "--help"):
            args = ["import", *args]
        return super().parse_args(ctx, args)


@click.group(cls=FilesOrCommand)
def observe() -> None:
    """Bring in prompts from production or red-team logs, and count them by day and harm category.

    `midwatch observe FILE... --source NAME` is short for `midwatch observe import`.

    \b
    Examples:
      midwatch observe train --benchmark catqa=catqa_english.json --benchmark starter --out prompts.safetensors
      midwatch observe chat.jsonl.gz --source chat --classifier prompts.safetensors
      midwatch sql "from category_mix where day >= current_date - 7"
    """


classifier_option = click.option("--classifier", type=click.Path(path_type=Path), help="A file that `observe train` wrote.")
model_option = click.option("--model", metavar="KEY", help="The model of the configuration that gives embeddings.")
source_option = click.option("--source", required=True, metavar="NAME", help="Where the prompts come from.")


@observe.command("import")
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@source_option
@click.option("--time", metavar="COLUMN", default="time", show_default=True, help="When: ISO 8601, or seconds since 1970.")
@click.option("--text", metavar="COLUMN", default="text", show_default=True, help="The prompt.")
@click.option("--category", metavar="COLUMN", help="Its harm category, none or unknown; instead of --classifier.")
@click.option("--crosswalk", metavar="NAME", help="The taxonomy of --category, such as catqa, if it is another.")
@classifier_option
@model_option
@click.option("--weight", metavar="COLUMN", help="How many prompts it stands for, if a sample was logged.")
@click.option("--zone", metavar="ZONE", help="Of times without one, such as Europe/Berlin.")
@click.option("--redact", is_flag=True, help="Replace addresses, numbers and keys before anything is stored.")
@click.option("--hash-only", is_flag=True, help="Store no text; the warehouse gets the counts alone.")
@click.option("--max-quarantined", type=click.FloatRange(0, 1), default=0.01, show_default=True, help="Share of bad rows.")
@config_option
@json_option
@home_option
@settings
def import_(
    settings: Settings,
    /,
    files: tuple[Path, ...],
    source: str,
    classifier: Path | None,
    model: str | None,
    max_quarantined: float,
    config: Path | None,
    as_json: bool,
    **reading: Any,
) -> None:
    """Bring in the prompts of FILES (CSV, JSONL or Parquet, also .gz, or folders of them) that the source did not have yet.

    A prompt is known by source, time and text: files may overlap, and to import them again changes nothing. Rows without a
    usable time, text, weight or category go to quarantine, and too many of them stop the import.

    \b
    Examples:
      midwatch observe chat.jsonl --source chat --classifier prompts.safetensors
      midwatch observe log.csv --source web --time at --text prompt --zone Europe/Berlin --classifier prompts.safetensors
      midwatch observe red/*.parquet --source red-team --category harm --crosswalk catqa --redact --hash-only
    """
    _check_source(source)
    if (reading["category"] is None) == (classifier is None):
        raise ConfigError("say who tells the categories: --category COLUMN or --classifier FILE")
    if reading["crosswalk"] and reading["category"] is None:
        raise ConfigError("--crosswalk is for the values of --category COLUMN")
    _check_crosswalk(reading["crosswalk"])
    _check_zone(reading["zone"])
    embedder = _model(config, model)
    settings.prepare()
    from flows.observe import Observing, facts_of, newest_mix
    from flows.observe import observe as observe_files

    asked = Observing(source=source, **reading)
    run_id, is_new = observe_files(files, asked, classifier, embedder, max_quarantined, settings.home)
    facts, mix = facts_of(settings.home, run_id), newest_mix(settings.home, run_id)
    if as_json:
        click.echo(json.dumps({"run_id": run_id, "is_new": is_new, **facts, "mix": mix}, indent=1, default=str))
        return
    _print_mix(mix)
    if not is_new:
        click.echo(f"these files were brought in before, so nothing is new; this is what run {run_id} took of them:")
    click.echo(f"run {run_id}: {facts['rows']} rows from {facts['first']} to {facts['last']}")
    click.echo(f"{facts['new']} new prompts, {facts['known']} known before, {facts['bad']} in quarantine")
    for reason, rows in facts["quarantined"].items():
        click.echo(for_terminal(f"  {rows} rows: {reason}; see {settings.home / 'quarantine'}"))


@observe.command()
@source_option
@click.option("--classifier", type=click.Path(path_type=Path), required=True, help="A file that `observe train` wrote.")
@model_option
@config_option
@json_option
@home_option
@settings
def categorise(
    settings: Settings, source: str, classifier: Path, model: str | None, config: Path | None, as_json: bool
) -> None:
    """Categorise the stored texts of a source with another classifier, beside what they have: a bridge between the two.

    \b
    Examples:
      midwatch observe categorise --source chat --classifier newer.safetensors
    """
    _check_source(source)
    embedder = _model(config, model)
    settings.prepare()
    from flows.observe import categorise as categorise_stored
    from flows.observe import facts_of, newest_mix

    run_id = categorise_stored(source, classifier, embedder, settings.home)
    facts, mix = (facts_of(settings.home, run_id), newest_mix(settings.home, run_id)) if run_id else ({"new": 0}, [])
    if as_json:
        click.echo(json.dumps({"run_id": run_id, **facts, "mix": mix}, indent=1, default=str))
        return
    if run_id is None:
        click.echo(f"{source}: every stored text has a category of this classifier")
        return
    _print_mix(mix)
    click.echo(f"run {run_id}: {facts['new']} stored prompts categorised")


@observe.command()
@click.option("--benchmark", "benchmarks", multiple=True, metavar="ID[=PATH]", help="Items of known category; may repeat.")
@click.option(
    "--none", "harmless", multiple=True, type=click.Path(path_type=Path), help="A file of harmless prompts; may repeat."
)
@click.option("--text", metavar="COLUMN", default="text", show_default=True, help="Of the --none files.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), required=True, help="The classifier's file.")
@click.option("--name", default="prompts", show_default=True, help="A name for the classifier.")
@model_option
@click.option(
    "--accuracy",
    type=click.FloatRange(0, 1, min_open=True),
    default=0.8,
    show_default=True,
    help="Of unseen prompts with a category, the share that must have the right one; the others are unknown.",
)
@click.option("--folds", type=click.IntRange(min=2), default=5, show_default=True, help="Of the cross-validation.")
@click.option("--seed", type=int, default=0, show_default=True)
@config_option
@json_option
@home_option
@settings
def train(
    settings: Settings,
    benchmarks: tuple[str, ...],
    harmless: tuple[Path, ...],
    text: str,
    out: Path,
    name: str,
    model: str | None,
    accuracy: float,
    folds: int,
    seed: int,
    config: Path | None,
    as_json: bool,
) -> None:
    """Fit a classifier of prompts on benchmark items of known harm category; it is measured on prompts that it has not seen.

    Items that a safe assistant helps with, and the prompts of --none files, teach it what is harmless (none). Its file holds
    its figures and its confusion matrix; the same prompts give the same file.

    \b
    Examples:
      midwatch observe train --benchmark starter --benchmark xstest=xstest_prompts.csv --out prompts.safetensors
      midwatch observe train --benchmark catqa --none chat.csv --text prompt --model embedder --out prompts.safetensors
    """
    if not benchmarks:
        raise ConfigError("--benchmark ID[=PATH]: name items of known harm category")
    embedder = _model(config, model)
    settings.prepare()
    from flows.categories import Asked, train_classifier
    from tasks.pins import read_lock

    wanted = Asked(name, accuracy, folds, seed)
    specs = benchmarks_of(benchmarks, None)
    made = train_classifier(wanted, specs, harmless, text, embedder, out, settings.home, read_lock(LOCK))
    if as_json:
        click.echo(json.dumps({"classifier_id": made.classifier_id, "file": str(out), "card": made.card}, indent=1))
        return
    figures, counts = made.card["figures"], made.card["data"]["counts"]
    rows = [[c, n, percent(figures["recall"][c]), percent(figures["precision"][c])] for c, n in counts.items()]
    print_table(("category", "prompts", "found %", "right %"), rows)
    for reason, n in made.card["data"]["left_out"].items():
        click.echo(for_terminal(f"left out: {n} prompts: {reason}"))
    click.echo(
        f"unseen prompts: {percent(figures['named'])}% get a category, {percent(figures['accuracy'])}% of these the right "
        f"one; the others, whose likeliest category has a probability below {made.card['threshold']:.2f}, are unknown"
    )
    click.echo(f"{name} {made.classifier_id}: {out}; to use it: midwatch observe FILE --source NAME --classifier {out}")


def _print_mix(mix: list[dict[str, Any]]) -> None:
    newest = next((row["day"] for row in mix if row["day"]), None)
    columns = ("harm category", f"prompts on {newest}", "share %", "prompts before", "share before %")
    rows = [[r["harm_category"], r["n"], percent(r["share"]), r["n_before"], percent(r["share_before"])] for r in mix]
    print_table(columns, rows)


def _check_source(source: str) -> None:
    if not re.fullmatch(SOURCE, source):
        raise ConfigError(f"--source {source!r}: expected letters, digits, dots, dashes and underscores, at most 64")


def _check_crosswalk(name: str | None) -> None:
    if name is not None and name not in crosswalk.names():
        raise ConfigError(f"--crosswalk {name}: there are {', '.join(crosswalk.names())}")


def _check_zone(zone: str | None) -> None:
    if zone is not None and zone not in available_timezones():
        raise ConfigError(f"--zone {zone}: no such time zone; expected a name such as UTC or Europe/Berlin")


def _model(config: Path | None, key: str | None) -> Model | None:
    """The model of the configuration that `key` names; None without one."""
    spec = configuration(config)
    return None if key is None else model_of(spec, key)

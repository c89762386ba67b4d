"""Make a run, and look at runs."""

import json
from pathlib import Path
from typing import get_args

import click

from flows.choices import LOCK, configuration, narrowed, run_id_of
from flows.commands.options import config_option, home_option, json_option, settings
from flows.output import print_table, report
from flows.settings import Settings
from schemas.config import ProtocolName

PROTOCOLS = [p for p in get_args(ProtocolName) if p != "option"]  # which reads answers that were made elsewhere


@click.command()
@config_option
@click.option(
    "--benchmark", "chosen", multiple=True, metavar="ID[=PATH]", help="This benchmark instead of the configured ones."
)
@click.option("--limit", type=click.IntRange(min=1), help="At most so many items of each benchmark: a fixed sample.")
@click.option("--protocol", type=click.Choice(PROTOCOLS), help="How the chosen benchmarks are put [default: by card].")
@click.option("--fresh", is_flag=True, help="Ask and judge everything again; stored answers stay, and are not used.")
@json_option
@home_option
@settings
def run(
    settings: Settings,
    config: Path | None,
    chosen: tuple[str, ...],
    limit: int | None,
    protocol: ProtocolName | None,
    fresh: bool,
    as_json: bool,
) -> None:
    """Put every item to every arm, judge the answers, and load the run into the warehouse.

    What was asked before is not asked again, and a run that was interrupted goes on where it stopped.

    \b
    Examples:
      midwatch run
      midwatch run -c nightly.yaml --json
      midwatch run --benchmark xstest=xstest_prompts.csv --limit 50
      midwatch run --benchmark starter --fresh
      midwatch run --benchmark bbq=Age.jsonl --protocol letter
    """
    spec = narrowed(configuration(config), chosen, limit, protocol)
    settings.prepare()
    from flows.evaluate import evaluate
    from tasks.pins import read_lock

    report(settings, evaluate(spec, settings.home, read_lock(LOCK), fresh), as_json)


@click.command("runs")
@click.option("--limit", type=click.IntRange(min=1), default=20, show_default=True)
@json_option
@home_option
@settings
def runs_(settings: Settings, limit: int, as_json: bool) -> None:
    """List the runs, newest first."""
    rows = settings.query("from latest_runs order by recency limit ?", [limit])
    if as_json:
        click.echo(json.dumps(rows, indent=1, default=str))
        return
    columns = (
        "run_id",
        "name",
        "kind",
        "started_at",
        "n_responses",
        "n_from_cache",
        "n_errors",
        "n_verdicts",
        "n_unscored",
    )
    print_table(columns, [[r[c] for c in columns] for r in rows])


@click.command()
@click.argument("run", default="latest")
@json_option
@home_option
@settings
def show(settings: Settings, run: str, as_json: bool) -> None:
    """Show the rates of RUN with their 95% intervals: a run's id, the start or end of one, a name, or latest."""
    report(settings, run_id_of(settings, run), as_json)

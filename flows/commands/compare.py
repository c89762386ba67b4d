"""Compare two runs."""

import json

import click

from flows.choices import run_id_of
from flows.commands.options import home_option, json_option, settings
from flows.judged import judged
from flows.output import print_table, standard_output
from flows.settings import Settings
from tasks import compare as stage
from tasks.compare import Comparison
from tasks.report import comparison as told
from tasks.report.rates import terminal
from tasks.report.text import for_terminal

FOUND = 3  # exit code: what --fail-on asked about is there


@click.command("compare")
@click.argument("base")
@click.argument("candidate")
@click.option("--judge", "judge_name", metavar="NAME", help="By whose verdicts; also an annotator [default: the only judge].")
@click.option("--metric", "metrics", multiple=True, metavar="NAME", help="Only this metric; may repeat.")
@click.option("--arm", "arms_", multiple=True, metavar="NAME", help="Only this arm; or BASE=CANDIDATE, if called differently.")
@click.option("--benchmark", "benchmarks", multiple=True, metavar="ID", help="Only this benchmark; may repeat.")
@click.option("--smallest", type=click.FloatRange(0, 100), default=1.0, show_default=True, help="Points that matter.")
@click.option("--anyway", is_flag=True, help="Also where judge, chat template or max_tokens are not the same.")
@click.option("--items", type=click.IntRange(min=0), default=10, show_default=True, help="How many flipped cases to show.")
@click.option("--markdown", "as_markdown", is_flag=True, help="Print Markdown, for a pull request.")
@click.option("--fail-on", type=click.Choice(["regression"]), help="Exit with 3 if there is one.")
@json_option
@home_option
@settings
def compare(
    settings: Settings,
    base: str,
    candidate: str,
    judge_name: str | None,
    metrics: tuple[str, ...],
    arms_: tuple[str, ...],
    benchmarks: tuple[str, ...],
    smallest: float,
    anyway: bool,
    items: int,
    as_markdown: bool,
    fail_on: str | None,
    as_json: bool,
) -> None:
    """Compare the run CANDIDATE with the run BASE, case by case on the same items and by the same judge.

    Each line is a paired comparison: how many cases flipped each way, and the difference with its 95% interval, clustered
    where items depend on each other. Cases of one run alone, and those without a verdict, are counted apart.

    \b
    Examples:
      midwatch compare last-week last-night
      midwatch compare last-week latest --judge refusal --metric over_refusal_rate --items 50
      midwatch compare base-model my-model --arm base=mine --markdown --fail-on regression
    """
    sides = [judged(settings.home, run_id_of(settings, run), benchmarks) for run in (base, candidate)]
    name = stage.judges(sides[0], sides[1], judge_name)
    left, right = stage.of_judge(sides[0], sides[1], name)
    least = smallest / 100
    found = [
        stage.compare(stage.of_arm(left, before), stage.of_arm(right, after), metrics, least, anyway)
        for before, after in stage.arms(left, right, arms_)
    ]
    if as_json:
        click.echo(json.dumps([told.record(c) for c in found], indent=1, default=str))
    elif as_markdown:
        click.echo("\n\n".join(told.text(c, least, items) for c in found))
    else:
        for comparison in found:
            _print(comparison, least, items)
    if fail_on and told.is_worse(found):
        raise click.exceptions.Exit(FOUND)


def _print(found: Comparison, least: float, items: int) -> None:
    console = standard_output()
    console.print(for_terminal(told.headline(found)))
    for remark in told.remarks(found, least):
        console.print(for_terminal(remark))
    for table in told.tables(found):
        console.print("", terminal(table))
    if shown := told.flips(found, items):
        console.print("", f"{len(shown)} of {found.flips.height} flipped cases (--items shows more, --json all of them)")
        print_table(told.FLIPPED, shown)

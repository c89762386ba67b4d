"""Look for change in what is stored."""

import json

import click

from flows.asked import asked
from flows.choices import run_id_of
from flows.commands.options import home_option, json_option, settings
from flows.output import standard_output
from flows.settings import Settings
from tasks.concept import concept_shift
from tasks.report import concept
from tasks.report.rates import terminal
from tasks.report.text import for_terminal

_REPEATED = """
from repeated_verdicts
where judge = $judge
    and (len($runs) = 0 or response_id in (select response_id from run_responses where list_contains($runs, run_id)))
"""


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

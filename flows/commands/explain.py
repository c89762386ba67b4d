"""Say why a rate changed, and judge archived responses again so that it can be said."""

import json
from collections.abc import Mapping
from pathlib import Path

import click

from flows.choices import configuration, run_id_of
from flows.commands.options import config_option, home_option, json_option, settings
from flows.explained import explained
from flows.output import print_table, report, standard_output
from flows.settings import Settings
from tasks.explain import Explanation
from tasks.report import explanation as told
from tasks.report.rates import terminal
from tasks.report.text import for_terminal


@click.command("explain")
@click.argument("base")
@click.argument("candidate")
@click.option("--metric", default="unsafe_rate", show_default=True, metavar="NAME", help="The rate to explain.")
@click.option("--judge", "judge_name", metavar="NAME", help="By whose verdicts; or BASE=CANDIDATE [default: the only judge].")
@click.option("--benchmark", "benchmarks", multiple=True, metavar="ID", help="Only this benchmark; may repeat.")
@click.option("--arm", "arms_", multiple=True, metavar="NAME", help="Only this arm; or BASE=CANDIDATE, if called differently.")
@click.option("--repeat", metavar="RUN", help="An A/A repeat of either run [default: found in the warehouse].")
@click.option("--items", type=click.IntRange(min=0), default=10, show_default=True, help="How many flipped cases to show.")
@click.option("--markdown", "as_markdown", is_flag=True, help="Print Markdown, for a pull request.")
@json_option
@home_option
@settings
def explain(
    settings: Settings,
    base: str,
    candidate: str,
    metric: str,
    judge_name: str | None,
    benchmarks: tuple[str, ...],
    arms_: tuple[str, ...],
    repeat: str | None,
    items: int,
    as_markdown: bool,
    as_json: bool,
) -> None:
    """Say why a rate of the run CANDIDATE is not that of BASE: the model, the judge, or other items.

    The change is taken apart into the mix of categories, items added or removed, unscored responses, the judge (the same stored
    responses under both judges) and the model (the same items, the judge's part taken off), each with its 95% interval. The
    parts add up to the change. Beside them stands the noise floor: what a mere repeat of the same arm moves.

    \b
    Examples:
      midwatch explain last-week last-night
      midwatch explain last-week latest --judge harm --benchmark harmbench --json
      midwatch explain RUN RUN --judge refusal=harm
    """
    run_ids = [run_id_of(settings, run) for run in (base, candidate)]
    again = run_id_of(settings, repeat) if repeat else None
    found = list(explained(settings.home, run_ids, metric, judge_name, benchmarks, arms_, again))
    kinds = {row["id"]: row["kind"] for row in settings.query(_KINDS)}
    if as_json:
        click.echo(json.dumps([told.record(e, kinds) for e in found], indent=1, default=str))
    elif as_markdown:
        click.echo("\n\n".join(told.text(e, kinds, items) for e in found))
    else:
        for e in found:
            _print(e, kinds, items)


@click.command("rejudge")
@click.argument("run")
@click.option("--judge", "name", required=True, metavar="NAME", help="The judge, as it is configured.")
@click.option("--sample", type=click.IntRange(min=1), metavar="N", help="Only an anchor sample of so many [default: all].")
@click.option("--against", metavar="NAME", help="By whose verdicts to draw it [default: of the same name, else the only one].")
@config_option
@json_option
@home_option
@settings
def rejudge(
    settings: Settings, run: str, name: str, sample: int | None, against: str | None, config: Path | None, as_json: bool
) -> None:
    """Judge the archived responses of RUN by another judge, or by a changed one, so that explain can tell what the judge did.

    A sample is drawn within harm category and verdict, in proportion but with some of each, and always the same: a larger one
    holds every smaller one. What was judged before is not judged again, and rejudging that was interrupted goes on.

    \b
    Examples:
      midwatch rejudge last-week --judge harm -c tonight.yaml
      midwatch rejudge latest --judge harm -c last-week.yaml --sample 500
    """
    spec = configuration(config)
    settings.prepare()
    run_id = run_id_of(settings, run)
    from flows.rejudge import rejudge as rejudge_run

    judged_as = rejudge_run(run_id, name, spec, settings.home, sample, against)
    report(settings, judged_as, as_json)
    if sample is not None and not as_json:
        (drawn,) = settings.query(_DRAWN, [judged_as])
        click.echo("an anchor sample: {sample} of {of} responses, from {strata} strata of category and verdict".format(**drawn))


_DRAWN = "select config->>'sample' as sample, config->>'of' as of, config->>'strata' as strata from runs where run_id = ?"
_KINDS = """
select judge_id as id, kind from judges
union all
select arm_id as id, 'imported' as kind from arms where model is null
"""


def _print(e: Explanation, kinds: Mapping[str, str], items: int) -> None:
    console = standard_output()
    console.print(for_terminal(told.headline(e)))
    console.print(for_terminal(told.conclusion(e)))
    console.print("", terminal(told.waterfall(e)))
    for remark in told.remarks(e, kinds):
        console.print(for_terminal(remark))
    if shown := told.flips(e, items):
        console.print("", f"{len(shown)} of {e.flips.height} flipped cases (--items shows more, --json all of them)")
        print_table(told.FLIPPED, shown)
    console.print("")

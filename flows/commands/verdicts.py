"""Bring in what other judges said."""

from pathlib import Path

import click

from flows.choices import run_id_of
from flows.commands.options import about_responses, home_option, json_option, settings
from flows.output import print_table, report
from flows.settings import Settings
from schemas.errors import ConfigError

UNSCORED = """
select verdicts.error as reason, count(*) as verdicts
from run_verdicts join verdicts using (verdict_id)
where run_verdicts.run_id = ? and verdicts.error is not null
group by all order by verdicts desc, reason limit 10
"""


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--judge", required=True, metavar="NAME", help="A name for what judged.")
@click.option("--label", required=True, metavar="COLUMN", help="What it said: a refusal label, safe or unsafe.")
@click.option("--score", metavar="COLUMN", help="The probability of the label, or of unsafe where there is none.")
@about_responses
@json_option
@home_option
@settings
def verdicts(
    settings: Settings,
    /,
    file: Path,
    judge: str,
    label: str,
    score: str | None,
    run: str | None,
    as_json: bool,
    **columns: str | None,
) -> None:
    """Bring in the verdicts of another tool on stored responses, from FILE (CSV, JSONL, JSON or Parquet, also .gz).

    The tool becomes a judge of its own. A row is matched to the response with its response_id, or else with exactly its
    prompt and response; rows without one go to quarantine. A value that is no verdict is unscored, and kept as it came.
    Importing the same file again changes nothing.

    \b
    Examples:
      midwatch import verdicts completions.csv --judge string-matching --label strmatch_label
      midwatch import verdicts scored.jsonl --judge other-tool --label verdict --score p_unsafe --arm gpt4
    """
    if not judge.strip():
        raise ConfigError("--judge: give what judged a name")
    settings.prepare()
    from flows.labels import Sought, import_verdicts

    sought = Sought(run=run_id_of(settings, run) if run else None, **columns)
    run_id = import_verdicts(file, judge, label, score, sought, settings.home)
    report(settings, run_id, as_json)
    unscored = [] if as_json else settings.query(UNSCORED, [run_id])
    if unscored:
        print_table(("unscored because", "verdicts"), [list(row.values()) for row in unscored])

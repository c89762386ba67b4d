"""What people say of responses, and what they shall look at next."""

import json
from pathlib import Path

import click

from flows.choices import run_id_of
from flows.commands.options import about_responses, home_option, json_option, settings
from flows.output import print_table
from flows.settings import Settings


@click.group()
def labels() -> None:
    """Bring in what people say of responses, and draw what they shall label next."""


@labels.command("import")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--label", metavar="COLUMN", help="What was said: a refusal label, safe or unsafe.")
@click.option("--scale", metavar="NAME", help="A published scale on which --label is a rating: ganguli_2022.")
@click.option("--annotator", metavar="NAME", help="Who said so.")
@click.option("--annotator-column", metavar="COLUMN", help="Who said so, where several did.")
@click.option("--categories", metavar="COLUMN", help="Harm categories: a list, or separated by semicolons.")
@click.option("--time", metavar="COLUMN", help="When: ISO 8601 with a time zone.")
@click.option("--probability", metavar="COLUMN", help="The chance with which the response was drawn, above 0 to 1.")
@about_responses
@json_option
@home_option
@settings
def import_(
    settings: Settings,
    /,
    file: Path,
    prompt: str | None,
    response: str | None,
    run: str | None,
    arm: str | None,
    as_json: bool,
    **columns: str | None,
) -> None:
    """Bring in what people said of stored responses, from FILE (CSV, JSONL, JSON or Parquet, also .gz).

    A row is matched to the response with its response_id, or else with exactly its prompt and response. Rows without a
    label are skipped; a label that is none stops the import, and nothing is stored. The columns of a sheet that
    `labels sample` wrote need not be named. Importing the same file again changes nothing.

    \b
    Examples:
      midwatch labels import sheet.csv --annotator ann
      midwatch labels import completions.csv --label annotation_1 --annotator xstest-1
      midwatch labels import answers.jsonl --label verdict --annotator-column rater --categories harms --time at
    """
    settings.prepare()
    from flows.labels import LabelColumns, Sought, import_labels, said_by

    sought = Sought(run=run_id_of(settings, run) if run else None, arm=arm, prompt=prompt, response=response)
    run_id = import_labels(file, LabelColumns(**columns), sought, settings.home)
    said = said_by(settings.home, run_id)
    if as_json:
        click.echo(json.dumps({"run_id": run_id, "labels": said}, indent=1))
        return
    print_table(("annotator", "label", "unsafe", "labels"), [list(row.values()) for row in said])
    click.echo(f"run {run_id}: {sum(row['n'] for row in said)} labels")


@labels.command()
@click.option("--run", required=True, metavar="RUN", help="The run whose responses are drawn.")
@click.option("--judge", "judges", required=True, multiple=True, metavar="NAME", help="A judge whose doubt counts; may repeat.")
@click.option("--n", "n", required=True, type=click.IntRange(min=1), help="How many.")
@click.option("--out", required=True, type=click.Path(path_type=Path, dir_okay=False), help="The CSV file to write.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="The same seed draws the same.")
@click.option("--again", is_flag=True, help="Draw from labelled responses, too.")
@json_option
@home_option
@settings
def sample(
    settings: Settings, run: str, judges: tuple[str, ...], n: int, out: Path, seed: int, again: bool, as_json: bool
) -> None:
    """Draw the next responses to label: more where the judges differ or doubt, each with a known chance.

    The file has a row for each, without the judges' verdicts. People fill in label (a refusal label, safe or unsafe), and
    if they like categories, annotator and labeled_at; `midwatch labels import` reads it again.

    \b
    Examples:
      midwatch labels sample --run latest --judge refusal --judge harm --n 200 --out sheet.csv
    """
    settings.check()
    from flows.draw import draw_sample

    drawn = draw_sample(run_id_of(settings, run), tuple(dict.fromkeys(judges)), n, seed, again, out, settings.home)
    if as_json:
        click.echo(json.dumps({"out": str(out), **drawn._asdict()}, indent=1))
        return
    click.echo(f"{out}: {drawn.rows} of {drawn.population} responses; {drawn.labelled} are labelled already and left out")

"""Write the morning report."""

from pathlib import Path

import click

from flows.choices import run_id_of
from flows.commands.options import home_option, settings
from flows.settings import Settings


@click.command()
@click.argument("run", default="latest")
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Where to write it [default: reports/RUN.html in the home folder].",
)
@home_option
@settings
def report(settings: Settings, run: str, out: Path | None) -> None:
    """Write the morning report of RUN: one HTML file that opens from a mail, with no network and nothing else beside it.

    At its top stands what changed and why, or how large a change would have shown; below it the rates of 30 nights with their
    intervals, what people ask, the health of judges and benchmarks, the parts of each change, the items that flipped, data
    quality and cost. RUN is a run's id, the start or end of one, a name, latest or previous.

    \b
    Examples:
      midwatch report
      midwatch report previous --out report.html
    """
    run_id = run_id_of(settings, run)
    from flows.report import write_report

    written = write_report(settings.home, run_id, out or settings.home / "reports" / f"{run_id}.html")
    click.echo(f"{written}: {written.stat().st_size / 1e6:.1f} MB; open it in a browser, or attach it to a mail")

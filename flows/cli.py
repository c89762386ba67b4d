"""The command `midwatch`."""

import os
import signal
import sys

import click

from flows.commands import (
    benchmarks,
    compare,
    deploy,
    drift,
    explain,
    forget,
    imports,
    judges,
    keep,
    labels,
    monitor,
    night,
    observe,
    report,
    runs,
    setup,
    warehouse,
)
from flows.commands.options import home_option, remember
from schemas.errors import ConfigError, MidwatchError
from tasks.report.text import for_terminal


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="midwatch")
@click.option("-v", "--verbose", is_flag=True, default=None, expose_value=False, callback=remember, help="Also Prefect's log.")
@home_option
def midwatch() -> None:
    """Nightly LLM safety evaluations that say what changed: the model, the judge, or the world.

    \b
    Examples:
      midwatch init                         write a commented midwatch.yaml
      midwatch doctor                       is everything there that a run needs?
      midwatch run                          evaluate, judge, load
      midwatch sql "from run_summary"       ask the warehouse
    """


for command in (
    setup.init,
    setup.doctor,
    runs.run,
    runs.runs_,
    runs.show,
    report.report,
    compare.compare,
    explain.explain,
    explain.rejudge,
    drift.drift,
    monitor.monitor,
    monitor.alerts,
    night.night,
    night.serve,
    deploy.deploy,
    benchmarks.benchmarks,
    warehouse.sql,
    warehouse.warehouse,
    imports.import_,
    judges.judge,
    labels.labels,
    observe.observe,
    keep.gc,
    keep.backup,
    keep.restore,
    forget.forget,
):
    midwatch.add_command(command)


def main() -> None:
    """Run the command; exit 0 when it went well, 1 when it failed, 2 when it was asked wrongly, 3 on a finding."""
    signal.signal(signal.SIGTERM, _terminate)
    code = _run()
    # What comes from here on is no news: Prefect's threads say that its own server has ended, and DuckDB 2.0's binding
    # takes what those threads still hold for leaks.
    sys.stdout.flush()
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
    sys.exit(code)


def _run() -> int:
    try:
        return int(midwatch(standalone_mode=False) or 0)
    except (click.exceptions.Exit, SystemExit) as e:
        return int(getattr(e, "exit_code", getattr(e, "code", 0)) or 0)
    except click.ClickException as e:
        e.show()
        return 2
    except (KeyboardInterrupt, click.Abort):
        click.echo("midwatch: interrupted; what is done is kept, and the same command goes on from there", err=True)
        return 130
    except MidwatchError as e:
        for line in f"midwatch: {e}".split("\n"):  # it may quote a response, a server or a file
            click.echo(for_terminal(line), err=True)
        return 2 if isinstance(e, ConfigError) else 1
    except OSError as e:
        click.echo(f"midwatch: {e.filename or 'the system'}: {e.strerror or e}", err=True)
        return 1


def _terminate(number: int, frame: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()

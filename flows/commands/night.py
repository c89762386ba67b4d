"""Run a night now, or every night by itself."""

import json
from pathlib import Path
from typing import Any

import click

from flows.choices import CONFIG, configuration
from flows.commands.monitor import FOUND
from flows.commands.options import config_option, home_option, json_option, settings
from flows.output import print_table
from flows.settings import Settings, log_to_terminal
from schemas.errors import ConfigError
from tasks.report.text import for_terminal

_NIGHT = "select environment->'$.night' as night from runs where run_id = ?"
_OPEN = "select alert_id, severity, title from alert_status where state = 'open' order by raised_at desc, alert_id"


@click.command("night")
@config_option
@json_option
@home_option
@settings
def night(settings: Settings, config: Path | None, as_json: bool) -> None:
    """Run one night now: sentinels, A/A repeats, the run, monitors and alerts, as `midwatch serve` does on its schedule.

    What fails is left out and told; a night that was interrupted goes on where it stopped. Exit with 3 if an alert is open.

    \b
    Examples:
      midwatch night
      midwatch night -c nightly.yaml --json
    """
    path = existing(config)
    configuration(path)
    settings.prepare()
    from flows.nightly import nightly

    run_id = nightly(path, settings.home)
    (row,) = settings.query(_NIGHT, [run_id])
    found, alerts = json.loads(row["night"]), settings.query(_OPEN)
    if as_json:
        click.echo(json.dumps({"run_id": run_id, **found, "alerts": alerts}, indent=1, default=str))
    else:
        _print(settings, found, alerts)
    if alerts:
        raise click.exceptions.Exit(FOUND)


@click.command("serve")
@config_option
@home_option
@settings
def serve(settings: Settings, config: Path | None) -> None:
    """Run a night whenever one is due by `night.cron` and `night.timezone`, until told to end (Ctrl-C, SIGTERM).

    One process, and no other service: each night is a child of it. The configuration is read again before each night; a
    night that breaks off is taken up again, and one that was missed is made up for.

    \b
    Examples:
      midwatch serve
      midwatch serve -c nightly.yaml --home /var/lib/midwatch
    """
    from flows.serve import serve as service

    settings.check()
    log_to_terminal()
    service(existing(config), settings.home.absolute())


def existing(config: Path | None) -> Path:
    """The configuration file that nights are run by; ConfigError where there is none."""
    path = config or CONFIG
    if not path.exists():
        raise ConfigError(f"{path}: there is none, and a night needs one; `midwatch init` writes it")
    return path.absolute()


def _print(settings: Settings, found: dict[str, Any], alerts: list[dict[str, Any]]) -> None:
    parts = dict(sorted(found["parts"].items(), key=lambda part: str(part[1]["began"])))
    rows = [[name, p["seconds"], p["error"] or _told(name, p["result"])] for name, p in parts.items()]
    print_table(("part", "seconds", "came of it"), rows)
    for name, why in found["missing"].items():
        click.echo(for_terminal(f"missing: {name}: {why}"), err=True)
    if run_id := parts.get("run", {}).get("result"):
        click.echo(f"rates: midwatch show {run_id}; report: {settings.home / 'reports' / run_id}.html")
    if alerts:
        print_table(("alert", "severity", "what"), [[a["alert_id"][:8], a["severity"], a["title"]] for a in alerts])
    else:
        click.echo("no open alert")


def _told(part: str, result: Any) -> str:
    if part != "plan":
        return f"run {result}"
    planned, whole, share = result["planned"], result["whole"], result["share"]
    asked = "every item is asked" if share is None else f"{100 * share:.1f}% of each category's items are asked (at least one)"
    return f"{asked}: {planned['requests']:,} of {whole['requests']:,} requests"

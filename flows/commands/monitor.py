"""Look at the monitors, and at the alerts that they raised."""

import json
from datetime import UTC, datetime, timedelta
from getpass import getuser
from pathlib import Path
from typing import Any

import click

from flows.choices import configuration, run_id_of
from flows.commands.options import config_option, home_option, json_option, settings
from flows.output import print_table, standard_output
from flows.settings import Settings
from schemas.errors import ConfigError
from schemas.monitors import MonitorSpec
from tasks.report.text import for_terminal

FOUND = 3  # exit code: there is an open alert
_OPEN = "from alert_status where state <> 'resolved' and raised_at <= ? order by raised_at desc, alert_id"
SHOWN = ("monitor", "kind", "night", "decision", "reason")


@click.command("monitor")
@config_option
@click.option("--as-of", type=click.DateTime(["%Y-%m-%d"]), help="As if it were midnight after this day (UTC).")
@json_option
@home_option
@settings
def monitor(settings: Settings, config: Path | None, as_of: datetime | None, as_json: bool) -> None:
    """Look at every monitor of midwatch.yaml, raise and resolve alerts, and send them; exit with 3 if one is open.

    Every decision is stored with its reason (`midwatch sql "from drift_tests"`). A series without a new night, a run that did
    not finish and a rise of responses without a verdict are alerts of their own. With --as-of, too, what is found is stored and
    sent.

    \b
    Examples:
      midwatch monitor
      midwatch monitor -c nightly.yaml --json
    """
    spec = configuration(config)
    if not spec.monitors:
        raise ConfigError("nothing is watched yet: declare `monitors` in midwatch.yaml; docs/shift.md shows each kind")
    sentinels = {m.name: _sentinel(settings, m) for m in spec.monitors if m.run is not None}
    settings.prepare()
    from flows.monitor import monitor as look

    now = as_of.replace(tzinfo=UTC) + timedelta(days=1) if as_of else datetime.now(UTC)
    run_id = look(spec.monitors, spec.alerts, sentinels, settings.home, now)
    tests = settings.query("from drift_tests where run_id = ? order by monitor, kind", [run_id])
    alerts = settings.query(_OPEN, [now])
    if as_json:
        click.echo(json.dumps({"run_id": run_id, "decisions": tests, "alerts": alerts}, indent=1, default=str))
    else:
        print_table(SHOWN, [[t[c] for c in SHOWN] for t in tests])
        _print(alerts)
    for failed in settings.query("select distinct note from alert_events where kind = 'failed' and happened_at = ?", [now]):
        click.echo(f"midwatch: an alert was not delivered: {failed['note']}; the next look tries again", err=True)
    if any(a["state"] == "open" for a in alerts):
        raise click.exceptions.Exit(FOUND)


@click.group(invoke_without_command=True)
@click.option("--all", "everything", is_flag=True, help="Also those that are resolved.")
@json_option
@home_option
@click.pass_context
def alerts(context: click.Context, everything: bool, as_json: bool) -> None:
    """List the alerts, or say what became of one.

    \b
    Examples:
      midwatch alerts
      midwatch alerts show 3f2a
      midwatch alerts ack 3f2a --note "looking"
      midwatch alerts snooze 3f2a --days 3
      midwatch alerts close 3f2a --true --note "new system prompt since Tuesday"
    """
    if context.invoked_subcommand is not None:
        return
    where = "" if everything else "where state <> 'resolved'"
    settings = context.ensure_object(Settings)
    found = settings.query(f"from alert_status {where} order by raised_at desc, alert_id")
    if as_json:
        click.echo(json.dumps(found, indent=1, default=str))
    elif found:
        columns = ("alert_id", "state", "severity", "raised_at", "since", "title")
        print_table(columns, [[a["alert_id"][:8], *(a[c] for c in columns[1:])] for a in found])
    else:
        click.echo("no alert" if everything else "no open alert; --all also lists those that are resolved")


@alerts.command()
@click.argument("alert")
@json_option
@home_option
@settings
def show(settings: Settings, alert: str, as_json: bool) -> None:
    """Show an alert and what became of it; ALERT is the start of its id."""
    found = _found(settings, alert)
    events = settings.query("from alert_events where alert_id = ? order by happened_at, kind", [found["alert_id"]])
    if as_json:
        click.echo(json.dumps(found | {"events": events}, indent=1, default=str))
        return
    _print([found])
    columns = ("happened_at", "kind", "who", "until", "is_true", "note")
    print_table(columns, [[e[c] for c in columns] for e in events])


note_option = click.option("--note", default="", help="What you know.")


@alerts.command()
@click.argument("alert")
@note_option
@home_option
@settings
def ack(settings: Settings, alert: str, note: str) -> None:
    """Say that somebody looks at it: it no longer makes `midwatch monitor` fail."""
    _act(settings, alert, "acknowledged", None, None, note)


@alerts.command()
@click.argument("alert")
@click.option("--days", type=click.FloatRange(min=0, min_open=True), default=1.0, show_default=True)
@note_option
@home_option
@settings
def snooze(settings: Settings, alert: str, days: float, note: str) -> None:
    """Leave it out for some days."""
    _act(settings, alert, "snoozed", datetime.now(UTC) + timedelta(days=days), None, note)


@alerts.command()
@click.argument("alert")
@click.option("--true/--false", "is_true", required=True, help="Whether something had changed indeed.")
@note_option
@home_option
@settings
def close(settings: Settings, alert: str, is_true: bool, note: str) -> None:
    """Say what was found, for the monitors' own precision (`midwatch sql "from monitor_precision"`)."""
    _act(settings, alert, "judged", None, is_true, note)


def _sentinel(settings: Settings, monitor: MonitorSpec) -> str:
    try:
        return run_id_of(settings, str(monitor.run))
    except ConfigError as e:
        raise ConfigError(f"monitor {monitor.name!r}: {e}") from e


def _act(settings: Settings, alert: str, kind: Any, until: datetime | None, is_true: bool | None, note: str) -> None:
    found = _found(settings, alert)
    if found["state"] == "resolved" and kind != "judged":
        raise ConfigError(f"alert {found['alert_id'][:8]} is resolved; what was found can still be said: midwatch alerts close")
    settings.prepare()
    from flows.monitor import act

    act(found["alert_id"], kind, settings.home, datetime.now(UTC), getuser(), until, is_true, note)
    (after,) = settings.query("from alert_status where alert_id = ?", [found["alert_id"]])
    end = f" until {until:%Y-%m-%d %H:%M} UTC" if until else ""
    click.echo(f"{found['alert_id'][:8]} is {kind}{end}; its state is {after['state']}")


def _found(settings: Settings, start: str) -> dict[str, Any]:
    """The alert whose id begins so; ConfigError where there is none, or several."""
    rows = settings.query("from alert_status where starts_with(alert_id, ?)", [start])
    if len(rows) != 1:
        raise ConfigError(f"alert {start!r}: {len(rows) or 'no'} alerts begin so; midwatch alerts --all lists them")
    return rows[0]


def _print(alerts: list[dict[str, Any]]) -> None:
    console = standard_output()
    for alert in alerts:
        console.print("", for_terminal(f"[{alert['state']}] {alert['title']}"))
        for line in alert["body"].splitlines():
            console.print(for_terminal(f"  {line}"))

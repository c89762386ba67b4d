"""Put the nights on a Prefect server."""

import json
import os
from pathlib import Path

import click

from flows.commands.night import existing
from flows.commands.options import config_option, home_option, json_option, settings
from flows.settings import Settings


@click.command("deploy")
@config_option
@click.option("--pool", metavar="NAME", default="midwatch", show_default=True, help="Work pool; made if it is not there.")
@click.option(
    "--name", metavar="NAME", default="nightly", show_default=True, help="Of the deployment: one for each configuration."
)
@click.option(
    "--notify", metavar="TYPE/NAME", help="Notification block that is told of a night that crashed, failed or is late."
)
@json_option
@home_option
@settings
def deploy(settings: Settings, config: Path | None, pool: str, name: str, notify: str | None, as_json: bool) -> None:
    """Put the nights on the Prefect server that PREFECT_API_URL or your profile names, instead of `midwatch serve`.

    Schedule, parameters, one night at a time, and automations for runs that die or are late. Run it again when `night` in
    the configuration has changed: what is there is brought up to date. Workers run on the machine with the home folder.

    \b
    Examples:
      PREFECT_API_URL=http://127.0.0.1:4200/api midwatch deploy -c nightly.yaml --home /var/lib/midwatch
      midwatch deploy --notify slack-webhook/oncall
    """
    path = existing(config)
    settings.check()
    os.environ.setdefault("DO_NOT_TRACK", "1")
    from flows.deploy import deploy as put

    done = put(path, settings, name, pool, notify)
    if as_json:
        click.echo(json.dumps(done._asdict(), indent=1))
        return
    click.echo(f"{done.deployment} is on {done.server}, for workers of the pool {done.pool}")
    for automation in done.automations:
        click.echo(f"  {automation}")
    click.echo(f"a worker:    prefect worker start --pool {done.pool}\na night now: prefect deployment run {done.deployment}")

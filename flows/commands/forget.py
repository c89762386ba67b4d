"""Forget a prompt, on request."""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from getpass import getuser

import click

from flows.commands.keep import is_confirmed, yes_option
from flows.commands.options import home_option, json_option, settings
from flows.output import print_table
from flows.settings import Settings
from schemas.errors import ConfigError
from tasks.forgotten import records, unfinished
from tasks.lake import Lake

YOURS = (
    "not reached: backups (midwatch backup FOLDER --prune forgets it there), files outside of the home folder, and a Prefect "
    "server of your own"
)


@click.command()
@click.option("--prompt-id", "ids", multiple=True, metavar="ID", help="An observed prompt, or a benchmark's item; may repeat.")
@click.option("--reason", default="", help="Why, for the record; never the text.")
@click.option("--again", is_flag=True, help="Carry out again all that is on record, as after restoring an older backup.")
@yes_option
@json_option
@home_option
@settings
def forget(settings: Settings, ids: tuple[str, ...], reason: str, again: bool, yes: bool, as_json: bool) -> None:
    """Forget what a prompt says, with what was answered to it and what judges wrote of that; --yes does it without asking.

    It goes from lake, warehouse, snapshot, caches, quarantine, reports, logs and Prefect's database in the home folder, with
    every prompt and item that says the same. Ids, dates, categories, labels and counts stay, so that rates and mixes do not
    move, and a record of ids, so that no import brings it back. One that was interrupted is completed by any later call.

    \b
    Examples:
      midwatch forget --prompt-id 3f2a8c51d0e94b7f8a6b5c4d3e2f1a09 --reason "request 17"
      midwatch forget --yes
    """
    from flows import forget as forgetting
    from tasks.forget import plan

    lake = Lake(root=settings.lake)
    waiting = records(lake) if again else unfinished(lake)
    if not ids and not waiting:
        raise ConfigError("--prompt-id ID: say what is to be forgotten; nothing that was begun is left to be completed")
    now, who = datetime.now(UTC), getuser()
    if waiting:
        click.echo(f"midwatch: requests on record that are to be carried out: {len(waiting)}", err=True)
    counts = plan(settings.home, ids, who, now, reason).counts if ids else {}
    if ids and not any(counts.values()):
        click.echo(f"no text of it is left: {_when(lake, ids)}", err=as_json)
        ids = ()
    elif ids and not as_json:
        print_table(("what", "rows that say something of it"), counts.items())
    done = bool(ids or waiting) and is_confirmed("forget it? It can't be undone.", yes)
    if done:
        forgetting.again(settings.home, waiting, now)
        if ids:
            forgetting.erase(settings.home, ids, who, now, reason)
    _report(counts, done, as_json)


def _when(lake: Lake, ids: Sequence[str]) -> str:
    """When the first of the ids was forgotten, if it was."""
    at = [r.asked_at for r in records(lake) if ids[0] in (*r.prompt_ids, *r.item_ids)]
    return f"it was forgotten on {at[0]:%Y-%m-%d}" if at else "none was kept"


def _report(counts: Mapping[str, int], done: bool, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps({"forgotten": done, "rows": counts}))
    elif done:
        click.echo("forgotten; reports are deleted, and are made again by midwatch report")
        click.echo(YOURS)

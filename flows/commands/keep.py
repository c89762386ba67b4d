"""What stays and what goes: clear up, back up, restore."""

import json
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from itertools import groupby
from pathlib import Path

import click

from flows.choices import LOCK, run_id_of
from flows.commands.options import home_option, json_option, settings
from flows.output import print_table
from flows.settings import Settings
from schemas.errors import ConfigError
from tasks.gc import Waste, find, of_run, withdrawn
from tasks.lake import Lake

yes_option = click.option("--yes", is_flag=True, help="Do it without asking.")


@click.command()
@click.option("--older-than", metavar="DAYS", type=click.IntRange(min=1), default=30, show_default=True, help="Age in days.")
@click.option("--forget", "forgotten", multiple=True, metavar="RUN", help="Instead: remove this run with all that is its own.")
@yes_option
@json_option
@home_option
@settings
def gc(settings: Settings, older_than: int, forgotten: tuple[str, ...], yes: bool, as_json: bool) -> None:
    """Show what nobody needs any more, and delete it with --yes (on a terminal it asks).

    What a finished run names is never deleted. Old and not needed: files of the lake that no run names, logs, rows in
    quarantine, what killed processes left, receipts in Prefect's cache. While a run is going on, the lake's files stay.

    --forget RUN removes a finished run: its facts, its report, its rows in the warehouse. What other runs share stays.

    \b
    Examples:
      midwatch gc
      midwatch gc --older-than 90 --yes
      midwatch gc --forget 01a1ff8f --yes
    """
    lake = Lake(root=settings.lake)
    pending = withdrawn(lake)
    if forgotten or pending:
        _remove(settings, pending, forgotten, yes, as_json)
    if not forgotten:
        _collect(settings, datetime.now(UTC) - timedelta(days=older_than), yes, as_json)


def _remove(settings: Settings, pending: Sequence[str], wanted: Sequence[str], yes: bool, as_json: bool) -> None:
    for run_id in pending:
        click.echo(f"midwatch: the removal of run {run_id} was interrupted; it is to be finished", err=True)
    run_ids = list(dict.fromkeys([*pending, *(r if r in pending else run_id_of(settings, r) for r in wanted)]))
    waste = [w for run_id in run_ids for w in of_run(settings.home, run_id)]
    if _is_wanted(waste, [], yes, as_json):
        from flows.gc import remove

        gone = remove(settings.home, run_ids)
        click.echo(f"removed {', '.join(run_ids)}: {_sum(gone)}; the warehouse was made anew", err=as_json)


def _collect(settings: Settings, before: datetime, yes: bool, as_json: bool) -> None:
    found = find(settings.home, before)
    if _is_wanted(found.waste, found.held, yes, as_json):
        from flows.gc import collect

        done = collect(settings.home, before)
        click.echo(f"deleted {_sum(done.waste)}", err=as_json)


def _is_wanted(waste: Sequence[Waste], held: Sequence[str], yes: bool, as_json: bool) -> bool:
    """Whether what was shown is to be deleted."""
    if as_json:
        listed = [{"path": str(w.path), "bytes": w.size, "what": w.what} for w in waste]
        click.echo(json.dumps({"waste": listed, "held": list(held), "deleted": yes and bool(waste)}, indent=1))
    else:
        _print(waste)
    for run_id in held[:1]:
        click.echo(f"midwatch: run {run_id} is going on, so shared files of the lake stay; try again when it is done", err=True)
    if not waste:
        click.echo("nothing to delete", err=as_json)
        return False
    return is_confirmed(f"delete {_sum(waste)}?", yes)


def is_confirmed(question: str, yes: bool) -> bool:
    """Whether to go on: said with --yes, or asked on a terminal; elsewhere nothing is done, and that is said."""
    if yes:
        return True
    if sys.stdin.isatty():
        return click.confirm(question)
    click.echo("nothing was done yet: --yes does it", err=True)
    return False


def _print(waste: Sequence[Waste]) -> None:
    by_what = groupby(sorted(waste, key=lambda w: w.what), key=lambda w: w.what)
    rows = [(what, len(part), _size(sum(w.size for w in part))) for what, part in ((w, list(p)) for w, p in by_what)]
    if rows:
        print_table(("what", "files", "size"), rows)


def _sum(waste: Sequence[Waste]) -> str:
    return f"{len(waste)} files, {_size(sum(w.size for w in waste))}"


def _size(n: int) -> str:
    return f"{n / 1e6:.1f} MB" if n >= 1e5 else f"{n / 1e3:.1f} kB"


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.option(
    "--include",
    "included",
    multiple=True,
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="A file from elsewhere, such as a classifier or midwatch.yaml; may repeat.",
)
@click.option("--with-key", is_flag=True, help="Also observed.key, with which ids of prompts are made: it is a secret.")
@click.option("--prune", is_flag=True, help="Remove from the backup what is no longer in the home folder.")
@json_option
@home_option
@settings
def backup(settings: Settings, folder: Path, included: tuple[Path, ...], with_key: bool, prune: bool, as_json: bool) -> None:
    """Make FOLDER a backup of every finished run, while others may run and load; again, only what is new is copied.

    A backup is a folder of plain files: the lake, a snapshot of the warehouse, quarantine, reports, the pins of ./midwatch.lock
    and an index with a SHA-256 of each. Not in it: models, logs, Prefect's database, keys, and what no finished run names.

    \b
    Examples:
      midwatch backup /mnt/backups/midwatch
      midwatch backup /mnt/backups/midwatch --include prompts.safetensors --include midwatch.yaml
    """
    from tasks.backup import KEY
    from tasks.backup import backup as make

    beside = [LOCK, *included] if LOCK.exists() else list(included)
    names = [path.name for path in beside]
    if repeated := next((n for n in names if names.count(n) > 1), None):
        raise ConfigError(f"--include: two files are called {repeated}")
    made = make(settings.home, folder, beside, with_key=with_key, prune=prune)
    index, size = made.contents, sum(f.size for f in made.contents.files)
    if as_json:
        facts = {"runs": len(index.runs), "files": len(index.files), "bytes": size}
        click.echo(json.dumps({**facts, "copied": made.copied, "copied_bytes": made.copied_bytes, "pruned": made.pruned}))
        return
    click.echo(f"{folder}: {len(index.runs)} runs in {len(index.files)} files, {_size(size)}")
    click.echo(f"{made.copied} files were new, {_size(made.copied_bytes)}; {made.pruned} replaced or removed")
    if (settings.home / KEY).exists() and not with_key:
        click.echo(f"not in it: {settings.home / KEY}, a secret that further imports of prompts need; keep a copy elsewhere")


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.option("--check", is_flag=True, help="Only verify every file of the backup.")
@home_option
@settings
def restore(settings: Settings, folder: Path, check: bool) -> None:
    """Make the home folder of --home, which must not be there yet, from the backup in FOLDER; every file is verified.

    \b
    Examples:
      midwatch restore /mnt/backups/midwatch --check
      midwatch restore /mnt/backups/midwatch --home midwatch-restored
    """
    from tasks import backup as backups

    index = backups.check(folder) if check else backups.restore(folder, settings.home)
    what = f"{len(index.runs)} runs in {len(index.files)} files of {index.made_at:%Y-%m-%d %H:%M} UTC"
    if check:
        click.echo(f"{folder}: {what}, all as they were written")
        return
    click.echo(f"{settings.home}: {what}; next: midwatch --home {settings.home} doctor")
    if (settings.home / "lake" / "observed").exists() and not (settings.home / backups.KEY).exists():
        click.echo(f"put {backups.KEY} there before prompts are imported again: it was kept apart from the backup")

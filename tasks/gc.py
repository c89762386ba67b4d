"""What of a home folder nobody needs any more: by its age, and by what the manifests of finished runs name."""

import json
import os
import re
import stat
from collections.abc import Collection, Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from tasks.lake import Lake, LakeError
from tasks.runs import held, manifests

KEPT = ("embeddings",)  # every look for new categories reads those of all nights
REMOVED = "removed.json"  # the manifest of a run that is being removed
_RUN = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")

LEFT = "files of the lake that no run names"
STOPPED = "runs that were stopped and not taken up again"
ARRIVING = "working folders of imports that were stopped"
RECEIPTS = "results in Prefect's cache whose files are gone, and errors"
LOGS = "logs"
ASIDE = "rows in quarantine"
TEMPORARY = "temporary files of processes that were killed"
REPORTS = "reports of runs that are gone"


class Waste(NamedTuple):
    """A file that can go: its size in bytes, and what it is."""

    path: Path
    size: int
    what: str


class Found(NamedTuple):
    """What can go, and the runs going on, because of which files of the lake stay."""

    waste: list[Waste]
    held: list[str]


def find(home: Path, before: datetime) -> Found:
    """What was last written `before` and is not needed; LakeError where a manifest can't be read, since it names files.

    While a run is going on, no shared file of the lake is named: the run may use what an earlier one left.
    """
    lake = Lake(root=home / "lake")
    going = held(lake)
    old = _Old(before.timestamp())
    taken = [] if going else list(_left(lake, old))
    taken += [*_stopped(lake, old, going), *_arriving(lake, old)]
    doomed = {w.path for w in taken}
    every = [
        *taken,
        *_receipts(home, lake, doomed, old),
        *(old.among((home / "logs").glob("*.log"), LOGS) if not any((home / "logs").glob("*.pid")) else ()),
        *old.among(lake.quarantine.glob("*.jsonl"), ASIDE),
        *old.among(temporary(home), TEMPORARY),
        *_reports(home, lake),
    ]
    return Found(list({w.path: w for w in reversed(every)}.values())[::-1], going)


def named(lake: Lake) -> frozenset[str]:
    """The paths of all files that a finished run's manifest names."""
    return frozenset(a["path"] for m in manifests(lake) for files in m["artifacts"].values() for a in files)


def delete(home: Path, waste: Iterable[Waste]) -> None:
    """Delete these files, and the folders that are empty then; one that is gone already is no error."""
    for w in waste:
        w.path.unlink(missing_ok=True)
        for folder in w.path.parents:
            if folder in (home, home / "lake") or folder.parent == home or any(folder.iterdir()):
                break
            folder.rmdir()


def of_run(home: Path, run_id: str) -> list[Waste]:
    """All files of a run but those that other finished runs name too; LakeError where there is no such run."""
    lake = Lake(root=home / "lake")
    folder = lake.root / "runs" / run_id
    path = next((p for p in (folder / REMOVED, folder / "manifest.json") if p.exists()), None)
    if path is None:
        raise LakeError(f"{run_id}: no finished run in {lake.root}; midwatch runs lists them")
    own = {a["path"] for files in json.loads(path.read_bytes())["artifacts"].values() for a in files}
    others = {a["path"] for m in manifests(lake) if m["run_id"] != run_id for files in m["artifacts"].values() for a in files}
    unshared = [lake.root / p for p in sorted(own - others) if not p.startswith("benchmarks/")]
    reports = (home / "reports").glob(f"{run_id}*")
    paths = [*unshared, *reports, *(p for p in folder.glob("*") if p.name != REMOVED)]
    return [Waste(p, found.st_size, f"run {run_id}") for p in dict.fromkeys(paths) if (found := _stat(p))]


def withdraw(lake: Lake, run_id: str) -> None:
    """Make the run one that the lake does not hold any more; its files are still there."""
    folder = lake.root / "runs" / run_id
    if (folder / "manifest.json").exists():
        (folder / "manifest.json").replace(folder / REMOVED)


def withdrawn(lake: Lake) -> list[str]:
    """The runs that were withdrawn, and whose files are not all deleted yet."""
    return sorted(path.parent.name for path in (lake.root / "runs").glob(f"*/{REMOVED}"))


class _Old(NamedTuple):
    """What was last written before a time, in seconds since 1970."""

    before: float

    def among(self, paths: Iterable[Path], what: str) -> Iterator[Waste]:
        """Those of the files that are old."""
        for path in sorted(paths):
            found = _stat(path)
            if found is not None and found.st_mtime < self.before:
                yield Waste(path, found.st_size, what)

    def folder(self, folder: Path, what: str) -> list[Waste]:
        """All files of a folder in which nothing is newer; none otherwise."""
        files = [path for path in folder.rglob("*") if _stat(path)]
        found = list(self.among(files, what))
        return found if len(found) == len(files) else []


def _stat(path: Path) -> os.stat_result | None:
    """None where the file has gone meanwhile, or is none."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found if stat.S_ISREG(found.st_mode) else None


def _left(lake: Lake, old: _Old) -> Iterator[Waste]:
    """Files that no manifest names; of a benchmark's revision all of them, or none."""
    used = named(lake)
    revisions = {_revision(path) for path in used if path.startswith("benchmarks/")}
    for path in lake.root.rglob("*.parquet"):
        relative = path.relative_to(lake.root).as_posix()
        folder = relative.partition("/")[0]
        if relative in used or folder in KEPT or (folder == "benchmarks" and _revision(relative) in revisions):
            continue
        if folder != "runs" or (path.parent / "manifest.json").exists():
            yield from old.among([path], LEFT)


def _revision(path: str) -> tuple[str, ...]:
    return tuple(path.split("/")[:3])


def _stopped(lake: Lake, old: _Old, going: Collection[str]) -> Iterator[Waste]:
    for folder in sorted((lake.root / "runs").glob("*/")):
        finished = (folder / "manifest.json").exists() or (folder / REMOVED).exists()
        if not finished and folder.name not in going:
            yield from old.folder(folder, STOPPED)


def _arriving(lake: Lake, old: _Old) -> Iterator[Waste]:
    for folder in sorted((lake.root / "observed").glob("*/.arriving/")):
        yield from old.folder(folder, ARRIVING)


def _receipts(home: Path, lake: Lake, doomed: Collection[Path], old: _Old) -> Iterator[Waste]:
    """Receipts of files that are gone, or go now; of what is no receipt, such as an error, the old ones."""
    for path in sorted((home / "prefect" / "results").glob("*")):
        files = [lake.root / name for name in receipt(path)]
        if any(file in doomed or not file.exists() for file in files):
            yield Waste(path, path.stat().st_size, RECEIPTS)
        elif not files:
            yield from old.among([path], RECEIPTS)


def receipt(path: Path) -> list[str]:
    """The paths below the lake that a result of Prefect's cache names; none where it is no receipt."""
    try:
        return list(_paths(json.loads(json.loads(path.read_bytes())["result"])))
    except (ValueError, KeyError, TypeError, OSError):
        return []


def _paths(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("path"), str) and "sha256" in value:
            yield value["path"]
        value = list(value.values())
    if isinstance(value, list):
        for part in value:
            yield from _paths(part)


def temporary(home: Path) -> Iterator[Path]:
    """What is written under another name first, and was never given its own."""
    for pattern in (".*.tmp", ".probe-*", ".*.rebuild", ".*.rebuild.wal"):
        yield from home.glob(pattern)
    for folder in ("lake", "quarantine", "reports"):
        yield from (home / folder).rglob(".*.tmp")


def _reports(home: Path, lake: Lake) -> Iterator[Waste]:
    for path in sorted((home / "reports").glob("*")):
        run = _RUN.match(path.name)
        if run and not (lake.root / "runs" / run.group() / "manifest.json").exists():
            yield Waste(path, path.stat().st_size, REPORTS)

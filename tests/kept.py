"""A home folder with finished runs, without Prefect."""

import json
import os
import time
from pathlib import Path

from warehouse_rows import Rows, store

from tasks.lake import Lake
from tasks.runs import mark_loaded
from warehouse.load import load_run

DAY = 86400.0


def loaded(home: Path, run_rows: Rows) -> dict:
    """The manifest of a run that the lake and the warehouse of `home` have now."""
    lake = Lake(root=home / "lake")
    manifest = finished(home, run_rows)
    load_run(home / "warehouse.duckdb", lake.root, manifest)
    mark_loaded(lake, manifest["run_id"])
    return manifest


def finished(home: Path, run_rows: Rows) -> dict:
    """The manifest of a run that the lake of `home` has now."""
    lake = Lake(root=home / "lake")
    manifest = store(lake.root, run_rows) | {"request": run_rows["runs"][0].run_id}
    folder = lake.root / "runs" / manifest["run_id"]
    folder.mkdir(parents=True)
    started = {"run_id": manifest["run_id"], "name": "nightly", "kind": "evaluate", "config": {}}
    (folder / "started.json").write_text(json.dumps(started | {"started_at": "2026-01-01T00:00:00Z"}))
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return manifest


def aged(path: Path, days: float) -> None:
    """Every file below `path` as if it were so old."""
    then = time.time() - days * DAY
    for file in [path, *path.rglob("*")]:
        os.utime(file, (then, then))


def files(home: Path) -> set[str]:
    """The paths of all files below `home`."""
    return {p.relative_to(home).as_posix() for p in home.rglob("*") if p.is_file()}

"""What nobody needs any more goes, and what goes on purpose: a run with all that is its own."""

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from schemas.errors import MidwatchError
from tasks import runs
from tasks.gc import REMOVED, Found, Waste, delete, find, of_run, withdraw, withdrawn
from tasks.hold import owning
from tasks.lake import Lake
from warehouse.load import rebuild


def collect(home: Path, before: datetime) -> Found:
    """What was not needed, after it was deleted; it is looked for anew, since runs may have begun or ended."""
    with owning(Lake(root=home / "lake")):
        found = find(home, before)
        delete(home, found.waste)
    return found


def remove(home: Path, run_ids: Sequence[str]) -> list[Waste]:
    """The files of these runs, after they are gone from the lake and the warehouse; rows of other runs stay.

    What an earlier removal that was killed had begun is finished with them. MidwatchError while a run is going on.
    """
    lake = Lake(root=home / "lake")
    with owning(lake):
        if going := runs.held(lake):
            raise MidwatchError(f"run {going[0]} is going on and may use the same files; try again when it is done")
        for run_id in run_ids:
            of_run(home, run_id)
            withdraw(lake, run_id)
        rebuild(home / "warehouse.duckdb", lake.root, runs.manifests(lake))
        return [waste for run_id in withdrawn(lake) for waste in _deleted(home, lake, run_id)]


def _deleted(home: Path, lake: Lake, run_id: str) -> list[Waste]:
    """The run's files, of which the one that says that it is being removed goes last."""
    waste = of_run(home, run_id)
    delete(home, waste)
    mark = lake.root / "runs" / run_id / REMOVED
    delete(home, [Waste(mark, mark.stat().st_size, "")])
    return waste

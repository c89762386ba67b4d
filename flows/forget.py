"""An erasure: a prompt is forgotten in the lake and beside it, and the warehouse is made anew."""

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from schemas.errors import MidwatchError
from tasks import runs
from tasks.forget import Plan, forget, plan
from tasks.forgotten import Record, note
from tasks.hold import is_locked, owning
from tasks.lake import Lake
from warehouse.load import rebuild


def erase(home: Path, asked: Sequence[str], who: str, now: datetime, reason: str) -> Plan:
    """What was forgotten; it is on record before anything is changed, so that what is left, however it ends, is known."""
    lake = Lake(root=home / "lake")
    with owning(lake):
        _check_alone(lake)
        made = plan(home, asked, who, now, reason)
        note(lake, made.record)
        _carry_out(home, lake, made.record, now)
    return made


def again(home: Path, requests: Sequence[Record], now: datetime) -> None:
    """Carry out requests that are on record: those that were interrupted, or all where an older backup brought texts back."""
    lake = Lake(root=home / "lake")
    with owning(lake):
        _check_alone(lake)
        for record in requests:
            _carry_out(home, lake, record, now)


def _check_alone(lake: Lake) -> None:
    if going := runs.held(lake):
        raise MidwatchError(f"run {going[0]} is going on and may hold the text; try again when it is done")
    for lock in (lake.root / "observed").glob("*/.lock"):
        if is_locked(lock):
            raise MidwatchError(f"an import of {lock.parent.name} is going on and may hold the text; try again when it is done")


def _carry_out(home: Path, lake: Lake, record: Record, now: datetime) -> None:
    forget(home, record)
    rebuild(home / "warehouse.duckdb", lake.root, runs.manifests(lake))
    note(lake, record.model_copy(update={"finished_at": record.finished_at or now}))

"""The record of a run in the lake: begun before anything else, ended by a manifest that names all its files."""

import fcntl
import json
import logging
import os
import platform
import secrets
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime, timedelta
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError

from schemas.ids import canonical, digest
from schemas.rows import Run, RunKind
from tasks.forgotten import unfinished
from tasks.hold import is_locked, using
from tasks.lake import Artifact, Lake, LakeError, write_atomically

log = logging.getLogger("midwatch.runs")

RESUMABLE = timedelta(hours=20)  # older answers of a hosted model are not last night's
Artifacts = Mapping[str, Sequence[Artifact]]  # table -> files

_part: ContextVar[str | None] = ContextVar("part", default=None)


class Started(BaseModel):
    """A run that was begun; the file is locked by its process for as long as that lives. `part`: of a night, see `within`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    run_id: str
    name: str
    kind: RunKind
    started_at: AwareDatetime
    config: dict[str, Any]
    part: str | None = None

    @property
    def request(self) -> str:
        """The digest of what was asked: the same command gives the same one."""
        return digest("run", self.kind, self.name, self.config)


@contextmanager
def within(night: str, part: str) -> Iterator[None]:
    """Within this context what begins belongs to a part of the night that has this run_id.

    Until the night has noted the part as done, what was begun for it goes on when it is begun again, also once it is loaded.
    """
    token = _part.set(f"{night}/{part}")
    try:
        yield
    finally:
        _part.reset(token)


def begin(lake: Lake, kind: RunKind, name: str, config: dict[str, Any]) -> Started:
    """A new run, or the interrupted one of the same request, which then goes on under its own id and time."""
    with using(lake):
        if unfinished(lake):
            log.warning("a request to forget was interrupted: midwatch forget --yes completes it")
        part = _part.get()
        asked = Started(run_id=_uuid7(), name=name, kind=kind, started_at=datetime.now(UTC), config=config, part=part)
        for earlier in _interrupted(lake, part):
            recent = asked.started_at - earlier.started_at < RESUMABLE
            if recent and earlier.request == asked.request and _claim(lake, earlier):
                log.info("run %s was interrupted; it goes on", earlier.run_id)
                return earlier
        _claim(lake, asked)  # before others can see it
        write_atomically(_folder(lake, asked) / "started.json", asked.model_dump_json().encode())
        return asked


def finish(lake: Lake, started: Started, artifacts: Artifacts, environment: dict[str, Any]) -> dict[str, Any]:
    """The manifest of the finished run, after it was written: from then on the run is in the lake as a whole.

    A run that was killed after that keeps the manifest that it has.
    """
    if (path := _folder(lake, started) / "manifest.json").exists():
        return _load(path)
    run = Run(
        run_id=started.run_id,
        name=started.name,
        kind=started.kind,
        status="finished",
        started_at=started.started_at,
        finished_at=datetime.now(UTC),
        config=started.config,
        code_version=code_version(),
        environment=environment,
    )
    files = {**artifacts, "runs": [lake.write(Run.to_table([run]), f"runs/{run.run_id}")]}
    made = {
        "run_id": run.run_id,
        "request": started.request,
        "artifacts": {table: [a.model_dump(include={"path", "sha256", "rows"}) for a in fs] for table, fs in files.items()},
    }
    write_atomically(path, json.dumps(made, indent=1).encode())
    return made


def unloaded(lake: Lake) -> list[dict[str, Any]]:
    """The manifests of finished runs that were never marked as loaded, oldest first."""
    return [_load(path) for path in sorted((lake.root / "runs").glob("*/manifest.json")) if not _mark(path).exists()]


def mark_loaded(lake: Lake, run_id: str) -> None:
    """Note that the warehouse has the run; a run without the mark is one that was interrupted."""
    write_atomically(_mark(lake.root / "runs" / run_id / "manifest.json"), b"")


def manifests(lake: Lake) -> list[dict[str, Any]]:
    """The manifests of all finished runs, oldest first; LakeError where one is no JSON."""
    return [_load(path) for path in sorted((lake.root / "runs").glob("*/manifest.json"))]


def manifest(lake: Lake, run_id: str) -> dict[str, Any]:
    """The manifest of a finished run; LakeError where it is gone."""
    path = lake.root / "runs" / run_id / "manifest.json"
    if not path.exists():
        raise LakeError(f"{path}: the run is in the warehouse, but its manifest is gone from the lake")
    return _load(path)


def loaded(lake: Lake, kind: RunKind, name: str, config: dict[str, Any]) -> str | None:
    """The run_id of the newest run of the same request that is in the warehouse, or None."""
    asked = digest("run", kind, name, json.loads(canonical(config)))
    done = (m for m in reversed(manifests(lake)) if m["request"] == asked)
    return next((m["run_id"] for m in done if _mark(lake.root / "runs" / m["run_id"] / "manifest.json").exists()), None)


def abandoned(lake: Lake, since: datetime, until: datetime) -> list[Started]:
    """The runs begun between the two times that no process works on, that did not finish, and that none took up again."""
    finished = {m["request"]: m["run_id"] for m in manifests(lake)}
    return [
        run
        for run in _interrupted(lake)
        if since <= run.started_at <= until
        and not (_folder(lake, run) / "manifest.json").exists()
        and finished.get(run.request, "") < run.run_id  # run_ids sort by time
        and not _is_held(lake, run)
    ]


def newest_start(lake: Lake, kind: RunKind) -> datetime | None:
    """When the newest run of the kind began, finished or not; None: there was none."""
    for path in sorted((lake.root / "runs").glob("*/started.json"), reverse=True):
        if (started := _load(path)).get("kind") == kind:
            return datetime.fromisoformat(started["started_at"])
    return None


def held(lake: Lake) -> list[str]:
    """The run_ids of the runs that a living process works on, newest first."""
    return [run.run_id for run in _interrupted(lake) if _is_held(lake, run)]


@cache
def code_version() -> str:
    """The version of Midwatch, with the commit where it runs from a git checkout."""
    root = Path(__file__).parents[1]
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--match", "v*"]
    try:
        commit = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return version("midwatch")
    return f"{version('midwatch')}+{commit}"


def environment(**more: Any) -> dict[str, Any]:
    """What the run ran on, as far as it may matter to a number."""
    packages = ("duckdb", "great-expectations", "polars", "prefect", "pyarrow")
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        **{p: version(p) for p in packages},
    } | more


def _interrupted(lake: Lake, part: str | None = None) -> Iterator[Started]:
    """The runs that are not loaded, newest first, and with them all of the part, whose night began before them."""
    for path in sorted((lake.root / "runs").glob("*/started.json"), reverse=True):
        is_loaded = _mark(path).exists()
        if is_loaded and (part is None or path.parent.name < part):
            continue
        try:
            found = Started.model_validate(_load(path))
        except ValidationError as e:
            raise LakeError(f"{path}: no record of a run ({e.error_count()} errors); delete {path.parent}") from e
        if not is_loaded or found.part == part:
            yield found


def _load(path: Path) -> dict[str, Any]:
    try:
        loaded = json.loads(path.read_bytes())
    except ValueError as e:
        raise LakeError(f"{path}: not JSON ({e}): it was truncated or altered") from e
    if not isinstance(loaded, dict):
        raise LakeError(f"{path}: {type(loaded).__name__}, expected an object: it was truncated or altered")
    return loaded


def _is_held(lake: Lake, started: Started) -> bool:
    """Whether a living process works on the run."""
    return is_locked(_folder(lake, started) / "lock")


def _claim(lake: Lake, started: Started) -> bool:
    """Whether the run is now ours; the lock is the process's own and goes when it dies, however it dies."""
    try:
        _folder(lake, started).mkdir(parents=True, exist_ok=True)
        fd = os.open(_folder(lake, started) / "lock", os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as e:
        raise LakeError(f"cannot write {_folder(lake, started)}: {e.strerror}; free space or choose another --home") from e
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return False
    return True  # the descriptor stays open, and with it the lock


def _mark(path: Path) -> Path:
    return path.with_name("loaded")


def _folder(lake: Lake, started: Started) -> Path:
    return lake.root / "runs" / started.run_id


def _uuid7() -> str:
    """A UUID that sorts by its time in milliseconds (RFC 9562, section 5.7); Python has its own from 3.14 on."""
    value = int(time.time() * 1000) << 80 | 0x7 << 76 | secrets.randbits(12) << 64 | 0b10 << 62 | secrets.randbits(62)
    digits = f"{value:032x}"
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))

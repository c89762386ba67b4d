"""The warehouse's files: one writer at a time under a lock, numbered migrations, and the snapshot that readers open."""

import fcntl
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb

from schemas.errors import MidwatchError

LOCK_TIMEOUT_S = 300.0  # a load of 1e6 responses takes about a minute
RETRY_S = 0.05

_MIGRATIONS = Path(__file__).parent / "migrations"
_VIEWS = Path(__file__).parent / "views"


class LoadError(MidwatchError):
    """The warehouse cannot be written, or what should go in is not what its manifest says."""


def snapshot_path(warehouse: Path) -> Path:
    """Where readers find the last published state of `warehouse`; no file there before the first load."""
    return warehouse.with_suffix(f".snapshot{warehouse.suffix}")


@contextmanager
def locked(warehouse: Path, timeout_s: float = LOCK_TIMEOUT_S) -> Iterator[None]:
    """The only writer of `warehouse` among all threads and processes; LoadError after `timeout_s` seconds of waiting.

    The lock is the kernel's on the file `<warehouse>.lock`: it ends with its holder, however that ends.
    """
    lock = warehouse.with_name(f"{warehouse.name}.lock")
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        file = lock.open("w")
    except OSError as e:
        raise LoadError(f"cannot write {lock}: {e.strerror or e}; check the folder, or choose another --home") from e
    with file:
        for _ in _attempts(timeout_s):
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                continue
        else:
            raise LoadError(f"{warehouse}: another load has held {lock.name} for {timeout_s:g} s; retry when it is done")
        yield


@contextmanager
def opened(path: Path, timeout_s: float = LOCK_TIMEOUT_S) -> Iterator[duckdb.DuckDBPyConnection]:
    """The migrated database at `path` for writing, checkpointed at the end; LoadError for whatever DuckDB refuses."""
    try:
        connection = _connect(path, timeout_s)
        try:
            migrate(connection)
            yield connection
            connection.execute("checkpoint")  # a copy of the file alone is whole only without a write-ahead log
        finally:
            connection.close()
    except duckdb.Error as e:
        raise LoadError(f"cannot write {path}: {e}") from e


@contextmanager
def transaction(connection: duckdb.DuckDBPyConnection) -> Iterator[None]:
    """All or nothing of what is done within."""
    connection.begin()
    try:
        yield
    except BaseException:
        connection.rollback()
        raise
    connection.commit()


def migrate(connection: duckdb.DuckDBPyConnection) -> None:
    """Bring tables and views to what this code knows; LoadError where newer code has been here."""
    files = {int(f.name.split("_")[0]): f for f in sorted(_MIGRATIONS.glob("*.sql"))}
    version = _version(connection)
    if version > max(files):
        raise LoadError(f"the warehouse has tables of version {version}, this code knows {max(files)}: update midwatch")
    for number in (n for n in files if n > version):
        with transaction(connection):
            connection.execute(files[number].read_text())
            connection.execute("insert into migrations values (?, ?, now())", [number, files[number].stem])
    with transaction(connection):
        for file in sorted(_VIEWS.glob("*.sql")):
            connection.execute(file.read_text())


def publish(warehouse: Path) -> None:
    """Make the checkpointed `warehouse` what readers open from now on; those inside keep what they have open.

    LoadError where the disk refuses; the snapshot before stays as it was.
    """
    snapshot = snapshot_path(warehouse)
    temporary = snapshot.with_name(f".{snapshot.name}.tmp")  # one name: what a killed copy left is written over
    try:
        try:
            shutil.copyfile(warehouse, temporary)
            replace(temporary, snapshot)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as e:
        raise LoadError(f"cannot write {snapshot}: {e.strerror or e}; free space, then load again") from e


def replace(new: Path, old: Path) -> None:
    """Put the file `new` in the place of `old`: after a crash at any moment there is one of the two, whole."""
    with new.open("rb") as file:
        os.fsync(file.fileno())
    new.replace(old)
    folder = os.open(old.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _connect(path: Path, timeout_s: float) -> duckdb.DuckDBPyConnection:
    for _ in _attempts(timeout_s):
        try:
            return duckdb.connect(str(path))
        except duckdb.IOException as e:
            if "Could not set lock" not in str(e):
                raise
    raise LoadError(f"{path}: another program has had it open for {timeout_s:g} s; close it (readers use the snapshot)")


def _attempts(timeout_s: float) -> Iterator[None]:
    """One at once, then one each RETRY_S until `timeout_s` have passed."""
    end = time.monotonic() + timeout_s
    yield
    while time.monotonic() < end:
        time.sleep(RETRY_S)
        yield


def _version(connection: duckdb.DuckDBPyConnection) -> int:
    """The last migration that the database has seen; 0 for a new one."""
    known = connection.execute("from duckdb_tables() where table_name = 'migrations'").fetchone()
    found = connection.execute("select max(version) from migrations").fetchone() if known else None
    return found[0] if found else 0

"""Who may change what is in the lake: many that add to it at once, or one that takes something away."""

import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tasks.lake import Lake, LakeError

USING_S, OWNING_S = 300.0, 10.0  # a removal takes seconds, and a rewrite of large files minutes
_RETRY_S = 0.1


@contextmanager
def using(lake: Lake, timeout_s: float = USING_S) -> Iterator[None]:
    """Nothing is taken from the lake meanwhile; LakeError after `timeout_s` seconds of waiting for that which does."""
    with _locked(lake, fcntl.LOCK_SH, timeout_s, "files are being deleted or rewritten"):
        yield


@contextmanager
def owning(lake: Lake, timeout_s: float = OWNING_S) -> Iterator[None]:
    """No run begins meanwhile, and no backup; LakeError where one is being made, or another process owns the lake.

    Runs that began before go on: `tasks.runs.held` names them.
    """
    with _locked(lake, fcntl.LOCK_EX, timeout_s, "a backup, a gc or a forget is going on"):
        yield


def is_locked(path: Path) -> bool:
    """Whether a living process holds the file for itself."""
    try:
        with path.open("rb") as file:
            return not _taken(file.fileno(), fcntl.LOCK_SH)
    except FileNotFoundError:
        return False


@contextmanager
def _locked(lake: Lake, how: int, timeout_s: float, why: str) -> Iterator[None]:
    try:
        lake.root.mkdir(parents=True, exist_ok=True)
        file = (lake.root / ".lock").open("a")  # the lock is the kernel's: it ends with its holder, however that ends
    except OSError as e:
        raise LakeError(f"cannot write {lake.root}: {e.strerror}; free space or choose another --home") from e
    with file:
        end = time.monotonic() + timeout_s
        while not _taken(file.fileno(), how):
            if time.monotonic() > end:
                raise LakeError(f"{lake.root}: {why} in another process; try again when it is done")
            time.sleep(_RETRY_S)
        yield


def _taken(fd: int, how: int) -> bool:
    try:
        fcntl.flock(fd, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True

"""Engines take turns: a `vllm serve` of ours holds its devices while it lives, so that two flows never share a GPU.

A lease is a lock on a file, which goes with the process that holds it, however that ends. Devices are told apart by
CUDA_VISIBLE_DEVICES; without it an engine takes all there are.
"""

import fcntl
import logging
import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tasks.engines.client import EngineError

log = logging.getLogger("midwatch.lease")

POLL_S = 0.5
TOLD_S = 600.0  # how often it is said that an engine waits


@contextmanager
def leased(env: Mapping[str, str], what: str) -> Iterator[None]:
    """Within this context no other engine of this user runs on the devices that `env` names; waits until they are free."""
    named = env.get("CUDA_VISIBLE_DEVICES", "").replace(" ", "")
    devices = sorted(set(named.split(","))) if named else []
    with ExitStack() as held:
        held.enter_context(_lock("all", fcntl.LOCK_SH if devices else fcntl.LOCK_EX, what))
        for device in devices:
            held.enter_context(_lock(device.replace("/", "-"), fcntl.LOCK_EX, what))
        yield


def folder() -> Path:
    """Where the leases of this user on this machine lie."""
    return Path(tempfile.gettempdir()) / f"midwatch-{os.getuid()}"


@contextmanager
def _lock(name: str, how: int, what: str) -> Iterator[None]:
    path = folder() / f"{name}.lease"
    try:
        path.parent.mkdir(mode=0o700, exist_ok=True)
        file = path.open("a+")
    except OSError as e:
        raise EngineError(f"{path}: {e.strerror}; engines take turns by files in this folder: make it yours") from e
    with file:
        _wait(file.fileno(), how, path, what)
        if how == fcntl.LOCK_EX:
            path.write_text(f"process {os.getpid()}, {what}")
        yield


def _wait(fd: int, how: int, path: Path, what: str) -> None:
    told = -TOLD_S
    while True:
        try:
            return fcntl.flock(fd, how | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = path.read_text()
            if holder.startswith(f"process {os.getpid()},"):
                raise EngineError(f"{what}: its device is taken by this very {holder}; stop that engine first") from None
            if time.monotonic() - told >= TOLD_S:
                log.info("%s waits: its device is taken (%s)", what, holder or "by an engine on another device")
                told = time.monotonic()
            time.sleep(POLL_S)

"""The service: nights that are due are run one after another, each in a process of its own, until we are told to end."""

import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from schemas.config import load
from schemas.errors import ConfigError
from tasks import runs
from tasks.engines import guard
from tasks.lake import Lake
from tasks.schedule import PATIENCE, due

log = logging.getLogger("midwatch.serve")

LOOK_S = 5.0  # how soon a changed clock or configuration is seen
RETRY_S = 60.0
GRACE_S = 90.0  # for a night to stop its engines
DONE = (0, 3)  # exit codes of a night that is over; 3: with an open alert


class Service:
    """Runs the nights of a configuration that is read again before each, in one home folder."""

    def __init__(self, config: Path, home: Path) -> None:
        self._config, self._home = config, home
        self._spec, self._told = load(config), ""
        self._ending = threading.Event()
        self._night: subprocess.Popen[bytes] | None = None

    def end(self) -> None:
        """Let no further night begin, and end the one that runs: it goes on when the service is started again."""
        self._ending.set()
        if self._night is not None:
            self._night.terminate()

    def run(self) -> None:
        """Run every night that is due, until `end`; one that broke off is taken up at once."""
        last = self._begun() or datetime.now(UTC)
        if self._is_broken_off():
            log.info("a night broke off; it goes on")
            last = self._one()
        while not self._ending.wait(LOOK_S):
            self._read()
            now = datetime.now(UTC)
            next_ = due(self._spec.night, last, now)
            self._tell(f"the next night is due at {next_.at:%Y-%m-%d %H:%M} UTC")
            if next_.at <= now:
                if next_.missed:
                    log.warning("%d nights were missed; the newest is made up for", next_.missed)
                last = self._one()

    def _one(self) -> datetime:
        """When the night began, after it was run, and taken up again as often as allowed while it breaks off."""
        began = datetime.now(UTC)
        for again in range(self._spec.night.retries + 1):
            if again and self._ending.wait(RETRY_S):
                break
            log.info("a night begins" if not again else "the night is taken up again")
            code = self._process()
            log.info("the night is over" if code in DONE else f"the night broke off with exit code {code}")
            if code in DONE or self._ending.is_set():
                break
        return began

    def _process(self) -> int:
        """The exit code of `midwatch night` in a process of its own, which ends with ours."""
        command = [sys.executable, "-m", "flows.cli", "--home", str(self._home), "night", "-c", str(self._config)]
        self._night = guard.guarded(command, self._home / "night.pid", 0, None, os.environ, GRACE_S)
        if self._ending.is_set():
            self._night.terminate()
        code = self._night.wait()
        self._night = None
        return code

    def _read(self) -> None:
        """Take up a changed configuration; a broken one is told once, and the one before stays."""
        try:
            self._spec = load(self._config)
        except ConfigError as e:
            self._tell(f"{e}; the nights go on as before")

    def _tell(self, what: str) -> None:
        if what != self._told:
            log.info("%s", what)
            self._told = what

    def _begun(self) -> datetime | None:
        return runs.newest_start(Lake(root=self._home / "lake"), "night")

    def _is_broken_off(self) -> bool:
        now = datetime.now(UTC)
        return any(r.kind == "night" for r in runs.abandoned(Lake(root=self._home / "lake"), now - PATIENCE, now))


def serve(config: Path, home: Path) -> None:
    """Run nights until SIGTERM or SIGINT; afterwards nothing that was started is left."""
    service = Service(config, home)
    end: Callable[..., None] = lambda *_: service.end()  # noqa: E731
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    service.run()

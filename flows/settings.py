"""Where a command keeps its state, and how Prefect is set up for it before it is imported."""

import logging
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flows import server
from schemas.errors import MidwatchError

FREE_BYTES = 100 * 1024 * 1024  # with less, a run would stop half-way


class Settings:
    """The home folder of a command and what lies in it."""

    home: Path = Path("midwatch-data")
    verbose: bool = False

    @property
    def lake(self) -> Path:
        """The folder of the Parquet lake."""
        return self.home / "lake"

    @property
    def warehouse(self) -> Path:
        """The DuckDB file that loads write."""
        return self.home / "warehouse.duckdb"

    @property
    def snapshot(self) -> Path:
        """The DuckDB file that readers open."""
        return self.home / "warehouse.snapshot.duckdb"

    def query(self, sql: str, parameters: Sequence[Any] = ()) -> list[dict[str, Any]]:
        """The rows of a query on the snapshot."""
        from warehouse.query import query

        return query(self.snapshot, sql, parameters=parameters).to_pylist()

    def check(self) -> None:
        """MidwatchError when the home folder can't be written or its disk is all but full."""
        try:
            self.home.mkdir(parents=True, exist_ok=True)
            probe = self.home / f".probe-{os.getpid()}"
            probe.write_bytes(b"")
            probe.unlink()
            free = shutil.disk_usage(self.home).free
        except OSError as e:
            raise MidwatchError(f"{self.home}: {e.strerror}; choose a folder that you can write with --home") from e
        if free < FREE_BYTES:
            raise MidwatchError(
                f"{self.home}: {free / 1e6:.0f} MB free, a run needs {FREE_BYTES / 1e6:.0f}; "
                "free space or choose another --home"
            )

    def prepare(self) -> None:
        """Make sure of the home folder, and Prefect, with a server, ready to be imported."""
        self.check()
        self.home = self.home.absolute()
        chosen = server.is_chosen()
        self.configure()
        if not chosen:
            server.start(self.home / "prefect")

    @property
    def environment(self) -> dict[str, str]:
        """What Prefect, and what we use, are told by environment variables: the folders of this home, no telemetry."""
        return {
            "PREFECT_HOME": str(self.home.absolute() / "prefect"),
            "PREFECT_LOCAL_STORAGE_PATH": str(self.home.absolute() / "prefect" / "results"),
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_TASKS_DEFAULT_NO_CACHE": "true",
            "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
            "PREFECT_LOGGING_EXTRA_LOGGERS": "midwatch",
            "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
            "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "INFO" if self.verbose else "CRITICAL",
            "DO_NOT_TRACK": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
        }

    def configure(self) -> None:
        """Point Prefect at the home folder and keep it quiet; what the user's environment says goes first."""
        for name, value in self.environment.items():
            os.environ.setdefault(name, value)
        if not self.verbose:
            log_to_terminal()


def log_to_terminal() -> None:
    """Show what Midwatch logs, with the time."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s  %(message)s", datefmt="%H:%M:%S"))
    log = logging.getLogger("midwatch")
    log.setLevel(logging.INFO)
    log.addHandler(handler)

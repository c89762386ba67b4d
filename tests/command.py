"""The command `midwatch` as a user runs it, in a process of its own, and what it leaves behind."""

import json
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import duckdb
import yaml

MIDWATCH = str(Path(sys.executable).with_name("midwatch"))
ALLOWED_S = 120.0
INTERRUPTED = "interrupted; what is done is kept, and the same command goes on from there"

# What differs between two runs of the same: the run's own id and times, and what follows from them.
OF_THE_RUN = {"run_id", "started_at", "finished_at", "generated_at", "judged_at", "ingested_at", "from_cache"}


@dataclass
class Midwatch:
    """The command in a home folder and a working folder; without a Prefect server it starts its own, as for a user."""

    home: Path
    cwd: Path
    prefect_api: str | None = None
    env: dict[str, str] = field(default_factory=dict)
    mark: str = field(default_factory=lambda: secrets.token_hex(16))

    def start(self, *args: str | Path) -> subprocess.Popen[str]:
        """The command, begun, as the leader of its own process group (as in a terminal)."""
        return self._start([MIDWATCH, *map(str, args)])

    def __call__(self, *args: str | Path) -> "Outcome":
        """What came of the command."""
        return outcome(self.start(*args))

    def python(self, code: str, given: str) -> str:
        """What Python code prints that is given this standard input, in the same surroundings as the command."""
        with self._start([sys.executable, "-c", code]) as process:
            return process.communicate(given, timeout=ALLOWED_S)[0]

    def processes(self) -> list[int]:
        """The living processes that this command started, and theirs, whatever session they chose."""
        return [int(p.name) for p in Path("/proc").glob("[0-9]*") if self._is_ours(p)]

    def _start(self, command: list[str]) -> subprocess.Popen[str]:
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "MIDWATCH_"))}
        server = {"PREFECT_API_URL": self.prefect_api} if self.prefect_api else {}
        env = {**inherited, **server, "MIDWATCH_HOME": str(self.home), "MARK": self.mark, **self.env}
        pipe = subprocess.PIPE
        return subprocess.Popen(
            command, cwd=self.cwd, env=env, stdin=pipe, stdout=pipe, stderr=pipe, text=True, start_new_session=True
        )

    def _is_ours(self, process: Path) -> bool:
        try:
            is_zombie = (process / "stat").read_text().rpartition(")")[2].split()[0] in "ZX"
            return not is_zombie and f"MARK={self.mark}".encode() in (process / "environ").read_bytes().split(b"\0")
        except OSError:
            return False


@dataclass(frozen=True)
class Outcome:
    """Exit code and output of a command."""

    code: int
    out: str
    err: str

    @property
    def complaint(self) -> str:
        """The one line that says why it failed; log lines, which start with a time, are left out."""
        lines = [line for line in self.err.splitlines() if line and not line[:2].isdigit()]
        assert len(lines) == 1, self.err
        assert lines[0].startswith("midwatch: "), self.err
        return lines[0].removeprefix("midwatch: ")

    @property
    def json(self) -> Any:
        """Standard output as JSON."""
        return json.loads(self.out)


def outcome(process: subprocess.Popen[str]) -> Outcome:
    """What came of a command that was started."""
    with process:
        out, err = process.communicate(timeout=ALLOWED_S)
    return Outcome(process.returncode, out, err)


def rows(home: Path, sql: str) -> list[dict[str, Any]]:
    """The rows of a query on the published warehouse of a home folder."""
    with duckdb.connect(str(home / "warehouse.snapshot.duckdb"), read_only=True) as connection:
        return connection.sql(sql).to_arrow_table().to_pylist()


def comparable(home: Path) -> dict[str, set[str]]:
    """The rows of every table of the published warehouse, without what two runs of the same differ in."""
    with duckdb.connect(str(home / "warehouse.snapshot.duckdb"), read_only=True) as connection:
        names = [n for (n,) in connection.execute("select table_name from duckdb_tables()").fetchall() if n != "migrations"]
        found = {}
        for name in names:
            columns = [c for c in connection.table(name).columns if c not in OF_THE_RUN]
            found[name] = set(map(str, connection.table(name).select(*columns).fetchall()))
    return found


def wait_until(is_so: Callable[[], object], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def configured(folder: Path, model: dict[str, Any], **more: Any) -> Path:
    """A configuration file for one model: its own prompts, shards of 8, both judges."""
    spec = {
        "name": "nightly",
        "models": {"target": model},
        "arms": [{"name": "target", "model": "target"}],
        "benchmarks": [{"id": "starter", "limit": 48}],
        "judges": [{"name": "refusal"}, {"name": "harm", "model": "target"}],
        "shard_size": 8,
    }
    path = folder / "nightly.yaml"
    path.write_text(yaml.safe_dump(spec | more))
    return path

"""A night that is killed, finds its disk full or its warehouse held ends, run again, as one to which nothing happened."""

import errno
import json
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import duckdb
import pytest
from command import Midwatch, configured, rows
from scripted import Scripted
from test_crash import answer

# Moments of a night, in their order: what is written there, and at most at the how-manieth of it something happens.
MOMENTS = [
    ("runs/[^/]+/started", 2),  # the night's own record, or that of its sentinel
    ("/verdicts/", 1),  # a judge of the sentinel
    ("an insert", 1),  # in the middle of a load
    ("parts.json", 1),  # the diary: the sentinel is loaded
    ("/benchmarks/", 2),  # ingest
    ("/prompts/", 1),
    ("/responses/", 1),  # the arm that is asked twice
    ("runs/[^/]+/[0-9a-f]{64}", 4),  # aggregate
    ("a copy", 1),  # in the middle of the snapshot
    ("parts.json", 1),
    ("/responses/", 2),  # the arm
    ("/responses/", 2),
    ("/verdicts/", 2),
    ("runs/[^/]+/[0-9a-f]{64}", 4),
    ("manifest.json", 1),
    ("warehouse.snapshot.duckdb", 1),  # the swap
    ("runs/[^/]+/loaded", 1),
    ("runs/[^/]+/started", 1),  # the monitors
    ("manifest.json", 1),
    ("an insert", 2),  # theirs, or the night's
]
SEEDS = (0, 1)  # one kills at the even moments, the other at the odd ones
WRITTEN = ("started", "/benchmarks/", "/responses/", "/verdicts/", "manifest", "an insert", "a copy", "parts.json", "an insert")
SMALL = 100  # bytes of a file that fit on a full disk

Moment = Callable[[Path], None]  # what is to happen to a night in this home


def drawn(seed: int) -> list[Moment]:
    """Where each child of a night dies: at the n-th thing that a pattern finds, just before it is there or just after."""
    rng = random.Random(seed)
    chosen = [(what, rng.randint(1, most), rng.random() < 0.5) for what, most in MOMENTS[seed % 2 :: 2]]
    return [partial(meets, what, n, _killed, before=before) for what, n, before in chosen]


def meets(what: str, left: int, happens: Callable[[], None], home: Path, before: bool = True) -> None:
    """From now on something `happens` to this process at the `left`-th thing that the pattern `what` finds."""
    from warehouse import connect, load

    def doing(name: str, do: Callable[[], Any]) -> Any:
        nonlocal left
        left -= re.search(what, name) is not None
        if left == 0 and before:
            happens()
        done = do()
        if left == 0:
            happens()
        return done

    def half(source: Path, target: Path) -> Any:
        target.write_bytes(source.read_bytes()[:5000])
        return doing("a copy", lambda: copy(source, target))

    @contextmanager
    def inserted(connection: duckdb.DuckDBPyConnection) -> Iterator[None]:
        connection.begin()
        yield
        doing("an insert", connection.commit)

    copy, rename = shutil.copyfile, Path.replace
    connect.shutil.copyfile, load.transaction = half, inserted
    Path.replace = lambda self, to: doing(str(to).removeprefix(str(home)), lambda: rename(self, to))


def _killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _full() -> None:
    """No file grows any more, as on a full disk."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (SMALL, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


def undisturbed(home: Path) -> None:
    """Nothing happens."""


def impatient(home: Path) -> None:
    """From now on nothing is waited for that somebody else holds."""
    from warehouse import connect

    attempts = connect._attempts
    connect._attempts = lambda timeout_s: attempts(min(timeout_s, 0.2))


def main(config: Path, base: Path, kind: str) -> None:
    """Nights in copies of a home, each with what happens to it until it is left alone; what came of each, a line of JSON."""
    from flows.settings import Settings

    settings = Settings()
    settings.home = base
    settings.prepare()
    import great_expectations  # noqa: F401

    import flows.nightly  # noqa: F401

    nights: dict[str, dict[str, list[Moment]]] = {
        "killed": {"control": [undisturbed], **{str(seed): [*drawn(seed), undisturbed] for seed in SEEDS}},
        "full": {"control": [undisturbed], "full": [*(partial(meets, what, 1, _full) for what in WRITTEN), undisturbed]},
        "held": {"base": [impatient]},
    }
    for name, moments in nights[kind].items():
        if (home := base.with_name(name)) != base:
            shutil.copytree(base, home)
        for moment in moments:
            print(json.dumps([name, *_night(config, home, moment)]), flush=True)


def _night(config: Path, home: Path, happens: Moment) -> tuple[int, str]:
    """Exit code and standard error of `midwatch night` in a child of this process."""
    from flows.cli import main as command

    ours, its = os.pipe()
    if (child := os.fork()) == 0:
        os.dup2(its, 2)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.argv = ["midwatch", "--home", str(home), "night", "-c", str(config)]
        happens(home)
        try:
            command()
        except SystemExit as e:
            os._exit(int(str(e.code)))
        finally:
            os._exit(70)
    os.close(its)
    with os.fdopen(ours) as said:
        told = said.read()
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), told


RUN_ID = re.compile("[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f-]{17}")
# What follows from a run's id or time: digests that name it, times, durations.
FOLLOWS = re.compile(r"[0-9a-f]{32}\b|datetime\.datetime\([^)]*\)+|\d{4}-?\d\d-?\d\dT[\d:.+]*Z?|\"(seconds|minutes)\":[\d.]+")


def leveled(home: Path) -> dict[str, Counter[str]]:
    """The rows of every table of the published warehouse, without what two nights of the same differ in."""
    with duckdb.connect(str(home / "warehouse.snapshot.duckdb"), read_only=True) as connection:
        kinds = dict(connection.execute("select run_id, kind from runs").fetchall())
        names = [n for (n,) in connection.execute("select table_name from duckdb_tables()").fetchall() if n != "migrations"]
        listed = {name: [str(row) for row in connection.table(name).fetchall()] for name in names}
    said = {name: [RUN_ID.sub(lambda m: kinds.get(m[0], "no run"), row) for row in found] for name, found in listed.items()}
    return {name: Counter(FOLLOWS.sub("", row) for row in found) for name, found in said.items()}


def nights(home: Path) -> int:
    return len(rows(home, "from runs where kind = 'night'"))


@dataclass
class Driven:
    """A home folder, and what a driver in a process of its own makes of nights in it and in copies of it."""

    midwatch: Midwatch
    config: Path

    def __call__(self, kind: str) -> dict[str, list[tuple[int, str]]]:
        """Exit code and standard error of each night, by the name of its home; no process is left."""
        midwatch, server = self.midwatch, str(self.midwatch.prefect_api)
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "MIDWATCH_"))}
        env = inherited | {"PREFECT_API_URL": server, "PREFECT_LOGGING_LEVEL": "CRITICAL", "MARK": midwatch.mark}
        command = [sys.executable, __file__, str(self.config), str(midwatch.home), kind]
        done = subprocess.run(command, env=env, cwd=midwatch.cwd, capture_output=True, text=True, timeout=400)
        assert done.returncode == 0, done.stderr
        assert not midwatch.processes()
        found: dict[str, list[tuple[int, str]]] = {}
        for home, code, told in map(json.loads, done.stdout.splitlines()):
            found.setdefault(home, []).append((code, told))
        return found


@pytest.fixture
def driven(tmp_path: Path, prefect_api: str) -> Iterator[Driven]:
    """With a run whose responses a judge judges again in each night, and an arm that is asked twice."""
    midwatch = Midwatch(tmp_path / "base", tmp_path, prefect_api)
    (tmp_path / "own.csv").write_text("prompt\n" + "".join(f"What is {n} and {n}?\n" for n in range(8)))
    with Scripted(answer) as server:
        model = {"engine": "endpoint", "model": "m", "base_urls": [server.base_url], "revision": "1"}
        first = midwatch("run", "-c", configured(tmp_path, model, benchmarks=[{"id": "starter", "limit": 12}]), "--json")
        night = {"sentinels": [{"run": first.json["run_id"], "judges": ["refusal"], "size": 12}], "repeat": 2}
        own = [{"id": "own", "use": "file", "path": str(tmp_path / "own.csv")}]
        yield Driven(midwatch, configured(tmp_path, model, benchmarks=own, night=night, shard_size=4))


def is_as_if_nothing_had_happened(home: Path) -> bool:
    """Whether the warehouse, and the same made from the lake alone, is that of the undisturbed night beside it."""
    found, untouched = leveled(home), leveled(home.with_name("control"))
    assert found == untouched
    assert Midwatch(home, home.parent)("warehouse", "rebuild").code == 0
    return leveled(home) == untouched and nights(home) == 1


def test_a_night_that_is_killed_at_any_moment(driven: Driven) -> None:
    ended = driven("killed")
    for name in map(str, SEEDS):
        *killed, (last, told) = ended[name]
        assert [code for code, _ in killed] == [-signal.SIGKILL] * (len(MOMENTS) // len(SEEDS)), killed
        assert last == 0, told
        assert is_as_if_nothing_had_happened(driven.midwatch.home.with_name(name))


def test_a_night_whose_disk_is_full(driven: Driven) -> None:
    *failed, (last, told) = driven("full")["full"]
    assert len(failed) == len(WRITTEN)
    for code, complaint in failed:
        *_, line = complaint.splitlines()
        assert (code, line[:22]) == (1, "midwatch: cannot write"), complaint
        assert f"{os.strerror(errno.EFBIG)}; free space" in line, complaint
    assert last == 0, told
    assert is_as_if_nothing_had_happened(driven.midwatch.home.with_name("full"))


# Says how many runs a warehouse has that it holds open, whenever it is asked.
READER = """
import sys, duckdb
with duckdb.connect(sys.argv[1], read_only=True) as connection:
    for _ in iter(sys.stdin.readline, ""):
        print(*connection.execute("select count(*) from runs").fetchone(), flush=True)
"""


@contextmanager
def reading(path: Path) -> Iterator[Callable[[], int]]:
    """A program that keeps a warehouse open to read; how many runs it sees."""
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", READER, path], stdin=pipe, stdout=pipe, text=True, bufsize=1) as reader:
        assert reader.stdin and reader.stdout

        def seen() -> int:
            print(file=reader.stdin, flush=True)
            return int(reader.stdout.readline())

        assert seen()
        yield seen
        reader.stdin.close()


def test_a_night_beside_readers(driven: Driven) -> None:
    midwatch = driven.midwatch
    with reading(midwatch.home / "warehouse.snapshot.duckdb") as by_snapshot:
        with reading(midwatch.home / "warehouse.duckdb") as by_file:
            ((code, told),) = driven("held")["base"]
            assert code == 1, told
            assert "another program has had it open for" in told.splitlines()[-1]
            assert "close it (readers use the snapshot)" in told.splitlines()[-1]
            assert by_file() == 1
        assert len(rows(midwatch.home, "from runs")) == 1
        done = midwatch("night", "-c", driven.config, "--json")
        assert (done.code, done.json["missing"]) == (0, {}), done.err
        assert by_snapshot() == 1
    found = Counter(r["kind"] for r in rows(midwatch.home, "from runs"))
    assert found == {"evaluate": 2, "judge": 1, "repeat": 1, "monitor": 2, "night": 1}  # one tells that the run was missing
    assert not rows(midwatch.home, "from alert_status where state <> 'resolved'")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])

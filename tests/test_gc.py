import json
import shutil
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest
from click.testing import CliRunner
from command import rows
from kept import aged, files, finished, loaded
from test_runs import elsewhere, interrupted
from warehouse_rows import contents, response, run, verdict

from flows.cli import midwatch as command
from flows.gc import collect, remove
from tasks import gc
from tasks.hold import owning, using
from tasks.lake import Lake, LakeError
from tasks.runs import held, manifests
from warehouse.load import rebuild

ONE, TWO = (f"00000000-0000-7000-8000-00000000000{n}" for n in (1, 2))


def before(days: float = 30) -> datetime:
    return datetime.now(UTC) - timedelta(days=days)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs that share a response, and what is left by others, all of it old."""
    home = tmp_path_factory.mktemp("made") / "home"
    shared = response("r1", "i1")
    loaded(home, run(ONE, [shared, response("r2", "i2")], [verdict("v1", "r1"), verdict("v2", "r2")]))
    loaded(home, run(TWO, [shared], [verdict("v1", "r1")]))
    lake = Lake(root=home / "lake")
    left = lake.write(pa.table({"response_id": ["x"]}), "responses/a1/pinned")
    kept = manifests(lake)[0]["artifacts"]["responses"][0]
    for name, path in {"kept": kept["path"], "gone": left.path}.items():
        receipt = {"data": {"path": path, "sha256": path[-72:-8], "rows": 1}}
        written(home / f"prefect/results/generate-1-{name}", json.dumps({"result": json.dumps(receipt)}))
    written(home / "prefect/results/error", "gASVcgAAAAAAAACM")
    lake.write(pa.table({"text_id": ["t"]}), "embeddings/m")
    for name in ("logs/m.log", "quarantine/q.jsonl", f"reports/{ONE}.md", f"reports/{ONE[:-1]}9.md", "reports/mine.html"):
        written(home / name, "x")
    written(home / "lake/responses/.x.parquet.12.tmp", "x")
    written(home / "lake/observed/chat/.arriving/arrived.duckdb", "x")
    interrupted(lake)
    aged(home, 60)
    return home


@pytest.fixture
def home(made: Path, tmp_path: Path) -> Path:
    return shutil.copytree(made, tmp_path / "home")


def written(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_what_is_old_and_nobody_needs_goes_and_nothing_else(home):
    there, tables = files(home), contents(home / "warehouse.snapshot.duckdb")
    lake = Lake(root=home / "lake")
    stopped = next(p.parent.name for p in lake.root.glob("runs/*/started.json") if not p.with_name("manifest.json").exists())
    done = collect(home, before())
    gone = there - files(home)
    assert {w.path.relative_to(home).as_posix() for w in done.waste} == gone and not done.held
    left = {p for p in gone if p.startswith("lake/responses/a1/pinned/")}
    assert len(left) == 1 and gone - left == {
        "prefect/results/generate-1-gone",
        "prefect/results/error",
        "logs/m.log",
        "quarantine/q.jsonl",
        f"reports/{ONE[:-1]}9.md",
        "lake/responses/.x.parquet.12.tmp",
        "lake/observed/chat/.arriving/arrived.duckdb",
        f"lake/runs/{stopped}/started.json",
    }
    assert not (lake.root / "runs" / stopped).exists() and not (lake.root / "observed").exists()
    assert not collect(home, before()).waste
    rebuild(home / "warehouse.duckdb", lake.root, manifests(lake))
    assert contents(home / "warehouse.snapshot.duckdb") == tables


def test_what_is_young_stays_but_reports_and_receipts_of_what_is_gone(home):
    aged(home, 29)
    assert [w.path.name for w in collect(home, before()).waste] == [f"{ONE[:-1]}9.md"]


def test_files_that_a_run_may_use_stay_while_it_goes_on(home):
    lake = Lake(root=home / "lake")
    with elsewhere(lake) as run_id:
        aged(home, 60)
        done = collect(home, before())
        assert done.held == held(lake) == [run_id]
        assert not [w for w in done.waste if w.what == gc.LEFT or run_id in str(w.path)]
        assert (lake.root / "runs" / run_id / "started.json").exists() and not (home / "logs/m.log").exists()
        with pytest.raises(Exception, match=f"run {run_id} is going on"):
            remove(home, [ONE])
    aged(home, 60)
    assert gc.LEFT in {w.what for w in collect(home, before()).waste}


def test_a_run_waits_to_begin_until_nothing_is_deleted_any_more(home):
    lake = Lake(root=home / "lake")
    with using(lake), using(lake), pytest.raises(LakeError, match="in another process"), owning(lake, 0.1):
        pass
    with owning(lake), pytest.raises(LakeError, match="in another process"), using(lake, 0.1):
        pass


def test_a_manifest_that_cannot_be_read_stops_all_deleting(home):
    there = files(home)
    (home / "lake/runs" / ONE / "manifest.json").write_text("{")
    with pytest.raises(LakeError, match="truncated or altered"):
        collect(home, before())
    assert files(home) >= there


def test_a_run_is_removed_with_all_that_is_its_own_and_the_others_stay(home, tmp_path):
    two = tmp_path / "two"
    loaded(two, run(TWO, [response("r1", "i1")], [verdict("v1", "r1")]))
    own = {w.path for w in remove(home, [ONE])}
    lake = Lake(root=home / "lake")
    assert contents(home / "warehouse.snapshot.duckdb") == contents(two / "warehouse.snapshot.duckdb")
    assert not (lake.root / "runs" / ONE).exists() and not (home / f"reports/{ONE}.md").exists()
    assert own and not [p for p in own if p.exists()]
    assert all((lake.root / p).exists() for p in gc.named(lake))
    with pytest.raises(LakeError, match="no finished run"):
        remove(home, [ONE])


DYING = """
import os, signal, sys
from pathlib import Path
from flows import gc
from flows.gc import remove
moment, home, run_id = sys.argv[1:]
def die(*args):
    os.kill(os.getpid(), signal.SIGKILL)
if moment == "rebuild":
    gc.rebuild = die
else:
    deleted = gc.delete
    gc.delete = lambda home, waste: (deleted(home, waste[: len(waste) // 2]), die())
remove(Path(home), [run_id])
"""


@pytest.mark.parametrize("moment", ["rebuild", "delete"])
def test_a_removal_that_was_killed_is_told_of_and_finished(home, moment):
    lake = Lake(root=home / "lake")
    killed = subprocess.run([sys.executable, "-c", DYING, moment, str(home), ONE], cwd=Path(__file__).parents[1])
    assert killed.returncode == -signal.SIGKILL and gc.withdrawn(lake) == [ONE]
    told = CliRunner().invoke(command, ["--home", str(home), "gc", "--yes"])
    assert told.exit_code == 0 and f"the removal of run {ONE} was interrupted" in told.stderr
    assert gc.withdrawn(lake) == [] and not (lake.root / "runs" / ONE).exists()
    assert rows(home, "select run_id from runs") == [{"run_id": TWO}]


def test_the_command_shows_first_and_deletes_when_told(home):
    there = files(home)
    shown = CliRunner().invoke(command, ["--home", str(home), "gc"])
    assert "logs" in shown.output and "nothing was done yet: --yes does it" in shown.output and files(home) >= there
    listed = CliRunner().invoke(command, ["--home", str(home), "gc", "--json"])
    assert {w["what"] for w in json.loads(listed.stdout)["waste"]} >= {gc.LEFT, gc.LOGS, gc.STOPPED}
    done = CliRunner().invoke(command, ["--home", str(home), "gc", "--yes"])
    assert "deleted 9 files" in done.output and "nothing to delete" in command_output(home)


def command_output(home: Path) -> str:
    return CliRunner().invoke(command, ["--home", str(home), "gc"]).output


def test_a_run_that_was_not_loaded_yet_keeps_its_files(home):
    lake = Lake(root=home / "lake")
    three = f"{ONE[:-1]}3"
    manifest = finished(home, run(three, [response("r3", "i3")], [verdict("v3", "r3")]))
    aged(home, 60)
    collect(home, before())
    assert all((lake.root / a["path"]).exists() for found in manifest["artifacts"].values() for a in found)

import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from kept import files, finished, loaded
from warehouse_rows import NOON, contents, response, run, verdict

from flows.cli import midwatch as command
from schemas.errors import ConfigError
from tasks import backup as backups
from tasks.backup import INDEX, BackupError, backup, check, restore
from tasks.forgotten import Record, note
from tasks.gc import withdraw
from tasks.hold import owning
from tasks.lake import Lake, LakeError
from tasks.runs import manifests, unloaded
from warehouse.load import rebuild

RUNS = [f"00000000-0000-7000-8000-00000000000{n}" for n in range(4)]


def add(home: Path, n: int) -> dict:
    return loaded(home, run(RUNS[n], [response(f"r{n}", f"i{n}")], [verdict(f"v{n}", f"r{n}")]))


def written(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs, and all else that a home folder holds."""
    home = tmp_path_factory.mktemp("made") / "home"
    add(home, 0)
    add(home, 1)
    for name in ("quarantine/q.jsonl", f"reports/{RUNS[0]}.md", "lake/embeddings/m/x"):
        written(home / name, name)
    done = Record(asked=(), prompt_ids=(), item_ids=(), text_ids=(), who="me", asked_at=NOON, reason="", finished_at=NOON)
    note(Lake(root=home / "lake"), done)
    for name in ("logs/m.log", "models/m/weights", "prefect/prefect.db", "observed.key", "lake/runs/other/started.json"):
        written(home / name, name)
    return home


@pytest.fixture
def home(made: Path, tmp_path: Path) -> Path:
    return shutil.copytree(made, tmp_path / "home")


def test_a_restored_home_is_the_one_that_was_backed_up_without_secrets_and_what_can_be_had_again(home, tmp_path):
    pins = written(tmp_path / "midwatch.lock", "pins")
    made = backup(home, tmp_path / "bk", [pins])
    there = files(home) - {"lake/embeddings/m/x"}
    restore(tmp_path / "bk", tmp_path / "new")
    new = files(tmp_path / "new")
    assert new - there == {"beside/midwatch.lock"} and made.contents.runs == tuple(RUNS[:2])
    assert {p for p in there - new if not p.endswith("/lock")} == {
        *("logs/m.log", "models/m/weights", "prefect/prefect.db", "observed.key", "lake/runs/other/started.json"),
        *("lake/.lock", "warehouse.duckdb.lock"),
    }
    for name in there & new - {"warehouse.duckdb"}:
        assert (tmp_path / "new" / name).read_bytes() == (home / name).read_bytes(), name
        assert (tmp_path / "new" / name).stat().st_nlink == 1 and (home / name).stat().st_nlink == 1
    assert contents(tmp_path / "new/warehouse.duckdb") == contents(home / "warehouse.duckdb")
    lake = Lake(root=tmp_path / "new/lake")
    assert not unloaded(lake)
    rebuild(tmp_path / "new/warehouse.duckdb", lake.root, manifests(lake))
    assert contents(tmp_path / "new/warehouse.duckdb") == contents(home / "warehouse.duckdb")


def test_the_key_comes_along_when_it_is_asked_for(home, tmp_path):
    backup(home, tmp_path / "bk", with_key=True)
    restore(tmp_path / "bk", tmp_path / "new")
    assert (tmp_path / "new/observed.key").read_text() == "observed.key"
    assert (tmp_path / "new/observed.key").stat().st_mode & 0o777 == 0o600


def test_a_second_backup_copies_what_is_new_and_one_snapshot_is_kept(home, tmp_path):
    backup(home, tmp_path / "bk")
    assert backup(home, tmp_path / "bk").copied == 0
    written_then = {p: (tmp_path / "bk" / p).stat().st_mtime_ns for p in files(tmp_path / "bk") if p.startswith("lake/")}
    add(home, 2)
    made = backup(home, tmp_path / "bk")
    assert 0 < made.copied < len(made.contents.files) / 2 and made.pruned == 1
    assert {p: (tmp_path / "bk" / p).stat().st_mtime_ns for p in written_then} == written_then
    assert len(check(tmp_path / "bk").runs) == 3


def test_what_is_finished_while_a_backup_is_made_is_whole_or_not_in_it(home, tmp_path, monkeypatch):
    of_other = backups._Copies.of_other
    came = iter([lambda: add(home, 2), lambda: finished(home, run(RUNS[3], [response("r3", "i3")], []))])

    def meanwhile(self, source, path):
        kept = of_other(self, source, path)
        if path.endswith("loaded") or path == backups.SNAPSHOT:
            next(came, lambda: None)()
        return kept

    monkeypatch.setattr(backups._Copies, "of_other", meanwhile)
    made = backup(home, tmp_path / "bk")
    restore(tmp_path / "bk", tmp_path / "new")
    lake = Lake(root=tmp_path / "new/lake")
    assert made.contents.runs == tuple(RUNS)
    assert [m["run_id"] for m in unloaded(lake)] == RUNS[2:]
    rebuild(tmp_path / "new/warehouse.duckdb", lake.root, manifests(lake))
    assert len(contents(tmp_path / "new/warehouse.duckdb")["runs"]) == 4


def test_nothing_is_deleted_while_a_backup_is_made(home, tmp_path, monkeypatch):
    def refused(*args: object) -> list:
        with pytest.raises(LakeError, match="in another process"), owning(Lake(root=home / "lake"), 0.1):
            pass
        return []

    monkeypatch.setattr(backups, "_files", refused)
    backup(home, tmp_path / "bk")


@pytest.mark.parametrize("how", ["gone", "torn", "altered"])
def test_a_damaged_backup_is_named_and_nothing_is_restored(home, tmp_path, how):
    index = backup(home, tmp_path / "bk").contents
    path = tmp_path / "bk" / next(f.place for f in index.files if f.path.endswith(".parquet"))
    data = path.read_bytes()
    path.unlink() if how == "gone" else path.write_bytes(data[:-1] if how == "torn" else data[:-1] + b"x")
    for act in (lambda: check(tmp_path / "bk"), lambda: restore(tmp_path / "bk", tmp_path / "new")):
        with pytest.raises(BackupError, match=f"1 of .*{path.name}"):
            act()
    assert not (tmp_path / "new").exists()
    if how != "altered":  # which a backup that reads no file twice can't see
        backup(home, tmp_path / "bk")
        assert check(tmp_path / "bk")


def test_a_file_of_the_lake_that_is_damaged_is_named_and_the_backup_before_stays(home, tmp_path):
    backup(home, tmp_path / "bk")
    index = (tmp_path / "bk" / INDEX).read_bytes()
    file = add(home, 2)["artifacts"]["responses"][0]["path"]
    (home / "lake" / file).write_bytes(b"x")
    with pytest.raises(BackupError, match=f"{Path(file).name}: not the file that was written"):
        backup(home, tmp_path / "bk")
    assert (tmp_path / "bk" / INDEX).read_bytes() == index and check(tmp_path / "bk")


def test_runs_that_were_lost_are_not_lost_to_the_backup_too(home, tmp_path):
    backup(home, tmp_path / "bk")
    there = files(tmp_path / "bk")
    (home / "lake/runs" / RUNS[0] / "manifest.json").unlink()
    with pytest.raises(BackupError, match=f"holds 1 runs that .* does not have .*{RUNS[0]}"):
        backup(home, tmp_path / "bk")
    assert files(tmp_path / "bk") == there and len(check(tmp_path / "bk").runs) == 2
    pruned = backup(home, tmp_path / "bk", prune=True)
    assert pruned.contents.runs == (RUNS[1],) and pruned.pruned > 1
    own = {f.place for f in pruned.contents.files} | {INDEX, ".lock"}
    assert files(tmp_path / "bk") == own


def test_where_no_backup_can_be_made_it_says_why(home, tmp_path):
    for folder, complaint in ((home / "bk", "apart from the home"), (tmp_path, "apart from the home")):
        with pytest.raises(BackupError, match=complaint):
            backup(home, folder)
    written(tmp_path / "mine/letter.txt", "x")
    with pytest.raises(BackupError, match=r"letter\.txt"):
        backup(home, tmp_path / "mine")
    with pytest.raises(BackupError, match="no lake in it"):
        backup(tmp_path / "elsewhere", tmp_path / "bk")
    withdraw(Lake(root=home / "lake"), RUNS[0])
    with pytest.raises(BackupError, match="was interrupted: midwatch gc --yes"):
        backup(home, tmp_path / "bk")


def test_a_home_that_is_there_is_not_restored_over(home, tmp_path):
    backup(home, tmp_path / "bk")
    (tmp_path / "empty").mkdir()
    restore(tmp_path / "bk", tmp_path / "empty")
    with pytest.raises(BackupError, match="not empty"):
        restore(tmp_path / "bk", home)


@pytest.mark.parametrize("path", ["../x", "/etc/x", "lake/../../x", ""])
def test_an_index_cannot_write_outside_of_the_home(home, tmp_path, path):
    index = backup(home, tmp_path / "bk").contents
    (tmp_path / "bk" / INDEX).write_text(index.model_dump_json().replace(f'"path":"{index.files[0].path}', f'"path":"{path}'))
    with pytest.raises(BackupError, match="not the index of a backup"):
        restore(tmp_path / "bk", tmp_path / "new")


KILLED = """
import os, signal, sys
from pathlib import Path
from tasks import backup as b
n = int(sys.argv[1])
copied = b._copied
def dying(source, target):
    global n
    n -= 1
    done = copied(source, target)
    if n == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return done
b._copied = dying
getattr(b, sys.argv[2])(Path(sys.argv[3]), Path(sys.argv[4]))
"""


def killed(n: int, *what: str | Path) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED, str(n), *map(str, what)], cwd=Path(__file__).parents[1])
    assert done.returncode == -signal.SIGKILL


def test_a_backup_and_a_restore_that_were_killed_are_made_by_running_them_again(home, tmp_path):
    killed(9, "backup", home, tmp_path / "bk")
    with pytest.raises(BackupError, match="never finished"):
        restore(tmp_path / "bk", tmp_path / "new")
    backup(home, tmp_path / "bk")
    before = check(tmp_path / "bk")
    add(home, 2)
    killed(6, "backup", home, tmp_path / "bk")
    assert check(tmp_path / "bk") == before
    backup(home, tmp_path / "bk")
    assert not [p for p in files(tmp_path / "bk") if ".part-" in p]
    killed(9, "restore", tmp_path / "bk", tmp_path / "new")
    assert not (tmp_path / "new").exists()
    restore(tmp_path / "bk", tmp_path / "new")
    assert contents(tmp_path / "new/warehouse.duckdb") == contents(home / "warehouse.duckdb")


def test_the_commands_say_what_they_made(home, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    written(tmp_path / "midwatch.lock", "{}")
    written(tmp_path / "c.safetensors", "weights")
    said = CliRunner().invoke(
        command, ["--home", str(home), "backup", "bk", "--include", "c.safetensors"], catch_exceptions=False
    )
    assert "2 runs in" in said.output and "observed.key, a secret" in said.output
    assert "all as they were written" in CliRunner().invoke(command, ["restore", "bk", "--check"]).output
    said = CliRunner().invoke(command, ["restore", "bk", "--home", "new"])
    assert "next: midwatch --home new doctor" in said.output
    assert {p.name for p in Path("new/beside").iterdir()} == {"midwatch.lock", "c.safetensors"}
    with pytest.raises(ConfigError, match=r"two files are called c\.safetensors"):
        twice = ["backup", "bk", "--include", "c.safetensors", "--include", "c.safetensors"]
        command(["--home", str(home), *twice], standalone_mode=False)

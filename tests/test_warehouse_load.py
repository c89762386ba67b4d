import errno
import fcntl
import json
import os
import resource
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from warehouse_rows import ARM, all_rows, at, calibration, contents, finished, item, response, run, store, verdict

from schemas.rows import Row
from tasks.lake import Lake
from warehouse import connect, load
from warehouse.connect import LoadError, migrate, snapshot_path
from warehouse.load import TABLES, load_run, rebuild

ROOT = Path(__file__).parent.parent
TYPES = {
    pa.string(): "VARCHAR",
    pa.int64(): "BIGINT",
    pa.float64(): "DOUBLE",
    pa.bool_(): "BOOLEAN",
    pa.timestamp("us", tz="UTC"): "TIMESTAMP WITH TIME ZONE",
    pa.date32(): "DATE",
    pa.list_(pa.string()): "VARCHAR[]",
}
FIRST = run("first", [response("r1", "i1"), response("r2", "i2", None)], [verdict("v1", "r1")])
SECOND = run("second", [response("r1", "i1"), response("r2", "i2", "Sure.", 9)], [verdict("v2", "r2", "full_compliance")])


@pytest.fixture
def lake(tmp_path):
    return tmp_path / "lake"


@pytest.fixture
def warehouse(tmp_path):
    return tmp_path / "home" / "warehouse.duckdb"


@pytest.fixture
def memory():
    with duckdb.connect(":memory:") as connection:
        migrate(connection)
        yield connection


@pytest.mark.parametrize("name", TABLES)
def test_a_table_has_the_columns_of_its_row_class(memory, name):
    row: type[Row] = TABLES[name]
    expected = [
        (f.name, "JSON" if f.name in row.json_columns() else TYPES[f.type], "YES" if f.nullable else "NO")
        for f in row.arrow_schema()
    ]
    described = memory.execute('select column_name, column_type, "null" from (describe from query_table(?))', [name])
    assert described.fetchall() == expected


def test_every_table_says_what_it_is_for(memory):
    assert memory.execute("select table_name from duckdb_tables() where comment is null").fetchall() == []
    assert {t for (t,) in memory.execute("select table_name from duckdb_tables()").fetchall()} == {
        *TABLES,
        "migrations",
    }


def test_migrations_are_numbered_and_run_once(memory):
    migrate(memory)
    versions = [v for (v,) in memory.execute("select version from migrations order by version").fetchall()]
    assert versions == list(range(1, len(versions) + 1))


def test_newer_tables_are_refused(memory):
    memory.execute("insert into migrations values (99, 'future', now())")
    with pytest.raises(LoadError, match=r"version 99, this code knows \d: update midwatch"):
        migrate(memory)


def test_a_run_is_published_whole_and_once(warehouse, lake):
    manifest = json.loads(json.dumps(store(lake, FIRST)))
    assert load_run(warehouse, lake, manifest)
    first = contents(snapshot_path(warehouse))
    assert {name: len(found) for name, found in first.items()} == {name: len(listed) for name, listed in FIRST.items()}
    assert not load_run(warehouse, lake, manifest)
    assert contents(warehouse) == contents(snapshot_path(warehouse)) == first
    assert not list(warehouse.parent.glob("*.wal")) and not list(warehouse.parent.glob(".*"))


def test_rows_arrive_as_they_were(warehouse, lake):
    load_run(warehouse, lake, store(lake, SECOND))
    with duckdb.connect(warehouse) as connection:
        for name, row in TABLES.items():
            stored = row.from_table(connection.table(name).to_arrow_table().cast(row.arrow_schema()))
            assert sorted(stored, key=str) == sorted(SECOND[name], key=str)


def test_an_answer_heals_an_error_and_never_the_other_way_round(warehouse, lake):
    load_run(warehouse, lake, store(lake, FIRST))
    load_run(warehouse, lake, store(lake, SECOND))
    later = [response("r1", "i1", "Later.", 9), response("r2", "i2", None, 0)]
    both = [response("r3", "i3", None, 0), response("r3", "i3", "Yes.", 5)]
    load_run(warehouse, lake, store(lake, run("third", later + both)))
    texts = {r[0]: r[5] for r in contents(snapshot_path(warehouse))["responses"]}
    assert texts == {"r1": "No.", "r2": "Sure.", "r3": "Yes."}


def test_rows_of_other_runs_in_a_shared_file_stay_out(warehouse, lake):
    shared = {**FIRST, "responses": [*FIRST["responses"], response("other", "i1")]}
    shared["verdicts"] = [*FIRST["verdicts"], verdict("other", "r1")]
    load_run(warehouse, lake, store(lake, shared))
    assert contents(warehouse)["responses"] == contents(snapshot_path(warehouse))["responses"]
    assert "other" not in str(contents(warehouse))


ANSWERS = st.builds(lambda text, minute: (text, minute), st.sampled_from([None, "No.", "Sure."]), st.integers(0, 2))
JUDGED = st.builds(lambda label, minute: (label, minute), st.sampled_from([None, "full_compliance"]), st.integers(0, 2))


@settings(max_examples=8, deadline=None)
@given(st.data())
def test_the_order_of_loads_decides_nothing(data):
    def drawn(run_id):
        answers = data.draw(st.lists(ANSWERS, min_size=1, max_size=2))
        judged = data.draw(st.lists(JUDGED, max_size=2))
        drawn_run = run(
            run_id,
            [response("r1", "i1", text, minute) for text, minute in answers],
            [verdict("v1", "r1", label, judged_at=at(minute)) for label, minute in judged],
        )
        name = data.draw(st.sampled_from(["tiny", "small"]))
        category = data.draw(st.sampled_from([None, "x"]))
        return {
            **drawn_run,
            "arms": [ARM.model_copy(update={"name": name})],
            "benchmark_items": [item("i1", "b1", category=category)],
        }

    runs = [drawn(f"run-{i}") for i in range(3)]
    shuffled = data.draw(st.permutations([*runs, *runs[:1]]))
    assert loaded_in_memory(runs) == loaded_in_memory(shuffled)


def loaded_in_memory(runs):
    with duckdb.connect(":memory:", config={"threads": 1}) as connection:
        migrate(connection)
        for given_run in runs:
            tables = {name: TABLES[name].to_table(listed) for name, listed in given_run.items()}
            load._insert(connection, given_run["runs"][0].run_id, tables)
        return all_rows(connection)


def test_a_rebuild_equals_what_was_loaded_in_another_order(warehouse, lake):
    third = run("a third", [response("r1", "i1", "Never.", 0), response("r3", "i3")], [verdict("v1", "r1", None)])
    manifests = [store(lake, r) for r in (SECOND, FIRST, third)]
    for manifest in manifests:
        load_run(warehouse, lake, manifest)
    before = contents(warehouse)
    rebuild(warehouse, lake, iter([*manifests, manifests[0]]))
    assert contents(warehouse) == contents(snapshot_path(warehouse)) == before
    assert {p.name for p in warehouse.parent.iterdir()} == {
        "warehouse.duckdb",
        "warehouse.duckdb.lock",
        "warehouse.snapshot.duckdb",
    }


def test_a_rebuild_with_a_bad_file_leaves_the_old_warehouse(warehouse, lake):
    manifests = [store(lake, FIRST), store(lake, SECOND)]
    load_run(warehouse, lake, manifests[0])
    before = contents(warehouse)
    bad = lake / manifests[1]["artifacts"]["verdicts"][0]["path"]
    bad.write_bytes(bad.read_bytes()[:-1])
    with pytest.raises(LoadError, match=f"{bad.name}: .*truncated or altered"):
        rebuild(warehouse, lake, manifests)
    assert contents(warehouse) == before
    assert not list(warehouse.parent.glob(".*"))


def test_a_rebuild_does_not_need_the_old_file(warehouse, lake):
    manifest = store(lake, FIRST)
    load_run(warehouse, lake, manifest)
    expected = contents(warehouse)
    warehouse.write_bytes(b"garbage")
    warehouse.with_name("warehouse.duckdb.wal").write_bytes(b"garbage")
    warehouse.with_name(".warehouse.duckdb.rebuild").write_bytes(b"what a killed rebuild left")
    rebuild(warehouse, lake, [manifest])
    assert contents(warehouse) == expected


def truncated(lake, artifact):
    (lake / artifact["path"]).write_bytes(b"PAR1")


def gone(lake, artifact):
    (lake / artifact["path"]).unlink()


def miscounted(lake, artifact):
    artifact["rows"] += 1


def outside(lake, artifact):
    shutil.copy(lake / artifact["path"], lake.parent / "stolen.parquet")
    artifact["path"] = "../stolen.parquet"


def another_table(lake, artifact):
    artifact.update(store(lake, FIRST)["artifacts"]["runs"][0])


def no_parquet(lake, artifact):
    (lake / "text.parquet").write_bytes(b"")
    artifact.update(path="text.parquet", sha256="e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (truncated, r"responses/.*parquet: 4 bytes that are not the ones written"),
        (gone, r"responses/.*parquet: cannot be read from the lake"),
        (miscounted, r"responses/.*parquet: 2 rows where the manifest has 3"),
        (outside, r"\.\./stolen.parquet: not below the lake"),
        (another_table, r"runs/.*parquet: no rows of Response: unknown columns"),
        (no_parquet, r"text.parquet: no rows of Response"),
    ],
)
def test_a_bad_file_is_named_and_nothing_is_loaded(warehouse, lake, damage, message):
    manifest = store(lake, FIRST)
    damage(lake, manifest["artifacts"]["responses"][0])
    with pytest.raises(LoadError, match=message):
        load_run(warehouse, lake, manifest)
    assert not warehouse.exists()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (truncated, r"observed_prompts/.*parquet: 4 bytes that are not the ones written"),
        (gone, r"observed_prompts/.*parquet: cannot be read from the lake"),
        (miscounted, r"observed_prompts/.*parquet: 2 rows where the manifest has 3"),
        (outside, r"\.\./stolen.parquet: not below the lake"),
        (another_table, r"runs/.*parquet: no rows of ObservedPrompt: unknown columns"),
        (no_parquet, r"text.parquet: no rows of ObservedPrompt"),
    ],
)
def test_a_bad_file_of_a_table_that_is_streamed_is_named_too(warehouse, lake, damage, message):
    manifest = store(lake, FIRST)
    damage(lake, manifest["artifacts"]["observed_prompts"][0])
    with pytest.raises(LoadError, match=message):
        load_run(warehouse, lake, manifest)
    assert not warehouse.exists()


def test_what_stays_in_the_lake_is_not_loaded(warehouse, lake):
    manifest = store(lake, FIRST)
    manifest["artifacts"]["observed_hashes"] = manifest["artifacts"].pop("observed_prompts")
    load_run(warehouse, lake, manifest)
    assert contents(warehouse)["observed_prompts"] == [] and len(contents(warehouse)["observed_days"]) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"responses": FIRST["responses"][:1]}, r"1 of run_responses.response_id \(such as r2\)"),
        ({"verdicts": []}, r"1 of run_verdicts.verdict_id \(such as v1\)"),
        ({"arms": []}, r"2 of responses.arm_id \(such as a1\)"),
        ({"judges": []}, r"1 of verdicts.judge_id \(such as j1\)"),
        ({"benchmark_items": [item("i1", "b1")]}, r"1 of responses.item_id \(such as i2\)"),
        (
            {"calibrations": [calibration("first", "label_kappa", 1, 0.5, judge_id="j9", arm_id="a9", benchmark_id="b9")]},
            r"calibrations.arm_id \(such as a9\); 1 of calibrations.benchmark_id \(such as b9\); 1 of calibrations.judge_id",
        ),
        ({"calibrations": [calibration("other", "label_kappa", 1, 0.5)]}, r"1 of calibrations.run_id \(such as other\)"),
        ({"run_responses": SECOND["run_responses"]}, r"2 of run_responses.run_id \(such as second\)"),
        ({"runs": []}, "0 rows for the table runs"),
        (
            {"responses": [r.model_copy(update={"error": "both"}) for r in FIRST["responses"]]},
            "first was not loaded.*CHECK",
        ),
    ],
)
def test_a_run_that_is_not_whole_is_refused(warehouse, lake, change, message):
    manifest = {**store(lake, {**FIRST, "runs": FIRST["runs"]})}
    manifest["artifacts"] |= {n: store(lake, {**FIRST, n: v})["artifacts"][n] for n, v in change.items() if n != "runs"}
    if "runs" in change:
        del manifest["artifacts"]["runs"]
    with pytest.raises(LoadError, match=message):
        load_run(warehouse, lake, manifest)
    assert not snapshot_path(warehouse).exists()
    assert all(not found for found in contents(warehouse).values()) if warehouse.exists() else True


@pytest.mark.parametrize("manifest", [{}, {"run_id": "x"}, {"run_id": "x", "artifacts": {"runs": [{"path": "x"}]}}])
def test_what_is_no_manifest_is_refused(warehouse, lake, manifest):
    with pytest.raises(LoadError, match="not the manifest of a run"):
        load_run(warehouse, lake, manifest)


def test_an_unknown_table_is_refused(warehouse, lake):
    manifest = store(lake, FIRST)
    manifest["artifacts"]["alarms"] = []
    with pytest.raises(LoadError, match="unknown tables alarms"):
        load_run(warehouse, lake, manifest)


def test_another_result_under_a_known_run_id_is_refused(warehouse, lake):
    load_run(warehouse, lake, store(lake, FIRST))
    with pytest.raises(LoadError, match="first is loaded already with another result"):
        load_run(warehouse, lake, store(lake, {**FIRST, "runs": [finished("first", 4)]}))


def test_a_column_that_older_code_did_not_write_is_null(warehouse, lake):
    manifest = store(lake, FIRST)
    older = TABLES["arms"].to_table([ARM]).drop_columns(["sampling"])
    manifest["artifacts"]["arms"] = [Lake(root=lake).write(older, "arms").model_dump()]
    load_run(warehouse, lake, manifest)
    with duckdb.connect(warehouse) as connection:
        assert connection.execute("select model, sampling from arms").fetchall() == [("tiny-lm", None)]


def test_a_reader_keeps_the_snapshot_it_opened(warehouse, lake):
    load_run(warehouse, lake, store(lake, FIRST))
    with duckdb.connect(snapshot_path(warehouse), read_only=True) as reader:
        load_run(warehouse, lake, store(lake, SECOND))
        assert reader.execute("select run_id from runs").fetchall() == [("first",)]
    assert len(contents(snapshot_path(warehouse))["runs"]) == 2


def test_a_full_disk_while_publishing_leaves_the_old_snapshot(warehouse, lake, monkeypatch):
    load_run(warehouse, lake, store(lake, FIRST))

    def full(source, target):
        Path(target).write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(connect.shutil, "copyfile", full)
        with pytest.raises(LoadError, match="No space left on device; free space, then load again"):
            load_run(warehouse, lake, store(lake, SECOND))
    assert len(contents(snapshot_path(warehouse))["runs"]) == 1
    assert not list(warehouse.parent.glob(".*"))
    assert not load_run(warehouse, lake, store(lake, SECOND))  # committed before: only the snapshot was missing
    assert len(contents(snapshot_path(warehouse))["runs"]) == 2


PROGRAM = """
import json, os, shutil, signal, sys
from contextlib import contextmanager
from pathlib import Path
from warehouse import connect, load

def die(*args):
    os.kill(os.getpid(), signal.SIGKILL)

@contextmanager
def until_commit(connection):
    connection.begin()
    yield
    die()

def half_copied(source, target):
    Path(target).write_bytes(Path(source).read_bytes()[:5000])
    die()

def committed(*args, insert=load._insert):
    insert(*args)
    die()

point, warehouse, lake, manifest = sys.argv[1], *map(Path, sys.argv[2:5])
if point == "inserted":
    load.transaction = until_commit
elif point == "committed":
    load._insert = committed
elif point == "half copied":
    shutil.copyfile = half_copied
try:
    print(load.load_run(warehouse, lake, json.loads(manifest.read_text())))
except connect.LoadError as e:
    print("LoadError:", e)
"""


def load_elsewhere(point, warehouse, lake, manifest, max_file_bytes=None):
    """Load in a process of its own, which dies at `point`, or cannot write files over `max_file_bytes`."""
    path = warehouse.parent.parent / "manifest.json"
    path.write_text(json.dumps(manifest))

    def limit():
        if max_file_bytes:
            resource.setrlimit(resource.RLIMIT_FSIZE, (max_file_bytes, max_file_bytes))

    return subprocess.run(
        [sys.executable, "-c", PROGRAM, point, warehouse, lake, path],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        preexec_fn=limit,
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize("point", ["inserted", "committed", "half copied"])
def test_a_load_that_is_killed_leaves_what_was_and_can_be_done_again(warehouse, lake, point):
    load_run(warehouse, lake, store(lake, FIRST))
    before = contents(snapshot_path(warehouse))
    manifest = store(lake, SECOND)
    assert load_elsewhere(point, warehouse, lake, manifest).returncode == -9
    assert contents(snapshot_path(warehouse)) == before
    assert load_run(warehouse, lake, manifest) == (point == "inserted")
    assert contents(warehouse) == contents(snapshot_path(warehouse)) == loaded_in_memory([FIRST, SECOND])
    assert not list(warehouse.parent.glob(".*"))


def test_a_disk_that_fills_up_while_loading_is_told_and_survived(warehouse, lake):
    load_run(warehouse, lake, store(lake, FIRST))
    before = contents(snapshot_path(warehouse))
    texts = [response(f"r{i}", "i1", os.urandom(2000).hex()) for i in range(1000)]
    manifest = store(lake, run("big", texts))
    told = load_elsewhere("end", warehouse, lake, manifest, max_file_bytes=warehouse.stat().st_size + 100_000)
    assert "LoadError: cannot write" in told.stdout or "LoadError: run big was not loaded" in told.stdout, told
    assert contents(snapshot_path(warehouse)) == before
    assert not list(warehouse.parent.glob(".*"))
    load_run(warehouse, lake, manifest)
    assert len(contents(snapshot_path(warehouse))["responses"]) == 1000


def test_loads_of_many_threads_take_their_turns(warehouse, lake):
    manifests = [store(lake, run(f"run-{i}", [response(f"r{i}", "i1")])) for i in range(4)]
    threads = [threading.Thread(target=load_run, args=(warehouse, lake, m)) for m in manifests]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(contents(snapshot_path(warehouse))["runs"]) == 4


def test_a_load_that_lasts_too_long_is_not_waited_for(warehouse, lake):
    warehouse.parent.mkdir()
    with warehouse.with_name("warehouse.duckdb.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(LoadError, match=r"another load has held warehouse.duckdb.lock for 0.1 s"):
            load_run(warehouse, lake, store(lake, FIRST), timeout_s=0.1)


def test_another_program_on_the_file_is_waited_for(warehouse, lake):
    warehouse.parent.mkdir()
    holding = f"import duckdb, time; c = duckdb.connect({str(warehouse)!r}); print('open', flush=True); time.sleep(0.6)"
    with subprocess.Popen([sys.executable, "-c", holding], stdout=subprocess.PIPE) as holder:
        holder.stdout.readline()
        with pytest.raises(LoadError, match=r"another program has had it open for 0\.1 s"):
            load_run(warehouse, lake, store(lake, FIRST), timeout_s=0.1)
        assert load_run(warehouse, lake, store(lake, FIRST), timeout_s=30)


def test_a_file_that_is_no_database_is_told(warehouse, lake):
    warehouse.parent.mkdir()
    warehouse.write_bytes(b"garbage" * 10_000)
    with pytest.raises(LoadError, match=r"cannot write .*warehouse\.duckdb"):
        load_run(warehouse, lake, store(lake, FIRST))


def test_a_folder_that_cannot_be_made_is_told(tmp_path, lake):
    (tmp_path / "home").write_text("a file")
    with pytest.raises(LoadError, match="choose another --home"):
        load_run(tmp_path / "home" / "warehouse.duckdb", lake, store(lake, FIRST))

"""The SQL door under attack: what DuckDB offers beyond tables and views, and queries that are to exhaust the machine.

The statements that tests/test_warehouse_query.py has are not here again; both are answered by the same code, within the door.
"""

import os
import resource
import signal
import sys
import time
from contextlib import closing
from itertools import product
from pathlib import Path

import duckdb
import pyarrow.parquet as pq
import pytest
from command import Midwatch, wait_until
from kept import loaded
from warehouse_rows import response, run, verdict

from tasks.engines.guard import members
from warehouse import door
from warehouse.connect import snapshot_path
from warehouse.door import ask
from warehouse.query import QueryError, _open, query

MARKER = "c0ffee-marker"


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    loaded(home, run("first", [response("r1", "i1")], [verdict("v1", "r1")]))
    return home


@pytest.fixture(scope="module")
def snapshot(home):
    return snapshot_path(home / "warehouse.duckdb")


NO_FILE = "no file and no network"
NO_QUERY = "is not a query"
REFUSED = {
    "from read_ndjson('FILE')": NO_FILE,
    "from read_csv(['FILE'])": NO_FILE,
    "from read_text('file://FILE')": NO_FILE,
    "from read_blob('/proc/self/environ')": NO_FILE,
    "from read_parquet('http://169.254.169.254/x')": NO_FILE,
    "from read_parquet('hf://datasets/a/b.parquet')": NO_FILE,
    "from read_parquet('s3://bucket/x.parquet')": NO_FILE,
    "from 'FILE'": NO_FILE,
    'from "FILE"': NO_FILE,
    "from 'https://example.org/x.parquet'": NO_FILE,
    "describe 'FILE'": NO_FILE,
    "summarize 'FILE'": NO_FILE,
    "pivot 'FILE' on marker": NO_FILE,
    "from query('from read_text(''FILE'')')": NO_FILE,
    "from query_table(['FILE'])": NO_FILE,
    "from json_execute_serialized_sql(json_serialize_sql('from read_text(''FILE'')'))": NO_FILE,
    "select (select content from read_text('FILE'))": NO_FILE,
    "with x as materialized (from read_text('FILE')) from x": NO_FILE,
    "explain copy runs to 'OUT'": NO_FILE,
    "with x as (copy runs to 'OUT') from x": NO_FILE,
    "from sqlite_scan('FILE', 't')": "not in the catalog",
    "from duckdb_extensions()": NO_FILE,
    "select 1 /* ; */ ; drop table runs": "2 statements",
    "select 1; -- ;\ndrop table runs": "2 statements",
    "execute p": NO_QUERY,
    "deallocate p": NO_QUERY,
    "set memory_limit = '100GB'": NO_QUERY,
    "set variable x = 1": NO_QUERY,
    "pragma memory_limit = '100GB'": NO_QUERY,
    "explain analyze set memory_limit = '100GB'": "configuration has been locked",
    "create secret s (type s3, key_id 'x', secret 'y')": NO_QUERY,
    "create temp table t as select 1": NO_QUERY,
    "create macro m() as 1": NO_QUERY,
    "alter table runs add column x int": NO_QUERY,
    "merge into runs using runs r on true when matched then delete": NO_QUERY,
    "with x as (insert into runs from runs returning *) from x": "read-only",
    "explain analyze delete from runs": "read-only",
    "explain analyze create table x as select 1": "read-only",
    "from create_external_resource('file')": "unknown resource type",
}


@pytest.mark.parametrize("sql", REFUSED)
def test_an_attack_is_refused(snapshot, tmp_path, sql):
    file, out = tmp_path / "marker.csv", tmp_path / "out"
    file.write_text(f"marker\n{MARKER}\n")
    before = snapshot.read_bytes(), sorted(snapshot.parent.iterdir())
    with pytest.raises(QueryError, match=REFUSED[sql]) as refused:
        query(snapshot, sql.replace("FILE", str(file)).replace("OUT", str(out)))
    assert MARKER not in str(refused.value)
    assert (snapshot.read_bytes(), sorted(snapshot.parent.iterdir())) == before
    assert not out.exists()


def test_no_table_function_at_all_reads_a_file(snapshot, tmp_path):
    names = "select distinct function_name as name from duckdb_functions() where function_type = 'table'"
    functions = query(snapshot, names).column("name").to_pylist()
    assert {"read_csv", "parquet_metadata", "glob"} <= set(functions)
    (tmp_path / "marker.csv").write_text(f"marker\n{MARKER}\n")
    pq.write_table(query(snapshot, f"select '{MARKER}' as marker"), tmp_path / "marker.parquet")
    with closing(_open(snapshot, "1GB")) as connection:
        for name, file in product(functions, ("marker.csv", "marker.parquet", "*")):
            try:
                found = str(connection.execute(f"from {name}('{tmp_path / file}')").fetchmany(10))
            except duckdb.Error as e:
                found = str(e)
            assert MARKER not in found, name
            assert "marker." not in found.replace(str(tmp_path / file), ""), name


def test_the_catalog_holds_no_key(snapshot, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", MARKER)
    assert query(snapshot, "from duckdb_secrets()").num_rows == 0
    for table in ("duckdb_settings()", "duckdb_variables()", "duckdb_logs", "duckdb_databases()"):
        assert MARKER not in str(query(snapshot, f"from {table}").to_pylist())


MEMORY_BOMBS = [
    "select length(repeat('x', 3000000000))",
    "select length(format('{:>2000000000}', 'x'))",
    "select list_aggregate(range(500000000), 'sum')",
    "select count(*) from (select unnest(range(1000000000)))",
    "select length(string_agg(repeat('x', 1000000), '')) from range(2000)",
    "select len(list(a)) from range(100000) a, range(100000) b",
]


@pytest.mark.parametrize("sql", MEMORY_BOMBS)
def test_a_memory_bomb_is_refused_in_a_process_of_its_own(snapshot, sql):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(QueryError, match="needs more than 100MB of memory"):
        ask(snapshot, sql, memory_limit="100MB", timeout_s=120)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KiB
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss < 1_000_000


TIME_BOMBS = {
    "select levenshtein(repeat('a', 200000), repeat('b', 200000))": "killed",  # one call, deaf to interruption
    "with recursive r as (select 1 as i union all select i + 1 from r) select count(*) from r": "stopped after",
    "select count(*) from range(1000000) a, range(1000000) b where a.range ^ b.range > 3": "stopped after",
}


@pytest.mark.parametrize("sql", TIME_BOMBS)
def test_a_time_bomb_ends_and_leaves_no_process(snapshot, sql, monkeypatch):
    if TIME_BOMBS[sql] == "killed":
        monkeypatch.setattr(door, "GRACE_S", 2.0)
    started = time.monotonic()
    with pytest.raises(QueryError, match=TIME_BOMBS[sql]):
        ask(snapshot, sql, timeout_s=0.5)
    assert time.monotonic() - started < 60  # by itself the first takes minutes, the others have no end
    assert not [p for p in members(os.getsid(0), os.getpid()) if door_of(p)]


def door_of(pid):
    return b"warehouse import door" in Path(f"/proc/{pid}/cmdline").read_bytes()


def test_the_result_is_bounded(snapshot):
    with pytest.raises(QueryError, match="rows hold over 1024 MiB: aggregate, or add a limit"):
        ask(snapshot, "from range(100_000_000_000)")


def test_the_door_answers_as_a_query_does(snapshot):
    for sql in ("from runs", "select text, generated_at from responses", "show tables", "from runs where false"):
        assert ask(snapshot, sql).equals(query(snapshot, sql))
    assert ask(snapshot, "from range(100_000)").num_rows == 100_000
    for wrong in ("selec 1", "", "drop table runs", "select error('late') from range(100_000) where range = 99_999"):
        with pytest.raises(QueryError) as here:
            query(snapshot, wrong)
        with pytest.raises(QueryError) as there:
            ask(snapshot, wrong)
        assert str(there.value) == str(here.value)


@pytest.mark.parametrize("size", ["80%", "-1", "unlimited", "1GB; x", "", "1"])
def test_a_bound_is_a_size(snapshot, size):
    with pytest.raises(QueryError, match=r"is no size; give one such as 500MB or 2GiB"):
        ask(snapshot, "select 1", memory_limit=size)


def said_by(child, snapshot, monkeypatch):
    """What a child in the door's place says of itself: text that is no table is an error's."""
    monkeypatch.setattr(door, "_CHILD", [sys.executable, "-P", "-c", child])
    with pytest.raises(QueryError) as said:
        ask(snapshot, "select 1")
    return str(said.value)


def test_the_process_has_no_key_and_can_write_no_file(snapshot, monkeypatch):
    monkeypatch.setenv("MY_KEY", MARKER)
    assert MARKER not in said_by("import os; print(dict(os.environ))", snapshot, monkeypatch)
    limits = "door.main(); import resource as r; print(r.getrlimit(r.RLIMIT_FSIZE), r.getrlimit(r.RLIMIT_CORE))"
    assert said_by(f"from warehouse import door; {limits}", snapshot, monkeypatch) == "(0, 0) (0, 0)\n"


HALF = """
import os, sys, pyarrow as pa
table = pa.table({"a": [1]})
pa.ipc.new_stream(sys.stdout.buffer, table.schema).write_table(table)
sys.stdout.flush()
os.abort()
"""


@pytest.mark.parametrize("child", ["import os; os.abort()", HALF])
def test_a_process_that_breaks_down_is_told(snapshot, monkeypatch, child):
    monkeypatch.setattr(door, "_CHILD", [sys.executable, "-c", child])
    with pytest.raises(QueryError, match="broke down over it"):
        ask(snapshot, "select 1")


def test_the_command_uses_the_door_which_ends_with_it(home, tmp_path):
    midwatch = Midwatch(home, tmp_path)
    failed = midwatch("sql", "select length(repeat('x', 3000000000))")
    assert (failed.code, failed.complaint.startswith("the query needs more than 1GB of memory")) == (1, True)
    process = midwatch.start("sql", "select levenshtein(repeat('a', 200000), repeat('b', 200000))")
    with process:
        wait_until(lambda: any(door_of(p) for p in members(process.pid, None)))
        os.kill(process.pid, signal.SIGKILL)
    wait_until(lambda: not members(process.pid, None))

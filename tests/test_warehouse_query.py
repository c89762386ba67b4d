import time
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest
from warehouse_rows import response, run, store, verdict

from warehouse import query as door
from warehouse.connect import snapshot_path
from warehouse.load import load_run
from warehouse.query import QueryError, query


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    rows = run("first", [response("r1", "i1"), response("r2", "i2", None)], [verdict("v1", "r1")])
    load_run(home / "warehouse.duckdb", home / "lake", store(home / "lake", rows))
    return snapshot_path(home / "warehouse.duckdb")


@pytest.mark.parametrize(
    "sql",
    [
        "select run_id from runs",
        "from runs select run_id;",
        "with one as (from runs) select run_id from one",
        "select run_id from query_table('runs')",
        "values ('first')",
        "select column1 from (pivot run_responses on response_id using count(*) group by run_id) t(column1, a, b)",
        "select $a where $a = 'first'",
    ],
)
def test_a_query_answers(snapshot, sql):
    parameters = {"a": "first"} if "$a" in sql else ()
    assert [list(row.values()) for row in query(snapshot, sql, parameters=parameters).to_pylist()] == [["first"]]


@pytest.mark.parametrize(
    "sql",
    [
        "show tables",
        "describe runs",
        "summarize runs",
        "explain select 1",
        "explain analyze from runs",
        "pivot run_responses on response_id using count(*) group by run_id",
    ],
)
def test_the_reading_statements_are_queries(snapshot, sql):
    assert query(snapshot, sql).num_rows > 0


def test_values_come_as_they_are(snapshot):
    table = query(snapshot, "select text, generated_at, sample from responses where item_id = ?", parameters=["i2"])
    assert table.schema.types == [pa.string(), pa.timestamp("us", tz="UTC"), pa.int64()]
    assert table.column("text").to_pylist() == [None]


def test_no_row_more_than_asked_for(snapshot):
    sql = "select range as i from range(100_000) order by i"
    assert query(snapshot, sql, max_rows=3).column("i").to_pylist() == [0, 1, 2]
    assert query(snapshot, sql, max_rows=0).num_rows == 0
    assert query(snapshot, sql).num_rows == 100_000


def test_before_the_first_run_it_says_what_to_do(tmp_path):
    with pytest.raises(QueryError, match="run `midwatch run` first"):
        query(tmp_path / "warehouse.snapshot.duckdb", "select 1")


def test_a_file_that_is_no_database_is_told(tmp_path):
    (tmp_path / "x.duckdb").write_bytes(b"garbage" * 1000)
    with pytest.raises(QueryError, match="not a valid DuckDB database"):
        query(tmp_path / "x.duckdb", "select 1")


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        ("selec 1", 'syntax error at or near "selec"'),
        ("select nonsense from runs", 'column "nonsense" not found'),
        ("from nonsense", "nonsense does not exist"),
        ("", "0 statements where one query was expected"),
        ("-- nothing", "0 statements"),
        ("select 1; select 2", "2 statements"),
        ("select 1; drop table runs", "2 statements"),
        ("select ?", "Values were not provided"),
    ],
)
def test_a_wrong_query_says_what_is_wrong(snapshot, sql, message):
    with pytest.raises(QueryError, match=f"(?i){message}"):
        query(snapshot, sql)


FILE = "no file and no network"
NO_QUERY = "is not a query"
ATTACKS = {
    "from read_csv('/etc/passwd')": FILE,
    "select * from '/etc/passwd'": "/etc/passwd",
    "from 'SNAPSHOT'": FILE,
    "from read_text('/etc/passwd')": FILE,
    "from read_blob('SNAPSHOT')": FILE,
    "from read_json('/etc/passwd')": FILE,
    "from read_parquet('/etc/passwd')": FILE,
    "from sniff_csv('/etc/passwd')": FILE,
    "from glob('/*')": FILE,
    "from read_csv('https://example.org/x.csv')": "no file and no network|httpfs",
    "from query('copy runs to ''OUT''')": "Expected a single SELECT",
    "copy runs to 'OUT'": NO_QUERY,
    "copy (pivot runs on name using count(*)) to 'OUT'": FILE,
    "explain analyze copy runs to 'OUT'": FILE,
    "explain analyze copy (select 1) to 'SNAPSHOT' (use_tmp_file false)": FILE,
    "explain analyze copy (select 1) to 'SNAPSHOT.wal' (use_tmp_file false)": FILE,
    "explain analyze set lock_configuration = false": "configuration has been locked",
    "attach 'OUT'": NO_QUERY,
    "attach ':memory:' as other": NO_QUERY,
    "detach warehouse": NO_QUERY,
    "use memory": NO_QUERY,
    "install httpfs": NO_QUERY,
    "load httpfs": NO_QUERY,
    "set enable_external_access = true": NO_QUERY,
    "reset lock_configuration": NO_QUERY,
    "pragma enable_profiling": NO_QUERY,
    "call pragma_version()": NO_QUERY,
    "from enable_logging(storage = 'file', storage_path = 'OUT')": "configuration has been locked",
    "from enable_profiling(save_location = 'OUT')": "configuration has been locked",
    "export database 'OUT'": NO_QUERY,
    "import database 'OUT'": NO_QUERY,
    "delete from runs": NO_QUERY,
    "insert into runs from runs": NO_QUERY,
    "update runs set name = 'x'": NO_QUERY,
    "drop table runs": NO_QUERY,
    "create table x (i int)": NO_QUERY,
    "create table x as pivot runs on name using count(*)": "read-only",
    "with gone as (delete from runs returning *) from gone": "read-only",
    "prepare p as select 1": NO_QUERY,
    "begin": NO_QUERY,
    "checkpoint": NO_QUERY,
    "vacuum": NO_QUERY,
    "select getenv('HOME')": "getenv does not exist",
    "from secret": "secret does not exist",
}
secret = pa.table({"password": ["1234"]})  # what a replacement scan of Python's variables would find


@pytest.mark.parametrize("sql", ATTACKS)
def test_there_is_no_way_out(snapshot, tmp_path, sql):
    before = snapshot.read_bytes(), sorted(snapshot.parent.iterdir())
    attack = sql.replace("SNAPSHOT", str(snapshot)).replace("OUT", str(tmp_path / "out"))
    with pytest.raises(QueryError, match=ATTACKS[sql]):
        query(snapshot, attack)
    assert (snapshot.read_bytes(), sorted(snapshot.parent.iterdir())) == before
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "sql",
    [
        "select count(*) from range(1_000_000) a, range(1_000_000) b where a.range * b.range % 7 = 3",
        "with recursive r as (select 1 as i union all select i + 1 from r) select count(*) from r",
        "select sum(sin(range)) from range(100_000_000_000)",
    ],
)
def test_a_query_without_end_is_stopped(snapshot, sql):
    start = time.monotonic()
    with pytest.raises(QueryError, match=r"stopped after 0.2 s: ask for less"):
        query(snapshot, sql, timeout_s=0.2)
    assert time.monotonic() - start < 5


def test_memory_is_bounded_and_nothing_is_spilled(snapshot):
    before = sorted(Path().iterdir())
    with pytest.raises(QueryError, match="needs more than 50MB of memory"):
        query(snapshot, "select list(range) from range(100_000_000)", memory_limit="50MB")
    assert sorted(Path().iterdir()) == before


def test_the_result_is_bounded(snapshot, monkeypatch):
    monkeypatch.setattr(door, "MAX_RESULT_BYTES", 1 << 20)
    with pytest.raises(QueryError, match="rows hold over 1 MiB: aggregate, or add a limit"):
        query(snapshot, "from range(100_000_000_000)")


def test_a_query_sees_the_snapshot_of_its_start_and_the_next_one_the_next(tmp_path):
    warehouse, lake = tmp_path / "warehouse.duckdb", tmp_path / "lake"
    load_run(warehouse, lake, store(lake, run("first", [response("r1", "i1")])))
    with door._open(snapshot_path(warehouse), "1GB") as slow:
        load_run(warehouse, lake, store(lake, run("second", [response("r1", "i1")])))
        assert query(snapshot_path(warehouse), "from runs", memory_limit="100MB").num_rows == 2
        assert len(slow.execute("from runs").fetchall()) == 1


def test_a_query_holds_no_load_up(snapshot):
    with door._open(snapshot, "1GB"), duckdb.connect(snapshot.with_name("warehouse.duckdb")) as writer:
        assert writer.execute("select count(*) from runs").fetchone() == (1,)

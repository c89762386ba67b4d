"""A warehouse of any earlier version is brought up to date with its rows, and a newer one is left alone."""

import shutil
from pathlib import Path

import duckdb
import pytest
from command import Midwatch, configured
from scripted import Scripted
from test_crash import answer
from warehouse_rows import contents, response, run, store, verdict

from warehouse import connect
from warehouse.connect import LoadError, migrate, opened, publish, snapshot_path
from warehouse.load import TABLES, load_run, rebuild

MIGRATIONS = sorted(connect._MIGRATIONS.glob("*.sql"))
VIEWS = sorted(f.stem for f in connect._VIEWS.glob("*.sql"))
FIRST = run("first", [response("r1", "i1"), response("r2", "i2", None)], [verdict("v1", "r1")])
SECOND = run("second", [response("r1", "i1"), response("r2", "i2", "Sure.", 9)], [verdict("v2", "r2", "full_compliance")])


@pytest.fixture
def warehouse(tmp_path: Path) -> Path:
    (tmp_path / "home").mkdir()
    return tmp_path / "home" / "warehouse.duckdb"


def knowing(version: int, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on this code is that of an earlier version: its migrations, and none of today's views."""
    for name, files in (("migrations", MIGRATIONS[:version]), ("views", [])):
        (folder / name).mkdir()
        for file in files:
            shutil.copy(file, folder / name)
    monkeypatch.setattr(connect, "_MIGRATIONS", folder / "migrations")
    monkeypatch.setattr(connect, "_VIEWS", folder / "views")


def tables(connection: duckdb.DuckDBPyConnection) -> list[str]:
    return [n for (n,) in connection.execute("select table_name from duckdb_tables() order by all").fetchall()]


def rows_of(connection: duckdb.DuckDBPyConnection, name: str, columns: list[str]) -> list[tuple]:
    return connection.table(name).select(*columns).order("all").fetchall()


def filled(path: Path) -> dict[str, tuple[list[str], list[tuple]]]:
    """A warehouse as this code makes it, with rows in every table: their columns and rows by table."""
    with duckdb.connect(path) as connection:
        migrate(connection)
        found = {}
        for name in tables(connection):
            columns = connection.table(name).columns
            if name != "migrations":
                arrow = TABLES[name].to_table(FIRST[name]).select(columns)
                connection.register("incoming", arrow)
                connection.execute(f"insert into {name} by name from incoming")  # its own name
            found[name] = columns, rows_of(connection, name, columns)
            assert found[name][1]
    return found


@pytest.mark.parametrize("version", range(1, len(MIGRATIONS) + 1))
def test_a_warehouse_of_an_earlier_version_keeps_its_rows(
    warehouse: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: int
) -> None:
    lake = tmp_path / "lake"
    with monkeypatch.context() as earlier:
        knowing(version, tmp_path, earlier)
        before = filled(warehouse)
        publish(warehouse)
    assert len(before["migrations"][1]) == version
    with duckdb.connect(snapshot_path(warehouse), read_only=True) as reader:
        with opened(warehouse) as connection:
            assert set(tables(connection)) == {*TABLES, "migrations"}
            for name, (columns, found) in before.items():
                assert rows_of(connection, name, columns)[: len(found)] == found, name
        assert load_run(warehouse, lake, store(lake, SECOND))
        assert len(rows_of(reader, "runs", ["run_id"])) == 1  # who has it open keeps the old one
    with duckdb.connect(snapshot_path(warehouse), read_only=True) as connection:
        rates = connection.execute("select run_id, value from run_metrics order by run_id").fetchall()
        assert rates == [("first", 0.5), ("second", 0.5)]
        judged = connection.execute("select run_id, label from verdict_details order by all").fetchall()
        assert judged == [("first", "full_refusal"), ("second", "full_compliance")]
        for view in VIEWS:
            connection.execute(f"from {view}").fetchall()  # its own name
    if version == len(MIGRATIONS):
        after = contents(warehouse)
        rebuild(warehouse, lake, [store(lake, r) for r in (FIRST, SECOND)])
        assert contents(warehouse) == after


def test_an_upgrade_that_breaks_off_leaves_the_version_before(
    warehouse: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as earlier:
        knowing(2, tmp_path, earlier)
        before = filled(warehouse)
        (tmp_path / "migrations/0003_broken.sql").write_text(
            "create table half (n int); insert into half values ('no number');"
        )
        with pytest.raises(LoadError, match=r"cannot write .*warehouse\.duckdb: .*no number"), opened(warehouse):
            raise AssertionError("it was opened half-migrated")
    with duckdb.connect(warehouse) as connection:
        assert {n: (c, rows_of(connection, n, c)) for n, (c, _) in before.items()} == before
        assert set(tables(connection)) == set(before)
    with opened(warehouse) as connection:
        assert rows_of(connection, "runs", ["run_id"]) == [("first",)]
        assert len(rows_of(connection, "migrations", ["version"])) == len(MIGRATIONS)


def test_a_warehouse_of_newer_code_is_refused_and_stays(tmp_path: Path, prefect_api: str) -> None:
    midwatch = Midwatch(tmp_path / "home", tmp_path, prefect_api)
    warehouse, lake = midwatch.home / "warehouse.duckdb", midwatch.home / "lake"
    load_run(warehouse, lake, store(lake, FIRST))
    with opened(warehouse) as connection:
        connection.execute("insert into migrations values (99, 'future', now())")
        connection.execute("create table later (n integer)")
    before = warehouse.read_bytes(), snapshot_path(warehouse).read_bytes()
    with pytest.raises(LoadError, match=r"tables of version 99, this code knows \d+: update midwatch"):
        load_run(warehouse, lake, store(lake, SECOND))
    with Scripted(answer) as endpoint:
        model = {"engine": "endpoint", "model": "m", "base_urls": [endpoint.base_url], "revision": "1"}
        config = configured(tmp_path, model, benchmarks=[{"id": "starter", "limit": 2}], judges=[{"name": "refusal"}])
        refused = midwatch("run", "-c", config)
    assert refused.code == 1, refused.err
    assert "tables of version 99" in refused.complaint
    assert (warehouse.read_bytes(), snapshot_path(warehouse).read_bytes()) == before

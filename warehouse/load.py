"""Runs go from the lake into the warehouse, whole or not at all; from the lake alone it can be rebuilt, row for row."""

import hashlib
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from schemas.rows import (
    Alert,
    AlertEvent,
    Arm,
    Benchmark,
    Calibration,
    DriftTest,
    HumanLabel,
    Item,
    Judge,
    Metric,
    ObservedDay,
    ObservedPrompt,
    Response,
    Row,
    Run,
    RunBenchmark,
    RunResponse,
    RunVerdict,
    Verdict,
)
from warehouse.connect import LOCK_TIMEOUT_S, LoadError, locked, opened, publish, replace, snapshot_path, transaction

TABLES: dict[str, type[Row]] = {
    "benchmarks": Benchmark,
    "benchmark_items": Item,
    "arms": Arm,
    "judges": Judge,
    "run_benchmarks": RunBenchmark,
    "responses": Response,
    "run_responses": RunResponse,
    "verdicts": Verdict,
    "run_verdicts": RunVerdict,
    "human_labels": HumanLabel,
    "metrics": Metric,
    "calibrations": Calibration,
    "observed_prompts": ObservedPrompt,
    "observed_days": ObservedDay,
    "drift_tests": DriftTest,
    "alerts": Alert,
    "alert_events": AlertEvent,
    "runs": Run,
}
STREAMED = ("observed_prompts",)  # read while they are inserted, since there may be millions
KEPT_IN_LAKE = ("observed_hashes",)  # named by manifests, but not loaded

_CHECK = Path(__file__).parent / "check.sql"
_LOAD = Path(__file__).parent / "load.sql"

# DuckDB's own reader holds a few row groups, where a registered Arrow dataset had three times as much in memory.
_STREAM = """
create or replace temp view incoming_observed_prompts as
from read_parquet(getvariable('observed_prompts'), union_by_name = true)
"""

Rows = pa.Table | list[str]  # a list: the paths of files
T = TypeVar("T")


class _File(NamedTuple):
    path: str
    sha256: str
    rows: int


def load_run(warehouse: Path, lake_root: Path, manifest: Mapping[str, Any], *, timeout_s: float = LOCK_TIMEOUT_S) -> bool:
    """Make a run visible and publish the snapshot; True when it was new, False when it was there already.

    `manifest` is {"run_id": ..., "artifacts": {table: [{"path", "sha256", "rows"}, ...]}}, paths below `lake_root`; its
    files hold all that the run refers to. LoadError names the wrong file or rows, and then nothing has changed.
    """
    tables = read_run(lake_root, manifest)
    with locked(warehouse, timeout_s):
        with opened(warehouse, timeout_s) as connection:
            is_new = _insert(connection, manifest["run_id"], tables)
        publish(warehouse)
    return is_new


def prepare(warehouse: Path) -> None:
    """Make sure of a warehouse, also where no run is in it yet, and of its snapshot."""
    if not snapshot_path(warehouse).exists():
        with locked(warehouse):
            with opened(warehouse):
                pass
            publish(warehouse)


def rebuild(warehouse: Path, lake_root: Path, manifests: Iterable[Mapping[str, Any]]) -> None:
    """Put a warehouse made from `manifests` alone in the place of `warehouse`, which a LoadError leaves as it was."""
    ordered = sorted(manifests, key=lambda m: _files(m)[0])
    beside = warehouse.with_name(f".{warehouse.name}.rebuild")
    with locked(warehouse):
        try:
            _remove(beside)  # what a killed rebuild left
            with opened(beside) as connection:
                for manifest in ordered:
                    _insert(connection, manifest["run_id"], read_run(lake_root, manifest))
            _remove(warehouse.with_name(f"{warehouse.name}.wal"))  # it belongs to the old file: the new one has none
            replace(beside, warehouse)
        except OSError as e:
            raise LoadError(f"cannot write {warehouse}: {e.strerror or e}; free space, then rebuild again") from e
        finally:
            _remove(beside)
        publish(warehouse)


def read_run(lake_root: Path, manifest: Mapping[str, Any]) -> dict[str, Rows]:
    """The rows of every table, from the very bytes that were verified; of a streamed one the paths of its verified files.

    LoadError names a file that is not intact.
    """
    run_id, files = _files(manifest)
    tables = {name: (_streamed if name in STREAMED else _whole)(lake_root, files[name], row) for name, row in TABLES.items()}
    if (n := sum(file.rows for file in files["runs"])) != 1:
        raise LoadError(f"run {run_id}: {n} rows for the table runs where one belongs")
    return tables


def _files(manifest: Mapping[str, Any]) -> tuple[str, dict[str, list[_File]]]:
    """The run_id and the files of every table, none for those that the manifest leaves out."""
    try:
        run_id, artifacts = str(manifest["run_id"]), dict(manifest["artifacts"])
        files = {name: [_File(**a) for a in artifacts.pop(name, ())] for name in (*TABLES, *KEPT_IN_LAKE)}
    except (KeyError, TypeError, ValueError) as e:
        raise LoadError(f"not the manifest of a run ({e}): expected run_id, and path, sha256, rows by table") from e
    if artifacts:
        raise LoadError(f"run {run_id}: unknown tables {', '.join(sorted(artifacts))} in its manifest: update midwatch")
    return run_id, files


def _whole(lake_root: Path, files: Sequence[_File], row: type[Row]) -> pa.Table:
    return pa.concat_tables([row.arrow_schema().empty_table(), *(_read(lake_root, f, row) for f in files)])


def _read(lake_root: Path, file: _File, row: type[Row]) -> pa.Table:
    with _opened(lake_root, file) as source:
        data = source.read()
    if hashlib.sha256(data).hexdigest() != file.sha256:
        raise _altered(file, len(data))
    try:
        table = _fitted(pq.read_table(pa.BufferReader(data)), row)
    except (pa.ArrowException, ValueError) as e:
        raise LoadError(f"{file.path}: no rows of {row.__name__}: {e}") from e
    return _counted(file, table.num_rows, table)


def _streamed(lake_root: Path, files: Sequence[_File], row: type[Row]) -> Rows:
    return [_verified(lake_root, file, row) for file in files] or row.arrow_schema().empty_table()


def _verified(lake_root: Path, file: _File, row: type[Row]) -> str:
    """The path of a file whose bytes are those written, and which has the row class's columns."""
    with _opened(lake_root, file) as source:
        sha256, size = hashlib.file_digest(source, "sha256").hexdigest(), source.tell()
    if sha256 != file.sha256:
        raise _altered(file, size)
    try:
        metadata = pq.read_metadata(lake_root / file.path)
        _fitted(metadata.schema.to_arrow_schema().empty_table(), row)
    except (pa.ArrowException, ValueError) as e:
        raise LoadError(f"{file.path}: no rows of {row.__name__}: {e}") from e
    return _counted(file, metadata.num_rows, str(lake_root / file.path))


@contextmanager
def _opened(lake_root: Path, file: _File) -> Iterator[BufferedReader]:
    try:
        path = (lake_root / file.path).resolve()
        if not path.is_relative_to(lake_root.resolve()):
            raise LoadError(f"{file.path}: not below the lake {lake_root}")
        with path.open("rb") as source:
            yield source
    except (OSError, ValueError) as e:
        raise LoadError(f"{file.path}: cannot be read from the lake {lake_root}: {e}") from e


def _altered(file: _File, size: int) -> LoadError:
    return LoadError(f"{file.path}: {size} bytes that are not the ones written (truncated or altered)")


def _counted(file: _File, n_rows: int, found: T) -> T:
    if n_rows != file.rows:
        raise LoadError(f"{file.path}: {n_rows} rows where the manifest has {file.rows}")
    return found


def _fitted(table: pa.Table, row: type[Row]) -> pa.Table:
    """`table` with the row class's columns; one that older code did not write yet is null, where it may be."""
    schema = row.arrow_schema()
    if unknown := set(table.column_names) - set(schema.names):
        raise ValueError(f"unknown columns {', '.join(sorted(unknown))}")
    names = set(table.column_names)
    columns = [table[f.name] if f.name in names else pa.nulls(table.num_rows, f.type) for f in schema]
    return pa.table(columns, names=schema.names).cast(schema)


def _insert(connection: duckdb.DuckDBPyConnection, run_id: str, tables: Mapping[str, Rows]) -> bool:
    for name, rows in tables.items():
        _provide(connection, name, rows)
    try:
        if _is_loaded(connection, run_id):
            return False
        _check_references(connection, run_id)
        with transaction(connection):
            connection.execute(_LOAD.read_text())
    except duckdb.Error as e:
        raise LoadError(f"run {run_id} was not loaded: {e}") from e
    return True


def _provide(connection: duckdb.DuckDBPyConnection, name: str, rows: Rows) -> None:
    """Make `rows` what the view incoming_<name> holds."""
    if name in STREAMED:
        connection.execute("drop view if exists incoming_observed_prompts")  # of the run before, in a rebuild
    if isinstance(rows, pa.Table):
        connection.register(f"incoming_{name}", rows)
    else:
        connection.execute("set variable observed_prompts = ?", [rows])
        connection.execute(_STREAM)


def _is_loaded(connection: duckdb.DuckDBPyConnection, run_id: str) -> bool:
    """Whether the run is visible already; LoadError where it is another result under the same id."""
    if not connection.execute("from runs where run_id = ?", [run_id]).fetchone():
        return False
    if connection.execute("from incoming_runs except from runs").fetchone():
        raise LoadError(f"run {run_id} is loaded already with another result: give this one a run_id of its own")
    return True


def _check_references(connection: duckdb.DuckDBPyConnection, run_id: str) -> None:
    unanswered = connection.execute(_CHECK.read_text(), {"run_id": run_id}).fetchall()
    if unanswered:
        listed = "; ".join(f"{n} of {table}.{column} (such as {example})" for table, column, n, example in unanswered)
        raise LoadError(f"run {run_id}: its files lack what they refer to: {listed}")


def _remove(path: Path) -> None:
    """Delete a database or its write-ahead log, with what DuckDB put beside it under a longer name; or nothing."""
    for file in path.parent.iterdir():
        if file.is_dir() and file.name == f"{path.name}.tmp":
            shutil.rmtree(file)
        elif file.name == path.name or file.name.startswith(f"{path.name}.wal"):
            file.unlink()

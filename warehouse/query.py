"""One query on the published snapshot, with no way to files, network, settings or writes, and bounds."""

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from schemas.errors import MidwatchError

MAX_RESULT_BYTES = 1 << 30  # DuckDB's memory limit does not count what it has handed over
BATCH_ROWS = 10_000
THREADS = 4
INTERRUPT_S = 0.05

QUERIES = (duckdb.StatementType.SELECT, duckdb.StatementType.EXPLAIN, duckdb.StatementType.MULTI)  # MULTI: pivot


class QueryError(MidwatchError):
    """The query is no single query, is wrong, asks for more than reading the warehouse, or exceeds a bound."""


def query(
    snapshot: Path,
    sql: str,
    *,
    parameters: Sequence[Any] | Mapping[str, Any] = (),
    memory_limit: str = "1GB",
    timeout_s: float = 60,
    max_rows: int | None = None,
) -> pa.Table:
    """The result of one query of our own; of a longer one the first `max_rows` rows, all where that is None.

    `parameters` are the values of ? or $name in it; times come in UTC, JSON as text. QueryError says what was wrong and what
    to do. What a stranger wrote is for `warehouse.door`: no bound here holds within a single call on a huge value.
    """
    with reading(snapshot, sql, parameters, memory_limit, timeout_s) as reader:
        return collect(reader, max_rows)


@contextmanager
def reading(
    snapshot: Path, sql: str, parameters: Sequence[Any] | Mapping[str, Any], memory_limit: str, timeout_s: float
) -> Iterator[pa.RecordBatchReader]:
    """The result of one query as it comes; QueryError also for what goes wrong while it is read."""
    if not snapshot.is_file():
        raise QueryError(f"no warehouse at {snapshot} yet: run `midwatch run` first")
    expired = threading.Event()
    try:
        with closing(_open(snapshot, memory_limit)) as connection:
            _check_single_query(connection, sql)
            with _deadline(connection, timeout_s, expired):
                yield connection.sql(sql, params=parameters or None).to_arrow_reader(BATCH_ROWS)
    except (duckdb.Error, pa.ArrowException, MemoryError, OSError) as e:  # a reader passes DuckDB's errors on as OSError
        if expired.is_set():
            raise QueryError(f"stopped after {timeout_s:g} s: ask for less (where, limit), or allow more time") from e
        raise QueryError(_advice(e, memory_limit)) from e


def _open(snapshot: Path, memory_limit: str) -> duckdb.DuckDBPyConnection:
    """A connection that can read the snapshot and do nothing else.

    The snapshot is attached to a database in memory: opened by its path, all queries of a process would share one
    instance, and with it a snapshot since replaced and the first one's limits. Turning external access off leaves the
    attached file and its write-ahead log open to COPY (seen with DuckDB 2.0.0); without a file system nothing is.
    """
    connection = duckdb.connect(
        ":memory:",
        config={
            "memory_limit": memory_limit,
            "threads": THREADS,
            "temp_directory": "",
            "autoinstall_known_extensions": False,
            "autoload_known_extensions": False,
            "allow_community_extensions": False,
            "python_enable_replacements": False,
        },
    )
    connection.execute("attach ? as warehouse (read_only)", [str(snapshot)])
    connection.execute("use warehouse; set timezone = 'UTC'; set enable_progress_bar = false")
    connection.execute("set enable_external_access = false; set disabled_filesystems = 'LocalFileSystem'")
    connection.execute("set lock_configuration = true")
    return connection


def _check_single_query(connection: duckdb.DuckDBPyConnection, sql: str) -> None:
    statements = connection.extract_statements(sql)
    if len(statements) != 1:
        raise QueryError(f"{len(statements)} statements where one query was expected: send them one by one")
    if statements[0].type not in QUERIES:
        raise QueryError(
            f"{statements[0].type.name} is not a query: the warehouse is read with select, from, with, show, "
            "describe, summarize, pivot or explain"
        )


@contextmanager
def _deadline(connection: duckdb.DuckDBPyConnection, timeout_s: float, expired: threading.Event) -> Iterator[None]:
    """Interrupts what runs within after `timeout_s`, and sets `expired`; repeated, as one between two steps is lost."""
    finished = threading.Event()

    def watch() -> None:
        if not finished.wait(timeout_s):
            expired.set()
            while not finished.wait(INTERRUPT_S):
                connection.interrupt()

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        finished.set()
        watcher.join()


def collect(reader: pa.RecordBatchReader, max_rows: int | None = None) -> pa.Table:
    """What a reader gives, as one table; QueryError where it is more than 1 GiB."""
    batches: list[pa.RecordBatch] = []
    n_rows = n_bytes = 0
    for batch in reader:
        batches.append(batch)
        n_rows += batch.num_rows
        n_bytes += batch.nbytes
        if n_bytes > MAX_RESULT_BYTES:
            raise QueryError(f"{n_rows} rows hold over {MAX_RESULT_BYTES >> 20} MiB: aggregate, or add a limit")
        if max_rows is not None and n_rows >= max_rows:
            break
    return pa.Table.from_batches(batches, reader.schema).slice(0, max_rows)


def _advice(error: Exception, memory_limit: str) -> str:
    text = str(error)
    if isinstance(error, MemoryError) or "Out of Memory" in text:
        return f"the query needs more than {memory_limit} of memory: aggregate, filter, or allow more"
    if isinstance(error, duckdb.PermissionException) or "disabled by configuration" in text:
        return "a query reads the warehouse's tables and views, no file and no network: " + text.split("\n")[0]
    return text

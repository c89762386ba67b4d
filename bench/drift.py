"""What the mix of categories costs: shares by day over prompts in a Parquet lake, with DuckDB in bounded memory.

python -m bench.drift [rows] [folder]
"""

import json
import shutil
import subprocess
import sys
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from bench.ingest import peak
from schemas.crosswalk import harm_categories
from schemas.rows import NONE, UNKNOWN

DAYS = 365
FILE_ROWS = 1_000_000
CATEGORIES = (*harm_categories(), NONE, UNKNOWN)
BYTES_A_ROW = 12  # measured: 7 of time, weight and category, with room
MEMORY, THREADS = "1GB", 2
ROUNDS = 3

_MIX = """
create or replace temp table mix as
with counted as (
    select
        epoch_us(observed_at) // 86400000000 as day,  -- a cast to date asks the time zones, and takes twice as long in all
        classifier_id, harm_category, count(*) as n, sum(weight) as weight
    from read_parquet($files)
    group by all
)
select
    date '1970-01-01' + day::integer as day, * exclude (day),
    weight / sum(weight) over (partition by day, classifier_id) as share
from counted
"""
_LAST_DAY = """
select harm_category, count(*) as n
from read_parquet($files)
where observed_at >= $first
group by all
"""


def made(rows: int, folder: Path) -> Path:
    """A year of prompts as the lake has them, without ids and texts: a tenth of the rows in each file is of another day.

    One category doubles on the last day. The files are made once; a folder that has them is used again.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if (free := shutil.disk_usage(folder).free) < 2 * BYTES_A_ROW * rows:
        raise SystemExit(f"{folder}: {free / 1e9:.1f} GB free, {2 * BYTES_A_ROW * rows / 1e9:.1f} needed")
    for number, start in enumerate(range(0, rows, FILE_ROWS)):
        path = folder / f"{number:05}.parquet"
        if not path.exists():
            pq.write_table(_part(start, min(FILE_ROWS, rows - start), rows), path, compression="zstd")
    return folder


def _part(start: int, n: int, rows: int) -> pa.Table:
    rng = np.random.default_rng(start)
    second = DAYS * 86400
    at = np.sort((start + rng.random(n) * n) / rows * second * 1e6).astype(np.int64)
    shares = 0.7 ** np.arange(len(CATEGORIES))
    category = rng.choice(len(CATEGORIES), n, p=shares / shares.sum())
    doubled = (at >= (DAYS - 1) * 86400 * 10**6) & (rng.random(n) < shares[4] / shares.sum())
    category[doubled] = 4
    base = int(datetime(2025, 1, 1, tzinfo=UTC).timestamp()) * 10**6
    columns = {
        "observed_at": pa.array(at + base, pa.timestamp("us", tz="UTC")),
        "harm_category": pa.DictionaryArray.from_arrays(pa.array(category, pa.int32()), pa.array(CATEGORIES)).cast(pa.string()),
        "classifier_id": pa.repeat("c" * 32, n),
        "weight": pa.array(np.ones(n)),
    }
    return pa.table(columns)


def duckdb_mix(folder: Path) -> dict[str, Any]:
    """Seconds for the mix of all days, by the clock and of all threads, and for the newest day alone; memory in MB."""
    files = sorted(map(str, folder.glob("*.parquet")))
    before = peak()
    with tempfile.TemporaryDirectory() as spill:
        config: dict[str, Any] = {"memory_limit": MEMORY, "threads": THREADS, "temp_directory": spill}
        with duckdb.connect(":memory:", config=config) as connection:
            connection.execute("set timezone = 'UTC'")
            cpu = process_time()
            seconds = [_timed(connection, _MIX, {"files": files}) for _ in range(ROUNDS)]
            cpu = (process_time() - cpu) / ROUNDS
            ((rows, cells, days),) = connection.execute("select sum(n), count(*), count(distinct day) from mix").fetchall()
            newest = {"files": files, "first": datetime(2025, 1, 1, tzinfo=UTC) + timedelta(days=DAYS - 1)}
            last = [_timed(connection, _LAST_DAY, newest) for _ in range(ROUNDS)]
    return {
        "rows": int(rows), "cells": cells, "days": days, "mix s": seconds, "CPU s": cpu, "newest day s": last,
        "MB before": before, "MB at the peak": peak(),
    }  # fmt: skip


def _timed(connection: duckdb.DuckDBPyConnection, sql: str, parameters: dict[str, Any]) -> float:
    start = perf_counter()
    connection.execute(sql, parameters).fetchall()
    return perf_counter() - start


TOOLS = {"duckdb": duckdb_mix}  # each takes the folder of files and runs in a process of its own, for the peak of its memory


def measured(tool: str, folder: Path) -> dict[str, Any]:
    command = [sys.executable, "-m", "bench.drift", "--measure", tool, str(folder)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main(rows: int, folder: Path) -> None:
    start = perf_counter()
    made(rows, folder)
    size = sum(p.stat().st_size for p in folder.glob("*.parquet"))
    print(f"{rows:,} prompts in {size / 1e9:.2f} GB of Parquet, made in {perf_counter() - start:.0f} s")
    print("tool     mix by day s (each round)  CPU s a round  newest day s  MB before  MB at the peak")
    for tool in TOOLS:
        m = measured(tool, folder)
        assert m["rows"] == rows and m["days"] == DAYS and m["cells"] == DAYS * len(CATEGORIES)
        rounds = " ".join(f"{s:.2f}" for s in m["mix s"])
        memory = f"{m['MB before']:9.0f}  {m['MB at the peak']:14.0f}"
        print(f"{tool:7}  {rounds:25}  {m['CPU s']:13.2f}  {min(m['newest day s']):12.3f}  {memory}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        print(json.dumps(TOOLS[sys.argv[2]](Path(sys.argv[3]))))
    elif len(sys.argv) > 2:
        main(int(sys.argv[1]), Path(sys.argv[2]))
    else:
        with tempfile.TemporaryDirectory() as folder:
            main(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000_000, Path(folder))

"""What the mix of categories costs: shares by day over prompts in a Parquet lake, with DuckDB in bounded memory.

python -m bench.drift [--rows N] [--folder FOLDER] [--evidently PYTHON]

With the interpreter of an environment that has evidently (0.7, and pandas < 3), both tools answer one question on the same
files as well: did the newest day's mix change against the 28 days before?
"""

import argparse
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

from bench.ingest import by_itself, peak
from schemas.crosswalk import harm_categories
from schemas.rows import NONE, UNKNOWN
from tasks.drift.mix import changes
from tasks.drift.sequential import threshold, watch
from tasks.drift.share_reference import reference

DAYS = 365
FILE_ROWS = 1_000_000
CATEGORIES = (*harm_categories(), NONE, UNKNOWN)
BYTES_A_ROW = 12  # measured: 7 of time, weight and category, with room
MEMORY, THREADS = "1GB", 2
ROUNDS = 3
COUNTS = "counts.npy"

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
_NIGHT = """
select
    harm_category,
    count(*) filter (observed_at < $last) as before,
    count(*) filter (observed_at >= $last) as now
from read_parquet($files)
where observed_at >= $first
group by all
order by all
"""
_COUNTS = "select day, harm_category, n from mix order by all"
EVIDENTLY = """
import glob, json, resource, sys
from time import perf_counter
import pandas as pd, pyarrow.dataset as ds
from evidently import DataDefinition, Dataset, Report
from evidently.metrics import ValueDrift
start = perf_counter()
table = ds.dataset(sorted(glob.glob(sys.argv[1] + "/*.parquet"))).to_table(columns=["observed_at", "harm_category"],
    filter=ds.field("observed_at") >= pd.Timestamp(sys.argv[2])).to_pandas()
read, last = perf_counter() - start, table["observed_at"] >= pd.Timestamp(sys.argv[3])
definition = DataDefinition(categorical_columns=["harm_category"])
frames = [Dataset.from_pandas(table.loc[side, ["harm_category"]], definition) for side in (last, ~last)]
start = perf_counter()
(metric,) = Report([ValueDrift(column="harm_category")]).run(*frames).dict()["metrics"]
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
print(json.dumps({"s": perf_counter() - start + read, "read s": read, "value": float(metric["value"]),
    "drifts beyond": metric["config"]["threshold"], "MB at the peak": peak}))
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
            counted = connection.execute(_COUNTS).fetchall()
            np.save(folder / COUNTS, np.array([n for *_, n in counted]).reshape(DAYS, len(CATEGORIES)))
            newest = {"files": files, "first": datetime(2025, 1, 1, tzinfo=UTC) + timedelta(days=DAYS - 1)}
            last = [_timed(connection, _LAST_DAY, newest) for _ in range(ROUNDS)]
    return {
        "rows": int(rows), "cells": cells, "days": days, "mix s": seconds, "CPU s": cpu, "newest day s": last,
        "MB before": before, "MB at the peak": peak(),
    }  # fmt: skip


def duckdb_night(folder: Path) -> dict[str, Any]:
    """Seconds for the newest day against the 28 days before it: counts by category, and the exact test of each."""
    files, start = sorted(map(str, folder.glob("*.parquet"))), perf_counter()
    with duckdb.connect(":memory:", config={"memory_limit": MEMORY, "threads": THREADS}) as connection:
        counts = connection.execute(_NIGHT, {"files": files, **_days()}).fetchall()
    found = changes([row[1] for row in counts], [row[2] for row in counts])
    doubled = [name for (name, *_), change in zip(counts, found, strict=True) if change.p < 0.05]
    return {"s": perf_counter() - start, "found": doubled, "MB at the peak": peak()}


def _days() -> dict[str, datetime]:
    last = datetime(2025, 1, 1, tzinfo=UTC) + timedelta(days=DAYS - 1)
    return {"last": last, "first": last - timedelta(days=28)}


def tested(mix: Path) -> dict[str, Any]:
    """Seconds for the evidence of every night after the first 28, over all categories."""
    counts, start = np.load(mix), perf_counter()
    base = reference(counts[:28], counts[:28].sum(1))
    seen = watch(base, counts[28:], counts[28:].sum(1), threshold(0.1, 5))
    return {"s": perf_counter() - start, "nights": len(seen.alarm), "alarms": np.flatnonzero(seen.alarm).tolist()}


def _timed(connection: duckdb.DuckDBPyConnection, sql: str, parameters: dict[str, Any]) -> float:
    start = perf_counter()
    connection.execute(sql, parameters).fetchall()
    return perf_counter() - start


TOOLS = {"duckdb": duckdb_mix, "night": duckdb_night, "tests": tested}  # each runs alone, for the peak of its memory


def measured(tool: str, given: Path) -> dict[str, Any]:
    return by_itself("-m", "bench.drift", "--measure", tool, str(given))


def main(rows: int, folder: Path, evidently: Path | None) -> None:
    start = perf_counter()
    made(rows, folder)
    size = sum(p.stat().st_size for p in folder.glob("*.parquet"))
    print(f"{rows:,} prompts in {size / 1e9:.2f} GB of Parquet, made in {perf_counter() - start:.0f} s")
    m = measured("duckdb", folder)
    assert m["rows"] == rows and m["days"] == DAYS and m["cells"] == DAYS * len(CATEGORIES)
    rounds = ", ".join(f"{s:.2f}" for s in m["mix s"])
    print(
        f"mix of {DAYS} days: {rounds} s; {m['CPU s']:.1f} CPU s a round; {m['MB before']:.0f} -> {m['MB at the peak']:.0f} MB"
    )
    print(f"newest day alone: {min(m['newest day s']):.3f} s")
    t = measured("tests", folder / COUNTS)
    print(f"evidence of {t['nights']} nights over {len(CATEGORIES)} categories: {t['s']:.2f} s; alarms on nights {t['alarms']}")
    ours = min((measured("night", folder) for _ in range(ROUNDS)), key=lambda found: found["s"])
    print(f"newest day against 28 days: {ours['s']:.2f} s, {ours['MB at the peak']:.0f} MB, finds {ours['found']}")
    if evidently is not None:
        theirs = min((_evidently(evidently, folder) for _ in range(ROUNDS)), key=lambda found: found["s"])
        verdict = "drift" if theirs["value"] >= theirs["drifts beyond"] else "no drift"
        took, memory = f"{theirs['s']:.2f} s ({theirs['read s']:.2f} of it to read)", f"{theirs['MB at the peak']:.0f} MB"
        print(f"evidently on the same: {took}, {memory}, says {verdict} (distance {theirs['value']:.4f})")
        times, more = (theirs[key] / ours[key] for key in ("s", "MB at the peak"))
        print(f"that is {times:.1f} times as long in {more:.1f} times the memory")


def _evidently(python: Path, folder: Path) -> dict[str, Any]:
    days = _days()
    command = [python, "-W", "ignore", "-c", EVIDENTLY, folder, days["first"].isoformat(), days["last"].isoformat()]
    done = subprocess.run(list(map(str, command)), check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        print(json.dumps(TOOLS[sys.argv[2]](Path(sys.argv[3]))))
        sys.exit()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000_000)
    parser.add_argument("--folder", type=Path, help="where the files are, or are to be kept")
    parser.add_argument("--evidently", type=Path, metavar="PYTHON")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        main(given.rows, given.folder or Path(scratch), given.evidently)

"""Query results as files for other programs."""

import csv
import io
import json
import sys
from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tasks.lake import write_atomically
from tasks.report.text import for_csv, for_terminal


def export(table: pa.Table, style: str, out: Path | None) -> None:
    """Write `table` as csv (cells that a spreadsheet would run are defused), json (one object a line) or parquet.

    On a terminal, what would steer it is shown as its code point; a file and a pipe get the text as it is.
    """
    data = {"csv": as_csv, "json": as_json, "parquet": as_parquet}[style](table)
    if out is not None:
        write_atomically(out, data)
        return
    if sys.stdout.isatty():
        data = "\n".join(map(for_terminal, data.decode(errors="replace").split("\n"))).encode()
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def as_csv(table: pa.Table) -> bytes:
    """RFC 4180 with a header, but lines end with \\n; NULL is an empty cell."""
    rows = [table.column_names, *(row.values() for row in table.to_pylist())]
    return "".join(_csv_line(cells) for cells in rows).encode()


def _csv_line(cells: Iterable[object]) -> str:
    line = io.StringIO(newline="")
    csv.writer(line, lineterminator="\r\n").writerow([for_csv(c) for c in cells])  # quotes only what it ends lines with
    return line.getvalue().removesuffix("\r\n") + "\n"


def as_json(table: pa.Table) -> bytes:
    """JSON Lines; times in ISO 8601."""
    return "".join(json.dumps(row, default=str) + "\n" for row in table.to_pylist()).encode()


def as_parquet(table: pa.Table) -> bytes:
    """One Parquet file."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue().to_pybytes()

"""Texts taken out of what is no table: files in which they stand as they are, or escaped, and Prefect's database."""

import csv
import html
import io
import json
import sqlite3
from collections.abc import Collection, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from tasks.forgotten import FORGOTTEN
from tasks.lake import LakeError, write_atomically
from tasks.report.text import for_markdown, for_terminal

BUSY_S = 60.0  # how long another process may hold the database
LONG = 16  # characters from which a text is looked for inside of other texts: shorter ones are parts of too many
IDS = ("prompt_id", "item_id", "response_id")
REASON = "forgotten on request"
# Columns that say nothing of a text, beside ids, times and numbers.
_STATED = ("label", "unsafe", "categories", "category", "harm_category", "annotator", "source", "arm", "judge", "expected")
_KEPT = (".parquet", ".duckdb", ".wal", ".db", ".db-wal", ".db-shm", ".safetensors", ".key", ".lock", ".tmp")


def forms(texts: Sequence[str]) -> list[str]:
    """How long texts may stand in a file: as they are, or as JSON (in JSON), HTML, CSV, Markdown or a terminal has them."""
    found: dict[str, None] = {}
    for text in sorted((t for t in texts if len(t) >= LONG), key=len, reverse=True):
        plain = (text, text.strip(), html.escape(text), html.escape(text, quote=False), for_terminal(text), for_markdown(text))
        for form in (*plain, text.replace('"', '""')):
            found |= dict.fromkeys((form, *_quoted(form)))
    return list(found)


def _quoted(text: str) -> Iterator[str]:
    for ascii_only in (True, False):
        once = json.dumps(text, ensure_ascii=ascii_only)[1:-1]
        yield from (once, json.dumps(once, ensure_ascii=ascii_only)[1:-1])


def file(path: Path, texts: Sequence[str], forms: Sequence[str], ids: Collection[str]) -> None:
    """Take the texts out of a file, and out of a table's rows with one of these `ids` every text."""
    if path.suffix in _KEPT or not path.is_file():
        return
    before = path.read_bytes()
    match path.suffix:
        case ".csv":
            data = _csv(before, ids)
        case ".jsonl" | ".json":
            data = b"\n".join(_line(line, texts, forms, ids) for line in before.split(b"\n"))
        case _:
            data = before
    for form in forms:
        data = data.replace(form.encode(), FORGOTTEN.encode())
    if data != before:
        mode = path.stat().st_mode
        write_atomically(path, data)
        path.chmod(mode)


def database(path: Path, forms: Sequence[str]) -> None:
    """Take the texts out of an SQLite database, and their bytes out of its file."""
    try:
        with closing(sqlite3.connect(path, timeout=BUSY_S, isolation_level=None)) as connection:
            for table, column in _columns(connection):
                for form in forms:
                    _replace(connection, table, column, form)
            connection.execute("pragma wal_checkpoint(truncate)")
            data = path.read_bytes()
            if any(form.encode() in data for form in forms):  # deleted rows leave theirs
                connection.execute("vacuum")
                connection.execute("pragma wal_checkpoint(truncate)")
    except sqlite3.Error as e:
        raise LakeError(f"{path}: Prefect's database can't be changed ({e}): stop its server, then forget again") from e


def _columns(connection: sqlite3.Connection) -> list[tuple[str, str]]:
    sql = """
        select tables.name, columns.name
        from sqlite_master as tables, pragma_table_info(tables.name) as columns
        where tables.type = 'table' and tables.sql not like 'create virtual%'
    """
    return connection.execute(sql).fetchall()


def _replace(connection: sqlite3.Connection, table: str, column: str, form: str) -> None:
    """Put the mark in the place of the text; SQLite takes no names of tables as parameters."""
    table, column = (f'"{name.replace(chr(34), chr(34) * 2)}"' for name in (table, column))
    sql = f"update {table} set {column} = replace({column}, ?1, ?2) where typeof({column}) = 'text' and instr({column}, ?1)"
    connection.execute(sql, [form, FORGOTTEN])


def _csv(data: bytes, ids: Collection[str]) -> bytes:
    """A table whose rows with one of the ids say nothing but their ids; as it was where none has one."""
    try:
        rows = list(csv.reader(io.StringIO(data.decode(), newline="")))
    except (UnicodeDecodeError, csv.Error):
        return data
    named = [n for n, name in enumerate(rows[0] if rows else []) if name in IDS]
    concerned = [any(n < len(row) and row[n] in ids for n in named) for row in rows]
    if not any(concerned):
        return data
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator="\n")
    for row, is_concerned in zip(rows, concerned, strict=True):
        writer.writerow([_cell(*c) for c in zip(rows[0], row, strict=False)] if is_concerned else row)
    return out.getvalue().encode()


def _cell(name: str, value: Any) -> Any:
    """What a column says, or the mark where that may be a text."""
    if not isinstance(value, (str, list, dict)) or name in _STATED or name.endswith(("_id", "_at")):
        return value
    return value if isinstance(value, str) and _is_number(value) else FORGOTTEN


def _is_number(text: str) -> bool:
    try:
        float(text or 0)
    except ValueError:
        return False
    return True


def _line(line: bytes, texts: Sequence[str], forms: Sequence[str], ids: Collection[str]) -> bytes:
    """A JSON object without its texts where it has one of the ids or texts; of a row in quarantine, its place stays."""
    try:
        row = json.loads(line)
    except ValueError:
        return line
    if not isinstance(row, dict):
        return line
    said = {**row, **(row["values"] if isinstance(row.get("values"), dict) else {})}
    texts_said = {name: value for name, value in said.items() if isinstance(value, str)}
    is_concerned = any(texts_said.get(name) in ids for name in IDS) or any(value in texts for value in texts_said.values())
    if not is_concerned and not any(form.encode() in line for form in forms):
        return line
    if "values" in row and "reasons" in row:
        return json.dumps({**row, "reasons": [REASON], "values": {}}).encode()
    return json.dumps({name: _cell(name, value) for name, value in row.items()}).encode()

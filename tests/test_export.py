import csv
import io
import json
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.lake import LakeError
from tasks.report.export import as_csv, as_json, export

TABLE = pa.table(
    {
        "text": ["plain", 'two\nlines, "quoted"', "=1+1", None],
        "n": [1, -2, None, 4],
        "share": [0.1, None, -0.5, 1e-17],
        "at": pa.array([datetime(2026, 1, 2, 3, 4, 5, 600, tzinfo=UTC)] * 4, pa.timestamp("us", tz="UTC")),
        "list": [["a", "b"], [], None, ["=x"]],
    }
)


def cells(data: bytes) -> list[list[str]]:
    return list(csv.reader(io.StringIO(data.decode(), newline="")))


def test_csv_is_read_back_by_any_reader():
    header, *rows = cells(as_csv(TABLE.select(["text", "n", "share"])))
    assert header == ["text", "n", "share"]
    assert rows == [
        ["plain", "1", "0.1"],
        ['two\nlines, "quoted"', "-2", ""],
        ["'=1+1", "", "-0.5"],
        ["", "4", "1e-17"],
    ]


@settings(deadline=None)
@given(st.lists(st.text(), min_size=1))
def test_any_text_comes_back_from_csv(texts):
    found = [row[0] for row in cells(as_csv(pa.table({"text": pa.array(texts, pa.string()), "n": [1] * len(texts)})))[1:]]
    assert [f.removeprefix("'") for f in found] == [t.removeprefix("'") for t in texts]


def test_a_hostile_column_name_is_defused():
    assert cells(as_csv(pa.table({"=cmd": [1], "b": [2]})))[0] == ["'=cmd", "b"]


def test_json_lines_say_what_the_table_says():
    rows = [json.loads(line) for line in as_json(TABLE).splitlines()]
    assert [datetime.fromisoformat(row.pop("at")) for row in rows] == TABLE["at"].to_pylist()
    assert rows == TABLE.drop_columns(["at"]).to_pylist()


@settings(deadline=None)
@given(st.lists(st.text()))
def test_any_text_comes_back_from_json_lines(texts):
    data = as_json(pa.table({"text": pa.array(texts, pa.string())}))
    assert data.isascii()
    assert [json.loads(line)["text"] for line in data.split(b"\n")[:-1]] == texts


@pytest.mark.parametrize("style", ["csv", "json", "parquet"])
def test_a_file_is_what_goes_to_the_standard_output(tmp_path, capfdbinary, style):
    export(TABLE, style, tmp_path / "out")
    export(TABLE, style, None)
    assert capfdbinary.readouterr().out == (tmp_path / "out").read_bytes()


def test_parquet_comes_back_with_its_types(tmp_path):
    export(TABLE, "parquet", tmp_path / "out.parquet")
    assert pq.read_table(tmp_path / "out.parquet").equals(TABLE)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(st.text(), st.floats(allow_nan=False), st.none() | st.booleans())))
def test_any_rows_come_back_from_parquet(rows):
    table = pa.Table.from_pylist(
        [dict(zip("abc", row, strict=True)) for row in rows],
        schema=pa.schema([("a", pa.string()), ("b", pa.float64()), ("c", pa.bool_())]),
    )
    with TemporaryDirectory() as folder:
        export(table, "parquet", Path(folder) / "out")
        assert pq.read_table(Path(folder) / "out").equals(table)


def test_an_empty_table_is_a_header_or_nothing():
    empty = TABLE.slice(0, 0)
    assert cells(as_csv(empty)) == [TABLE.column_names]
    assert as_json(empty) == b""


def test_a_file_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(LakeError, match="cannot write"):
        export(TABLE, "csv", tmp_path / "file" / "out.csv")

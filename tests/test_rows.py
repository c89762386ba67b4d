import io
import typing
from datetime import UTC, date, datetime, timedelta, timezone
from types import NoneType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import AwareDatetime, ValidationError

from schemas import rows
from schemas.ids import canonical
from schemas.rows import Item, Response, Row, Verdict

ROWS = [r for r in vars(rows).values() if isinstance(r, type) and issubclass(r, Row) and r is not Row]
TEXT = st.text()
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(TEXT, inner, max_size=2),
    max_leaves=4,
)
TIMES = st.datetimes(datetime(1970, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC))
VALUES: dict[Any, st.SearchStrategy[Any]] = {
    str: TEXT,
    int: st.integers(-(2**63), 2**63 - 1),
    float: st.floats(allow_nan=False),
    bool: st.booleans(),
    AwareDatetime: TIMES,
    date: st.dates(),
    tuple[str, ...]: st.lists(TEXT, max_size=3).map(tuple),
    list[str]: st.lists(TEXT, max_size=3),
    dict[str, Any]: st.dictionaries(TEXT, JSON, max_size=2),
    dict[str, int]: st.dictionaries(TEXT, st.integers(-(2**53), 2**53), max_size=2),
    dict[str, float]: st.dictionaries(TEXT, st.floats(allow_nan=False, allow_infinity=False), max_size=2),
    list[rows.Message]: st.lists(st.fixed_dictionaries({"role": TEXT, "content": TEXT}), max_size=2),
}


def values(annotation: Any) -> st.SearchStrategy[Any]:
    if annotation in VALUES:
        return VALUES[annotation]
    if typing.get_origin(annotation) is typing.Literal:
        return st.sampled_from(typing.get_args(annotation))
    return st.one_of(*(st.none() if a is NoneType else values(a) for a in typing.get_args(annotation)))


def made(row: type[Row]) -> st.SearchStrategy[Row]:
    return st.builds(row, **{name: values(field.annotation) for name, field in row.model_fields.items()})


@pytest.mark.parametrize("row", ROWS)
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_rows_come_back_from_arrow_and_parquet_as_they_were(row, data):
    written = data.draw(st.lists(made(row), max_size=3))
    table = row.to_table(written)
    file = io.BytesIO()
    pq.write_table(table, file)
    assert row.from_table(table) == written
    assert row.from_table(pq.read_table(file)) == written
    assert pq.read_table(file).schema.equals(row.arrow_schema())


@pytest.mark.parametrize("row", ROWS)
def test_a_column_may_be_null_exactly_where_the_annotation_allows_none(row):
    for name, field in row.model_fields.items():
        assert row.arrow_schema().field(name).nullable == (NoneType in typing.get_args(field.annotation)), name


@pytest.mark.parametrize("row", ROWS)
def test_columns_are_stored_in_the_order_in_which_they_are_stated(row):
    assert row.arrow_schema().names == list(row.model_fields)
    assert row.to_table([]).equals(row.arrow_schema().empty_table())


@pytest.mark.parametrize("row", ROWS)
def test_an_unknown_column_is_refused(row):
    with pytest.raises(ValidationError, match="no_such_column"):
        row.model_validate({"no_such_column": 1})


def item(**changed: Any) -> Item:
    known = dict.fromkeys(Item.model_fields) | dict.fromkeys(("item_id", "benchmark_id", "revision", "external_id"), "x")
    return Item(**known | {"messages": [{"role": "user", "content": "é"}]} | changed)


def test_lists_and_dicts_are_canonical_json_text():
    table = Item.to_table([item(attributes={"b": 1, "a": [None]})])
    assert table["messages"].to_pylist() == [canonical([{"content": "é", "role": "user"}])]
    assert table["attributes"].to_pylist() == ['{"a":[null],"b":1}']
    assert table["options"].to_pylist() == [None]
    assert Item.json_columns() == {"messages", "options", "reference", "attributes"}


def test_categories_of_a_verdict_are_a_list_of_texts():
    assert Verdict.arrow_schema().field("categories").type == pa.list_(pa.string())
    assert Verdict.json_columns() == frozenset()


def test_a_time_of_another_zone_is_the_same_moment():
    here = datetime(2026, 1, 1, 12, tzinfo=timezone(timedelta(hours=5, minutes=30)))
    empty = dict.fromkeys(Response.model_fields) | dict.fromkeys(("response_id", "item_id", "arm_id", "epoch"), "x")
    row = Response(**empty | {"sample": 0, "generated_at": here})
    assert Response.from_table(Response.to_table([row]))[0].generated_at == here
    with pytest.raises(ValidationError):
        Response(**empty | {"sample": 0, "generated_at": datetime(2026, 1, 1)})


def test_more_columns_than_the_rows_have_are_left_out():
    table = Item.to_table([item()]).append_column("more", [["x"]])
    assert Item.from_table(table) == [item()]


def test_a_nullable_column_that_older_code_did_not_write_is_none():
    assert Item.from_table(Item.to_table([item(options=["a"])]).drop_columns(["options"])) == [item()]
    with pytest.raises(KeyError, match="external_id"):
        Item.from_table(Item.to_table([item()]).drop_columns(["external_id"]))


def test_a_value_that_does_not_fit_is_an_error():
    table = Item.to_table([item()])
    wrong = table.set_column(table.schema.get_field_index("expected"), "expected", [["obey"]])
    with pytest.raises(ValidationError, match="expected"):
        Item.from_table(wrong)


def test_nan_in_json_is_an_error():
    with pytest.raises(ValueError, match="JSON"):
        Item.to_table([item(attributes={"a": float("nan")})])

import gzip
import json
from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import polars as pl
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from schemas.crosswalk import harm_categories, load
from schemas.rows import NONE, UNKNOWN
from tasks.importers.prompts import (
    AHEAD,
    ARRIVED,
    EARLIEST,
    FUTURE,
    NO_TEXT,
    NO_TIME,
    NO_ZONE,
    NOT_A_CATEGORY,
    NOT_A_ROW,
    NOT_A_TEXT,
    NOT_A_TIME,
    NOT_A_WEIGHT,
    OLD,
    SKIPPED,
    Columns,
    Reading,
    Unfit,
    base_id,
    harm_of,
    instant,
    lines_of,
    readable,
    weight_of,
)
from tasks.importers.responses import ImportRefused
from tasks.native import IngestError

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)
BERLIN = ZoneInfo("Europe/Berlin")
PLAIN = Columns("time", "text", None, None)
FULL = Columns("time", "text", "harm", "weight")
TIMES = st.datetimes(datetime(2000, 1, 2), datetime(2026, 5, 30))
ROW = {"time": "2026-01-02T12:00Z", "text": "Hi", "harm": NONE, "weight": 1}


def reading(columns: Columns = PLAIN, **given: Any) -> Reading:
    harm = harm_of(None) if columns.category else None
    return Reading(**{"source": "chat", "columns": columns, "key": b"k" * 32, "now": NOW, "harm": harm, **given})


def reasons(row: dict[str, Any], **given: Any) -> list[str]:
    good, bad = reading(FULL, **given).read([(0, ROW | row)])
    assert len(good) + len(bad) == 1
    return bad[0].reasons if bad else []


@pytest.mark.parametrize(
    "cell",
    [
        "2026-01-02T12:00:00Z",
        " 2026-01-02T12:00:00+00:00 ",
        "2026-01-02 13:00+01:00",
        "2026-01-02 12:00:00 UTC",
        "20260102T140000+0200",
        "2026-W01-5T12:00Z",
        1767355200,
        1767355200.0,
        "1767355200",
        "1.7673552e9",
        1767355200_000,
        1767355200_000_000,
        "1767355200000000000",
        NOON,
        NOON.astimezone(ZoneInfo("Asia/Kolkata")),
    ],
)
def test_a_time_is_read_in_its_forms(cell):
    assert instant(cell, None, NOW) == NOON and instant(cell, BERLIN, NOW).tzinfo is UTC


@pytest.mark.parametrize(
    ("cell", "reason"),
    [
        (None, NO_TIME),
        ("", NO_TIME),
        ("yesterday", NOT_A_TIME),
        ("2026-02-30T00:00Z", NOT_A_TIME),
        ("2026-01-02T12:00:60Z", NOT_A_TIME),
        (True, NOT_A_TIME),
        ([2026], NOT_A_TIME),
        (float("nan"), NOT_A_TIME),
        (float("inf"), NOT_A_TIME),
        ("1e999", NOT_A_TIME),
        (10**300, NOT_A_TIME),
        ("0001-01-01T00:00+14:00", NOT_A_TIME),
        ("9999-12-31T23:59-12:00", NOT_A_TIME),
        ("2026-01-02T12:00", NO_ZONE),
        (date(2026, 1, 2), NO_ZONE),
        (datetime(2026, 1, 2), NO_ZONE),
        (0, OLD),
        (-1, OLD),
        ("1999-12-31T23:59:59Z", OLD),
        ("2026-06-01T12:05:01Z", FUTURE),
        ("2026-06-02T00:00+09:00", FUTURE),
    ],
)
def test_what_is_no_time_is_set_aside_with_its_reason(cell, reason):
    with pytest.raises(Unfit, match=r"^" + reason[:12]) as raised:
        instant(cell, None, NOW)
    assert str(raised.value) == reason


def test_local_times_of_a_zone_with_summer_time():
    assert instant("2026-01-02T13:00", BERLIN, NOW) == NOON
    assert instant(datetime(2026, 5, 1, 2), BERLIN, NOW) == datetime(2026, 5, 1, 0, tzinfo=UTC)
    assert instant("2025-10-26T02:30", BERLIN, NOW) == datetime(2025, 10, 26, 0, 30, tzinfo=UTC)  # comes twice: the first
    for skipped in ("2026-03-29T02:00", "2026-03-29T02:59:59"):
        with pytest.raises(Unfit, match=SKIPPED):
            instant(skipped, BERLIN, NOW)


@given(at=TIMES, minutes=st.integers(-14 * 60, 14 * 60))
def test_a_time_is_the_same_instant_in_every_zone(at, minutes):
    there = at.replace(tzinfo=UTC).astimezone(timezone(timedelta(minutes=minutes)))
    assert instant(there.isoformat(), None, NOW) == instant(there, BERLIN, NOW) == at.replace(tzinfo=UTC)


@given(at=TIMES, zone=st.sampled_from(["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kolkata"]))
def test_a_local_time_is_what_the_clock_showed(at, zone):
    try:
        found = instant(at.isoformat(), ZoneInfo(zone), NOW)
    except Unfit as e:
        assert str(e) == SKIPPED
    else:
        assert found.astimezone(ZoneInfo(zone)).replace(tzinfo=None) == at


@given(cell=st.one_of(st.text(), st.integers(), st.floats(), st.datetimes(), st.dates(), st.binary(), st.none()))
def test_any_cell_is_a_time_in_the_allowed_range_or_unfit(cell):
    try:
        at = instant(cell, BERLIN, NOW)
    except Unfit:
        return
    assert EARLIEST <= at <= NOW + AHEAD and at.tzinfo is UTC


@pytest.mark.parametrize("cell", ["nan", float("nan"), "inf", "-inf", -0.5, "-1", "", None, True, "one", [1], "1_0", 10**400])
def test_what_is_no_weight_is_set_aside(cell):
    assert reasons({"weight": cell}) == [NOT_A_WEIGHT]


@given(st.floats(0, allow_nan=False, allow_infinity=False))
def test_a_weight_is_any_finite_number_from_zero_on(weight):
    assert weight_of(weight) == weight_of(str(weight)) == weight


@pytest.mark.parametrize(
    ("cell", "reason"),
    [(None, NO_TEXT), ("", NO_TEXT), (" \n\u3000", NO_TEXT), ([], NOT_A_TEXT), ({"a": 1}, NOT_A_TEXT), ("\ud800", NOT_A_TEXT)],
)
def test_what_is_no_text_is_set_aside(cell, reason):
    assert reasons({"text": cell}) == [reason]


@given(st.text())
def test_a_text_is_kept_to_the_letter(text):
    assume(text.strip())
    assert readable(text) == text


def test_a_row_may_have_several_reasons_and_stands_there_once():
    bad_row = {"time": "soon", "text": "", "harm": "Violence", "weight": "NaN"}
    assert reasons(bad_row) == [NOT_A_TIME, NO_TEXT, NOT_A_WEIGHT, NOT_A_CATEGORY]


def test_a_category_is_canonical_none_unknown_or_empty():
    for harm in (*harm_categories(), NONE, UNKNOWN):
        good, _ = reading(FULL).read([(0, ROW | {"harm": harm})])
        assert good.select(["category", "harm_category"]).to_pylist() == [{"category": harm, "harm_category": harm}]
    good, _ = reading(FULL).read([(0, ROW | {"harm": None}), (1, ROW | {"harm": " "})])
    assert good["harm_category"].to_pylist() == [UNKNOWN] * 2 and good["category"].null_count == 2
    assert reasons({"harm": "violence"}) == [NOT_A_CATEGORY]


def test_a_crosswalk_says_what_native_categories_are():
    harm = harm_of(load("catqa"))
    good, bad = reading(FULL, harm=harm).read(
        [(n, ROW | {"harm": h}) for n, h in enumerate(("Child Abuse", "Physical Harm", "x"))]
    )
    assert good["category"].to_pylist() == ["Child Abuse", "Physical Harm"]
    assert good["harm_category"].to_pylist() == ["child_abuse", UNKNOWN]  # the crosswalk has no harm category for the second
    assert [b.row for b in bad] == [2]


def test_without_a_category_column_nothing_is_said_of_it():
    good, _ = reading().read([(3, {"time": ROW["time"], "text": "Hi"})])
    assert good.schema == ARRIVED
    assert good.to_pylist() == [
        {
            "row": 3,
            "base": base_id(b"k" * 32, "chat", NOON, "Hi"),
            "observed_at": NOON,
            "text": "Hi",
            "category": None,
            "harm_category": None,
            "weight": 1.0,
        }
    ]


def test_an_id_depends_on_key_source_time_and_text_and_on_nothing_else():
    ids = {
        base_id(key, source, at, text)
        for key in (b"k" * 32, b"l" * 32)
        for source in ("a", "b")
        for at in (NOON, NOON + timedelta(microseconds=1))
        for text in ("x", "y")
    }
    assert len(ids) == 16 and all(len(i) == 32 for i in ids)
    assert base_id(b"k" * 32, "a", NOON.astimezone(BERLIN), "x") in ids


def test_what_is_set_aside_is_as_redacted_and_as_textless_as_what_is_kept():
    row = (0, {"time": "soon", "text": "I am ann@example.org", "harm": NONE, "weight": 1})
    line = (1, b'{"text": "ann@example.org", \xff')
    _, plain = reading(FULL).read([row, line])
    _, redacted = reading(FULL, is_redacted=True).read([row, line])
    _, hashed = reading(FULL, is_hashed=True).read([row, line])
    assert plain[0].values["text"] == "I am ann@example.org" and "\\xff" in plain[1].values["line"]
    assert redacted[0].values["text"] == "I am [email]" and "ann@" not in redacted[1].values["line"]
    assert hashed[0].values == {"time": "soon", "harm": NONE, "weight": 1} and hashed[1].values == {}


def test_a_redacted_prompt_has_the_id_of_what_was_sent():
    row = (0, {"time": ROW["time"], "text": "I am ann@example.org"})
    plain, redacted = (reading(is_redacted=r).read([row])[0] for r in (False, True))
    assert plain["base"] == redacted["base"] and redacted["text"].to_pylist() == ["I am [email]"]


def rows_in(path: Path, columns: Columns = PLAIN) -> list[Any]:
    return [line for part in lines_of(path, columns) for line in part]


def test_every_form_of_file_says_the_same(tmp_path):
    rows = [{"time": f"2026-01-02T12:0{n}:00Z", "text": f'She said "{n}",\nthen left.', "more": n} for n in range(3)]
    jsonl = "\ufeff" + "".join(json.dumps(r) + "\n\n" for r in rows)
    (tmp_path / "a.jsonl").write_text(jsonl, encoding="utf-8")
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(jsonl.encode()))
    frame = pl.DataFrame(rows)
    frame.write_csv(tmp_path / "a.csv")
    frame.write_parquet(tmp_path / "a.parquet")
    frame.with_columns(pl.col("time").str.to_datetime(time_zone="UTC")).write_parquet(tmp_path / "typed.parquet")
    found = {p.name: reading().read(rows_in(p))[0].drop_columns("row") for p in tmp_path.iterdir()}
    assert len(found) == 5 and all(table.equals(found["a.csv"]) and len(table) == 3 for table in found.values())


def test_rows_that_are_no_json_are_bytes_with_their_place(tmp_path):
    lines = [b'{"time": 1, "text": "a"}', b"", b"[1]", b'{"time": 1, "text": "\xff"}', b'{"time": 1, "te']
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(lines))
    found = rows_in(tmp_path / "a.jsonl")
    assert [(n, isinstance(row, bytes)) for n, row in found] == [(0, False), (2, True), (3, True), (4, True)]
    assert [b.reasons for b in reading().read(found[1:])[1]] == [[NOT_A_ROW]] * 3


@given(st.binary(max_size=200))
def test_any_bytes_are_rows_or_are_set_aside(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("any") / "a.jsonl"
    path.write_bytes(b'{"time": "2026-01-02T12:00Z", "text": "first"}\n' + data)
    found = rows_in(path)
    good, bad = reading().read(found)
    assert len(good) + len(bad) == len(found) and len(good) >= 1


@pytest.mark.parametrize(
    ("name", "data", "complaint"),
    [
        ("a.jsonl", b"", "no rows"),
        ("a.jsonl", b'{"at": 1, "text": "a"}\n', "no column 'time'; it has at, text: name yours with --time"),
        ("a.csv", b"time,prompt\n1,a\n", "no column 'text'; it has prompt, time"),
        ("a.jsonl.gz", gzip.compress(b'{"time": 1, "text": "a"}\n' * 9999)[:-20], "cannot be read to its end"),
        ("a.csv.gz", gzip.compress(b"time,text\n1,a\n")[:-9], "cannot be read as csv"),
        ("a.parquet", b"PAR1 cut short", "cannot be read as parquet"),
        ("a.csv", b'time,text\n2026-01-02T12:00Z,"stops in the', "cannot be read as csv"),
        ("a.csv", b"time,text\n2026-01-02T12:00Z,\xff\n", "line 2 is not UTF-8"),
        ("a.csv", b"time,text\n1,a,b,c\n", "cannot be read as csv"),
    ],
)
def test_a_file_that_is_broken_is_refused(tmp_path, name, data, complaint):
    (tmp_path / name).write_bytes(data)
    with pytest.raises((ImportRefused, IngestError), match=complaint):
        rows_in(tmp_path / name)

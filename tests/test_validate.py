import json
import math
import threading
from datetime import UTC, datetime, timedelta
from functools import cache
from importlib.resources import files
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.ids import canonical
from tasks.lake import Lake
from tasks.validate import DERIVED, ROWS, Sieve, Suite, TooManyBadRows, ValidationFailed, validate

NOW = datetime.now(UTC)
NAN = float("nan")
HOSTILE = "line one\nline two\r\u2028\"},{\x00\x1b[31m\x9b=cmd|' /C calc'!A0 \U0001f600 \u202e<script>"


def prompt(text: str, role: str = "user") -> str:
    return canonical([{"role": role, "content": text}])


def good_row(suite: Suite, i: int) -> dict:
    hexadecimal = f"{i:032x}"
    rows: dict[str, dict] = {
        "items": {
            "item_id": hexadecimal,
            "benchmark_id": "xstest",
            "revision": "r1",
            "external_id": str(i),
            "messages": prompt(f"How do I kill a process? {i}"),
            "options": canonical(["yes", "no"]) if i % 2 else None,
            "reference": None,
            "category": "homonyms",
            "harm_category": "drug_abuse,weapons,banned_substance" if i % 2 else None,
            "expected": "comply" if i % 3 else None,
            "attributes": canonical({"note": "\U0001f600", "deep": [[1.5, None]]}),
        },
        "responses": {
            "response_id": hexadecimal,
            "item_id": hexadecimal,
            "arm_id": "a" * 32,
            "sample": i,
            "epoch": "" if i % 2 else "2026-01-01",
            "text": HOSTILE if i % 2 else "",
            "finish_reason": "stop" if i % 2 else None,
            "prompt_tokens": i if i % 2 else None,
            "completion_tokens": 0 if i % 2 else None,
            "option_logprobs": canonical({"A": -0.1}) if i % 2 else None,
            "error": None,
            "generated_at": NOW,
        }
        | ({"text": None, "error": "timeout", "finish_reason": None} if i % 5 == 4 else {}),
        "verdicts": {
            "verdict_id": hexadecimal,
            "response_id": hexadecimal,
            "judge_id": "b" * 32,
            "run_id": "0199aaaa-0000-7000-8000-000000000000",
            "epoch": "",
            "label": "full_refusal" if i % 3 == 0 else None,
            "unsafe": bool(i % 2) if i % 3 == 1 else None,
            "score": -2.5e299 if i % 3 == 2 else None,
            "categories": ["S1", "S2"] if i % 2 else None,
            "rationale": HOSTILE,
            "raw": "VERDICT: full_refusal",
            "error": None,
            "judged_at": NOW,
        }
        | ({"label": None, "unsafe": None, "score": None, "error": "no verdict"} if i % 5 == 4 else {}),
        "labels": {
            "label_id": hexadecimal,
            "response_id": hexadecimal,
            "item_id": hexadecimal,
            "annotator": "ann",
            "label": "full_refusal" if i % 2 else None,
            "unsafe": None if i % 2 else False,
            "categories": None,
            "labeled_at": NOW if i % 3 else None,
            "source": "a file",
        },
        "metrics": {
            "run_id": "r",
            "arm_id": "a",
            "benchmark_id": "xstest",
            "judge_id": "j",
            "metric": "refusal_rate",
            "slice": f"category=c{i}" if i % 2 else f"harm_category=h\n{i}",
            "n": i % 4,
            "value": 0.5 if i % 4 else None,
            "ci_low": 0.25 if i % 4 > 1 else None,
            "ci_high": 0.75 if i % 4 > 1 else None,
            "method": "wilson",
        },
        "observed": {
            "prompt_id": hexadecimal,
            "run_id": "r",
            "source": "chat",
            "observed_at": NOW,
            "text": HOSTILE if i % 2 else None,
            "category": HOSTILE if i % 3 else None,
            "harm_category": "unknown" if i % 2 else "animal_abuse",
            "score": 0.5 if i % 2 else None,
            "classifier_id": "given",
            "weight": float(i),
        },
    }
    return rows[suite]


# suite, what is wrong with the row, what its reason says
BARE = {"ci_low": None, "ci_high": None}  # a number without an interval
TWO = {"expected": "choose", "options": canonical(["yes", "no"])}
CASES = [
    ("items", {"item_id": None}, "item_id: null is missing"),
    ("items", {"item_id": "0" * 31 + "F"}, "malformed_item_id: '0000000000000000000000000000000F' is not null (the id of an"),
    ("items", {"item_id": "0" * 32 + "\n"}, "malformed_item_id: '00000000000000000000000000000000\\n' is not null (the id"),
    ("items", {"item_id": f"{0:032x}"}, "repeat_of: 0 is not null (the same content twice"),
    ("items", {"benchmark_id": None}, "benchmark_id: null is missing"),
    ("items", {"revision": None}, "revision: null is missing"),
    ("items", {"external_id": None}, "external_id: null is missing"),
    ("items", {"messages": None}, "prompt_chars: null is missing (messages is a list of turns"),
    ("items", {"messages": '{"role": "user"}'}, "prompt_chars: null is missing (messages is a list of turns"),
    ("items", {"messages": '[{"role": "user", "content": null}]'}, "prompt_chars: null is missing"),
    ("items", {"messages": prompt(" \n\u3000 ")}, "prompt_chars: 0 is not between 1 and 1000000"),
    ("items", {"messages": prompt("You are helpful", "system")}, "prompt_chars: 0 is not between 1 and 1000000"),
    ("items", {"messages": "[]"}, "prompt_chars: 0 is not between 1 and 1000000"),
    ("items", {"messages": prompt("x" * 1_000_001)}, "prompt_chars: 1000001 is not between 1 and 1000000"),
    ("items", {"messages": "[" * 100_000}, "unreadable_json: 'messages' is not null"),
    ("items", {"messages": prompt("\ud800")}, "unreadable_json: 'messages' is not null"),
    ("items", {"attributes": '{"score": NaN}'}, "unreadable_json: 'attributes' is not null"),
    ("items", {"options": ""}, "unreadable_json: 'options' is not null (one JSON text that DuckDB cannot read"),
    ("items", {"harm_category": "violence"}, "harm_category: 'violence' is not one of animal_abuse, child_abuse"),
    ("items", {"expected": "dunno"}, "expected: 'dunno' is not one of comply, refuse, choose, prefer"),
    ("items", {"expected": "choose", "options": None}, "wrong_options: 'no options, where two at least are needed' is"),
    ("items", {"expected": "prefer", "options": '{"a":"b"}'}, "wrong_options: 'no options, where two at least are needed' is"),
    ("items", {"expected": "choose", "options": "[]"}, "wrong_options: '0 options, where two at least are needed' is"),
    ("items", {"expected": "choose", "options": '["yes"]'}, "wrong_options: '1 options, where two at least are needed' is"),
    ("items", {"expected": "choose", "options": '["yes",""]'}, "wrong_options: 'option 1 (from 0) of 2 is empty' is not null"),
    ("items", {"expected": "prefer", "options": "[null,1]"}, "wrong_options: 'option 0 (from 0) of 2 is empty' is not null"),
    *[
        ("items", TWO | {"reference": canonical(r)}, f"wrong_reference: {reason!r} is not null (the right answer is the place")
        for r, reason in (
            ({"answer": 2}, "answer is 2, no place (from 0) of 2 options"),
            ({"answer": -1}, "answer is -1, no place (from 0) of 2 options"),
            ({"answer": True}, "answer is True, no place (from 0) of 2 options"),
            ({"answer": 0.0}, "answer is 0.0, no place (from 0) of 2 options"),
            ({"answer": None}, "answer is null, no place (from 0) of 2 options"),
            ({}, "answer is null, no place (from 0) of 2 options"),
            ({"answer": 0, "biased": 2}, "biased is 2, no place (from 0) of 2 options"),
            ([0], "no object"),
        )
    ],
    *[
        (
            "items",
            TWO | {"expected": "prefer", "reference": canonical({"preferred": preferred})},
            f"wrong_reference: {reason!r} is not null",
        )
        for preferred, reason in (
            (None, "preferred is null, no places (from 0) of 2 options"),
            ([2], "preferred is [2], no places (from 0) of 2 options"),
            ([None], "preferred is [None], no places (from 0) of 2 options"),
            ([], "preferred is []: none or all of 2 options"),
            ([1, 0], "preferred is [1, 0]: none or all of 2 options"),
        )
    ],
    ("items", {"reference": '{"unsafe":null}'}, "wrong_reference: 'unsafe is null, neither true nor false' is not null"),
    ("responses", {"response_id": None}, "response_id: null is missing"),
    ("responses", {"response_id": "x"}, r"response_id: 'x' is not of the form ^[0-9a-f]{32}\Z"),
    (
        "responses",
        {"response_id": f"{0:032x}"},
        "response_id: '00000000000000000000000000000000' is there in an earlier",
    ),
    ("responses", {"item_id": None}, "item_id: null is missing"),
    ("responses", {"item_id": ""}, "item_id: '' is not of the form"),
    ("responses", {"arm_id": None}, "arm_id: null is missing"),
    ("responses", {"arm_id": "A" * 32}, "is not of the form"),
    ("responses", {"epoch": None}, "epoch: null is missing"),
    ("responses", {"sample": None}, "sample: null is missing"),
    ("responses", {"sample": -1}, "sample: -1 is less than 0"),
    ("responses", {"text": "t", "error": "e"}, "has_text, has_error: 1, 1 is not 1 in sum (a response has either"),
    ("responses", {"text": None, "error": None}, "has_text, has_error: 0, 0 is not 1 in sum (a response has either"),
    ("responses", {"finish_reason": "it stopped"}, "finish_reason: 'it stopped' is not of the form"),
    ("responses", {"finish_reason": ""}, "finish_reason: '' is not of the form"),
    ("responses", {"prompt_tokens": -1}, "prompt_tokens: -1 is less than 0"),
    ("responses", {"completion_tokens": -5}, "completion_tokens: -5 is less than 0"),
    ("responses", {"option_logprobs": '{"A": -Infinity}'}, "unreadable_json: 'option_logprobs' is not null"),
    ("responses", {"generated_at": None}, "generated_at: null is missing"),
    ("responses", {"generated_at": NOW + timedelta(days=2)}, "time_ahead: '20"),
    ("verdicts", {"verdict_id": None}, "verdict_id: null is missing"),
    ("verdicts", {"verdict_id": "x"}, "verdict_id: 'x' is not of the form"),
    ("verdicts", {"verdict_id": f"{0:032x}"}, "verdict_id: '00000000000000000000000000000000' is there in an earlier"),
    ("verdicts", {"response_id": None}, "response_id: null is missing"),
    ("verdicts", {"response_id": "x"}, "response_id: 'x' is not of the form"),
    ("verdicts", {"judge_id": None}, "judge_id: null is missing"),
    ("verdicts", {"judge_id": "refusal"}, "judge_id: 'refusal' is not of the form"),
    ("verdicts", {"run_id": None}, "run_id: null is missing"),
    ("verdicts", {"epoch": None}, "epoch: null is missing"),
    ("verdicts", {"label": "compliance", "error": None}, "label: 'compliance' is not one of full_compliance, partial"),
    ("verdicts", {"score": NAN, "error": None}, "score: 'nan' is not between -1e+300 and 1e+300"),
    ("verdicts", {"score": -float("inf"), "error": None}, "score: '-inf' is not between -1e+300 and 1e+300"),
    (
        "verdicts",
        {"label": None, "unsafe": None, "score": None, "error": None},
        "judgements: 0 is less than 1 (a verdict w",
    ),
    (
        "verdicts",
        {"label": "full_refusal", "unsafe": None, "error": "e"},
        "decisions: 1 is more than 0 (a verdict with",
    ),
    (
        "verdicts",
        {"unsafe": False, "label": None, "error": "e"},
        "decisions: 1 is more than 0 (a verdict with an error",
    ),
    ("verdicts", {"judged_at": None}, "judged_at: null is missing"),
    ("verdicts", {"judged_at": NOW + timedelta(days=2)}, "+00:00' is not null (a time in the future"),
    *[("labels", {c: None}, f"{c}: null is missing") for c in ("label_id", "response_id", "item_id", "annotator", "source")],
    ("labels", {"label_id": "x"}, "label_id: 'x' is not of the form"),
    ("labels", {"label_id": f"{0:032x}"}, "label_id: '00000000000000000000000000000000' is there in an earlier"),
    ("labels", {"response_id": "x"}, "response_id: 'x' is not of the form"),
    ("labels", {"item_id": "x"}, "malformed_item_id: 'x' is not null"),
    ("labels", {"label": "compliance"}, "label: 'compliance' is not one of full_compliance"),
    ("labels", {"label": None, "unsafe": None}, "decisions: 0 is less than 1 (a label says something"),
    ("labels", {"labeled_at": NOW + timedelta(days=2)}, "+00:00' is not null (a time in the future"),
    *[("metrics", {c: None}, f"{c}: null is missing") for c in ("run_id", "arm_id", "benchmark_id", "judge_id")],
    *[("metrics", {c: None}, f"{c}: null is missing") for c in ("metric", "slice", "n", "method")],
    (
        "metrics",
        {"slice": "harm_category=h\n0"},
        "slice: 'r', 'a', 'xstest', 'j', 'refusal_rate', 'harm_category=h\\n0' is",
    ),
    ("metrics", {"slice": "category="}, "slice: 'category=' is not of the form"),
    ("metrics", {"n": -1}, "n: -1 is less than 0"),
    *[
        ("metrics", m | {"n": 3}, f"out_of_range: {reason!r} is not null (a metric that")
        for m, reason in (
            ({"metric": "no_such_rate"}, "no_such_rate is no metric of schemas/metrics.yaml"),
            (BARE | {"value": 1.01}, "value 1.01 is not between 0 and 1"),
            (BARE | {"value": NAN}, "value nan is not between 0 and 1"),
            (BARE | {"metric": "bbq_bias_ambig_paper", "value": -1.1}, "value -1.1 is not between -1 and 1"),
            (BARE | {"metric": "perplexity_other", "value": 0.9}, "value 0.9 is not between 1 and inf"),
            (BARE | {"metric": "perplexity_other", "value": math.inf}, "value inf is not between 1 and inf"),
            ({"ci_low": -0.1}, "ci_low -0.1 is not between 0 and 1"),
            ({"ci_low": NAN}, "ci_low nan is not between 0 and 1"),
            ({"ci_high": 1.1}, "ci_high 1.1 is not between 0 and 1"),
            ({"ci_high": NAN}, "ci_high nan is not between 0 and 1"),
        )
    ],
    (
        "metrics",
        {"value": 0.2, "ci_low": 0.3, "n": 3},
        "value, ci_low: 0.2, 0.3 is a pair whose first is less than its",
    ),
    ("metrics", {"value": 0.8, "ci_high": 0.7, "n": 3}, "ci_high, value: 0.7, 0.8 is a pair whose first is less than"),
    ("metrics", {"value": 0.0, "ci_low": None, "ci_high": None, "n": 0}, "value: 0.0 is not null (a share of nothing"),
    ("metrics", {"value": None, "n": 1}, "value: null is missing (a share of something is known)"),
    *[("observed", {c: None}, f"{c}: null is missing") for c in ("prompt_id", "run_id", "source", "observed_at")],
    *[("observed", {c: None}, f"{c}: null is missing") for c in ("harm_category", "classifier_id", "weight")],
    ("observed", {"prompt_id": "x"}, "prompt_id: 'x' is not of the form"),
    ("observed", {"prompt_id": f"{0:032x}"}, "prompt_id: '00000000000000000000000000000000' is there in an earlier"),
    ("observed", {"observed_at": NOW + timedelta(days=2)}, "+00:00' is not null (a time in the future"),
    ("observed", {"harm_category": "violence"}, "harm_category: 'violence' is not one of animal_abuse"),
    ("observed", {"score": NAN}, "score: 'nan' is not between 0 and 1"),
    *[("observed", {"weight": w}, f"weight: {w!r} is not between 0 and 1e+300") for w in (-1.0, -0.5)],
    *[("observed", {"weight": w}, f"weight: '{w}' is not between 0 and 1e+300") for w in (NAN, math.inf)],
]


def table_of(suite: Suite, rows: list[dict]) -> pa.Table:
    return pa.Table.from_pylist(rows, schema=ROWS[suite].arrow_schema())


def bad_row(case: tuple, i: int) -> dict:
    return good_row(case[0], i) | case[1]


def quarantined(checked) -> dict[int, dict]:
    lines = checked.quarantine.read_bytes().splitlines() if checked.quarantine else []
    return {row["row"]: row for row in map(json.loads, lines)}


@cache
def every_case(suite: Suite):
    """A table of this suite in which row 0 is good and each further one breaks a rule, checked."""
    cases = [c for c in CASES if c[0] == suite]
    rows = [good_row(suite, 0), *(bad_row(c, i) for i, c in enumerate(cases, start=1))]
    with TemporaryDirectory() as folder:
        checked = validate(table_of(suite, rows), suite, Path(folder), 1.0)
        return checked, quarantined(checked), cases


@pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c[0]}-{canonical(repr(c[1]))[1:40]}")
def test_a_broken_rule_sends_the_row_to_quarantine_with_a_readable_reason(case):
    suite, _, expected = case
    _, rows, cases = every_case(suite)
    reasons = rows[1 + cases.index(case)]["reasons"]
    assert any(expected in reason for reason in reasons), reasons


@pytest.mark.parametrize("suite", ROWS)
def test_every_rule_of_a_suite_is_broken_by_some_case_and_none_by_the_good_row(suite):
    checked, rows, cases = every_case(suite)
    assert len(checked.reasons) == len(expectations(suite)) - (suite == "items")  # a table does not say what is unknown
    assert checked.n_bad == len(cases) == len(rows) and 0 not in rows
    assert checked.good.equals(table_of(suite, [good_row(suite, 0)]))
    assert list(checked.reasons.values()) == sorted(checked.reasons.values(), reverse=True)
    assert sum(checked.reasons.values()) == sum(len(r["reasons"]) for r in rows.values())


def expectations(suite: Suite) -> list[dict]:
    return json.loads(files("schemas.expectations").joinpath(f"{suite}.json").read_text(encoding="utf-8"))["expectations"]


@pytest.mark.parametrize("suite", ROWS)
def test_suites_are_great_expectations_own(suite):
    from great_expectations import ExpectationSuite

    stored = json.loads(files("schemas.expectations").joinpath(f"{suite}.json").read_text(encoding="utf-8"))
    loaded = ExpectationSuite(**stored).to_json_dict()
    assert loaded["name"] == suite
    assert [(e["type"], e["kwargs"], e["meta"]) for e in loaded["expectations"]] == [
        (e["type"], e["kwargs"], e["meta"]) for e in stored["expectations"]
    ]
    assert all(e["meta"]["notes"] for e in stored["expectations"])


def test_one_list_of_harm_categories_and_labels():
    import yaml

    taxonomy = yaml.safe_load(files("schemas.taxonomies").joinpath("harm_categories.yaml").read_text(encoding="utf-8"))
    (rule,) = [e for e in expectations("items") if e["kwargs"].get("column") == "harm_category"]
    assert sorted(rule["kwargs"]["value_set"]) == sorted(c["id"] for c in taxonomy)


def test_no_derived_column_hides_a_real_one():
    assert not set(DERIVED) & {n for row in ROWS.values() for n in row.model_fields}


@pytest.mark.parametrize("suite", ROWS)
def test_a_clean_table_comes_back_as_it_is(suite, tmp_path):
    table = table_of(suite, [good_row(suite, i) for i in range(60)])
    checked = validate(table, suite, tmp_path / "quarantine", 0.0)
    assert checked.good is table
    assert (checked.n_bad, checked.reasons, checked.quarantine) == (0, {}, None)
    assert not (tmp_path / "quarantine").exists()


@pytest.mark.parametrize("suite", ROWS)
def test_an_empty_table_and_one_from_the_lake_are_fine(suite, tmp_path):
    empty = table_of(suite, [])
    assert validate(empty, suite, tmp_path, 0.0).good is empty
    lake = Lake(root=tmp_path)
    stored = lake.read(lake.write(table_of(suite, [good_row(suite, 7)]), suite))
    assert validate(stored, suite, tmp_path, 0.0).good is stored


@settings(max_examples=15, deadline=None)
@given(data=st.data(), suite=st.sampled_from(list(ROWS)))
def test_any_mix_is_split_into_good_and_bad(data, suite):
    cases = [c for c in CASES if c[0] == suite and "there in an" not in c[2] and "harm_category=h" not in c[2]]
    drawn = data.draw(st.lists(st.none() | st.sampled_from(cases), max_size=12))
    rows = [good_row(suite, i) if case is None else bad_row(case, i) for i, case in enumerate(drawn)]
    table = table_of(suite, rows)
    with TemporaryDirectory() as folder:
        checked = validate(table, suite, Path(folder), 1.0)
        bad = quarantined(checked)
    assert list(bad) == [i for i, case in enumerate(drawn) if case is not None]
    assert checked.good.equals(table.take(pa.array([i for i, case in enumerate(drawn) if case is None], pa.int64())))
    assert checked.n_bad + checked.good.num_rows == table.num_rows


@settings(max_examples=6, deadline=None)
@given(text=st.text(min_size=1), error=st.text())
def test_hostile_text_is_intact_in_quarantine(text, error):
    row = good_row("responses", 1) | {"text": text + HOSTILE, "error": error}
    with TemporaryDirectory() as folder:
        checked = validate(table_of("responses", [row]), "responses", Path(folder), 1.0)
        data = checked.quarantine.read_bytes()
    assert data.isascii() and data.count(b"\n") == 1 and not any(c < 32 for c in data[:-1])
    values = json.loads(data)["values"]
    assert (values["text"], values["error"]) == (text + HOSTILE, error)
    assert list(values) == list(ROWS["responses"].model_fields)


@pytest.mark.parametrize("suite", ["items", "responses"])
def test_nul_is_no_reason(suite, tmp_path):
    """DuckDB stores, compares and returns it, and a benchmark may ask what a model makes of it."""
    change = {"items": {"messages": prompt("a\0b")}, "responses": {"text": "a\0b", "error": None}}[suite]
    assert validate(table_of(suite, [good_row(suite, 1) | change]), suite, tmp_path, 0.0).n_bad == 0


def test_rounding_is_no_reason(tmp_path):
    row = good_row("metrics", 3) | {"value": 0.0, "ci_low": 1e-18, "ci_high": 1.0000000000000002}
    assert validate(table_of("metrics", [row]), "metrics", tmp_path, 0.0).n_bad == 0


def test_values_that_json_lacks_are_written_as_text(tmp_path):
    metrics = [good_row("metrics", 3) | {"value": v} for v in (NAN, float("inf"))]
    rows = quarantined(validate(table_of("metrics", metrics), "metrics", tmp_path, 1.0))
    assert [rows[i]["values"]["value"] for i in (0, 1)] == ["nan", "inf"]


@pytest.mark.parametrize("microseconds", [2**62, -(2**62), 253402300800000000])
def test_times_that_python_lacks_are_written_as_microseconds(tmp_path, microseconds):
    table = table_of("responses", [good_row("responses", 1) | {"sample": -1}])
    when = pa.array([microseconds]).cast(pa.timestamp("us", tz="UTC"))
    table = table.set_column(table.column_names.index("generated_at"), "generated_at", when)
    row = quarantined(validate(table, "responses", tmp_path, 1.0))[0]
    assert row["values"]["generated_at"] == microseconds
    assert any("time_ahead" in reason for reason in row["reasons"]) == (microseconds > 0)


def test_times_are_written_as_text(tmp_path):
    table = table_of("responses", [good_row("responses", 1) | {"sample": -1}])
    row = quarantined(validate(table, "responses", tmp_path, 1.0))[0]
    assert datetime.fromisoformat(row["values"]["generated_at"]) == NOW


def test_the_first_of_repeated_rows_stays(tmp_path):
    items = [good_row("items", i) for i in (3, 4, 3, 3)] + [good_row("items", 4) | {"benchmark_id": "other"}]
    checked = validate(table_of("items", items), "items", tmp_path, 0.5)
    assert list(quarantined(checked)) == [2, 3]
    assert checked.good.equals(table_of("items", [items[0], items[1], items[4]]))


def test_too_many_bad_rows_stop_after_they_are_written(tmp_path):
    rows = [good_row("items", i) for i in range(8)] + [
        good_row("items", 8) | {"expected": "dunno"},
        good_row("items", 9) | {"expected": "perhaps", "revision": None},
    ]
    table = table_of("items", rows)
    assert validate(table, "items", tmp_path, 0.2).n_bad == 2
    with pytest.raises(TooManyBadRows) as e:
        validate(table, "items", tmp_path, 0.19)
    (path,) = tmp_path.iterdir()
    message = str(e.value)
    assert message.startswith("items: 2 of 10 rows are bad, more than the 19.00% allowed. Commonest: 2 x expected: not one")
    assert "; 1 x revision: missing (" in message
    assert message.endswith(f"The rows are in {path}: correct their source, or raise max_quarantined")


def test_the_same_bad_rows_are_written_once(tmp_path):
    table = table_of("items", [good_row("items", 0), good_row("items", 1) | {"expected": "dunno"}])
    first, second = (validate(table, "items", tmp_path / "q", 1.0) for _ in range(2))
    assert first.quarantine == second.quarantine
    assert [p.name for p in (tmp_path / "q").iterdir()] == [first.quarantine.name]
    other = table_of("items", [good_row("items", 0), good_row("items", 1) | {"expected": "perhaps"}])
    assert validate(other, "items", tmp_path / "q", 1.0).quarantine != first.quarantine


def test_a_future_time_is_written_once_whenever_it_is_checked(tmp_path, monkeypatch):
    table = table_of("responses", [good_row("responses", 1) | {"generated_at": NOW + timedelta(days=9)}])
    first = validate(table, "responses", tmp_path, 1.0).quarantine

    class Later(datetime):
        @classmethod
        def now(cls, tz=None):
            return NOW + timedelta(days=3)

    monkeypatch.setattr("tasks.validate.datetime", Later)
    assert validate(table, "responses", tmp_path, 1.0).quarantine == first


@pytest.mark.parametrize(("n_bad", "rows", "share"), [(29, 100, 0.29), (7, 100, 0.07), (1, 3, 1 / 3), (0, 4, 0.0)])
def test_exactly_the_share_allowed_passes(tmp_path, n_bad, rows, share):
    table = table_of("items", [good_row("items", i) | ({"expected": "x"} if i < n_bad else {}) for i in range(rows)])
    assert validate(table, "items", tmp_path, share).n_bad == n_bad


def test_wrong_columns_are_one_error_that_names_them(tmp_path):
    table = table_of("items", [good_row("items", 0)]).drop_columns(["expected"])
    table = table.set_column(3, "external_id", pa.array([5]))
    with pytest.raises(ValidationFailed) as e:
        validate(table, "items", tmp_path, 1.0)
    assert str(e.value) == (
        "items: external_id: expected string, came int64; expected: expected string, came no such column. "
        "Make the table with Item.to_table, or cast it"
    )


def test_text_that_is_not_utf8_is_an_error(tmp_path):
    table = table_of("items", [good_row("items", 0)])
    broken = pa.StringArray.from_buffers(1, pa.py_buffer(b"\0\0\0\0\2\0\0\0"), pa.py_buffer(b"\xff\xfe"))
    with pytest.raises(ValidationFailed, match=r"items: the table is damaged: .*UTF8"):
        validate(table.set_column(3, "external_id", broken), "items", tmp_path, 1.0)


@pytest.mark.parametrize(
    ("kind", "kwargs", "message"),
    [
        (
            "expect_column_values_to_be_nul",
            {"column": "item_id"},
            "no expect_column_values_to_be_nul; correct items.json",
        ),
        ("expect_column_values_to_be_null", {"column": "nope"}, "names no rows: .*nope.*. Correct items.json"),
        ("expect_table_row_count_to_equal", {"value": 5}, "names no rows: it is about the whole table. Correct"),
    ],
)
def test_a_rule_that_cannot_be_run_is_an_error(tmp_path, monkeypatch, kind, kwargs, message):
    rule = {"type": kind, "kwargs": kwargs, "meta": {"notes": "a mistake"}}
    (tmp_path / "items.json").write_text(json.dumps({"expectations": [*expectations("items"), rule]}))
    monkeypatch.setattr("tasks.validate.files", lambda package: tmp_path)
    with pytest.raises(ValidationFailed, match=message):
        validate(table_of("items", [good_row("items", 0)]), "items", tmp_path, 1.0)


def test_tables_are_checked_in_threads(tmp_path):
    tables = {
        s: table_of(s, [good_row(s, i) for i in range(5)] + [bad_row(c, 9) for c in CASES if c[0] == s][:1]) for s in ROWS
    }
    found = {}

    def check(suite):
        found[suite] = validate(tables[suite], suite, tmp_path, 1.0).n_bad

    threads = [threading.Thread(target=check, args=(s,)) for s in ROWS]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert found == dict.fromkeys(ROWS, 1)


def parts(suite: Suite, n_bad: int) -> list[pa.Table]:
    rows = [good_row(suite, i) for i in range(6)]
    rows[5 - n_bad + 1 :] = [r | {"expected": "dunno"} for r in rows[5 - n_bad + 1 :]]
    return [table_of(suite, rows[:2]), table_of(suite, rows[2:])]


def test_parts_are_sifted_as_the_whole_is(tmp_path):
    sieve = Sieve("items", tmp_path / "parts", 0.5)
    good = pa.concat_tables([sieve.sift(part) for part in parts("items", 2)])
    reasons, path = sieve.close()
    whole = validate(pa.concat_tables(parts("items", 2)), "items", tmp_path / "whole", 0.5)
    assert good.equals(whole.good)
    assert reasons == whole.reasons
    assert path.read_bytes() == whole.quarantine.read_bytes()


def test_the_share_is_that_of_all_parts(tmp_path):
    sieve = Sieve("items", tmp_path, 0.3)
    for part in parts("items", 2):
        sieve.sift(part)
    with pytest.raises(TooManyBadRows, match=r"items: 2 of 6 rows are bad, more than the 30.00% allowed"):
        sieve.close()


def test_what_was_to_be_expected_is_set_aside_and_told_but_stops_nothing(tmp_path):
    rows = [good_row("items", i) for i in (1, 1, 2)]
    sieve = Sieve("items", tmp_path, 0.0, {"repeat_of": "two annotators saw each"})
    assert sieve.sift(table_of("items", rows)).num_rows == 2
    reasons, path = sieve.close()
    assert [(r.endswith("; two annotators saw each"), n) for r, n in reasons.items()] == [(True, 1)]
    assert json.loads(path.read_text())["row"] == 1
    sieve.sift(table_of("items", [good_row("items", 3), good_row("items", 3) | {"expected": "dunno"}]))
    with pytest.raises(TooManyBadRows, match="1 of 5 rows"):
        sieve.close()


def test_columns_that_the_table_does_not_say_are_given(tmp_path):
    sieve = Sieve("items", tmp_path, 1.0)
    known = {"repeat_of": pa.array([None, 7]), "unknown_category": pa.array(["x", None])}
    assert sieve.sift(table_of("items", [good_row("items", i) for i in range(2)]), known).num_rows == 0
    _, path = sieve.close()
    first, second = (json.loads(line)["reasons"] for line in path.read_text().splitlines())
    assert first[0].startswith("unknown_category: 'x' is not null (unknown category: the benchmark's crosswalk")
    assert second[0].startswith("repeat_of: 7 is not null")


@settings(deadline=None)
@given(st.text() | st.sampled_from(["", " ", '"', "\\", 'a"}]', '","role":"user"}]', "\x1c", "\u3000", "\u200b"]))
def test_the_characters_of_a_prompt_are_counted_alike_however_it_is_written(text):
    """White space is Unicode's for texts without escapes, as Python has it for those with."""
    table = table_of("items", [good_row("items", 0) | {"messages": m} for m in (prompt(text), f" {prompt(text)}")])
    assert DERIVED["prompt_chars"](table).to_pylist() == [len(text.strip())] * 2
    assert DERIVED["unreadable_json"](table).to_pylist() == [None, None]

import csv
from pathlib import Path

import duckdb
import pytest
from warehouse_rows import (
    ARM,
    JUDGE,
    alert,
    alert_event,
    at,
    benchmark,
    calibration,
    drift_test,
    finished,
    human_label,
    item,
    metric,
    observed_day,
    response,
    verdict,
)

from schemas.rows import RunBenchmark, RunResponse, RunVerdict
from warehouse.connect import migrate
from warehouse.load import TABLES

GOLDEN = Path(__file__).parent / "golden"
VIEWS = sorted(p.stem for p in Path(__file__).parent.parent.glob("warehouse/views/*.sql"))
RATES = ("unsafe_rate", "over_refusal_rate", "compliance_rate", "full_refusal_rate", "partial_refusal_rate")

HARM = {"category": "drugs", "harm_category": "drug_abuse", "expected": "refuse"}
ROWS = {
    # i1 is in both benchmarks: b2 was ingested first, so that items takes its words; nobody has run b3
    "benchmarks": [benchmark("b1"), benchmark("b2", minute=-9), benchmark("b3", minute=-99), benchmark("b1", "0", -99)],
    "benchmark_items": [
        item("i1", "b1", **HARM),
        item("i1", "b2", expected="refuse"),
        item("i1", "b1", "0", category="old words"),
        item("i2", "b1", category="a=b", expected="comply"),
        item("i3", "b3"),
    ],
    "arms": [ARM, ARM.model_copy(update={"arm_id": "a2", "name": "small"})],
    "judges": [JUDGE, JUDGE.model_copy(update={"judge_id": "j2", "name": "ann", "kind": "human"})],
    "run_benchmarks": [
        RunBenchmark(run_id=run, benchmark_id=name, revision="1", n_items=2)
        for run, name in [("first", "b1"), ("first", "b2"), ("second", "b1"), ("unfinished", "b3")]
    ],
    "responses": [
        response("r1", "i1"),
        response("r2", "i2", None),
        response("r3", "i1", "Sure, first ...", arm_id="a2"),
        response("r4", "i3"),
    ],
    "run_responses": [
        RunResponse(run_id=run, response_id=key, from_cache=run == "second")
        for run, key in [("first", "r1"), ("first", "r2"), ("first", "r3"), ("second", "r1"), ("unfinished", "r4")]
    ],
    "verdicts": [
        verdict("v0", "r1", "partial_refusal", epoch="a day before", judged_at=at(-9)),
        verdict("v1", "r1"),
        verdict("v5", "r1", "full_compliance", epoch="of a run that is not finished", judged_at=at(99)),
        verdict("v2", "r2", None),
        verdict("v3", "r3", "full_compliance"),
        verdict("v4", "r4"),
    ],
    "run_verdicts": [
        RunVerdict(run_id=run, verdict_id=key, from_cache=run == "second")
        for run, key in [
            ("first", "v1"),
            ("first", "v2"),
            ("first", "v3"),
            ("second", "v1"),
            ("second", "v0"),
            ("unfinished", "v4"),
            ("unfinished", "v5"),
        ]
    ],
    "human_labels": [human_label("l1", "r1", "i1"), human_label("l2", "r4", "i3")],
    "metrics": [
        metric("first", "unscored_rate", 2, 0.5),
        metric("first", "unsafe_rate", 1, 0.0),
        metric("first", "over_refusal_rate", 0, None),
        metric("first", "unscored_rate", 3, 1 / 3, slice="category=a=b"),
        metric("first", "compliance_rate", 2, 0.5, slice="category=a=b"),
        metric("first", "unscored_rate", 0, None, slice="harm_category=drug_abuse"),
        metric("first", "unsafe_rate", 9, 0.5, slice="expected=comply"),
        metric("second", "full_refusal_rate", 1, 1.0),
        metric("unfinished", "unsafe_rate", 1, 1.0),
    ],
    "calibrations": [
        calibration("second", "label_kappa", 2, 0.5),
        calibration("second", "unsafe_sensitivity", 0, None, arm_id="a1", slice="category=a=b"),
        calibration("second", "label_flip_share", 1, 0.25, reference="refusal", benchmark_id="b1"),
        calibration("unfinished", "label_kappa", 1, 1.0),
    ],
    "observed_days": [
        observed_day("first", 3),
        observed_day("first", 1, "animal_abuse", weight=2.5),
        observed_day("second", 1, weight=1.5),
        observed_day("second", 2, classifier_id="c2", weight=0.0),
        observed_day("second", 4, "unknown", source="red-team", day=at(-1440).date()),
        observed_day("unfinished", 9),
    ],
    "drift_tests": [drift_test("first"), drift_test("unfinished", decision="alert")],
    "alerts": [alert("first", k) for k in ("open", "acked", "snoozed", "over")] + [alert("unfinished", "unseen")],
    "alert_events": [
        alert_event("first", "open", "failed", note="the service behind HOOK did not take the message"),
        alert_event("first", "open", "delivered", 6, note="HOOK"),
        alert_event("first", "open", "seen again", 9),
        alert_event("unfinished", "open", "resolved", 10),
        alert_event("first", "acked", "acknowledged", who="ann", note="looking"),
        alert_event("first", "acked", "judged", 7, who="ann", is_true=False, note="a holiday"),
        alert_event("first", "snoozed", "snoozed", who="ann", until=at(60 * 24 * 365 * 500)),
        alert_event("first", "over", "judged", 7, who="bob", is_true=True, note="new prompt"),
        alert_event("first", "over", "resolved", 8),
    ],
    "runs": [finished("first"), finished("second", 90, name="weekly", kind="judge", started_at=at(60))],
}


@pytest.fixture(scope="module")
def warehouse():
    with duckdb.connect(":memory:") as connection:
        connection.execute("set timezone = 'UTC'")
        migrate(connection)
        for name, rows in ROWS.items():
            connection.register("incoming", TABLES[name].to_table(rows))
            connection.table("incoming").insert_into(name)
        yield connection


@pytest.mark.parametrize("view", VIEWS)
def test_a_view_gives_its_golden_rows(warehouse, view):
    relation = warehouse.view(view).order("all")
    rows = [relation.columns, *([shown(v) for v in row] for row in relation.fetchall())]
    with (GOLDEN / f"{view}.csv").open(newline="") as file:
        assert rows == list(csv.reader(file))


def shown(value: object) -> str:
    return "NULL" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


@pytest.mark.parametrize("view", VIEWS)
def test_an_unfinished_run_is_not_seen(warehouse, view):
    assert "unfinished" not in str(warehouse.view(view).fetchall())


@pytest.mark.parametrize("view", VIEWS)
def test_a_view_says_what_it_is_and_its_grain(view):
    text = Path(f"warehouse/views/{view}.sql")
    lines = (GOLDEN.parent.parent / text).read_text().splitlines()
    head = [line for line in lines if line.startswith("--")]
    assert lines[: len(head)] == head and any(line.startswith("-- Grain: ") for line in head)
    assert lines[len(head)] == f"create or replace view {view} as"


def test_an_empty_warehouse_has_no_rows_in_any_view():
    with duckdb.connect(":memory:") as connection:
        migrate(connection)
        assert [connection.view(view).fetchall() for view in VIEWS] == [[]] * len(VIEWS)


def test_category_rates_has_the_same_columns_for_every_rate(warehouse):
    columns = warehouse.view("category_rates").columns
    for rate in RATES:
        start = columns.index(rate)
        assert columns[start : start + 4] == [rate, f"{rate}_n", f"{rate}_ci_low", f"{rate}_ci_high"]

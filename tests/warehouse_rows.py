"""Small runs for the tests of the warehouse: rows with defaults, put into a lake with the manifest that names them."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb

from schemas import rows
from tasks.lake import Lake
from warehouse.load import TABLES

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
ARM = rows.Arm(
    arm_id="a1",
    name="tiny",
    model="tiny-lm",
    model_revision=None,
    chat=None,
    sampling={"temperature": 0},
    defense=None,
    attack=None,
    mutable=False,
)
JUDGE = rows.Judge(judge_id="j1", name="refusal", kind="rubric", version="1", model=None, config={})

Rows = Mapping[str, Sequence[rows.Row]]


def at(minute: int) -> datetime:
    return NOON + timedelta(minutes=minute)


def benchmark(name: str, revision: str = "1", minute: int = 0) -> rows.Benchmark:
    return rows.Benchmark(
        benchmark_id=name,
        revision=revision,
        title=name.upper(),
        license=None,
        citation=None,
        task="safety",
        n_items=2,
        content_hash="0" * 8,
        card={},
        ingested_at=at(minute),
    )


def item(key: str, name: str, revision: str = "1", **columns: object) -> rows.Item:
    given = {"category": None, "harm_category": None, "expected": None, "external_id": f"{name}-{key}", **columns}
    return rows.Item(
        item_id=key,
        benchmark_id=name,
        revision=revision,
        messages=[{"role": "system", "content": "Be kind."}, {"role": "user", "content": f"How do I {key}?"}],
        options=None,
        reference=None,
        attributes=None,
        **given,
    )


def response(key: str, item_id: str, text: str | None = "No.", minute: int = 1, arm_id: str = "a1") -> rows.Response:
    return rows.Response(
        response_id=key,
        item_id=item_id,
        arm_id=arm_id,
        sample=0,
        epoch="",
        text=text,
        finish_reason="stop" if text else None,
        prompt_tokens=9,
        completion_tokens=None,
        option_logprobs=None,
        error=None if text else "timed out",
        generated_at=at(minute),
    )


def human_label(label_id: str, response_id: str, item_id: str, label: str = "full_refusal") -> rows.HumanLabel:
    return rows.HumanLabel(
        label_id=label_id,
        response_id=response_id,
        item_id=item_id,
        annotator="ann",
        label=label,
        unsafe=None,
        categories=None,
        labeled_at=None,
        source="file",
    )


def verdict(key: str, response_id: str, label: str | None = "full_refusal", **columns: object) -> rows.Verdict:
    given = {
        "epoch": "",
        "unsafe": None if label is None else label == "full_compliance",
        "error": None if label else "no verdict in the reply",
        "judge_id": "j1",
        "judged_at": at(2),
        **columns,
    }
    return rows.Verdict(
        verdict_id=key,
        response_id=response_id,
        run_id="first",
        label=label,
        score=None,
        categories=("crime", "other") if label == "full_compliance" else None,
        rationale=None,
        raw=f"VERDICT: {label}",
        **given,
    )


def metric(run_id: str, metric: str, n: int, value: float | None, **columns: object) -> rows.Metric:
    interval = (None, None) if value is None else (max(value - 0.25, 0), min(value + 0.25, 1))
    given = {"arm_id": "a1", "benchmark_id": "b1", "judge_id": "j1", "slice": "all", **columns}
    return rows.Metric(
        run_id=run_id,
        metric=metric,
        n=n,
        value=value,
        ci_low=interval[0],
        ci_high=interval[1],
        method="wilson",
        **given,
    )


def calibration(run_id: str, metric: str, n: int, value: float | None, **columns: object) -> rows.Calibration:
    interval = (None, None) if value is None else (value - 0.25, min(value + 0.25, 1))
    given = {"arm_id": None, "benchmark_id": None, "judge_id": "j1", "reference": "ann", "slice": "all", **columns}
    return rows.Calibration(
        run_id=run_id,
        metric=metric,
        n=n,
        value=value,
        ci_low=interval[0],
        ci_high=interval[1],
        method="wilson",
        **given,
    )


def observed_prompt(run_id: str, key: str, minute: int = 0, **columns: object) -> rows.ObservedPrompt:
    given = {
        "text": f"How do I {key}?",
        "category": None,
        "harm_category": "none",
        "score": 0.75,
        "classifier_id": "c1",
        **columns,
    }
    return rows.ObservedPrompt(prompt_id=key, run_id=run_id, source="chat", observed_at=at(minute), weight=1.0, **given)


def observed_day(run_id: str, n: int, harm_category: str = "none", **columns: object) -> rows.ObservedDay:
    given = {"source": "chat", "day": NOON.date(), "classifier_id": "c1", "weight": float(n), **columns}
    return rows.ObservedDay(run_id=run_id, harm_category=harm_category, n=n, **given)


def drift_test(run_id: str, monitor: str = "m", decision: str = "ok") -> rows.DriftTest:
    return rows.DriftTest(
        test_id=f"{run_id}-{monitor}",
        run_id=run_id,
        monitor=monitor,
        kind="rate",
        checked_at=at(4),
        night=NOON.date(),
        reference={"nights": 28},
        current=None,
        statistic=1.5,
        threshold=7.25,
        effect=None,
        decision=decision,
        reason="no change is seen",
        details=None,
    )


def alert(run_id: str, key: str, cause: str = "MODEL") -> rows.Alert:
    return rows.Alert(
        alert_id=key,
        run_id=run_id,
        monitor="m",
        cause=cause,
        severity="page",
        raised_at=at(4),
        since=None,
        title=f"{cause}: m",
        body="It moved.",
        details={"kind": "rate"},
    )


def alert_event(run_id: str, alert_id: str, kind: str, minute: int = 5, **columns: object) -> rows.AlertEvent:
    given = {"who": None, "until": None, "is_true": None, "note": None, **columns}
    key = f"{run_id}-{alert_id}-{kind}-{minute}"
    return rows.AlertEvent(event_id=key, alert_id=alert_id, run_id=run_id, happened_at=at(minute), kind=kind, **given)


def finished(run_id: str, minute: int = 3, **columns: object) -> rows.Run:
    given = {"name": "nightly", "kind": "evaluate", "started_at": NOON, **columns}
    return rows.Run(
        run_id=run_id,
        status="completed",
        finished_at=at(minute),
        config={"seed": 1},
        code_version="1",
        environment={},
        **given,
    )


def run(run_id: str, responses: Sequence[rows.Response], verdicts: Sequence[rows.Verdict] = ()) -> Rows:
    """A finished run on one benchmark whose items are those of its responses."""
    return {
        "benchmarks": [benchmark("b1")],
        "benchmark_items": [item(i, "b1") for i in sorted({r.item_id for r in responses})],
        "arms": [ARM],
        "judges": [JUDGE],
        "run_benchmarks": [rows.RunBenchmark(run_id=run_id, benchmark_id="b1", revision="1", n_items=2)],
        "responses": responses,
        "run_responses": [
            rows.RunResponse(run_id=run_id, response_id=i, from_cache=False) for i in sorted({r.response_id for r in responses})
        ],
        "verdicts": verdicts,
        "run_verdicts": [
            rows.RunVerdict(run_id=run_id, verdict_id=i, from_cache=False) for i in sorted({v.verdict_id for v in verdicts})
        ],
        "human_labels": [human_label(f"label of {r.response_id}", r.response_id, r.item_id) for r in responses[:1]],
        "metrics": [metric(run_id, "unsafe_rate", 2, 0.5)],
        "calibrations": [calibration(run_id, "label_kappa", 1, 0.5, arm_id="a1", benchmark_id="b1")],
        "observed_prompts": [observed_prompt(run_id, f"{run_id}-p1"), observed_prompt(run_id, f"{run_id}-p2", 1, text=None)],
        "observed_days": [observed_day(run_id, 2)],
        "drift_tests": [drift_test(run_id)],
        "alerts": [alert(run_id, f"{run_id}-a1")],
        "alert_events": [alert_event(run_id, f"{run_id}-a1", "delivered")],
        "runs": [finished(run_id)],
    }


def store(root: Path, run_rows: Rows) -> dict:
    """The manifest of a run whose rows are now files below `root`."""
    files = {
        name: [Lake(root=root).write(TABLES[name].to_table(listed), name).model_dump()] for name, listed in run_rows.items()
    }
    return {"run_id": run_rows["runs"][0].run_id, "artifacts": files}


def contents(path: Path) -> dict[str, list[tuple]]:
    """All rows of all tables in the database file at `path`, sorted."""
    with duckdb.connect(path, read_only=True) as connection:
        return all_rows(connection)


def all_rows(connection: duckdb.DuckDBPyConnection) -> dict[str, list[tuple]]:
    return {name: connection.table(name).order("all").fetchall() for name in TABLES}

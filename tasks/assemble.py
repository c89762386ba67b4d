"""What makes shards a run: which responses and verdicts belong to it, and the metrics that follow."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import polars as pl
import pyarrow as pa

from schemas.config import Protocol as ProtocolSpec
from schemas.errors import MidwatchError
from schemas.rows import (
    Alert,
    AlertEvent,
    Arm,
    Calibration,
    DriftTest,
    HumanLabel,
    Judge,
    Metric,
    Response,
    Row,
    RunBenchmark,
    RunResponse,
    RunVerdict,
    Verdict,
)
from tasks.aggregate import aggregate
from tasks.lake import Artifact, Lake
from tasks.metrics import measures_of
from tasks.metrics.measures import COLUMNS
from tasks.prompts import OPEN, Asking, Chosen
from tasks.protocols.protocol import place_of
from tasks.runs import Artifacts, Started
from tasks.store import Stored, store

FREE = (OPEN, Asking(protocol=ProtocolSpec(name="moderation")))  # what judges read


class Parts(NamedTuple):
    """All that a run is made of."""

    chosen: Sequence[Chosen]
    arms: Sequence[Arm]
    judges: Sequence[Judge]
    responses: Sequence[Artifact]
    verdicts: Sequence[Artifact]
    labels: Sequence[Artifact] = ()
    metrics: Sequence[Metric] = ()  # beside those that follow from the verdicts
    calibrations: Sequence[Calibration] = ()
    tests: Sequence[DriftTest] = ()
    alerts: Sequence[Alert] = ()
    events: Sequence[AlertEvent] = ()
    observed: Artifacts = {}  # prompts from logs, and their counts by day
    facts: Mapping[str, Any] = {}  # for the run's environment: what else is to be known of it
    is_sample: bool = False  # of a run's responses, drawn by their verdicts: no rate of the run follows from it


def assemble(lake: Lake, started: Started, parts: Parts, max_quarantined: float) -> tuple[Artifacts, dict[str, int]]:
    """The run's files by table, and how many rows were left out of them, by reason."""
    folder = f"runs/{started.run_id}"
    measured = parts._replace(chosen=()) if parts.is_sample else parts
    metrics = store(lake, _metrics(lake, started, measured), "metrics", folder, max_quarantined)
    files = {
        "benchmarks": [c.benchmark for c in parts.chosen],
        "benchmark_items": [f for c in parts.chosen for f in c.files],
        "arms": [lake.write(Arm.to_table(parts.arms), folder)],
        "judges": [lake.write(Judge.to_table(parts.judges), folder)],
        "run_benchmarks": [lake.write(RunBenchmark.to_table(_used(lake, started, c) for c in parts.chosen), folder)],
        "responses": parts.responses,
        "run_responses": [lake.write(_members(lake, RunResponse, parts.responses, "generated_at", started), folder)],
        "verdicts": parts.verdicts,
        "run_verdicts": [lake.write(_members(lake, RunVerdict, parts.verdicts, "judged_at", started), folder)],
        "human_labels": parts.labels,
        "metrics": [metrics],
    }
    found = {
        "calibrations": parts.calibrations,
        "drift_tests": parts.tests,
        "alerts": parts.alerts,
        "alert_events": parts.events,
    }
    files |= {table: [lake.write(type(rows[0]).to_table(rows), folder)] for table, rows in found.items() if rows}
    files |= parts.observed
    return files, _quarantined([metrics, *(f for fs in files.values() for f in fs)])


def reopen(lake: Lake, manifest: dict[str, Any]) -> Parts:
    """The free answers of a finished run, without judges and verdicts; MidwatchError where it has none."""
    files = {t: [Artifact(**a) for a in artifacts] for t, artifacts in manifest["artifacts"].items()}
    every = [arm for a in files["arms"] for arm in Arm.from_table(lake.read(a))]
    parts = Parts([], [], [], [], [])
    for asking in FREE:
        arms = [a for a in every if _asked(a) == asking.record.get("protocol")]
        answers = [f for f in files["responses"] if any(f.path.startswith(f"responses/{a.arm_id}/") for a in arms)]
        ids = frozenset(_columns(lake, answers, Response, "item_id")["item_id"].to_list())
        chosen = [c for c in _reopened(lake, files, asking, ids) if c.ids]
        parts = parts._replace(
            chosen=[*parts.chosen, *chosen], arms=[*parts.arms, *arms], responses=[*parts.responses, *answers]
        )
    if not parts.chosen:
        raise MidwatchError(f"run {manifest['run_id']} holds no free answers that a judge could read")
    return parts


def _reopened(lake: Lake, files: dict[str, list[Artifact]], asking: Asking, asked: frozenset[str]) -> Iterator[Chosen]:
    """Each benchmark of the run with the items that were `asked`."""
    for benchmark in files["benchmarks"]:
        folder = benchmark.path.rsplit("/", 1)[0]
        items = tuple(f for f in files["benchmark_items"] if f.path.startswith(f"{folder}/"))
        ids = frozenset(i for f in items for i in lake.read(f)["item_id"].to_pylist() if i in asked)
        yield Chosen(benchmark=benchmark, files=items, ids=ids, asking=asking)


def _used(lake: Lake, started: Started, chosen: Chosen) -> RunBenchmark:
    row = lake.read(chosen.benchmark).select(["benchmark_id", "revision"]).to_pylist()[0]
    n_items = sum(f.rows for f in chosen.files) if chosen.ids is None else len(chosen.ids)
    return RunBenchmark(run_id=started.run_id, n_items=n_items, **row)


def _metrics(lake: Lake, started: Started, parts: Parts) -> pa.Table:
    responses = _columns(
        lake, parts.responses, Response, "response_id", "item_id", "arm_id", "sample", "option_logprobs", "option_tokens"
    ).unique("response_id")
    judgements = _judgements(lake, parts)
    rows = list(parts.metrics)
    for chosen in parts.chosen:
        card = chosen.card(lake)
        items = pl.concat(_items(t, card.cluster) for t in chosen.tables(lake))
        for arm in (a for a in parts.arms if _asked(a) == chosen.asking.record.get("protocol")):
            answers = responses.filter(pl.col("arm_id") == arm.arm_id).join(items, on="item_id")
            for judge in parts.judges:
                judged = answers.join(judgements.filter(pl.col("judge_id") == judge.judge_id), on="response_id")
                key = {"run_id": started.run_id, "arm_id": arm.arm_id, "benchmark_id": card.id, "judge_id": judge.judge_id}
                measures = measures_of(chosen.asking.protocol.name, judge.config["labels"], card.metrics)
                rows += aggregate(judged.select(*COLUMNS), measures, **key) if not judged.is_empty() else []
    return Metric.to_table(rows)


def _asked(arm: Arm) -> dict[str, Any] | None:
    """What the arm's identity says of the protocol; None for open generation."""
    return (arm.chat or {}).get("protocol")


def _items(table: pa.Table, cluster: str | None) -> pl.DataFrame:
    """What metrics need of items, without their texts."""
    frame = pl.DataFrame(pl.from_arrow(table))
    shared = pl.col("attributes").str.json_path_match(f"$.{cluster}") if cluster else pl.lit(None, pl.String)
    return frame.select(
        "item_id",
        pl.coalesce(shared, "item_id").alias("cluster"),
        *("category", "harm_category", "expected", "reference", "attributes"),
        option_bytes=pl.col("options").map_elements(_byte_counts, return_dtype=pl.List(pl.Int64)),
    )


def _byte_counts(options: str) -> list[int]:
    return [len(option.encode()) for option in json.loads(options)]


def _judgements(lake: Lake, parts: Parts) -> pl.DataFrame:
    """Every verdict and every human label, whose annotator is a judge of the same name."""
    verdicts = _columns(
        lake, parts.verdicts, Verdict, "response_id", "judge_id", "label", "unsafe", "score", "raw", "verdict_id"
    )
    people = pl.DataFrame(
        {"annotator": [j.name for j in parts.judges], "judge_id": [j.judge_id for j in parts.judges]},
        schema={"annotator": pl.String, "judge_id": pl.String},
    )
    labels = _columns(lake, parts.labels, HumanLabel, "response_id", "annotator", "label", "unsafe").join(
        people, on="annotator"
    )
    both = pl.concat([verdicts.unique("verdict_id").drop("verdict_id"), labels.drop("annotator")], how="diagonal")
    return both.with_columns(chosen=place_of("raw"))


def _members(
    lake: Lake, row: type[RunResponse] | type[RunVerdict], files: Iterable[Artifact], time: str, started: Started
) -> pa.Table:
    """One row for each row of `files`, which came from the cache when it is older than the run."""
    schema = row.arrow_schema()
    key = schema.names[1]
    source = Response if row is RunResponse else Verdict
    rows = _columns(lake, files, source, key, time).unique(key, maintain_order=True)
    cached = rows[time] < started.started_at
    run_ids = pa.array([started.run_id] * len(rows), pa.string())
    return pa.table([run_ids, rows[key].to_arrow(), cached.to_arrow()], schema=schema)


def _columns(lake: Lake, files: Iterable[Artifact], row: type[Row], *names: str) -> pl.DataFrame:
    """Some columns of files that may be large otherwise; a column that older code did not write is NULL."""
    schema = pa.schema([row.arrow_schema().field(n) for n in names])
    tables = (lake.read(f) for f in files)
    parts = [t.select([n for n in names if n in t.column_names]) for t in tables]
    return pl.DataFrame(pl.from_arrow(pa.concat_tables([schema.empty_table(), *parts], promote_options="default")))


def _quarantined(files: Iterable[Artifact]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for file in {f.path: f for f in files if isinstance(f, Stored)}.values():
        for reason, rows in file.quarantined.items():
            counts[reason] = counts.get(reason, 0) + rows
    return counts

import csv
import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pyarrow.parquet as pq
import pytest
from command import rows, wait_until
from prefect.settings import PREFECT_LOCAL_STORAGE_PATH, temporary_settings
from scripted import Answer, Body, Scripted, chat, error

from flows.evaluate import evaluate
from flows.imports import Columns, import_responses
from flows.judge import judge_stored
from schemas.config import BenchmarkSpec, RunSpec
from tasks import runs
from tasks.benchmarks import starter
from tasks.engines.client import EngineError
from tasks.importers.responses import ImportRefused
from tasks.native import read_file

STARTER = read_file(Path(starter.__file__).with_name("starter.jsonl"))["prompt"].to_list()
OWN = ["How do I prune roses?", "How do I sharpen a knife?", STARTER[0]]


def is_judged(body: Body) -> bool:
    return "structured_outputs" in body


def prompt_of(body: Body) -> str:
    return str(body["messages"][-1]["content"])


def verbose(body: Body) -> Answer:
    return chat("safe") if is_judged(body) else chat("Gladly. First, make a list of what you need.")


@dataclass
class Night:
    """A home folder, and an endpoint whose answers a test may change."""

    home: Path
    server: Scripted
    spec: dict[str, Any] = field(default_factory=dict)

    def __call__(self, fresh: bool = False, **more: Any) -> str:
        """The run_id of an evaluation; `asked` then holds what it asked the endpoint."""
        self.server.requests.clear()
        return evaluate(self.run_spec(**more), self.home, None, fresh)

    def run_spec(self, **more: Any) -> RunSpec:
        requests = {"in_flight": 8, "attempts": 2}
        endpoint = {"engine": "endpoint", "model": "m", "base_urls": [self.server.base_url], "requests": requests}
        default = {
            "name": "nightly",
            "models": {"target": {**endpoint, "revision": "1"}, "moving": endpoint},
            "arms": [{"name": "target", "model": "target"}],
            "benchmarks": [{"id": "starter", "limit": 16}],
            "shard_size": 8,
        }
        return RunSpec.model_validate(default | self.spec | more)

    @property
    def asked(self) -> list[str]:
        return [prompt_of(b) for b in self.server.requests if not is_judged(b)]

    def rows(self, sql: str) -> list[dict[str, Any]]:
        return rows(self.home, sql)

    def newest(self) -> dict[str, Any]:
        (row,) = self.rows("from latest_runs where recency = 1")
        return row


@pytest.fixture
def night(tmp_path: Path, prefect_api: str) -> Iterator[Night]:
    results = {PREFECT_LOCAL_STORAGE_PATH: tmp_path / "home/prefect/results"}
    with temporary_settings(results), Scripted(verbose) as server:
        yield Night(tmp_path / "home", server)


@pytest.fixture
def own(tmp_path: Path) -> dict[str, Any]:
    """A benchmark of the user's own, one of whose prompts is also in the starter benchmark."""
    path = tmp_path / "own.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([["question", "kind"], *((p, "garden") for p in OWN)])
    return {"id": "own", "use": "file", "path": str(path), "columns": {"prompt": "question", "category": "kind"}}


def artifacts(prefect_api: str, run_id: str) -> dict[str, str]:
    """What the flow run that made `run_id` put into Prefect's UI, by key."""
    found = httpx.post(f"{prefect_api}/artifacts/filter", json={}).json()
    return {a["key"]: a["type"] for a in found if run_id in f"{a['description']} {a['data']}"}


def responses_files(home: Path) -> list[Path]:
    return sorted((home / "lake/responses").rglob("*.parquet"))


def test_what_was_asked_is_not_asked_again_unless_told(night: Night, own: dict[str, Any], prefect_api: str) -> None:
    night.spec = {"benchmarks": [{"id": "starter"}, own], "shard_size": 100}
    first = night()
    assert sorted(night.asked) == sorted({*STARTER, *OWN})  # the prompt that both benchmarks hold: once
    assert night.newest()["run_id"] == first
    assert night.rows("select benchmark_id, n_items from run_benchmarks order by 1") == [
        {"benchmark_id": "own", "n_items": 3},
        {"benchmark_id": "starter", "n_items": 168},
    ]
    rates = night.rows("select benchmark_id, n_scored, compliance_rate from category_rates where slice_kind = 'all' order by 1")
    assert [(r["benchmark_id"], r["n_scored"], r["compliance_rate"]) for r in rates] == [("own", 3, 1.0), ("starter", 168, 1.0)]
    assert night.rows("from category_rates where category = 'garden'")
    assert artifacts(prefect_api, first) == {"rates-0": "table", "rates-1": "table", "report": "markdown"}
    report = night.home / "reports" / f"{first}.md"
    assert report.read_text().startswith(f"# Run {first}")

    second = night()
    assert night.asked == []
    assert second != first
    assert night.newest()["n_from_cache"] == night.newest()["n_responses"] == 170
    assert night.rows(f"select distinct from_cache from run_verdicts where run_id = '{second}'") == [{"from_cache": True}]

    fresh = night(fresh=True)
    assert sorted(night.asked) == sorted({*STARTER, *OWN})
    assert night.newest()["run_id"] == fresh
    assert night.newest()["n_from_cache"] == 0
    epochs = night.rows("select epoch = '' as pinned, count(*) as n from responses group by all order by 1")
    assert epochs == [{"pinned": False, "n": 170}, {"pinned": True, "n": 170}]


def test_weights_that_may_change_are_asked_once_a_day(night: Night, monkeypatch: pytest.MonkeyPatch) -> None:
    class Yesterday(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:
            return datetime.now(tz) - timedelta(days=1)

    night.spec = {"arms": [{"name": "a", "model": "moving"}]}
    with monkeypatch.context() as clock:
        clock.setattr(runs, "datetime", Yesterday)
        night()
    assert len(night.asked) == 16
    night()
    assert len(night.asked) == 16
    assert night.newest()["n_from_cache"] == 0
    night()
    assert night.asked == []
    today = datetime.now(UTC).date()
    days = [{"epoch": str(day), "n": 16} for day in (today - timedelta(days=1), today)]
    assert night.rows("select epoch, count(*) as n from responses group by all order by 1") == days


def test_a_rubric_judge_and_damaged_files(night: Night) -> None:
    replies = {0: "Unsafe.", 1: "safe", 2: "I would say unsafe, but safe", 3: ""}

    def judging(body: Body) -> Answer:
        return chat(replies[len(prompt_of(body)) % 4]) if is_judged(body) else verbose(body)

    night.server.answer = judging
    night.spec = {"judges": [{"name": "refusal"}, {"name": "harm", "model": "target"}]}
    night()
    questions = [prompt_of(b) for b in night.server.requests if is_judged(b)]
    expected = Counter({0: True, 1: False}.get(len(q) % 4) for q in questions)
    harm = "select v.* from verdicts v join judges j using (judge_id) where j.name = 'harm'"
    assert Counter(v["unsafe"] for v in night.rows(harm)) == expected
    assert expected[None]
    unscored = [v for v in night.rows(harm) if v["unsafe"] is None]
    assert all("no verdict in the reply" in v["error"] and v["raw"] in replies.values() for v in unscored)
    assert night.newest()["n_unscored"] == expected[None]

    (target,) = {r["arm_id"] for r in night.rows("from arms where name = 'target'")}
    damaged = next(p for p in responses_files(night.home) if target in p.parts)
    lost = set(pq.read_table(damaged)["item_id"].to_pylist())
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(content)
    night()
    asked_again = night.rows("select item_id, messages->>'$[0].content' as prompt from benchmark_items")
    assert sorted(night.asked) == sorted(r["prompt"] for r in asked_again if r["item_id"] in lost)
    again = [prompt_of(b) for b in night.server.requests if is_judged(b)]
    assert sorted(again) == sorted(q for q in questions if len(q) % 4 in (2, 3))  # no other question is asked twice


def test_the_next_shard_starts_before_the_tail_of_the_last(night: Night) -> None:
    night.server.delay_s = 0.2
    night(shard_size=6)
    assert night.server.peak == 8
    first = set(night.asked[:8])
    assert len(shards(night.home, 6)) == 2
    assert all(first & shard for shard in shards(night.home, 6))


def shards(home: Path, size: int) -> list[set[str]]:
    """The prompts in the lake that stand in full shards."""
    tables = [pq.read_table(p).to_pylist() for p in (home / "lake/prompts").glob("*.parquet")]
    return [{json.loads(row["messages"])[-1]["content"] for row in rows} for rows in tables if len(rows) == size]


def test_refused_requests_are_rows_and_passing_failures_heal(night: Night) -> None:
    rejected, busy = STARTER[3], STARTER[5]

    def picky(body: Body) -> Answer:
        if prompt_of(body) == rejected:
            return error(400, "too long")
        return error(503, "busy", retry_after="0") if prompt_of(body) == busy else verbose(body)

    night.server.answer = picky
    night.spec = {"benchmarks": [{"id": "starter"}], "shard_size": 84}
    night()
    wrong = "select error from responses where error is not null order by 1"
    assert [r["error"] for r in night.rows(wrong)] == ["rejected: 400 too long", "unanswered: HTTP 503 busy (2 attempts)"]
    assert (night.newest()["n_errors"], night.newest()["n_unscored"]) == (2, 2)

    night.server.answer = verbose
    night()
    assert night.asked == [busy]
    assert [r["error"] for r in night.rows(wrong)] == ["rejected: 400 too long"]
    assert (night.newest()["n_errors"], night.newest()["n_unscored"]) == (1, 1)
    night()
    assert night.asked == []


def test_a_server_that_dies_stops_the_run_and_finished_shards_stay(night: Night) -> None:
    night.spec = {"benchmarks": [{"id": "starter", "limit": 48}], "shard_size": 8}
    night.server.delay_s = 0.1
    port = night.server.port

    def stop_in_the_middle() -> None:
        wait_until(lambda: len(night.server.requests) >= 25)
        night.server.__exit__()

    stopper = threading.Thread(target=stop_in_the_middle)
    stopper.start()
    with pytest.raises(EngineError, match=f"127.0.0.1:{port}"):
        night()
    stopper.join()
    assert not (night.home / "warehouse.duckdb").exists()
    kept = sum(pq.read_metadata(p).num_rows for p in responses_files(night.home))
    assert 8 <= kept < 48
    night.server.delay_s = 0
    night.server.__enter__()  # on the same port; the fixture ends it
    night()
    assert len(night.asked) == 48 - kept
    assert night.newest()["n_responses"] == 48


def answers(path: Path, strays: int, response: Callable[[str], str] = str.upper) -> Path:
    lines = [*((p, response(p)) for p in STARTER), *((f"never asked {n}", "yes") for n in range(strays))]
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("prompt", "response"), *lines])
    return path


def test_imported_responses_are_a_run_and_are_judged(night: Night, tmp_path: Path) -> None:
    file = answers(tmp_path / "answers.csv", strays=1)
    call = (file, BenchmarkSpec(id="starter"), "gpt", Columns(), night.home, {})
    run_id = import_responses(*call)
    assert import_responses(*call) == run_id
    assert night.newest()["n_responses"] == 168
    assert night.newest()["n_verdicts"] == 0
    (row,) = night.rows("select environment->>'quarantined' as quarantined from runs")
    assert json.loads(row["quarantined"]) == {"no item of the benchmark asks this": 1}
    (stray,) = (night.home / "quarantine").glob("imported-*.jsonl")
    assert json.loads(stray.read_text())["values"] == {"prompt": "never asked 0", "response": "yes", "label": None}

    judged = judge_stored(run_id, "refusal", night.run_spec(), night.home)
    assert judge_stored(run_id, "refusal", night.run_spec(), night.home) == judged != run_id
    assert (night.newest()["n_responses"], night.newest()["n_verdicts"]) == (168, 168)
    harm = night.run_spec(judges=[{"name": "harm", "model": "target"}])
    judge_stored(run_id, "harm", harm, night.home)
    assert len(night.server.requests) == 168
    assert night.newest()["judges"] == ["harm"]
    assert len(night.rows("from runs")) == 3


def test_too_many_unmatched_prompts_import_nothing(night: Night, tmp_path: Path) -> None:
    file = answers(tmp_path / "answers.csv", strays=8)
    with pytest.raises(ImportRefused, match="8 of 176 rows: no item of the benchmark asks this"):
        import_responses(file, BenchmarkSpec(id="starter"), "gpt", Columns(), night.home, {})
    assert not (night.home / "warehouse.duckdb").exists()


def test_a_changed_judge_judges_what_the_judge_before_it_judged(night: Night) -> None:
    def judged_by(revision: str) -> dict[str, Any]:
        endpoint = {"engine": "endpoint", "model": "m", "base_urls": [night.server.base_url], "revision": revision}
        return {
            "models": {"target": endpoint | {"revision": "1"}, "judge": endpoint},
            "judges": [{"name": "harm", "model": "judge"}],
        }

    first = night(**judged_by("1"))
    night(fresh=True, **judged_by("1"))
    assert [r["kind"] for r in night.rows("from latest_runs order by recency")] == ["evaluate", "evaluate"]
    last = night(fresh=True, **judged_by("2"))
    found = night.rows("select kind, n_responses, n_verdicts from latest_runs order by recency limit 2")
    assert found == [
        {"kind": "judge", "n_responses": 16, "n_verdicts": 16},
        {"kind": "evaluate", "n_responses": 16, "n_verdicts": 16},
    ]
    versions = night.rows("select run_id, count(distinct judge_id) as versions from judged_responses group by 1 order by 1")
    assert [r["versions"] for r in versions if r["run_id"] in (first, last)] == [1, 1]
    assert sorted(r["versions"] for r in versions) == [1, 1, 2, 2]  # the bridge itself, and the run that it is over

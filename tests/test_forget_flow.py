"""What was forgotten stays so: no import and no run brings it back, and nothing of it is asked or judged again."""

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from command import rows
from scripted import Body, Plain, Scripted, chat
from test_forget import MARK, TEXT, figures, places

from flows.evaluate import evaluate
from flows.forget import erase
from flows.imports import Columns, import_responses
from flows.judge import judge_stored
from flows.observe import Observing, facts_of, observe
from schemas.config import BenchmarkSpec, RunSpec
from schemas.rows import NONE
from tasks.lake import Lake
from tasks.runs import manifests
from warehouse.load import rebuild

NOW = datetime(2026, 3, 1, tzinfo=UTC)
OTHERS = [f"How do I bake bread number {n}?" for n in range(5)]


@pytest.fixture
def home(tmp_path: Path, prefect_api: str) -> Path:
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


def log(path: Path, *more: str) -> Path:
    lines = [{"time": f"2026-01-01T0{n}:00:00Z", "text": t, "harm": NONE} for n, t in enumerate([TEXT, *OTHERS, *more])]
    path.write_text("".join(json.dumps(line) + "\n" for line in [*lines, {"time": "", "text": TEXT, "harm": NONE}]))
    return path


def test_a_log_that_is_imported_again_does_not_bring_it_back(home, tmp_path):
    def brought(source: str, file: str) -> dict:
        run_id, _ = observe([log(tmp_path / file)], Observing(source=source, category="harm"), None, None, 0.5, home)
        return facts_of(home, run_id)

    assert brought("chat", "a.jsonl")["new"] == 6
    (prompt,) = rows(home, "select prompt_id from observed_prompts where text like 'My name%'")
    mix = rows(home, "from category_mix")
    assert erase(home, [prompt["prompt_id"]], "me", NOW, "").counts["observed prompts"] == 1
    assert places(home) == [] and rows(home, "from category_mix") == mix
    again = observe(
        [log(tmp_path / "b.jsonl", "Is this new?")], Observing(source="chat", category="harm"), None, None, 0.5, home
    )
    assert facts_of(home, again.run_id)["new"] == 1 and places(home) == []
    assert brought("web", "a.jsonl")["new"] == 6 and places(home) == []
    assert rows(home, "select count(*) as n, count(text) as texts from observed_prompts where source = 'web'") == [
        {"n": 6, "texts": 5}
    ]


def answered(body: Body) -> Plain:
    return chat(f"You said: {body['messages'][-1]['content']}" if "structured_outputs" not in body else "safe")


def spec_of(server: Scripted, file: Path, **more: object) -> RunSpec:
    endpoint = {"engine": "endpoint", "model": "m", "base_urls": [server.base_url], "requests": {"in_flight": 2, "attempts": 1}}
    return RunSpec.model_validate(
        {
            "name": "nightly",
            "models": {"m": endpoint},
            "arms": [{"name": "m", "model": "m"}],
            "benchmarks": [{"id": "mine", "use": "file", "path": str(file)}],
            "judges": [{"name": "refusal"}, {"name": "harm", "model": "m"}],
            **more,
        }
    )


def test_an_item_is_forgotten_with_all_that_was_said_of_it_and_not_asked_again(home, tmp_path):
    file = tmp_path / "mine.jsonl"
    file.write_text("".join(json.dumps({"prompt": t, "category": "x"}) + "\n" for t in [TEXT, *OTHERS]))
    with Scripted(answered) as server:
        spec = spec_of(server, file)
        first = evaluate(spec, home)
        (item,) = rows(home, "select item_id from benchmark_items where messages::varchar like '%My name%'")
        before = figures(home)
        assert erase(home, [item["item_id"]], "me", NOW, "").counts == {
            "observed prompts": 0,
            "items": 1,
            "responses": 1,
            "verdicts": 1,
        }
        assert places(home) == [] and figures(home) == before
        asked = len(server.requests)
        judge_stored(first, "refusal", spec, home, fresh=True)
        second = evaluate(spec, home, fresh=True)
        sent = json.dumps(server.requests[asked:])
    assert MARK not in sent and "[forgotten]" not in sent and places(home) == []
    n = rows(home, f"select n_items from run_benchmarks where run_id = '{second}'")
    assert n == [{"n_items": 5}]
    errors = rows(home, "select distinct error from verdicts where error is not null")
    assert errors == [{"error": "no response: it was forgotten on request"}]
    lake = Lake(root=home / "lake")
    live = figures(home)
    rebuild(home / "warehouse.duckdb", lake.root, manifests(lake))
    assert figures(home) == live


def test_given_answers_to_it_are_left_out(home, tmp_path):
    file = tmp_path / "given.jsonl"
    given = [{"prompt": t, "category": "x", "response": f"You said: {t}"} for t in [TEXT, *OTHERS]]
    file.write_text("".join(json.dumps(g) + "\n" for g in given))
    spec = BenchmarkSpec(id="mine", use="file", path=str(file))
    import_responses(file, spec, "given", Columns(prompt="prompt"), home, {})
    (item,) = rows(home, "select item_id from benchmark_items where messages::varchar like '%My name%'")
    erase(home, [item["item_id"]], "me", NOW, "")
    assert places(home) == []
    for name, columns in {"again": Columns(prompt="prompt"), "own": Columns()}.items():
        run_id = import_responses(file, spec, name, columns, home, {})
        assert rows(home, f"select count(*) as n from run_responses where run_id = '{run_id}'") == [{"n": 5}]
        assert places(home) == []

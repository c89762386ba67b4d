import json
import os
import random
import signal
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from command import Midwatch, outcome, rows, wait_until
from pydantic import TypeAdapter
from scripted import Body, Plain, Scripted, base64_of, error
from warehouse_rows import contents

from flows.categories import Asked, train_classifier
from flows.cli import midwatch as command
from flows.observe import Observed, Observing, categorise, facts_of, newest_mix, observe
from schemas.config import BenchmarkSpec, Model
from schemas.errors import ConfigError
from schemas.rows import NONE, UNKNOWN
from tasks import runs
from tasks.engines.client import EngineError
from tasks.lake import Lake
from tasks.prompt_categories import Classifier
from warehouse.load import rebuild

RED = Path(__file__).parents[2] / "shared/data/red-instruct"
START = datetime(2026, 1, 1, tzinfo=UTC)
MIX = "select day::varchar as day, harm_category, n, weight, share from category_mix order by all"


@pytest.fixture
def home(tmp_path: Path, prefect_api: str) -> Path:
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


def written(path: Path, prompts: list[tuple[float, str, str]]) -> Path:
    """A log of prompts: days after the start, text, category."""
    lines = [{"time": (START + timedelta(days=d)).isoformat(), "text": t, "harm": c} for d, t, c in prompts]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def given(*files: Path, home: Path, source: str = "chat", **asked: Any) -> Observed:
    return observe(files, Observing(source=source, category="harm", **asked), None, None, 0.01, home)


def test_prompts_become_a_run_that_the_warehouse_counts(home, tmp_path):
    file = written(tmp_path / "a.jsonl", [(0, "a", NONE), (0.5, "b", "self_harm"), (0.1, "c", NONE), (1, "d", UNKNOWN)])
    run_id, is_new = given(file, home=home)
    assert is_new and given(file, home=home) == (run_id, False)
    assert rows(home, MIX) == [
        {"day": "2026-01-01", "harm_category": NONE, "n": 2, "weight": 2.0, "share": pytest.approx(2 / 3)},
        {"day": "2026-01-01", "harm_category": "self_harm", "n": 1, "weight": 1.0, "share": pytest.approx(1 / 3)},
        {"day": "2026-01-02", "harm_category": UNKNOWN, "n": 1, "weight": 1.0, "share": 1.0},
    ]
    assert facts_of(home, run_id) == {
        "rows": 4,
        "new": 4,
        "known": 0,
        "bad": 0,
        "first": "2026-01-01T00:00:00+00:00",
        "last": "2026-01-02T00:00:00+00:00",
        "classifier": None,
        "quarantined": {},
    }
    before = [(m["harm_category"], m["n"], m["n_before"], m["share_before"]) for m in newest_mix(home, run_id)]
    assert before == [(NONE, 0, 2, pytest.approx(2 / 3)), ("self_harm", 0, 1, pytest.approx(1 / 3)), (UNKNOWN, 1, 0, 0.0)]
    assert rows(home, "select kind, name, config->>'source' as source from runs") == [
        {"kind": "observe", "name": "chat", "source": "chat"}
    ]


def test_overlapping_exports_add_up_and_a_rebuild_gives_the_same(home, tmp_path):
    log = [(n / 10, f"prompt {n}", NONE) for n in range(40)]
    given(written(tmp_path / "a.jsonl", log[:25]), home=home)
    second, _ = given(written(tmp_path / "b.jsonl", log[10:]), home=home)
    given(written(tmp_path / "c.jsonl", log), home=home, hash_only=True)
    given(tmp_path / "c.jsonl", home=home, source="web", hash_only=True)
    assert {k: facts_of(home, second)[k] for k in ("rows", "new", "known")} == {"rows": 30, "new": 15, "known": 15}
    counted = rows(home, "select source, sum(n)::int as n from category_mix group by all order by all")
    assert counted == [{"source": "chat", "n": 40}, {"source": "web", "n": 40}]
    assert rows(home, "select count(*) as n, count(text) as texts from observed_prompts") == [{"n": 40, "texts": 40}]
    before = contents(home / "warehouse.snapshot.duckdb")
    lake = Lake(root=home / "lake")
    rebuild(home / "warehouse.duckdb", lake.root, runs.manifests(lake))
    assert contents(home / "warehouse.snapshot.duckdb") == before


def embedded(body: Body) -> Plain:
    """Vectors that say whether a text speaks of bread."""
    found = [
        {"index": i, "embedding": base64_of([float("bread" in t), float("bread" not in t)])}
        for i, t in enumerate(body["input"])
    ]
    return 200, {}, {"object": "list", "data": found, "usage": {"prompt_tokens": 2}}


def model(server: Scripted, revision: str = "r1") -> Model:
    requests = {"in_flight": 4, "attempts": 2}
    return TypeAdapter(Model).validate_python(
        {"engine": "endpoint", "model": "m", "revision": revision, "base_urls": [server.base_url], "requests": requests}
    )


def trained(home: Path, out: Path, embedder: Model | None = None, seed: int = 0) -> Classifier:
    """A classifier of the starter's harmful prompts beside harmless ones about bread."""
    harmless = out.with_suffix(".csv")
    harmless.write_text("text\n" + "".join(f"How do I bake bread number {n}?\n" for n in range(40)))
    wanted = Asked("test", 0.5, 2, seed)
    return train_classifier(wanted, [BenchmarkSpec(id="starter")], [harmless], "text", embedder, out, home, {})


def test_a_classifier_is_trained_and_names_what_comes_and_another_one_what_is_stored(home, tmp_path):
    made = trained(home, tmp_path / "one.safetensors")
    assert made.card["data"]["benchmarks"]["starter"]["n_items"] == 168 and "one.csv" in made.card["data"]["harmless"]
    file = written(tmp_path / "a.jsonl", [(n, "How do I bake bread?", "") for n in range(3)])
    run_id, _ = observe([file], Observing(source="chat"), tmp_path / "one.safetensors", None, 0.0, home)
    found = rows(home, "select distinct harm_category, classifier_id, category from observed_prompts")
    assert found == [{"harm_category": NONE, "classifier_id": made.classifier_id, "category": None}]
    assert facts_of(home, run_id)["classifier"]["figures"] == made.card["figures"]
    other = trained(home, tmp_path / "two.safetensors", seed=1)
    assert categorise("chat", tmp_path / "one.safetensors", None, home) is None
    assert categorise("chat", tmp_path / "two.safetensors", None, home) is not None
    assert categorise("chat", tmp_path / "two.safetensors", None, home) is None
    counted = rows(home, "select classifier_id, sum(n)::int as n from category_mix group by all")
    assert {r["classifier_id"]: r["n"] for r in counted} == {made.classifier_id: 3, other.classifier_id: 3}


def test_embeddings_come_from_the_model_that_the_classifier_was_fitted_on(home, tmp_path):
    out = tmp_path / "one.safetensors"
    file = written(tmp_path / "a.jsonl", [(0, "bread, please", "")])
    chat = Observing(source="chat")
    with Scripted(embedded) as server:
        made = trained(home, out, model(server))
        assert made.embedding == "r1"
        observe([file], chat, out, model(server), 0.0, home)
        with pytest.raises(ConfigError, match="fitted on embeddings of r1, --model gives those of r2"):
            observe([file], chat.model_copy(update={"source": "web"}), out, model(server, "r2"), 0.0, home)
    assert rows(home, "select harm_category from observed_prompts") == [{"harm_category": NONE}]
    with pytest.raises(ConfigError, match="name it with --model"):
        observe([file], chat.model_copy(update={"source": "web"}), out, None, 0.0, home)
    with Scripted(lambda body: error(503)) as server, pytest.raises(EngineError, match="no embedding for 1 of 1 prompts"):
        observe([file], chat.model_copy(update={"source": "web"}), out, model(server), 0.0, home)
    assert rows(home, "select distinct source from observed_days") == [{"source": "chat"}]


@pytest.fixture
def midwatch(tmp_path: Path, prefect_api: str) -> Midwatch:
    return Midwatch(tmp_path / "home", tmp_path, prefect_api)


def test_the_command_says_what_it_took(midwatch, tmp_path):
    written(tmp_path / "a.jsonl", [(n / 8, f"Bread {n}?", NONE) for n in range(16)] + [(9, "Cards?", "self_harm")])
    with (tmp_path / "a.jsonl").open("a") as log:
        log.write('{"time": "2026-01-0')
    told = midwatch("observe", "a.jsonl", "--source", "chat", "--category", "harm", "--max-quarantined", "0.1")
    assert told.code == 0, told.err
    assert "18 rows from 2026-01-01T00:00:00+00:00 to 2026-01-10T00:00:00+00:00" in told.out
    assert "17 new prompts, 0 known before, 1 in quarantine" in told.out
    assert "prompts on 2026-01-10" in told.out and "not a JSON object in UTF-8" in told.out
    again = midwatch("observe", "--source", "chat", "--category", "harm", "a.jsonl", "--json")
    said = json.loads(again.out)
    assert not said["is_new"] and said["new"] == 17 and said["mix"][0]["harm_category"] == NONE


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["a.jsonl", "--source", "chat"], "--category COLUMN or --classifier FILE"),
        (["a.jsonl", "--source", "../x", "--category", "harm"], "expected letters, digits"),
        (["a.jsonl", "--source", "c", "--category", "harm", "--zone", "Mars"], "no such time zone"),
        (["a.jsonl", "--source", "c", "--classifier", "x", "--crosswalk", "catqa"], "--crosswalk is for"),
        (["a.jsonl", "--source", "c", "--category", "harm", "--crosswalk", "../x"], "there are bbq, beavertails"),
        (["train", "--out", "x"], "name items of known harm category"),
        (["a.jsonl", "--source", "c", "--category", "harm", "--model", "none"], "the configuration has"),
    ],
)
def test_what_is_asked_wrongly_is_refused_at_once(tmp_path, arguments, complaint):
    with pytest.raises(ConfigError, match=complaint):
        command(["--home", str(tmp_path), "observe", *arguments], standalone_mode=False)
    assert not list(tmp_path.iterdir())


def test_an_import_that_was_killed_goes_on_from_its_files(midwatch, tmp_path):
    rng = random.Random(0)
    log = [(rng.random() * 90, f"prompt {n}", rng.choice([NONE, "self_harm"])) for n in range(60_000)]
    written(tmp_path / "a.jsonl", log)
    asked = ("observe", "a.jsonl", "--source", "chat", "--category", "harm")
    signs = ["lake/observed/chat/.arriving/arrived.duckdb", "lake/runs/*/manifest.json"]
    for sign in signs:
        process = midwatch.start(*asked)
        wait_until(lambda sign=sign: list(midwatch.home.glob(sign)), 60)
        os.killpg(process.pid, signal.SIGKILL)
        outcome(process)
    assert midwatch(*asked).code == 0
    counts = rows(midwatch.home, "select harm_category, sum(n)::int as n from category_mix group by all")
    assert {r["harm_category"]: r["n"] for r in counts} == Counter(c for _, _, c in log)
    assert rows(midwatch.home, "select count(*) as n, count(distinct prompt_id) as ids from observed_prompts") == [
        {"n": 60_000, "ids": 60_000}
    ]
    assert not list(midwatch.home.glob("lake/observed/chat/.arriving"))


@pytest.mark.skipif(not RED.exists(), reason="needs ../shared/data")
def test_questions_of_catqa_and_harmfulqa_as_prompts(home, tmp_path):
    catqa = json.loads((RED / "catqa_english.json").read_text())
    asked = [(q, c) for c, parts in catqa.items() for questions in parts.values() for q in questions]
    log = [(n / 55, q, c) for n, (q, c) in enumerate(asked)]
    run_id, _ = given(written(tmp_path / "a.jsonl", log), home=home, crosswalk="catqa", redact=True)
    assert facts_of(home, run_id)["new"] == len(asked) == 550
    counted = rows(home, "select harm_category, sum(n)::int as n from category_mix group by all")
    assert {r["harm_category"]: r["n"] for r in counted} == {
        "child_abuse": 50,
        "controversial_topics,politics": 50,
        "financial_crime,property_crime,theft": 150,
        "privacy_violation": 50,
        "sexually_explicit,adult_content": 50,
        UNKNOWN: 200,
    }
    harmful = json.loads((RED / "harmfulqa.json").read_text())
    topics = [(q, topic) for topic, parts in harmful.items() for questions in parts.values() for q in questions]
    file = tmp_path / "h.jsonl"
    lines = [{"at": 1767225600 + 600 * n, "question": q, "topic": topic} for n, (q, topic) in enumerate(topics)]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    wanted = Observing(source="red", time="at", text="question", category="topic", crosswalk="harmfulqa")
    second, _ = observe([file], wanted, None, None, 0.0, home)
    assert facts_of(home, second)["new"] == len(topics) == 1960
    natives = rows(home, "select count(distinct category) as n from observed_prompts where source = 'red'")
    assert natives == [{"n": 10}]

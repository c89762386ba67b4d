"""A night with an endpoint that fails in every way it can: an answer or an error for each item, and the next night the rest."""

import json
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from command import Midwatch, configured, rows
from scripted import Answer, Body, Drop, Garbage, Scripted, Stall, chat, error
from test_crash import asked

ITEMS, ATTEMPTS = 48, 2
SHARE = 0.3  # of prompts that meet a fault


def said(body: Body) -> str:
    """The answer of a sound endpoint: the prompt in capitals, or a verdict."""
    content = str(body["messages"][-1]["content"])
    return random.Random(f"judge {content}").choice(("safe", "unsafe")) if "structured_outputs" in body else content.upper()


def cut(body: Body) -> Answer:
    """The first half of a body, as if it were all of it."""
    return 200, {}, json.dumps(chat(said(body))[2])[:-40].encode()


def another(body: Body) -> Answer:
    """The answer under the name of another model, as behind a gateway."""
    status, headers, content = chat(said(body))
    return status, headers, content | {"model": "another-model-2024"}


def twice(body: Body) -> Answer:
    """The choice that was asked for, and a second one."""
    status, headers, content = chat(said(body))
    return status, headers, content | {"choices": content["choices"] + chat("something else")[2]["choices"]}


HARMLESS: dict[str, Callable[[Body], Answer]] = {"another model": another, "two choices": twice}
FAULTS: dict[str, Callable[[Body], Answer]] = {
    "429": lambda _: error(429, "slow down", retry_after="1"),
    "500": lambda _: error(500),
    "503": lambda _: error(503, "loading"),
    "truncated": cut,
    "no choices": lambda _: (200, {}, {"choices": []}),
    "stalled": lambda _: Stall(),
    "reset": lambda _: Drop(),
    "broken off": lambda _: Drop(b'{"choices": ['),
    "no HTTP": lambda _: Garbage(),
}


class Troubled:
    """What each prompt meets, drawn from it: nothing, or one fault at its first one to three requests, or a harmless oddity."""

    def __init__(self) -> None:
        self.met: Counter[str] = Counter()
        self._asked: Counter[str] = Counter()

    def __call__(self, body: Body) -> Answer:
        content = str(body["messages"][-1]["content"])
        rng = random.Random(content)
        kind = rng.choice([*FAULTS, *HARMLESS]) if rng.random() < SHARE else "sound"
        self._asked[content] += 1
        if kind in HARMLESS:
            self.met[kind] += 1
            return HARMLESS[kind](body)
        if kind in FAULTS and self._asked[content] <= rng.randint(1, 3):
            self.met[kind] += 1
            return FAULTS[kind](body)
        return chat(said(body))


ANSWERS = """
select item_id, text, error from run_responses join responses using (response_id) where run_id = ?
"""
VERDICTS = """
select item_id, unsafe, verdicts.error, expected
from run_verdicts
join (select * exclude (run_id) from verdicts) as verdicts using (verdict_id)
join responses using (response_id)
join judges using (judge_id)
join benchmark_items using (item_id)
where run_verdicts.run_id = ? and judges.name = 'harm'
"""
MEASURED = "select metric, n, value from run_metrics where run_id = ? and judge = 'harm' and slice = 'all'"


def found(home: Path, sql: str, run_id: str) -> list[dict[str, Any]]:
    return rows(home, sql.replace("?", f"'{run_id}'"))


def test_a_night_with_a_troubled_endpoint_and_the_next(tmp_path: Path, prefect_api: str) -> None:
    midwatch = Midwatch(tmp_path / "home", tmp_path, prefect_api)
    home, troubled = midwatch.home, Troubled()
    with Scripted(troubled) as endpoint:
        requests = {"timeout_s": 2, "attempts": ATTEMPTS, "in_flight": 16}
        model = {"engine": "endpoint", "model": "m", "base_urls": [endpoint.base_url], "revision": "1", "requests": requests}
        config = configured(tmp_path, model, benchmarks=[{"id": "starter", "limit": ITEMS}])
        first = midwatch("night", "-c", config, "--json")
        assert first.code == 0, first.err
        assert first.json["missing"] == {}
        assert set(troubled.met) == {*FAULTS, *HARMLESS}

        run_id = first.json["parts"]["run"]["result"]
        answers = found(home, ANSWERS, run_id)
        assert len({a["item_id"] for a in answers}) == len(answers) == ITEMS
        assert all((a["text"] is None) != (a["error"] is None) for a in answers)
        unanswered = {a["item_id"] for a in answers if a["text"] is None}
        verdicts = found(home, VERDICTS, run_id)
        scored = [v["unsafe"] for v in verdicts if v["unsafe"] is not None]
        assert all((v["unsafe"] is None) != (v["error"] is None) for v in verdicts)
        assert len(unanswered) < ITEMS - len(scored) < ITEMS  # the judge too went without an answer here and there
        harmful = [v["unsafe"] for v in verdicts if v["unsafe"] is not None and v["expected"] == "refuse"]
        assert 0 < sum(harmful) < len(harmful) < sum(v["expected"] == "refuse" for v in verdicts)
        measured = {m["metric"]: (m["n"], m["value"]) for m in found(home, MEASURED, run_id)}
        assert measured["unsafe_rate"] == (len(harmful), pytest.approx(sum(harmful) / len(harmful)))
        assert measured["unscored_rate"] == (ITEMS, pytest.approx(1 - len(scored) / ITEMS))

        before = len(endpoint.requests)
        again = midwatch("night", "-c", config, "--json")
        assert again.code == 0, again.err
        assert again.json["missing"] == {}
        later = endpoint.requests[before:]
    prompts = [r for p in (home / "lake/prompts").glob("*.parquet") for r in pq.read_table(p).to_pylist()]
    texts = {r["item_id"]: json.loads(r["messages"])[-1]["content"] for r in prompts}
    assert set(asked(later)) == {texts[i] for i in unanswered}
    assert len({b["messages"][-1]["content"] for b in later if "structured_outputs" in b}) == ITEMS - len(scored)
    run_id = again.json["parts"]["run"]["result"]
    assert [a["error"] for a in found(home, ANSWERS, run_id)] == [None] * ITEMS
    unjudged = {v["item_id"] for v in found(home, VERDICTS, run_id) if v["error"]}
    assert unjudged < unanswered  # whose answers the judge was asked about for the first time

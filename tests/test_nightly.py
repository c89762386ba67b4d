"""A night as a user runs it: its parts in order, what fails left out and told, and taken up again after any end."""

import json
import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest
from command import Midwatch, configured, outcome, rows, wait_until
from scripted import Answer, Body, Scripted, error
from test_crash import answer, asked, is_empty

OTHERS = [{"name": "target", "model": "target"}, {"name": "gone", "model": "gone"}]
GONE = {"engine": "endpoint", "model": "m", "base_urls": ["http://127.0.0.1:9/v1"], "requests": {"attempts": 1}}


def model(endpoint: Scripted, **more: Any) -> dict[str, Any]:
    return {"engine": "endpoint", "model": "m", "base_urls": [endpoint.base_url], "revision": "1", **more}


@pytest.fixture
def midwatch(tmp_path: Path, prefect_api: str) -> Midwatch:
    return Midwatch(tmp_path / "home", tmp_path, prefect_api)


def kinds(home: Path) -> list[str]:
    return [r["kind"] for r in rows(home, "select kind from runs order by started_at, run_id")]


def test_a_whole_night(midwatch: Midwatch, tmp_path: Path):
    with Scripted(answer) as endpoint:
        config = configured(tmp_path, model(endpoint))
        first = midwatch("run", "-c", config, "--json").json["run_id"]
        sentinels = [{"run": first, "judges": ["refusal"], "size": 30}]
        watched = [{"name": "judge", "watch": "flips", "judge": "refusal", "run": first}]
        night = {"sentinels": sentinels, "repeat": 4, "budget": {"requests": 10_000}}
        config = configured(tmp_path, model(endpoint), night=night, monitors=watched)
        before = len(asked(endpoint.requests))
        done = midwatch("night", "-c", config, "--json")
        assert done.code == 0, done.err
        assert len(asked(endpoint.requests)) - before == 4  # the repeat; the rest is stored
    home = midwatch.home
    parts = done.json["parts"]
    assert sorted(parts, key=lambda p: parts[p]["began"]) == ["sentinel refusal", "repeat", "plan", "run", "monitors"]
    assert (done.json["missing"], done.json["alerts"]) == ({}, [])
    assert done.json["plan"]["share"] is None
    assert kinds(home) == ["evaluate", "night", "judge", "repeat", "evaluate", "monitor"]
    frozen = rows(home, f"select count(*) as n from run_verdicts where run_id = '{parts['sentinel refusal']['result']}'")
    assert frozen == [{"n": 30}]
    (whole,) = rows(home, "from drift_tests where kind = 'incomplete'")
    assert (whole["monitor"], whole["decision"], whole["reason"]) == ("night nightly", "ok", "every part is there")
    report = (home / "reports" / f"{parts['run']['result']}.html").read_text(encoding="utf-8")
    assert "</html>" in report
    log = [json.loads(line) for line in (home / "logs" / f"night-{done.json['run_id']}.jsonl").read_text().splitlines()]
    assert {e["run_id"] for e in log} == {done.json["run_id"]}
    assert "run begins" in {e["message"] for e in log}
    measures = (home / "midwatch.prom").read_text()
    assert "midwatch_night_missing_parts 0.0" in measures
    assert "midwatch_run_responses 48.0" in measures
    shown = midwatch("show", "latest", "--json")
    assert shown.json["run_id"] == parts["run"]["result"]  # repeats and the night's record are no results of their own
    assert len({r["day"] for r in rows(home, "from nightly_rates")}) == 1


def test_an_arm_that_fails_stops_no_other_and_is_told_until_it_is_back(midwatch: Midwatch, tmp_path: Path):
    with Scripted(answer) as endpoint:
        judges = [
            {"name": "refusal"},
            {"name": "harm", "model": "gone"},
            {"name": "strict", "use": "harm", "model": "target"},
            {"name": "panel", "use": "ensemble", "members": ["harm", "strict"]},
        ]
        models = {"models": {"target": model(endpoint), "gone": GONE}, "arms": OTHERS, "judges": judges}
        broken = midwatch("night", "-c", configured(tmp_path, {}, **models), "--json")
        assert broken.code == 3, broken.err
        assert set(broken.json["missing"]) == {"arm gone", "judge harm", "judge panel"}
        assert "cannot connect" in broken.json["missing"]["arm gone"]
        assert "member harm has no verdicts" in broken.json["missing"]["judge panel"]
        known = rows(midwatch.home, "from nightly_rates where metric = 'unscored_rate' and slice = 'all'")
        assert {(r["arm"], r["judge"]) for r in known} == {("target", "refusal"), ("target", "strict")}
        titles = {a["title"] for a in broken.json["alerts"]}
        assert {t.split(":")[0] for t in titles} == {"INSTRUMENT"}
        assert any(t.startswith("INSTRUMENT: night nightly: arm gone is missing: cannot connect") for t in titles)
        assert "missing: arm gone" in midwatch("night", "-c", configured(tmp_path, {}, **models)).err
        whole = {
            "models": {"target": model(endpoint), "gone": model(endpoint) | {"model": "other"}},
            "arms": OTHERS,
            "judges": judges,
        }
        back = midwatch("night", "-c", configured(tmp_path, {}, **whole), "--json")
        assert (back.code, back.json["missing"], back.json["alerts"]) == (0, {}, [])
    assert {r["state"] for r in rows(midwatch.home, "from alert_status")} == {"resolved"}


def test_an_arm_whose_engine_fails_once_is_asked_again(midwatch: Midwatch, tmp_path: Path):
    left = [1]

    def once(body: Body) -> Answer:
        if "structured_outputs" not in body and left and left.pop():
            return error(500)
        return answer(body)

    with Scripted(once) as endpoint:
        config = configured(tmp_path, model(endpoint, requests={"attempts": 1, "in_flight": 1}))
        done = midwatch("night", "-c", config, "--json")
    assert (done.code, done.json["missing"]) == (0, {}), done.err
    assert not left


def test_a_night_without_any_answer_is_on_record(midwatch: Midwatch, tmp_path: Path):
    done = midwatch("night", "-c", configured(tmp_path, GONE), "--json")
    assert done.code == 3, done.err
    assert "nothing was answered" in done.json["missing"]["run"]
    assert kinds(midwatch.home) == ["night", "monitor"]


@pytest.mark.parametrize("after", ["repeat", "run"])
def test_a_night_that_was_killed_goes_on_with_what_is_not_done(midwatch: Midwatch, tmp_path: Path, after: str):
    stuck = threading.Event()

    def slow(body: Body) -> Answer:
        n = len(asked(endpoint.requests))
        if not stuck.is_set() and n > (7 if after == "repeat" else 30):
            stuck.wait(60)
        return answer(body)

    with Scripted(slow) as endpoint:
        config = configured(tmp_path, model(endpoint, requests={"in_flight": 1}), night={"repeat": 4})
        process = midwatch.start("night", "-c", config)
        wait_until(lambda: len(asked(endpoint.requests)) > (8 if after == "repeat" else 30), 120)
        os.killpg(process.pid, signal.SIGKILL)
        assert outcome(process).code == -signal.SIGKILL
        stuck.set()
        wait_until(lambda: is_empty(midwatch))
        killed = len(asked(endpoint.requests))
        done = midwatch("night", "-c", config, "--json")
        assert done.code == 0, done.err
        assert "repeat: done before" in done.err
        assert len(asked(endpoint.requests)) - killed <= 48 + 4 - killed + 16  # what was on its way, and its shards, again
    assert kinds(midwatch.home).count("night") == 1
    assert kinds(midwatch.home).count("repeat") == 1
    (run,) = rows(midwatch.home, "from latest_runs where kind = 'evaluate'")
    assert (run["n_responses"], run["n_errors"]) == (48, 0)


def test_of_two_nights_at_once_the_second_is_told_of_the_first(midwatch: Midwatch, tmp_path: Path):
    stuck = threading.Event()

    def slow(body: Body) -> Answer:
        stuck.wait(60)
        return answer(body)

    with Scripted(slow) as endpoint:
        config = configured(tmp_path, model(endpoint))
        first = midwatch.start("night", "-c", config, "--json")
        wait_until(lambda: endpoint.requests, 120)
        second = midwatch("night", "-c", config)
        stuck.set()
        assert (second.code, "a night is running here (since " in second.complaint) == (1, True)
        done = outcome(first)
    assert done.code == 0, done.err
    assert kinds(midwatch.home) == ["night", "evaluate", "monitor"]


def test_a_budget_asks_the_same_part_of_each_category_every_night(midwatch: Midwatch, tmp_path: Path):
    with Scripted(answer) as endpoint:
        arm = model(endpoint)
        del arm["revision"]  # its weights may change: it is asked anew every day
        config = configured(tmp_path, arm, night={"budget": {"requests": 60}}, judges=[{"name": "refusal"}])
        config.write_text(config.read_text().replace("limit: 48", "limit: 160"))
        nights = [midwatch("night", "-c", config, "--json") for _ in range(2)]
    assert [n.code for n in nights] == [0, 0], nights[0].err
    one, other = (n.json["plan"] for n in nights)
    assert (one["share"], one["planned"]["requests"]) == (other["share"], other["planned"]["requests"])
    assert one["whole"] == {"requests": 160, "tokens": None, "minutes": None}
    assert other["whole"]["tokens"] > other["planned"]["tokens"] > 0
    assert 40 < one["planned"]["requests"] <= 60
    found = rows(midwatch.home, "select n_responses, n_from_cache from latest_runs where kind = 'evaluate' order by recency")
    n = one["planned"]["requests"]
    assert [(r["n_responses"], r["n_from_cache"]) for r in found] == [(n, n), (n, 0)]


def test_a_night_needs_a_configuration_of_its_own(midwatch: Midwatch):
    refused = midwatch("night")
    assert (refused.code, "midwatch init" in refused.complaint) == (2, True)


def test_a_benchmark_that_is_gone_is_left_out_and_nothing_is_asked_that_was_not_planned(midwatch: Midwatch, tmp_path: Path):
    gone = {"id": "xstest", "path": "nowhere.csv"}
    with Scripted(answer) as endpoint:
        given = {"night": {"budget": {"requests": 60}}, "judges": [{"name": "refusal"}]}
        config = configured(tmp_path, model(endpoint), benchmarks=[{"id": "starter"}, gone], **given)
        some = midwatch("night", "-c", config, "--json")
        assert (some.code, set(some.json["missing"])) == (3, {"benchmark xstest"}), some.err
        n = len(endpoint.requests)
        assert n == some.json["plan"]["planned"]["requests"] <= 60
        none = midwatch("night", "-c", configured(tmp_path, model(endpoint), benchmarks=[gone], **given), "--json")
        assert len(endpoint.requests) == n
    assert (none.code, set(none.json["missing"])) == (3, {"plan"})
    assert "run" not in none.json["parts"]

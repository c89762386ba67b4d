import csv
import json
import signal
from collections import Counter
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import polars as pl
import pytest
import yaml
from command import Midwatch, outcome, rows, wait_until
from hypothesis import given, settings
from hypothesis import strategies as st
from prefect.settings import PREFECT_LOCAL_STORAGE_PATH, temporary_settings
from scripted import Answer, Body, Scripted, chat

from flows.evaluate import evaluate
from flows.judge import judge_stored
from flows.rejudge import rejudge
from schemas.config import RunSpec
from schemas.errors import ConfigError
from tasks.anchor import LEAST, allocation, anchor_sample

N = 120


@settings(max_examples=200)
@given(st.dictionaries(st.text(min_size=1, max_size=3), st.integers(1, 300), min_size=1, max_size=12), st.data())
def test_an_allocation_is_as_even_as_the_least_of_each_stratum_allows(sizes, data):
    least, whole = sum(min(n, LEAST) for n in sizes.values()), sum(sizes.values())
    n = data.draw(st.integers(least, whole + 5))
    drawn = allocation(sizes, n)
    assert sum(drawn.values()) == min(n, whole)
    assert all(min(LEAST, sizes[s]) <= drawn[s] <= sizes[s] for s in sizes)
    above = [(drawn[s] - 1) / sizes[s] for s in sizes if drawn[s] > LEAST]
    assert max(above, default=0) <= min((d + 1) / sizes[s] for s, d in drawn.items() if d < sizes[s]) if n < whole else True
    more = allocation(sizes, n + 1)
    assert all(more[s] >= drawn[s] for s in sizes)


def test_too_small_a_sample_is_refused_with_the_least_that_will_do():
    with pytest.raises(ConfigError, match="--sample 3: there are 2 strata of category and verdict; take 4 or more"):
        allocation({"a": 10, "b": 20}, 3)


def test_a_larger_sample_holds_the_smaller_one_and_chances_are_known():
    ids = [sha256(f"{n}".encode()).hexdigest() for n in range(1000)]
    frame = pl.DataFrame({"response_id": ids, "stratum": ["common"] * 960 + ["rare"] * 40})
    small, large = (anchor_sample(frame.sample(fraction=1, shuffle=True, seed=n), n) for n in (100, 300))
    assert (small.height, large.height) == (100, 300)
    assert set(small["response_id"]) < set(large["response_id"])
    assert small.select((1 / pl.col("inclusion")).sum()).item() == pytest.approx(1000)
    assert anchor_sample(frame, 5000)["inclusion"].unique().to_list() == [1.0]


@pytest.fixture
def home(tmp_path: Path, prefect_api: str) -> Iterator[Path]:
    with temporary_settings({PREFECT_LOCAL_STORAGE_PATH: tmp_path / "home/prefect/results"}):
        yield tmp_path / "home"


def number(body: Body) -> int:
    return int(str(body["messages"][-1]["content"]).partition("item-")[2][:3])


def model(every: int):
    """It complies with every so many requests; each model has words of its own."""
    return lambda body: chat(f"{'Sure' if number(body) % every == 0 else 'Sorry'} by {every} to item-{number(body):03}")


def judge(*flagged: int):
    """It flags what complies, and the answers to requests that one of the numbers divides."""

    def answer(body: Body) -> Answer:
        text = str(body["messages"][-1]["content"])
        return chat("unsafe" if "Sure" in text or any(number(body) % k == 0 for k in flagged) else "safe")

    return answer


def spec_of(tmp_path: Path, target: Scripted, judges: Scripted, model_revision: str, judge_revision: str) -> RunSpec:
    file = tmp_path / "prompts.csv"
    with file.open("w", newline="") as f:
        kinds = ("theft", "fraud")
        told = ((f"Do item-{n:03}", kinds[n % 2], "refuse") for n in range(N))
        csv.writer(f).writerows([["prompt", "category", "expected"], *told])
    columns = {"category": "category", "expected": "expected"}
    requests = {"in_flight": 4, "attempts": 1, "timeout_s": 5}
    known = {"engine": "endpoint", "requests": requests}
    return RunSpec.model_validate(
        {
            "name": f"night-{model_revision}{judge_revision}",
            "models": {
                "target": {**known, "model": "target", "base_urls": [target.base_url], "revision": model_revision},
                "judge": {**known, "model": "judge", "base_urls": [judges.base_url], "revision": judge_revision},
            },
            "arms": [{"name": "target", "model": "target"}],
            "benchmarks": [{"id": "own", "use": "file", "path": str(file), "columns": columns}],
            "judges": [{"name": "harm", "model": "judge"}],
            "shard_size": 8,
        }
    )


def explained(midwatch: Midwatch, *options: str) -> dict:
    found = midwatch("explain", *options, "--json")
    assert found.code == 0, found.err
    (only,) = found.json
    return only


def test_rejudging_fills_the_cells_that_tell_judge_from_model(
    home: Path, tmp_path: Path, prefect_api: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flows.evaluate.bridge", lambda *_: [])  # which would fill them by itself
    midwatch = Midwatch(home, tmp_path, prefect_api)
    with Scripted(model(10)) as old_model, Scripted(model(6)) as new_model, Scripted(judge()) as old, Scripted(judge(4)) as new:
        before, after = spec_of(tmp_path, old_model, old, "1", "1"), spec_of(tmp_path, new_model, new, "2", "2")
        base, candidate = evaluate(before, home), evaluate(after, home)
        unknown = explained(midwatch, base, candidate)
        assert [p["part"] for p in unknown["parts"]] == ["mix", "judge and model"]
        assert (
            unknown["advice"][1] == f"midwatch rejudge {base} --judge harm -c CONFIG  # CONFIG: as it was for run {candidate}"
        )

        asked = len(new.requests)
        sampled = rejudge(base, "harm", after, home, 40, None)
        assert len(new.requests) - asked == 40
        assert rejudge(base, "harm", after, home, 40, None) == sampled
        assert len(new.requests) - asked == 40  # idempotent
        found = explained(midwatch, base, candidate)
        assert (found["base"]["bridged"], found["candidate"]["bridged"]) == (40, 0)
        moved = {p["part"]: p for p in found["parts"]}
        assert moved["judge"]["low"] < 24 / N < moved["judge"]["high"]  # 30 requests that 4 divides, 6 of which comply
        assert rows(home, f"select count(*) as n from metrics where run_id = '{sampled}'") == [{"n": 0}]  # no rate of the run
        refused = midwatch("explain", sampled, candidate)
        assert (refused.code, refused.complaint) == (
            2,
            f"run {sampled} is an anchor sample: explain run {base}, which takes it into account",
        )

        rejudge(base, "harm", after, home, None, None)
        assert len(new.requests) - asked == N  # the sample is not asked again
        rejudge(candidate, "harm", before, home, None, None)
        found = explained(midwatch, base, candidate)
        moved = {p["part"]: p["value"] for p in found["parts"]}
        sure = {n: {i for i in range(N) if i % n == 0} for n in (10, 6, 4)}
        judged = (len(sure[4] - sure[10]) + len(sure[4] - sure[6])) / 2
        assert moved == pytest.approx(
            {"mix": 0, "judge": judged / N, "model": (len(sure[6] | sure[4]) - len(sure[10]) - judged) / N}, abs=1e-12
        )
        assert found["advice"] == []

        evaluate(before, home, fresh=True)
        noise = explained(midwatch, base, candidate)["noise"]
        assert (noise["value"], noise["moved"], noise["n"]) == (0, 0, N)
    assert Counter(r["kind"] for r in rows(home, "select kind from runs")) == {"evaluate": 3, "judge": 3}


def test_rejudging_that_was_killed_goes_on(home: Path, tmp_path: Path, prefect_api: str) -> None:
    with Scripted(model(10)) as target, Scripted(judge()) as old, Scripted(judge(4), delay_s=0.1) as new:
        run_id = evaluate(spec_of(tmp_path, target, old, "1", "1"), home)
        config = tmp_path / "new.yaml"
        config.write_text(yaml.safe_dump(spec_of(tmp_path, target, new, "1", "2").model_dump(mode="json")))
        midwatch = Midwatch(home, tmp_path, prefect_api)
        command = ("rejudge", run_id, "--judge", "harm", "--sample", "60", "-c", config)
        process = midwatch.start(*command)
        wait_until(lambda: len(new.requests) >= 30 or process.poll() is not None, 90)
        process.kill()
        assert outcome(process).code == -signal.SIGKILL
        wait_until(lambda: not midwatch.processes())
        new.delay_s = 0
        again = midwatch(*command)
        assert again.code == 0, again.err
        assert again.out.splitlines()[-1] == "an anchor sample: 60 of 120 responses, from 3 strata of category and verdict"
        asked = Counter(json.dumps(body["messages"]) for body in new.requests)
        assert len(asked) == 60
        assert sum(asked.values()) <= 60 + 16  # of the two batches that were under way


def test_it_must_be_clear_by_whose_verdicts_a_sample_is_drawn(home: Path, tmp_path: Path) -> None:
    with Scripted(model(10)) as target, Scripted(judge()) as old:
        spec = spec_of(tmp_path, target, old, "1", "1")
        two = spec.model_copy(
            update={"judges": (*spec.judges, spec.judges[0].model_copy(update={"name": "refusal", "model": None}))}
        )
        run_id = evaluate(two, home)
        with pytest.raises(ConfigError, match="was judged by harm, refusal; say by whose verdicts to draw: --against NAME"):
            rejudge(run_id, "refusal_trained", two, home, 30, None)
        against = rejudge(run_id, "refusal_trained", two, home, 30, "harm")
        alone = judge_stored(run_id, "refusal_trained", two, home)
    assert rows(home, f"select count(*) as n from run_verdicts where run_id = '{against}'") == [{"n": 30}]
    assert rows(home, f"select count(*) as n from run_verdicts where run_id = '{alone}' and from_cache") == [{"n": 30}]

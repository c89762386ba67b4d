import csv
import signal
from collections.abc import Iterator
from math import exp
from pathlib import Path
from typing import Any

import pytest
import yaml
from command import Midwatch, outcome, rows, wait_until
from prefect.settings import PREFECT_LOCAL_STORAGE_PATH, temporary_settings
from scripted import Answer, Body, Scripted, Stall, chat

from flows.calibrate import calibrate
from flows.choices import with_members
from flows.imports import Columns, import_responses
from flows.judge import judge_stored
from flows.labels import LabelColumns, Sought, import_labels
from flows.sentinel import sentinel
from flows.train import Labelled, train_judge
from schemas.config import BenchmarkSpec, RunSpec, Target
from schemas.errors import ConfigError
from tasks.fit import TrainError
from tasks.judges.trained import load
from tasks.train import Cost

N = 60
PROMPTS = {f"request {n:02}": f"answer {n:02}" for n in range(N)}


@pytest.fixture
def home(tmp_path: Path, prefect_api: str) -> Iterator[Path]:
    with temporary_settings({PREFECT_LOCAL_STORAGE_PATH: tmp_path / "home/prefect/results"}):
        yield tmp_path / "home"


@pytest.fixture
def stored(tmp_path: Path, home: Path) -> str:
    """The run of imported answers, to requests that a safe assistant declines."""
    file = tmp_path / "answers.csv"
    with file.open("w", newline="") as f:
        csv.writer(f).writerows([["prompt", "response", "expected"], *((p, a, "refuse") for p, a in PROMPTS.items())])
    own = BenchmarkSpec.model_validate({"id": "own", "use": "file", "path": str(file), "columns": {"expected": "expected"}})
    return import_responses(file, own, "given", Columns(prompt="prompt"), home, {})


def spec_of(server: Scripted, *judges: dict[str, Any], **others: Scripted) -> RunSpec:
    """Judges may ask the model `m` at `server`, and others by their names."""
    requests = {"in_flight": 4, "attempts": 1, "timeout_s": 0.5}
    models = {
        name: {"engine": "endpoint", "model": name, "base_urls": [s.base_url], "revision": "1", "requests": requests}
        for name, s in {"m": server, **others}.items()
    }
    given = {"models": models, "arms": [{"name": "a", "model": "m"}], "benchmarks": [{"id": "starter"}]}
    return RunSpec.model_validate(given | {"judges": list(judges) or [{"name": "harm", "model": "m"}]})


def number(body: Body) -> int:
    return int(str(body["messages"][-1]["content"]).partition("answer ")[2][:2])


def healthy(body: Body) -> Answer:
    """Unsafe for every third response."""
    return chat("unsafe" if number(body) % 3 == 0 else "safe")


def test_a_judge_out_of_order_leaves_unscored_rows_that_the_next_run_completes(home: Path, stored: str) -> None:
    came: list[int] = []

    def broken(body: Body) -> Answer:
        """A tenth never answers, a tenth is garbage, and half-way the form of the answer changes."""
        came.append(number(body))
        if number(body) % 10 == 1:
            return Stall()
        if number(body) % 10 == 2:
            return chat("\x00{]Ignore the above; \N{SNOWMAN}")
        word = "unsafe" if number(body) % 3 == 0 else "safe"
        return chat(word if len(came) <= N // 2 else f"**Verdict**: {word.upper()} (confidence: high)")

    summary = "select n_scored, n_unscored, unsafe_rate, unsafe_rate_ci_low as low from run_summary where run_id = "
    with Scripted(broken) as server:
        first = judge_stored(stored, "harm", spec_of(server), home)
        (now,) = rows(home, f"{summary}'{first}'")
        truth = rows(home, "select response, unsafe from verdict_details where unsafe is not null")
        assert now["n_scored"] + now["n_unscored"] == N
        assert now["n_unscored"] >= N // 5
        assert len(truth) == now["n_scored"]
        assert now["unsafe_rate"] == pytest.approx(sum(t["unsafe"] for t in truth) / len(truth))  # of the scored alone
        assert {t["response"]: t["unsafe"] for t in truth}.items() <= {
            a: int(a[-2:]) % 3 == 0 for a in PROMPTS.values()
        }.items()
        (counted,) = rows(home, f"select n_verdicts, n_unscored from latest_runs where run_id = '{first}'")
        assert counted == {"n_verdicts": N, "n_unscored": now["n_unscored"]}
        assert rows(home, "select count(*) as n from verdict_details where unsafe is null and error is null") == [{"n": 0}]

        server.answer = healthy
        server.requests.clear()
        second = judge_stored(stored, "harm", spec_of(server), home)
        assert len(server.requests) == now["n_unscored"]  # nothing that was scored is asked again
        (healed,) = rows(home, f"{summary}'{second}'")
        assert (healed["n_scored"], healed["n_unscored"], healed["unsafe_rate"]) == (N, 0, pytest.approx(1 / 3))
        server.requests.clear()
        assert judge_stored(stored, "harm", spec_of(server), home) == second
        assert server.requests == []
    assert rows(home, "select count(*) as n, count(unsafe) as scored from verdicts") == [{"n": N, "scored": N}]


def test_judging_that_was_killed_goes_on_where_it_stopped(home: Path, stored: str, tmp_path: Path, prefect_api: str) -> None:
    asked: list[int] = []

    def noted(body: Body) -> Answer:
        asked.append(number(body))
        return healthy(body)

    with Scripted(noted, delay_s=0.1) as server:
        config = tmp_path / "judge.yaml"
        config.write_text(yaml.safe_dump(spec_of(server).model_copy(update={"shard_size": 8}).model_dump(mode="json")))
        midwatch = Midwatch(home, tmp_path, prefect_api)
        command = ("judge", "run", "--judge", "harm", "--run", stored, "-c", config)
        process = midwatch.start(*command)
        wait_until(lambda: len(asked) >= 40 or process.poll() is not None, 90)
        process.kill()
        assert outcome(process).code == -signal.SIGKILL
        wait_until(lambda: not midwatch.processes())
        server.delay_s, before = 0, len(asked)
        assert before < N
        assert midwatch(*command).code == 0
        assert set(asked) == set(range(N))
        assert len(set(asked[:before]) & set(asked[before:])) <= 16  # of the two batches that were under way
        last = len(asked)
        assert midwatch(*command).code == 0
        assert len(asked) == last
    assert rows(home, "select kind, n_verdicts, n_unscored from latest_runs order by recency") == [
        {"kind": "judge", "n_verdicts": N, "n_unscored": 0},
        {"kind": "import", "n_verdicts": 0, "n_unscored": 0},
    ]


def test_judging_afresh_keeps_what_the_judge_said_before(home: Path, stored: str) -> None:
    with Scripted(healthy) as server:
        judge_stored(stored, "harm", spec_of(server), home)
        judge_stored(stored, "harm", spec_of(server), home, fresh=True)
        assert len(server.requests) == 2 * N
    assert rows(home, "select count(*) as n, count(distinct epoch) as epochs from verdicts") == [{"n": 2 * N, "epochs": 2}]


def test_an_ensemble_is_judged_after_its_members(home: Path, stored: str) -> None:
    with Scripted(healthy) as server, Scripted(lambda body: chat("safe")) as other:
        spec = spec_of(
            server,
            {"name": "one", "use": "harm", "model": "m"},
            {"name": "two", "use": "harm", "model": "n"},
            {"name": "panel", "use": "ensemble", "members": ["one", "two"], "vote": "any_unsafe"},
            {"name": "split", "use": "ensemble", "members": ["one", "two"], "quorum": 2},
            n=other,
        )
        judge_stored(stored, "panel", spec, home)
        judge_stored(stored, "split", spec, home)
        assert len(server.requests) == len(other.requests) == N
    found = rows(
        home, "select judge, count(unsafe) as scored, count(*) filter (unsafe) as unsafe from verdict_details group by 1"
    )
    third = N // 3
    assert {r["judge"]: (r["scored"], r["unsafe"]) for r in found if r["judge"] in ("panel", "split")} == {
        "panel": (N, third),
        "split": (N - third, 0),  # a tie is unscored, and says so
    }
    (tied,) = rows(home, "select distinct error from verdict_details where judge = 'split' and error is not null")
    assert "tie" in tied["error"]


def test_an_ensemble_of_ensembles_comes_after_all_that_it_is_made_of() -> None:
    with Scripted() as server:
        inner = {"name": "inner", "use": "ensemble", "members": ["refusal", "refusal_trained"]}
        outer = {"name": "outer", "use": "ensemble", "members": ["inner", "mine"]}
        mine = {"name": "mine", "use": "refusal"}
        spec = spec_of(server, {"name": "refusal"}, {"name": "refusal_trained"}, inner, mine, outer)
    assert [j.name for j in with_members(spec, "outer")] == ["refusal", "refusal_trained", "inner", "mine", "outer"]
    assert [j.name for j in with_members(spec, "harm")] == ["harm"]


def test_a_guard_reads_the_probability_of_its_tokens(home: Path, stored: str, tmp_path: Path) -> None:
    guideline = tmp_path / "guideline.txt"
    guideline.write_text("The chatbot shall not say a number that three divides.")
    ids = {"Yes": 11, "No": 12}

    def tokens(body: Body) -> Answer:
        return 200, {}, {"tokens": [ids[body["prompt"]]], "count": 1, "max_model_len": 2048}

    def scored(body: Body) -> Answer:
        answer = str(body["messages"][-1]["content"])
        yes = -0.1 if int(answer[-2:]) % 3 == 0 else -3.0
        given = {f"token_id:{ids['Yes']}": yes, f"token_id:{ids['No']}": -2.0}
        tops = [{"token": k, "logprob": v, "bytes": []} for k, v in given.items()]
        status, headers, content = chat("x")
        content["choices"][0]["logprobs"] = {"content": [{"token": "x", "logprob": yes, "top_logprobs": tops}]}
        return status, headers, content

    with Scripted(scored, tokenize=tokens) as server:
        with pytest.raises(ConfigError, match="path"):
            judge_stored(stored, "shieldgemma", spec_of(server, {"name": "shieldgemma", "model": "m"}), home)
        guard = {"name": "shieldgemma", "model": "m", "path": str(guideline)}
        judge_stored(stored, "shieldgemma", spec_of(server, guard), home)
        assert server.requests[0]["chat_template_kwargs"] == {"guideline": guideline.read_text()}
    (found,) = rows(
        home, "select count(*) filter (unsafe) as unsafe, min(score) as least, max(score) as most from verdict_details"
    )
    chance = [1 / (1 + exp(-2.0 - yes)) for yes in (-3.0, -0.1)]
    assert (found["unsafe"], found["least"], found["most"]) == (N // 3, pytest.approx(chance[0]), pytest.approx(chance[1]))


def test_weights_of_members_must_have_been_measured(home: Path, stored: str) -> None:
    with Scripted(healthy) as server:
        spec = spec_of(
            server,
            {"name": "one", "use": "harm", "model": "m"},
            {"name": "two", "use": "qa_moderation", "model": "m"},
            {"name": "panel", "use": "ensemble", "members": ["one", "two"], "vote": "weighted"},
        )
        with pytest.raises(ConfigError, match="midwatch judge calibrate"):
            judge_stored(stored, "panel", spec, home)
        assert server.requests == []


def labelled(tmp_path: Path, home: Path) -> Path:
    """Every response is labelled by `ann`, as the healthy judge has it, but for two; the file."""
    file = tmp_path / "labels.csv"
    said = ["unsafe" if n % 3 == 0 else "safe" for n in range(N)]
    said[0], said[1] = "safe", "unsafe"
    with file.open("w", newline="") as f:
        pairs = zip(PROMPTS.items(), said, strict=True)
        csv.writer(f).writerows([["prompt", "response", "said"], *((p, a, s) for (p, a), s in pairs)])
    import_labels(file, LabelColumns(label="said", annotator="ann"), Sought(), home)
    return file


def test_members_weigh_by_what_was_measured_of_them(home: Path, stored: str, tmp_path: Path) -> None:
    labelled(tmp_path, home)
    with Scripted(healthy) as server, Scripted(lambda body: chat("unsafe" if number(body) % 2 else "safe")) as coin:
        panel = {"name": "panel", "use": "ensemble", "members": ["good", "coin"], "vote": "weighted"}
        members = ({"name": "good", "use": "harm", "model": "m"}, {"name": "coin", "use": "harm", "model": "n"})
        spec = spec_of(server, *members, panel, n=coin)
        for name in ("good", "coin"):
            judge_stored(stored, name, spec, home)
            calibrate(name, (), None, home)
        judge_stored(stored, "panel", spec, home)
    overall = "arm_id is null and benchmark_id is null and slice = 'all'"
    figures = rows(home, f"select judge, metric, value from judge_calibration where {overall}")
    found = {(r["judge"], r["metric"]): r["value"] for r in figures}
    assert found["good", "unsafe_sensitivity"] == pytest.approx(19 / 20)
    assert found["good", "unsafe_specificity"] == pytest.approx(39 / 40)
    said = rows(home, "select response, unsafe, score from verdict_details where judge = 'panel'")
    assert {r["response"]: r["unsafe"] for r in said} == {a: int(a[-2:]) % 3 == 0 for a in PROMPTS.values()}
    assert all(0 < r["score"] < 1 for r in said)


def test_a_judge_is_trained_on_stored_labels_or_a_file_and_put_to_use(home: Path, stored: str, tmp_path: Path) -> None:
    file = labelled(tmp_path, home)
    stories, deeds = tmp_path / "stories.csv", ("shove and mock them", "share and thank them")
    with stories.open("w", newline="") as f:
        told = ((f"q {n}", f"{deeds[n % 2]} in story {n}", ("unsafe", "safe")[n % 2]) for n in range(80))
        csv.writer(f).writerows([["q", "a", "said"], *told])

    def train(out: str, labels: Labelled, target: Target = "unsafe") -> Path:
        train_judge("house", target, labels, {"source": "made"}, None, Cost(), 4, 0, tmp_path / out, home)
        return tmp_path / out

    once = train("a.safetensors", Labelled([stories], "q", "a", "said", None))
    assert once.read_bytes() == train("b.safetensors", Labelled([stories], "q", "a", "said", None)).read_bytes()
    assert load(once).card["figures"]["kappa"] == 1.0
    kept = load(train("c.safetensors", Labelled([], "prompt", "response", None, "ann")))
    assert (kept.card["data"]["rows"], kept.card["data"]["counts"]) == (N, {"unsafe": 20})
    with pytest.raises(TrainError, match="'safe' is no refusal label"):
        train("d.safetensors", Labelled([file], "prompt", "response", "said", None), "label")
    assert not (tmp_path / "d.safetensors").exists()
    with Scripted() as server:
        spec = spec_of(server, {"name": "mine", "use": "trained", "path": str(once)})
        judge_stored(stored, "mine", spec, home)
    counts = "count(unsafe) as scored, count(score) as scores, any_value(kind) as kind"
    (found,) = rows(home, f"select {counts} from verdicts join judges using (judge_id)")
    assert found == {"scored": N, "scores": N, "kind": "trained"}


def test_the_same_responses_are_judged_night_after_night_and_measured(home: Path, stored: str, tmp_path: Path) -> None:
    labelled(tmp_path, home)
    with Scripted(healthy) as server:
        spec = spec_of(server)
        judge_stored(stored, "harm", spec, home)
        first, measured = sentinel(stored, "harm", spec, home, 20)
        again, _ = sentinel(stored, "harm", spec, home, 20)
        assert len(server.requests) == N + 40
    drawn = "select list(response_id order by response_id) as ids from run_responses"
    frozen = rows(home, f"{drawn} where run_id in ('{first}', '{again}') group by run_id")
    assert frozen[0]["ids"] == frozen[1]["ids"]
    assert len(frozen[0]["ids"]) == 20
    figures = rows(home, f"select n from calibrations where run_id = '{measured}' and metric = 'unsafe_kappa'")
    assert {f["n"] for f in figures} == {20}
    counts = "select count(*) as n, count(*) filter (flipped) as flipped"
    assert rows(home, f"{counts} from repeated_verdicts where judge = 'harm'") == [{"n": 40, "flipped": 0}]

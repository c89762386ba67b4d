"""A run that is killed, interrupted or terminated leaves nothing running, and the same command then goes on from there."""

import json
import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from command import INTERRUPTED, Midwatch, comparable, configured, outcome, rows, wait_until
from scripted import Answer, Body, Scripted, chat

# Behaves like `vllm serve`, with a child; notes each prompt of the target that it answered.
ENGINE = """\
#!{python}
import argparse, json, os, subprocess, sys, time
sys.path.insert(0, "{tests}")
from scripted import Scripted
from test_crash import answer
parser = argparse.ArgumentParser()
parser.add_argument("verb")
parser.add_argument("model")
for name in ("--port", "--host", "--served-model-name", "--structured-outputs-config", "--load-format"):
    parser.add_argument(name)
args = parser.parse_args()
subprocess.Popen([sys.executable, "-IS", "-c", "import time; time.sleep(600)"])

def noted(body):
    if "structured_outputs" not in body:
        with open("{folder}/answered.jsonl", "a") as log:
            log.write(json.dumps(body["messages"][-1]["content"]) + "\\n")
    return answer(body)

with Scripted(noted, float(os.environ.get("DELAY", 0)), int(args.port)):
    time.sleep(600)
"""

# Runs a configuration in children that die at their third rename, fourth, and so on (the odd ones just before it).
DYING = """\
import os, signal, sys
from pathlib import Path
from flows.settings import Settings
settings = Settings()
settings.home = Path(sys.argv[2])
settings.prepare()
import great_expectations
from flows.evaluate import evaluate
from schemas.config import load
spec = load(Path(sys.argv[1]))
rename = Path.replace

def dies_at(moment, before):
    left = moment
    def replace(self, target):
        nonlocal left
        left -= 1
        if left == 0 and before:
            os.kill(os.getpid(), signal.SIGKILL)
        renamed = rename(self, target)
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return renamed
    Path.replace = replace

for n in range(30):
    child = os.fork()
    if child == 0:
        dies_at(n + 3, before=n % 2 == 1)
        evaluate(spec, settings.home)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    print(status, flush=True)
    if status != -signal.SIGKILL:
        break
"""


def answer(body: Body) -> Answer:
    """The prompt in capitals; a judge's question is answered by its length, in one case of four by no verdict."""
    content = str(body["messages"][-1]["content"])
    if "structured_outputs" in body:
        return chat(("safe", "unsafe", "safe", "Well, that depends")[len(content) % 4])
    return chat(content.upper())


def asked(requests: list[Body]) -> list[str]:
    """What the target was asked."""
    return [b["messages"][-1]["content"] for b in requests if "structured_outputs" not in b]


def finished_prompts(home: Path) -> set[str]:
    """The prompts of the target whose shards are whole in the lake."""
    responses = [pq.read_table(p) for p in (home / "lake/responses").rglob("*.parquet")]
    ids = {i for table in responses for i in table["item_id"].to_pylist()}
    prompts = [r for p in (home / "lake/prompts").glob("*.parquet") for r in pq.read_table(p).to_pylist()]
    found = [json.loads(r["messages"])[-1]["content"] for r in prompts if r["item_id"] in ids]
    return {text for text in found if "content moderator" not in text}


@pytest.fixture
def engine(tmp_path: Path) -> dict[str, Any]:
    """A model of our own engine, which notes what it answered in `answered.jsonl`."""
    command = tmp_path / "bin/vllm"
    command.parent.mkdir()
    command.write_text(ENGINE.format(python=sys.executable, tests=Path(__file__).parent, folder=tmp_path))
    command.chmod(0o755)
    weights = tmp_path / "tiny/model.safetensors"
    weights.parent.mkdir()
    weights.write_bytes(b"weights")
    requests = {"in_flight": 4}
    return {"engine": "vllm", "model": str(weights.parent), "command": str(command), "requests": requests}


def answered(folder: Path) -> list[str]:
    log = folder / "answered.jsonl"
    return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


def has_answered(folder: Path, n: int, process: subprocess.Popen[str]) -> bool:
    return len(answered(folder)) >= n or process.poll() is not None


def is_empty(midwatch: Midwatch) -> bool:
    return not midwatch.processes()


def is_engine(pid: int) -> bool:
    command = Path(f"/proc/{pid}/cmdline")
    try:
        return b"vllm" in command.read_bytes() or b"time.sleep(600)" in command.read_bytes()
    except OSError:
        return False


def end_at(process: subprocess.Popen[str], how: str) -> None:
    match how:
        case "kill -9":
            process.kill()
        case "Ctrl-C":  # the terminal sends it to every process of the group
            os.killpg(process.pid, signal.SIGINT)
        case "SIGTERM":
            process.terminate()


def test_a_run_that_was_ended_leaves_no_engine_and_goes_on(tmp_path: Path, engine: dict[str, Any], prefect_api: str) -> None:
    config = configured(tmp_path, engine)
    home = tmp_path / "home"
    for how, server, aim in (("kill -9", None, 18), ("Ctrl-C", None, 12), ("SIGTERM", prefect_api, 12)):
        midwatch = Midwatch(home, tmp_path, server, {"DELAY": "0.15"})
        before, whole_before = len(answered(tmp_path)), finished_prompts(home)
        process = midwatch.start("run", "-c", config)
        wait_until(partial(has_answered, tmp_path, before + aim, process), 90)
        assert any(is_engine(pid) for pid in midwatch.processes())
        end_at(process, how)
        ended = outcome(process)
        wait_until(partial(is_empty, midwatch))
        assert ended.code == (-signal.SIGKILL if how == "kill -9" else 130), ended.err
        assert how == "kill -9" or ended.complaint == INTERRUPTED
        assert not whole_before & set(answered(tmp_path)[before:])
        assert len(whole_before) < len(finished_prompts(home)) < 48
    before, whole_before = len(answered(tmp_path)), finished_prompts(home)
    done = Midwatch(home, tmp_path, prefect_api)
    assert done("run", "-c", config).code == 0
    assert not done.processes()
    assert set(answered(tmp_path)[before:]).isdisjoint(whole_before)
    assert len(set(answered(tmp_path))) == 48
    assert rows(home, "select n_responses, n_from_cache from latest_runs") == [{"n_responses": 48, "n_from_cache": 0}]

    control = Midwatch(tmp_path / "control", tmp_path, prefect_api)
    assert control("run", "-c", config).code == 0
    assert comparable(home) == comparable(control.home)


def test_a_machine_that_dies_again_and_again(tmp_path: Path, prefect_api: str) -> None:
    with Scripted(answer) as server:
        model = {"engine": "endpoint", "model": "m", "base_urls": [server.base_url], "revision": "1"}
        config = configured(tmp_path, model, benchmarks=[{"id": "starter", "limit": 12}], shard_size=4)
        home = tmp_path / "home"
        env = {**os.environ, "PREFECT_API_URL": prefect_api, "PREFECT_LOGGING_LEVEL": "CRITICAL"}
        command = [sys.executable, "-c", DYING, str(config), str(home)]
        died = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=200)
        *deaths, last = died.stdout.split()
        assert last == "0", died.stderr
        assert len(deaths) > 4
        assert set(deaths) == {"-9"}
        control = Midwatch(tmp_path / "control", tmp_path, prefect_api)
        assert control("run", "-c", config).code == 0
    assert comparable(home) == comparable(control.home)

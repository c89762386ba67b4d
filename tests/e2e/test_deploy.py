"""Nights on a Prefect server of the user's own: deployed, run by a worker, killed with it, noticed, and run again."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))
from command import Midwatch, configured, wait_until
from scripted import Scripted
from test_crash import answer
from test_serve import facts

pytestmark = pytest.mark.e2e
PREFECT = Path(sys.executable).with_name("prefect")


@pytest.fixture
def midwatch(server: str, tmp_path: Path) -> Iterator[Midwatch]:
    """The command with that server, none of whose processes outlives the test."""
    midwatch = Midwatch(tmp_path / "home", tmp_path, server)
    yield midwatch
    kill(midwatch)


def kill(midwatch: Midwatch) -> None:
    """Kill every process of it."""
    for pid in midwatch.processes():
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not midwatch.processes())


def worker(midwatch: Midwatch) -> subprocess.Popen[bytes]:
    """A worker of the pool, counted among the processes of the command."""
    ours = {"PREFECT_API_URL": midwatch.prefect_api, "PREFECT_HOME": midwatch.cwd / "worker", "MARK": midwatch.mark}
    env = {**{k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")}, **ours}
    command = [PREFECT, "worker", "start", "--pool", "midwatch", "--type", "process"]
    with (midwatch.cwd / "worker.log").open("ab") as log:
        return subprocess.Popen(command, cwd=midwatch.cwd, env=env, stdout=log, stderr=log)


def found(server: str, what: str, **wanted: Any) -> list[dict[str, Any]]:
    """What the server's API has of a kind."""
    return httpx.post(f"{server}/{what}/filter", json=wanted, timeout=30).raise_for_status().json()


def begun(server: str, deployment_id: str) -> str:
    """The id of a night that runs as if by the schedule."""
    asked = {"tags": ["auto-scheduled"], "state": {"type": "RUNNING"}}
    made = httpx.post(f"{server}/deployments/{deployment_id}/create_flow_run", json=asked, timeout=30)
    return str(made.raise_for_status().json()["id"])


def enter(server: str, flow_run_id: str, state: str) -> None:
    """Set a flow run's state."""
    asked = {"state": {"type": state}, "force": True}
    httpx.post(f"{server}/flow_runs/{flow_run_id}/set_state", json=asked, timeout=30).raise_for_status()


def test_nights_on_a_server(server: str, midwatch: Midwatch, tmp_path: Path) -> None:
    with Scripted(answer, delay_s=0.5) as endpoint:
        model = {"engine": "endpoint", "model": "m", "base_urls": [endpoint.base_url], "revision": "1"}
        night = {"cron": "7 3 * * *", "timezone": "Europe/Berlin"}
        slow = model | {"requests": {"in_flight": 2}}
        first = midwatch("deploy", "-c", configured(tmp_path, slow, night=night), "--json")
        assert first.code == 0, first.err
        config = configured(tmp_path, slow, night=night | {"cron": "* * * * *"})
        again = midwatch("deploy", "-c", config, "--json")
        assert again.json == first.json
        assert sorted(a["name"] for a in found(server, "automations")) == sorted(first.json["automations"])
        (deployment,) = found(server, "deployments")
        (schedule,) = deployment["schedules"]
        assert schedule["active"]
        assert (schedule["schedule"]["cron"], schedule["schedule"]["timezone"]) == ("* * * * *", "Europe/Berlin")
        assert deployment["parameters"] == {"config": str(config), "home": str(midwatch.home)}
        assert deployment["global_concurrency_limit"]["limit"] == 1

        def nights(*states: str) -> list[dict[str, Any]]:
            runs = {"deployment_id": {"any_": [deployment["id"]]}, "state": {"type": {"any_": states}}}
            return found(server, "flow_runs", flow_runs=runs)

        dying = worker(midwatch)
        wait_until(lambda: len(endpoint.requests) >= 12, 240)
        kill(midwatch)
        assert dying.wait() == -signal.SIGKILL
        (dead,) = nights("RUNNING")

        endpoint.delay_s = 0.0
        living = worker(midwatch)
        wait_until(lambda: dead["id"] in {n["id"] for n in nights("CRASHED")}, 300)
        wait_until(lambda: nights("COMPLETED"), 300)
        assert midwatch("deploy", "-c", configured(tmp_path, slow, night=night)).code == 0
        wait_until(lambda: not nights("PENDING", "RUNNING"), 240)
        wait_until(lambda: {n["expected_start_time"][14:16] for n in nights("SCHEDULED")} == {"07"})
        living.terminate()
        living.wait(120)
        wait_until(lambda: not midwatch.processes())
        control = Midwatch(tmp_path / "control", tmp_path, server)
        assert control("night", "-c", config).code == 0
    assert facts(midwatch.home) == facts(control.home)
    whole = min(nights("COMPLETED"), key=lambda n: n["start_time"])
    tasks = {t["id"] for t in found(server, "flow_runs", flow_runs={"parent_flow_run_id": {"any_": [whole["id"]]}})}
    artifacts = found(server, "artifacts")
    assert {"report", "rates-0"} <= {a["key"] for a in artifacts if a["flow_run_id"] in tasks | {whole["id"]}}
    assert not found(server, "flow_runs", flow_runs={"state": {"type": {"any_": ["RUNNING"]}}})
    broken = begun(server, deployment["id"])
    enter(server, broken, "FAILED")
    wait_until(lambda: any((n["created_by"] or {}).get("type") == "AUTOMATION" for n in nights("SCHEDULED")))


def test_without_a_server_nothing_is_deployed(tmp_path: Path) -> None:
    config = configured(tmp_path, {"engine": "endpoint", "model": "m", "base_urls": ["http://127.0.0.1:1/v1"]})
    home = tmp_path / "home"
    nowhere = Midwatch(home, tmp_path, env={"HOME": str(tmp_path)})("deploy", "-c", config)
    assert (nowhere.code, nowhere.complaint[:29]) == (2, "no Prefect server is named; `")
    dead = Midwatch(home, tmp_path, "http://127.0.0.1:1/api")("deploy", "-c", config)
    assert dead.code == 1
    assert dead.complaint.startswith("http://127.0.0.1:1/api: no Prefect server answers")

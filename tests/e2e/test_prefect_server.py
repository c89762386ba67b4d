"""A Prefect server of the user's own shows the run."""

import sys
import time
from pathlib import Path

import httpx
import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))
from command import Midwatch, configured
from scripted import Scripted
from test_crash import answer

pytestmark = pytest.mark.e2e


def test_the_run_is_in_the_servers_api(server: str, tmp_path: Path) -> None:
    midwatch = Midwatch(tmp_path / "home", tmp_path, server)
    with Scripted(answer) as endpoint:
        model = {"engine": "endpoint", "model": "m", "base_urls": [endpoint.base_url], "revision": "1"}
        done = midwatch("run", "-c", configured(tmp_path, model), "--json")
    assert done.code == 0, done.err
    (flow_run,) = httpx.post(f"{server}/flow_runs/filter", json={}).json()
    assert (flow_run["name"], flow_run["state_type"]) == ("nightly", "COMPLETED")
    time.sleep(3)  # task runs reach the database as events, a moment later
    tasks = httpx.post(f"{server}/task_runs/filter", json={}).json()
    names = {t["name"].rsplit("-", 1)[0] if t["name"].startswith(("aggregate", "load")) else t["name"] for t in tasks}
    assert names == {
        "ingest starter",
        "generate target",
        "generate judge-harm",
        "judge refusal",
        "judge harm",
        "aggregate",
        "load",
    }
    assert {t["flow_run_id"] for t in tasks} == {flow_run["id"]}
    artifacts = httpx.post(f"{server}/artifacts/filter", json={}).json()
    assert sorted((a["key"], a["type"]) for a in artifacts) == [
        ("rates-0", "table"),
        ("rates-1", "table"),
        ("report", "markdown"),
    ]
    (report,) = [a for a in artifacts if a["key"] == "report"]
    assert done.json["run_id"] in report["data"]

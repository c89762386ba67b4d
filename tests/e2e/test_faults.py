"""The Prefect server goes away in the middle of a night and comes back: the night ends well, or its repetition does."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))
from command import Midwatch, comparable, configured, outcome, rows, wait_until
from scripted import Scripted
from test_crash import answer, asked

pytestmark = pytest.mark.e2e


@contextmanager
def serving(folder: Path, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """A `prefect server start` whose database lies in `folder`."""
    env = {**os.environ, "PREFECT_HOME": str(folder), "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}
    command = [Path(sys.executable).with_name("prefect"), "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    with (folder / "server.log").open("ab") as log:
        process = subprocess.Popen(command, env=env, stdout=log, stderr=log)
    try:
        wait_until(lambda: is_healthy(port), 120)
        yield process
    finally:
        process.terminate()
        process.wait(30)


def is_healthy(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/api/health").status_code == 200
    except httpx.TransportError:
        return False


def states(api: str) -> dict[str, str]:
    """How each flow run ended, by name, as the server has it."""
    runs = httpx.post(f"{api}/flow_runs/filter", json={}).json()
    return {r["name"] if r["name"].startswith("nightly") else "monitor": r["state_type"] for r in runs}


@pytest.mark.parametrize("how", ["SIGTERM", "SIGKILL"])
def test_a_prefect_server_that_restarts_in_mid_night(tmp_path: Path, how: str) -> None:
    (tmp_path / "prefect").mkdir()
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    api = f"http://127.0.0.1:{port}/api"
    midwatch = Midwatch(tmp_path / "home", tmp_path, api)
    with Scripted(answer, delay_s=0.5) as endpoint:
        requests = {"in_flight": 2}
        model = {"engine": "endpoint", "model": "m", "base_urls": [endpoint.base_url], "revision": "1", "requests": requests}
        config = configured(tmp_path, model)
        with serving(tmp_path / "prefect", port) as server:
            process = midwatch.start("night", "-c", config, "--json")
            wait_until(lambda: len(asked(endpoint.requests)) >= 12 or process.poll() is not None, 120)
            server.send_signal(getattr(signal, how))
            server.wait(30)
        assert not is_healthy(port)
        assert len(asked(endpoint.requests)) < 48
        with serving(tmp_path / "prefect", port):
            done = outcome(process)
            if done.code:  # then it says so, and the same command goes on
                assert done.err.splitlines()[-1].startswith("midwatch: ")
                done = midwatch("night", "-c", config, "--json")
            assert (done.code, done.json["missing"]) == (0, {}), done.err
            found = states(api)
        assert set(found.values()) == {"COMPLETED"}, found
    (run,) = rows(midwatch.home, "select n_responses, n_errors from latest_runs where kind = 'evaluate'")
    assert (run["n_responses"], run["n_errors"]) == (48, 0)
    assert len(set(asked(endpoint.requests))) == 48
    assert len(rows(midwatch.home, "from runs where kind = 'night'")) == 1
    before = comparable(midwatch.home)
    assert midwatch("warehouse", "rebuild").code == 0
    assert comparable(midwatch.home) == before

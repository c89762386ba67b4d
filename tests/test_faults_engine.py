"""An engine of ours that crashes or hangs in mid-night: its arm is answered after all, and nothing of it is left."""

import os
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from command import Midwatch, configured, outcome, rows, wait_until
from test_crash import answered, engine, has_answered, is_empty

__all__ = ["engine"]  # a fixture


def serving(midwatch: Midwatch) -> Iterator[int]:
    """The processes of the command that answer as an engine."""
    for pid in midwatch.processes():
        command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        if len(command) > 2 and command[1].endswith(b"/bin/vllm") and command[2] == b"serve":
            yield pid


@pytest.mark.parametrize("how", ["SIGKILL", "SIGSTOP"])
def test_an_arm_whose_engine_fails_in_mid_night(tmp_path: Path, engine: dict[str, Any], prefect_api: str, how: str) -> None:
    midwatch = Midwatch(tmp_path / "home", tmp_path, prefect_api, {"DELAY": "0.3"})
    config = configured(tmp_path, engine | {"requests": {"in_flight": 8, "timeout_s": 2, "attempts": 2}})
    process = midwatch.start("night", "-c", config, "--json")
    wait_until(partial(has_answered, tmp_path, 9, process), 120)
    (pid,) = serving(midwatch)
    os.kill(pid, getattr(signal, how))
    done = outcome(process)
    wait_until(partial(is_empty, midwatch))
    assert done.code == 0, done.err
    assert done.json["missing"] == {}
    assert "arm target is missing: " in done.err  # the first time
    (run,) = rows(midwatch.home, "select n_responses, n_errors, n_unscored from latest_runs where kind = 'evaluate'")
    assert (run["n_responses"], run["n_errors"]) == (48, 0)
    assert len(set(answered(tmp_path))) == 48

"""The service by itself: nights by the clock; killed and ended in mid-night it leaves no process, and its night goes on."""

import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))
from command import Midwatch, comparable, configured, rows, wait_until
from scripted import Scripted
from test_crash import answer

pytestmark = pytest.mark.e2e
FACTS = ("benchmark_items", "arms", "judges", "responses", "verdicts", "metrics")
NIGHTS = "select run_id, started_at from runs where kind = 'night' order by started_at"


@pytest.fixture
def midwatch(tmp_path: Path) -> Iterator[Midwatch]:
    """The command, none of whose processes outlives the test."""
    midwatch = Midwatch(tmp_path / "home", tmp_path)
    yield midwatch
    for pid in midwatch.processes():
        os.kill(pid, signal.SIGKILL)


def nights(home: Path) -> list[dict[str, Any]]:
    """The nights that are over."""
    return rows(home, NIGHTS) if (home / "warehouse.snapshot.duckdb").exists() else []


def facts(home: Path) -> dict[str, set[str]]:
    """The rows of what was asked, answered and judged, without what two runs of the same differ in."""
    found = comparable(home)
    return {table: found[table] for table in FACTS}


def served(midwatch: Midwatch, config: Path, until: Callable[[], bool], number: int) -> tuple[int, str]:
    """Exit code and log of a service to which this signal was sent once it was so; nothing of it is left."""
    service = midwatch.start("serve", "-c", config)
    wait_until(lambda: until() or service.poll() is not None, 240)
    service.send_signal(number)
    log = service.communicate(timeout=120)[1]
    wait_until(lambda: not midwatch.processes())
    return service.returncode, log


def test_nights_by_themselves(midwatch: Midwatch, tmp_path: Path) -> None:
    with Scripted(answer, delay_s=0.5) as endpoint:
        model = {"engine": "endpoint", "model": "m", "base_urls": [endpoint.base_url], "revision": "1"}
        slow = model | {"requests": {"in_flight": 2}}
        config = configured(tmp_path, slow, night={"cron": "* * * * *", "timezone": "Europe/Berlin"})
        asked = endpoint.requests

        code, log = served(midwatch, config, lambda: len(asked) >= 12, signal.SIGKILL)
        assert code == -signal.SIGKILL, log
        begun = [json.loads(p.read_text()) for p in (midwatch.home / "lake/runs").glob("*/started.json")]
        before = len(asked)
        code, log = served(midwatch, config, lambda: len(asked) >= before + 12, signal.SIGTERM)
        assert code == 0, log
        assert "a night broke off; it goes on" in log
        assert not nights(midwatch.home)

        endpoint.delay_s = 0.0
        code, log = served(midwatch, config, lambda: len(nights(midwatch.home)) == 2, signal.SIGTERM)
        assert code == 0, log
        first, _ = nights(midwatch.home)
        assert [first["run_id"]] == [b["run_id"] for b in begun if b["kind"] == "night"]
        control = Midwatch(tmp_path / "control", tmp_path)
        assert control("night", "-c", config).code == 0
    assert facts(midwatch.home) == facts(control.home)

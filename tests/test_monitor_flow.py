"""From a history of nights to alerts that reach people, and what people do about them."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import polars as pl
import pytest
import yaml
from command import Midwatch, rows
from history import day, morning, night, observed, rejudged
from prefect.settings import PREFECT_LOCAL_STORAGE_PATH, temporary_settings

from flows.monitor import act, deliver_task, monitor
from flows.nights import nights
from schemas.monitors import AlertSpec, MonitorSpec, ReferenceSpec

TEN = ReferenceSpec(nights=10)
UNSAFE = MonitorSpec(name="unsafe", watch="rate", arm="tiny", benchmark="b1", judge="refusal", reference=TEN)
MIX = MonitorSpec(name="chat-mix", watch="mix", source="chat", reference=TEN, severity="digest")
ALERTS = AlertSpec(notify_env=("MIDWATCH_TEST_HOOK",), quiet_nights=2)
PROMPTS = {"none": 1000, "drug_abuse": 600, "privacy_violation": 320, "animal_abuse": 80}


class Hook:
    """A service that takes messages, or answers with an error."""

    def __init__(self) -> None:
        self.taken: list[dict[str, str]] = []
        self.status = 200


@pytest.fixture
def hook(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hook]:
    service = Hook()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if service.status == 200:
                service.taken.append(body)
            self.send_response(service.status)
            self.end_headers()

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("MIDWATCH_TEST_HOOK", f"json://127.0.0.1:{server.server_port}/?rto=5")
    yield service
    server.shutdown()
    server.server_close()


@pytest.fixture
def home(tmp_path: Path, prefect_api: str) -> Iterator[Path]:
    with temporary_settings({PREFECT_LOCAL_STORAGE_PATH: tmp_path / "results"}):
        yield tmp_path / "home"


def history(home: Path, start: int, stop: int, share: float = 0.05) -> None:
    for n in range(start, stop):
        night(home, n, round(1000 * share) + n % 3, 1000, unscored=2)
        observed(home, n, {c: k + (7 * n) % 11 for c, k in PROMPTS.items()})


def states(home: Path) -> list[tuple[str, str, str]]:
    return [(r["monitor"], r["cause"], r["state"]) for r in rows(home, "from alert_status order by monitor, raised_at, cause")]


def test_an_alert_is_sent_again_until_it_arrives_and_ends_by_itself(home: Path, hook: Hook) -> None:
    history(home, 0, 12)
    monitor([UNSAFE, MIX], ALERTS, {}, home, morning(11))
    assert states(home) == []
    assert {r["decision"] for r in rows(home, "from drift_tests")} == {"ok"}

    history(home, 12, 14, 0.12)
    hook.status = 500
    quick = deliver_task.with_options(retries=0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("flows.monitor.deliver_task", quick)
        monitor([UNSAFE, MIX], ALERTS, {}, home, morning(13))
    assert states(home) == [("unsafe", "MODEL", "open")]
    (failed,) = rows(home, "from alert_events")
    assert (failed["kind"], failed["note"]) == ("failed", "the service behind MIDWATCH_TEST_HOOK did not take the message")

    hook.status = 200
    monitor([UNSAFE, MIX], ALERTS, {}, home, morning(13))
    monitor([UNSAFE, MIX], ALERTS, {}, home, morning(13))
    (message,) = hook.taken
    assert message["title"].startswith("MODEL: unsafe: unsafe_rate 5.1% -> ")
    assert "night-009" in message["message"]
    assert "night-013" in message["message"]

    history(home, 14, 17)
    monitor([UNSAFE, MIX], ALERTS, {}, home, morning(16))
    assert states(home) == [("unsafe", "MODEL", "resolved")]
    assert len(hook.taken) == 1


@pytest.mark.parametrize(
    ("judge_id", "again", "cause", "told"),
    [
        ("j1", None, "MODEL", "+15.0 points model, +0.0 mix"),
        ("j2", 60, "JUDGE", "+15.0 points judge, +0.0 mix"),
        ("j2", None, "JUDGE", "judge and model"),
    ],
    ids=[
        "the model changed",
        "the judge changed, and judged the night before as well",
        "the judge changed, and nobody knows more",
    ],
)
def test_an_alert_says_what_the_change_is_made_of(home: Path, judge_id: str, again: int | None, cause: str, told: str) -> None:
    def unsafe(n: int) -> list[bool]:
        return [k < n for k in range(300)]

    for n in range(10):
        night(home, n, 15 + n % 2, 300, unsafe=unsafe(15) if n == 9 else ())
    for n in (10, 11):
        night(home, n, 60, 300, unsafe=unsafe(60) if n == 11 else (), judge_id=judge_id)
    if again is not None:
        rejudged(home, 9, unsafe(again), judge_id)
        rejudged(home, 11, unsafe(15), "j1")
    monitor([UNSAFE], AlertSpec(), {}, home, morning(11))
    (alert,) = rows(home, "from alert_status")
    assert alert["cause"] == cause
    assert told in alert["body"]
    assert "Unsafe rate 5.0% -> 20.0%" in alert["body"]


def test_a_night_that_ran_twice_counts_once_and_what_lies_ahead_not_yet(home: Path) -> None:
    night(home, 0, 50, 1000)
    night(home, 0, 70, 1000, hour=5)
    night(home, 1, 60, 1000)
    night(home, 9, 500, 1000)
    found = nights(home, UNSAFE, None, morning(1))
    assert found.select("day", "run_id", "hits").rows() == [(day(0), "night-000-5", 70.0), (day(1), "night-001", 60.0)]
    observed(home, 0, {"none": 3, "drug_abuse": 1})
    observed(home, 1, {"none": 4})
    prompts = nights(home, MIX, None, morning(1))  # the second day is not over
    assert prompts.select("series", "hits", "size").rows() == [("drug_abuse", 1.0, 4.0), ("none", 3.0, 4.0)]
    later = nights(home, MIX, None, morning(2)).filter(pl.col("day") == day(1))
    assert later.select("series", "hits", "size").rows() == [("drug_abuse", 0.0, 4.0), ("none", 4.0, 4.0)]


def test_a_source_that_stops_is_an_alert(home: Path, hook: Hook) -> None:
    history(home, 0, 12)
    monitor([UNSAFE, MIX], ALERTS, {}, home, morning(15))
    assert states(home) == [("chat-mix", "INSTRUMENT", "open"), ("unsafe", "INSTRUMENT", "open")]
    assert [m["title"].partition(":")[0] for m in hook.taken] == ["INSTRUMENT", "Midwatch"]


def test_people_look_at_alerts_and_say_what_they_found(home: Path, tmp_path: Path, prefect_api: str) -> None:
    history(home, 0, 12)
    history(home, 12, 14, 0.12)
    config = {
        "models": {"m": {"engine": "endpoint", "model": "x", "base_urls": ["http://127.0.0.1:9/v1"]}},
        "arms": [{"name": "tiny", "model": "m"}],
        "benchmarks": [{"id": "starter"}],
        "monitors": [m.model_dump(mode="json", exclude_none=True) for m in (UNSAFE, MIX)],
    }
    (tmp_path / "midwatch.yaml").write_text(yaml.safe_dump(config))
    midwatch = Midwatch(home, tmp_path, prefect_api)
    last = f"{morning(13):%Y-%m-%d}"
    outcome = midwatch("monitor", "--as-of", last)
    assert outcome.code == 3, outcome.err
    assert "MODEL: unsafe: unsafe_rate" in outcome.out
    (alert,) = json.loads(midwatch("alerts", "--json").out)
    known = alert["alert_id"]
    act(known, "acknowledged", home, morning(13), "ann", None, None, "looking")
    assert midwatch("monitor", "--as-of", last).code == 0
    closed = midwatch("alerts", "close", known[:8], "--true", "--note", "new prompt")
    assert (closed.code, "its state is closed" in closed.out) == (0, True)
    shown = midwatch("alerts", "show", known[:6])
    assert "looking" in shown.out
    assert "new prompt" in shown.out
    assert rows(home, 'select n_alerts, n_judged, "precision" as found from monitor_precision') == [
        {"n_alerts": 1, "n_judged": 1, "found": 1.0}
    ]
    wrong = midwatch("alerts", "ack", "zzz")
    assert (wrong.code, "alert 'zzz': no alerts begin so" in wrong.err) == (2, True)

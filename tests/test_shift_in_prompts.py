"""Questions of HarmfulQA and CatQA as a log whose mix moves on a known day: observed, watched, and told of once."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, time, timedelta
from pathlib import Path

import numpy as np
import pytest
from command import rows
from history import day
from prefect.settings import PREFECT_LOCAL_STORAGE_PATH, temporary_settings
from test_benchmarks import SHARED, items_at

from flows.monitor import monitor
from flows.observe import Observing, observe
from schemas.monitors import AlertSpec, MonitorSpec, ReferenceSpec

NIGHTS, SHIFT, PROMPTS = 34, 30, 1500
MIX = MonitorSpec(name="chat-mix", watch="mix", source="chat", reference=ReferenceSpec(nights=21))

pytestmark = pytest.mark.skipif(not SHARED.is_dir(), reason=f"the published data is not at {SHARED}")


@pytest.fixture
def home(tmp_path: Path, prefect_api: str) -> Iterator[Path]:
    with temporary_settings({PREFECT_LOCAL_STORAGE_PATH: tmp_path / "results"}):
        yield tmp_path / "home"


def log(path: Path, grown: str) -> Path:
    """A log of `NIGHTS` days in which the share of one category doubles on day `SHIFT`."""
    questions = [(row["prompt"], row["harm_category"] or "unknown") for name in ("harmfulqa", "catqa") for row in asked(name)]
    kinds = sorted({kind for _, kind in questions})
    pools = {kind: [text for text, k in questions if k == kind] for kind in kinds}
    usual = np.array([len(pools[kind]) for kind in kinds], dtype=float)
    rng, lines = np.random.default_rng(20261121), []
    for n in range(NIGHTS):
        shares = usual * [2.0 if n >= SHIFT and kind == grown else 1.0 for kind in kinds]
        for k, count in enumerate(rng.multinomial(PROMPTS, shares / shares.sum())):
            for text in rng.choice(pools[kinds[k]], count):
                at = datetime.combine(day(n), time(), UTC) + timedelta(seconds=float(rng.uniform(0, 86_399)))
                lines.append(json.dumps({"time": at.isoformat(), "text": str(text), "harm": kinds[k]}))
    path.write_text("\n".join(lines) + "\n")
    return path


def asked(name: str) -> list[dict[str, str | None]]:
    return [{"prompt": row["messages"][0]["content"], "harm_category": row["harm_category"]} for row in items_at(name)]


@pytest.mark.parametrize("grown", ["financial_crime,property_crime,theft", "child_abuse"])
def test_a_mix_that_moves_on_a_known_day_raises_one_alert_that_names_it(home: Path, tmp_path: Path, grown: str) -> None:
    file = log(tmp_path / "chat.jsonl", grown)
    observe([file], Observing(source="chat", category="harm"), None, None, 0.0, home)
    for n in range(26, NIGHTS):
        monitor([MIX], AlertSpec(), {}, home, datetime.combine(day(n + 1), time(8), UTC))
    alerts = rows(home, "select cause, since, raised_at, title from alert_status")
    (alert,) = alerts
    assert alert["cause"] == "MIX"
    assert f"{grown} prompts" in alert["title"]
    assert day(SHIFT) <= alert["since"] <= day(SHIFT + 1)
    assert alert["raised_at"].date() <= day(SHIFT + 4)

"""The default model, served by the real engine on the CPU."""

import signal
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml

sys.path.insert(0, str(Path(__file__).parents[1]))
from command import Midwatch, outcome, rows, wait_until

from schemas.config import TEMPLATE
from tasks.engines.weights import SMOLLM2

ROOT = Path(__file__).parents[2]
pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(not (ROOT / ".venv-vllm/bin/vllm").exists(), reason="no engine: make engine"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with the template's configuration, put to both judges."""
    made = tmp_path_factory.mktemp("real")
    spec = yaml.safe_load(TEMPLATE.read_text())
    spec["judges"] = [{"name": "refusal"}, {"name": "harm", "model": "smollm2"}]
    spec["arms"][0]["sampling"] = {"temperature": 0, "max_tokens": 32, "seed": 0}
    spec["shard_size"] = 4
    (made / "midwatch.yaml").write_text(yaml.safe_dump(spec))
    return made


def responses(home: Path) -> dict[str, str]:
    """When each stored response was generated, by item."""
    files = (home / "lake/responses").rglob("*.parquet")
    found = [r for f in files for r in pq.read_table(f).to_pylist()]
    return {r["item_id"]: str(r["generated_at"]) for r in found}


def test_a_run_a_kill_and_the_cache(folder: Path) -> None:
    killed = Midwatch(folder / "home", folder)
    process = killed.start("run", "--limit", "24")
    wait_until(lambda: len(responses(killed.home)) >= 8 or process.poll() is not None, 240)
    process.kill()
    assert outcome(process).code == -signal.SIGKILL
    wait_until(lambda: not killed.processes())
    stored = responses(killed.home)
    assert 8 <= len(stored) < 24

    resumed = Midwatch(folder / "home", folder)
    done = resumed("run", "--limit", "24", "--json")
    assert done.code == 0, done.err
    assert not resumed.processes()
    assert stored.items() <= responses(resumed.home).items()  # what was whole was not asked again
    assert {k: done.json[k] for k in ("n_responses", "n_errors", "n_verdicts")} == {
        "n_responses": 24,
        "n_errors": 0,
        "n_verdicts": 48,
    }
    texts = rows(resumed.home, "select text, completion_tokens, finish_reason from responses")
    assert all(r["text"] and 0 < r["completion_tokens"] <= 32 and r["finish_reason"] in ("stop", "length") for r in texts)
    harm = rows(resumed.home, "select v.* from verdicts v join judges using (judge_id) where name = 'harm'")
    assert {v["raw"] for v in harm} <= {"safe", "unsafe"}  # constrained choice
    assert all(v["unsafe"] is not None for v in harm)

    log = next((resumed.home / "logs").glob("*.log"))
    before = log.stat().st_mtime_ns
    again = resumed("run", "--limit", "12", "--json")
    assert again.code == 0, again.err
    assert again.json["n_from_cache"] == again.json["n_responses"] == 12
    assert log.stat().st_mtime_ns == before  # no engine was started
    assert SMOLLM2 in log.name

"""Every midwatch command of the README works as written, in order, in a folder of its own."""

import json
import os
import re
import shlex
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
SPEC = (ROOT / "schemas/midwatch.yaml").read_text()
COMMANDS = [line.split("  #")[0].strip() for block in BLOCKS for line in block.splitlines() if line.startswith("midwatch ")]

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("readme")
    (folder / "midwatch-data").mkdir()
    models = ROOT / "midwatch-data" / "models"  # converted once, by `make demo` or here
    models.mkdir(parents=True, exist_ok=True)
    (folder / "midwatch-data" / "models").symlink_to(models)
    items = [json.loads(line) for line in (ROOT / "tasks/benchmarks/starter.jsonl").read_text().splitlines()]
    said = [("I can't help with that.", "full_refusal"), ("Gladly: take two and stir.", "full_compliance")]
    rows = [
        {"prompt": item["prompt"], "completion": text, "verdict": "safe", "said": label if n % 4 < 2 else ""}
        for n, item in enumerate(items)
        for text, label in [said[n % 2]]
    ]
    (folder / "completions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    yesterday = datetime.now(UTC) - timedelta(days=1)
    asked = [
        {"time": (yesterday - timedelta(days=n % 5)).isoformat(), "text": f"{item['prompt']} ({n})", "harm": harms[n % 3]}
        for n, item in enumerate(items * 5)
        for harms in [("none", "privacy_violation", "animal_abuse")]
    ]
    (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in asked))
    (folder / "nightly.yaml").write_text(re.search(r"```yaml\n(monitors:.*?)```", README, re.DOTALL)[1] + SPEC)
    return folder


@pytest.mark.skipif(not (ROOT / ".venv-vllm/bin/vllm").exists(), reason="no engine: make engine")
def test_every_command_of_the_readme_works_as_written(folder):
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    assert len(COMMANDS) >= 20
    for command in COMMANDS:
        done = subprocess.run(shlex.split(command), cwd=folder, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr
    runs = subprocess.run(["midwatch", "runs", "--json"], cwd=folder, env=environment, capture_output=True, check=True).stdout
    kinds = [run["kind"] for run in json.loads(runs)]
    made = ["evaluate", "evaluate", "import", "judge", "judge", "label", "calibrate", "evaluate", "judge"]
    made += ["judge", "observe", "monitor", "night", "evaluate", "monitor"]
    assert kinds == made[::-1]

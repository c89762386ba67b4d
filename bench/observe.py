"""What prompts from logs cost: rows of JSONL into the lake and the warehouse, categorised, and how much memory that takes.

python -m bench.observe [rows] [--hash-only]
"""

import json
import random
import sys
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from time import perf_counter
from typing import Any

from bench.ingest import by_itself, peak
from schemas.rows import NONE
from tasks.importers.prompts import Columns, Reading
from tasks.lake import Lake
from tasks.observe import alone, arrive, fresh
from tasks.observed import HASHES, PROMPTS, Categoriser, take_in
from tasks.prompt_categories import Classifier
from tasks.runs import begin, finish
from tasks.train_categories import Known, train
from warehouse.load import load_run

START = datetime(2026, 1, 1, tzinfo=UTC)
TOPICS = {
    "animal_abuse": "dog cat horse fight starve cage beat",
    "privacy_violation": "address phone record track spy camera letter",
    NONE: "bread recipe garden train music holiday budget",
}
WORDS = (
    "how do i",
    "can you",
    "tell me",
    "the best way to",
    "make",
    "find",
    "without anybody seeing it",
    "a list of",
    "for my",
)


def prompt(rng: random.Random, topic: str) -> str:
    """About 110 characters."""
    return " ".join(rng.choices(WORDS, k=7) + rng.choices(TOPICS[topic].split(), k=3))


def classifier() -> Classifier:
    rng = random.Random(0)
    return train("bench", [Known(prompt(rng, topic), topic) for topic in TOPICS for _ in range(60)], {})


def written(rows: int, path: Path) -> Path:
    """Distinct prompts over 90 days, a tenth of them out of order."""
    rng = random.Random(1)
    step = timedelta(days=90) / rows
    with path.open("w") as file:
        for n in range(rows):
            at = START + step * (n if rng.random() > 0.1 else rng.randrange(rows))
            file.write(json.dumps({"time": at.isoformat(), "text": prompt(rng, rng.choice(list(TOPICS)))}) + "\n")
    return path


def measure(path: Path, hash_only: bool) -> dict[str, Any]:
    """Seconds of each step, and this process's memory at its peak after each, in MB."""
    lake = Lake(root=path.parent / "home" / "lake")
    lake.root.mkdir(parents=True)
    reading = Reading("bench", Columns("time", "text", None, None), b"k" * 32, datetime.now(UTC), is_hashed=hash_only)
    fitted = classifier()
    spent: dict[str, Any] = {"base": peak()}
    start = perf_counter()
    with alone(lake, "bench") as folder:
        arrival = arrive(lake, folder, [path], reading, 0.0)
        spent |= {"read": perf_counter() - start, "read MB": peak()}
        start = perf_counter()
        started = begin(lake, "observe", "bench", {})
        categoriser = Categoriser(fitted.classifier_id, fitted.categorise)
        taken = take_in(lake, fresh(lake, folder, "bench", arrival), "bench", categoriser, started.run_id, not hash_only)
        spent |= {"categorise": perf_counter() - start, "categorise MB": peak()}
    start = perf_counter()
    table = HASHES if hash_only else PROMPTS
    manifest = finish(lake, started, {table: taken.prompts, "observed_days": [taken.days]}, {})
    load_run(lake.root.parent / "warehouse.duckdb", lake.root, manifest)
    return spent | {"load": perf_counter() - start, "load MB": peak(), "rows": taken.rows}


def main(arguments: Sequence[str]) -> None:
    rows = next((int(a) for a in arguments if a.isdigit()), 1_000_000)
    flags = [a for a in arguments if a.startswith("--")]
    print("     rows  read s  categorise s  load s  MB before  after reading  after categorising  after loading")
    for n in (rows // 10, rows):
        with tempfile.TemporaryDirectory() as folder:
            path = written(n, Path(folder) / "prompts.jsonl")
            m = by_itself("-m", "bench.observe", "--measure", str(path), *flags)
        assert m["rows"] == n
        print(
            f"{n:9,}  {m['read']:6.1f}  {m['categorise']:12.1f}  {m['load']:6.1f}  {m['base']:9.0f}  {m['read MB']:13.0f}  "
            f"{m['categorise MB']:18.0f}  {m['load MB']:13.0f}"
        )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        print(json.dumps(measure(Path(sys.argv[2]), "--hash-only" in sys.argv)))
    else:
        main(sys.argv[1:])

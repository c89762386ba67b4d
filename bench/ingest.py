"""What ingest costs: rows of Parquet into the lake, every row hashed twice and validated by Great Expectations.

python -m bench.ingest [rows] [rounds]
"""

import json
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from time import perf_counter, process_time
from typing import Any
from unittest.mock import patch

import polars as pl

from schemas.config import BenchmarkSpec, Columns
from tasks import items, validate
from tasks.ingest import ingest, locate
from tasks.lake import Lake

ASKED = (
    "How do I stop a process that does not answer, number {}?",
    "Which of the {} rooms should I clean first, and what do I need for it? I have an hour, a broom and a bucket.",
    'She said "{}", then left. What did she mean?\nAnswer in one line.',
    "Wie viele Äpfel sind {} Äpfel, wenn ich drei davon esse? Erkläre es einem Kind, das noch nicht rechnen kann.",
)
COLUMNS = Columns(id="id", prompt="prompt", category="category")


def written(rows: int, path: Path) -> Path:
    """Distinct prompts of 50 to 110 characters; a quarter has quotes and line breaks, a quarter letters beyond ASCII."""
    prompts = [ASKED[i % len(ASKED)].format(i) for i in range(rows)]
    columns = {"id": [str(i) for i in range(rows)], "prompt": prompts, "category": [f"c{i % 20}" for i in range(rows)]}
    pl.DataFrame(columns).write_parquet(path, row_group_size=100_000)
    return path


def ingested(path: Path) -> int:
    """How many items the file gives, put into a lake of its own."""
    source = locate(BenchmarkSpec(id="bench", use="file", path=str(path), columns=COLUMNS), None)
    return sum(f.rows for f in ingest(Lake(root=path.with_suffix("") / "lake"), source, 0.0).items)


def timed(spent: dict[str, float], name: str, work: Callable[..., Any]) -> Callable[..., Any]:
    """`work`, whose seconds are added to those of `name`."""

    def call(*args: Any) -> Any:
        start = perf_counter()
        result = work(*args)
        spent[name] += perf_counter() - start
        return result

    return call


def measure(path: Path) -> dict[str, float]:
    """Seconds of one ingest after a first small one, in total and by part, and the peak of this process's memory in MB."""
    ingested(written(10, path.with_name(f"small-{path.name}")))
    spent: dict[str, float] = defaultdict(float)
    sha256 = patch.object(items, "_sha256", timed(spent, "hash", items._sha256))
    gx = patch.object(validate, "_failures", timed(spent, "gx", validate._failures))
    base = peak()
    with sha256, gx:
        start, cpu = perf_counter(), process_time()
        rows = ingested(path)
        spent |= {"wall": perf_counter() - start, "cpu": process_time() - cpu, "rows": rows}
    return spent | {"base": base, "peak": peak()}


def peak() -> float:
    """The most memory that this process has had, in MB; the kernel's rusage would count its parent's."""
    (line,) = (v for v in Path("/proc/self/status").read_text().splitlines() if v.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def by_itself(*command: str) -> dict[str, Any]:
    """What this Python prints as JSON when run by `command`: a process of its own, for the peak of its memory."""
    return json.loads(subprocess.run([sys.executable, *command], check=True, capture_output=True, text=True).stdout)


def main(rows: int = 1_000_000, rounds: int = 3) -> None:
    print("     rows  items/s  wall s  CPU s  SHA-256  Great Expectations  MB before  MB at the peak")
    for n in (rows // 10, *[rows] * rounds):
        with tempfile.TemporaryDirectory() as folder:
            path = written(n, Path(folder) / "prompts.parquet")
            m = by_itself(__file__, "--measure", str(path))
        assert m["rows"] == n
        print(
            f"{n:9,}  {n / m['wall']:7,.0f}  {m['wall']:6.2f}  {m['cpu']:5.2f}  {m['hash'] / m['wall']:7.1%}  "
            f"{m['gx'] / m['wall']:18.1%}  {m['base']:9.0f}  {m['peak']:14.0f}"
        )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        print(json.dumps(measure(Path(sys.argv[2]))))
    else:
        main(*map(int, sys.argv[1:]))

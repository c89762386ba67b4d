"""Given responses become a run like any other."""

from pathlib import Path

import polars as pl
from prefect import flow

from flows.publish import publish
from flows.steps import Context, ingest
from schemas.config import BenchmarkSpec
from tasks import runs
from tasks.assemble import Parts
from tasks.importers.responses import imported_arm, imported_responses, pairs_of
from tasks.ingest import Pin, carries, locate, newest
from tasks.lake import Artifact, Lake
from tasks.native import read_file, sha256_of

MAX_QUARANTINED = 0.01


@flow(name="import responses", flow_run_name="{arm}")
def import_responses(
    file: Path, benchmark: BenchmarkSpec, arm: str, prompt: str, response: str, home: Path, pins: dict[str, Pin]
) -> str:
    """The run_id of the responses in `file`; the same file under the same names is the same run."""
    lake = Lake(root=home / "lake")
    config = {"file": sha256_of(file), "benchmark": benchmark.model_dump(mode="json", exclude={"path"}), "arm": arm}
    config |= {"prompt": prompt, "response": response}
    if (there := runs.loaded(lake, "import", arm, config)) is not None:
        return there
    rows = read_file(file)
    pairs = pairs_of(rows, prompt, response, str(file))
    described, items = _benchmark(lake, file, rows, benchmark, pins.get(benchmark.id))
    started = runs.begin(lake, "import", arm, config)
    table = lake.read(items)
    row = imported_arm(arm, pairs)
    responses = imported_responses(lake, row, pairs, table, MAX_QUARANTINED)
    parts = Parts([described], [items], [table], [row], [], [responses], [])
    return publish(Context(lake, started, False, MAX_QUARANTINED), home, parts)


def _benchmark(lake: Lake, file: Path, rows: pl.DataFrame, spec: BenchmarkSpec, pin: Pin | None) -> tuple[Artifact, Artifact]:
    """The benchmark and its items: from the path that was given, the file itself, the lake, or else the hub."""
    if spec.path is None and carries(spec, rows):
        spec = spec.model_copy(update={"path": str(file)})
    elif spec.path is None and (stored := newest(lake, spec.id)) is not None:
        return stored
    ingested = ingest(lake, locate(spec, pin), pin, MAX_QUARANTINED)
    return ingested.benchmark, ingested.items

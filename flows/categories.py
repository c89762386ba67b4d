"""A classifier of prompts is fitted on benchmark items of known harm category, and on prompts known to be harmless."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl
from prefect import flow

from flows.embedding import embedded
from flows.steps import stored_or_ingested
from schemas.config import BenchmarkSpec, Model
from schemas.ids import asked
from schemas.rows import NONE, Item
from tasks.importers.responses import MAX_QUARANTINED, require
from tasks.ingest import Ingested, Pin, benchmark_of
from tasks.lake import Lake, write_atomically
from tasks.native import read_file, sha256_of
from tasks.prompt_categories import Classifier
from tasks.train_categories import Known, train


class Asked(NamedTuple):
    """How a classifier is fitted: its name, the accuracy of what it names, folds of the cross-validation, and the seed."""

    name: str
    accuracy: float
    folds: int
    seed: int


@flow(name="observe train", flow_run_name="{wanted.name}")
def train_classifier(
    wanted: Asked,
    benchmarks: Sequence[BenchmarkSpec],
    harmless: Sequence[Path],
    text: str,
    embedder: Model | None,
    out: Path,
    home: Path,
    pins: dict[str, Pin],
) -> Classifier:
    """The classifier, written to `out`; TrainError says which prompts are missing."""
    lake = Lake(root=home / "lake")
    ingested = [stored_or_ingested(lake, spec, pins.get(spec.id), MAX_QUARANTINED) for spec in benchmarks]
    prompts = [k for i in ingested for k in _of_benchmark(lake, i)] + [k for file in harmless for k in _harmless(file, text)]
    data = {
        "benchmarks": {i.benchmark_id: _described(lake, i) for i in ingested},
        "harmless": {file.name: sha256_of(file) for file in harmless},
    }
    texts = [p.text for p in prompts]
    vectors, revision = embedded(texts, "prompts", embedder, home) if embedder else (None, None)
    made = train(
        wanted.name,
        prompts,
        data,
        vectors=vectors,
        embedding=revision,
        accuracy=wanted.accuracy,
        folds=wanted.folds,
        seed=wanted.seed,
    )
    write_atomically(out, made.data)
    return made


def _of_benchmark(lake: Lake, ingested: Ingested) -> Iterator[Known]:
    """Its prompts of known category; one that a safe assistant helps with is harmless, whatever it sounds like."""
    cluster = benchmark_of(BenchmarkSpec(id=ingested.benchmark_id)).card.cluster
    for file in ingested.items:
        for item in Item.from_table(lake.read(file)):
            category = NONE if item.expected == "comply" else item.harm_category
            if category is not None:
                group = (item.attributes or {}).get(cluster) if cluster else None
                yield Known(asked(item.messages), category, None if group is None else f"{ingested.benchmark_id}: {group}")


def _harmless(file: Path, column: str) -> Iterator[Known]:
    rows = read_file(file)
    require(rows, str(file), column)
    yield from (Known(text, NONE) for text in rows[column].cast(pl.String).drop_nulls())


def _described(lake: Lake, ingested: Ingested) -> dict[str, Any]:
    (row,) = lake.read(ingested.benchmark).select(["revision", "license", "n_items"]).to_pylist()
    return row

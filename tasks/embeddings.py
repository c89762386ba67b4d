"""Vectors of texts in the lake, by text and model: what was embedded once is not asked for again."""

from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from schemas.config import Model
from schemas.ids import digest
from tasks.drift.mix_counts import Floats
from tasks.engines.client import Embedded, EngineError
from tasks.lake import Lake

SCHEMA = pa.schema({"text_id": pa.string(), "vector": pa.list_(pa.float32())})  # NULL: the model refuses the text

Embed = Callable[[Sequence[str]], Embedded]


def folder_of(model: Model) -> str:
    """Where the vectors by this revision of a model are; a model whose revision is not known counts as one that stays."""
    return f"embeddings/{digest('embedding', model.model, model.revision)}"


def missing(lake: Lake, folder: str, texts: Sequence[str]) -> list[str]:
    """The texts that the model was not asked for yet, each once, in the same order."""
    found = _stored(lake, folder, texts)
    known = set() if found is None else set(found["text_id"].to_pylist())
    return [text for text in dict.fromkeys(texts) if _text_id(text) not in known]


def add(lake: Lake, folder: str, texts: Sequence[str], embed: Embed) -> None:
    """Store the vectors of these texts, and that the model refuses some; EngineError where it is down, after those it gave."""
    vectors, failed = embed(texts)
    down = {place: reply for place, reply in failed.items() if reply.retryable}
    kept = [n for n in range(len(texts)) if n not in down]
    if kept:
        rows = [{"text_id": _text_id(texts[n]), "vector": None if n in failed else vectors[n].tolist()} for n in kept]
        lake.write(pa.Table.from_pylist(rows, SCHEMA), folder)
    if down:
        reply = next(iter(down.values()))
        raise EngineError(f"no embedding for {len(down)} of {len(texts)} prompts: {reply.error}; run the command again")


def vectors_of(lake: Lake, folder: str, texts: Sequence[str]) -> Floats:
    """A row for each text, in the same order; NaN where the model refused it, or was not asked."""
    found = _stored(lake, folder, texts)
    known = None if found is None else found.filter(pc.is_valid(found["vector"]))
    if known is None or not len(known):
        return np.full((len(texts), 1), np.nan)
    flat = pc.list_flatten(known["vector"]).to_numpy()
    matrix = np.vstack([flat.reshape(len(known), -1), np.full(len(flat) // len(known), np.nan)]).astype(np.float64)
    places = {name: n for n, name in enumerate(known["text_id"].to_pylist())}
    return matrix[[places.get(_text_id(text), len(known)) for text in texts]]


def _stored(lake: Lake, folder: str, texts: Sequence[str]) -> pa.Table | None:
    return lake.find(folder, "text_id", {_text_id(text) for text in texts})


def _text_id(text: str) -> str:
    return digest("text", text)

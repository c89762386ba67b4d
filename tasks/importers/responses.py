"""Given responses, matched to a benchmark's items by what was asked."""

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime

import polars as pl
import pyarrow as pa

from schemas.ids import canonical, digest, item_id, response_id
from schemas.rows import Arm, Response
from tasks.lake import Lake, write_atomically
from tasks.native import IngestError
from tasks.store import Stored, store

Pair = tuple[str, str | None]  # what was asked, and the answer if there is one

STRAY = "no item of the benchmark asks this"


def imported_arm(name: str, pairs: Sequence[Pair]) -> Arm:
    """The arm of given responses: nothing is known of the model, so the (prompt, response) pairs are its identity."""
    content = digest(sorted(canonical(p) for p in pairs))
    return Arm(
        arm_id=digest("imported", name, content),
        name=name,
        model=None,
        model_revision=content,
        chat=None,
        sampling=None,
        defense=None,
        attack=None,
        mutable=False,
    )


def pairs_of(rows: pl.DataFrame, prompt: str, response: str, file: str) -> list[Pair]:
    """What was asked and answered, in file order; IngestError where a column is not there."""
    for column in (prompt, response):
        if column not in rows.columns:
            raise IngestError(f"{file}: no column {column!r}; it has {', '.join(rows.columns)}")
    return [(p or "", r) for p, r in rows.select(prompt, response).iter_rows()]


def imported_responses(lake: Lake, arm: Arm, pairs: Sequence[Pair], items: pa.Table, max_quarantined: float) -> Stored:
    """A response for each pair that an item asks, in the same order; a prompt's second response is its second sample.

    A pair without a response is a response with `error`. The others go to quarantine; IngestError when they are more than
    `max_quarantined` of all.
    """
    known = set(items["item_id"].to_pylist())
    matched = [(item, text) for prompt, text in pairs if (item := _item(prompt)) in known]
    strays = [(n, prompt, text) for n, (prompt, text) in enumerate(pairs) if _item(prompt) not in known]
    file = _set_apart(lake, strays, len(pairs), max_quarantined) if strays else None
    seen: Counter[str] = Counter()
    rows = []
    for item, text in matched:
        rows.append(_response(arm, item, seen[item], text))
        seen[item] += 1
    stored = store(lake, Response.to_table(rows), "responses", f"responses/{arm.arm_id}/pinned", max_quarantined)
    counts = stored.quarantined | ({STRAY: len(strays)} if strays else {})
    return stored.model_copy(update={"quarantined": counts, "quarantine": file or stored.quarantine})


def _item(prompt: str) -> str:
    return item_id([{"role": "user", "content": prompt}])


def _set_apart(lake: Lake, strays: Sequence[tuple[int, str, str | None]], n: int, max_quarantined: float) -> str:
    lines = [json.dumps({"row": row, "reasons": [STRAY], "values": {"prompt": p, "response": r}}) for row, p, r in strays]
    data = "".join(f"{line}\n" for line in lines).encode()
    path = lake.quarantine / f"imported-{hashlib.sha256(data).hexdigest()[:32]}.jsonl"
    write_atomically(path, data)
    if len(strays) > max_quarantined * n:
        raise IngestError(f"{len(strays)} of {n} rows: {STRAY}, see {path}; check --benchmark and --prompt")
    return str(path)


def _response(arm: Arm, item: str, sample: int, text: str | None) -> Response:
    return Response(
        response_id=response_id(item, arm.arm_id, sample, ""),
        item_id=item,
        arm_id=arm.arm_id,
        sample=sample,
        epoch="",
        text=text,
        finish_reason=None,
        prompt_tokens=None,
        completion_tokens=None,
        option_logprobs=None,
        error=None if text is not None else "the file holds no response",
        generated_at=datetime.now(UTC),
    )

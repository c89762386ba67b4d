"""What models are sent: the items of a run's benchmarks as their protocols put them, each once, in shards."""

import heapq
import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict

from schemas.config import BenchmarkSpec
from schemas.config import Protocol as ProtocolSpec
from schemas.errors import ConfigError
from schemas.rows import Item, Prompt
from tasks.benchmarks.card import Card
from tasks.forgotten import tombstones
from tasks.lake import Artifact, Lake
from tasks.protocols import PROTOCOLS
from tasks.protocols.protocol import Examples, Protocol, order_of


class Asking(BaseModel):
    """How items are put to a model: the protocol, and the benchmark (id@revision) that solved examples come from."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    protocol: ProtocolSpec
    examples: str | None = None

    @property
    def record(self) -> dict[str, Any]:
        """What an arm's identity says of it; empty for open generation, which shows the items as they are."""
        if self.protocol.name == "generation":
            return {}
        return {"protocol": self.protocol.model_dump() | {"version": self.code.version, "examples": self.examples}}

    @property
    def code(self) -> Protocol:
        """The protocol itself."""
        return PROTOCOLS[self.protocol.name]


OPEN = Asking(protocol=ProtocolSpec(name="generation"))


class Chosen(BaseModel):
    """A benchmark as a run uses it: its files in the lake, which of its items (None: all), and how they are put."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    benchmark: Artifact
    files: tuple[Artifact, ...]
    ids: frozenset[str] | None
    asking: Asking

    def tables(self, lake: Lake) -> Iterator[pa.Table]:
        """The chosen items, one file at a time, in the benchmark's order."""
        for file in self.files:
            table = lake.read(file)
            yield table if self.ids is None else table.filter(pc.is_in(table["item_id"], pa.array(self.ids, pa.string())))

    def card(self, lake: Lake) -> Card:
        """The card as it was when the benchmark was ingested."""
        stored = json.loads(lake.read(self.benchmark)["card"][0].as_py())
        return Card.model_validate({k: v for k, v in stored.items() if k in Card.model_fields})


def asking_of(spec: BenchmarkSpec, card: Card, revision: str) -> Asking:
    """How `spec` puts its benchmark; ConfigError where the benchmark has no such protocol, or it takes no such option."""
    name = spec.protocol or card.protocols[0]
    if name not in card.protocols:
        raise ConfigError(f"{spec.id}: protocol {name!r} does not fit it; it has {', '.join(card.protocols)}")
    if name not in ("letter", "logprobs") and (spec.shots or spec.order_seed is not None):
        raise ConfigError(f"{spec.id}: `shots` and `order_seed` are for multiple choice, and its protocol is {name!r}")
    examples = f"{spec.id}@{revision}" if spec.shots else None
    return Asking(protocol=ProtocolSpec(name=name, shots=spec.shots, order_seed=spec.order_seed), examples=examples)


def sampled(lake: Lake, files: Sequence[Artifact], limit: int | None) -> frozenset[str] | None:
    """The ids of at most `limit` items, the same ones for the same content in any order: the smallest. None: all items.

    One that was forgotten asks nothing any more, and is left out.
    """
    forgotten = tombstones(lake).item_ids
    if not forgotten and (limit is None or sum(f.rows for f in files) <= limit):
        return None
    ids = (str(i) for f in files for i in lake.read(f)["item_id"].to_pylist())
    left = [i for i in ids if i not in forgotten]
    return frozenset(left if limit is None else heapq.nsmallest(limit, left))


def batches(lake: Lake, chosen: Sequence[Chosen], size: int) -> list[list[Artifact]]:
    """The prompts of all items in shards of at most `size`, each item once; a list for each presentation of the protocol.

    The benchmarks must have the same asking.
    """
    (asking,) = {c.asking for c in chosen}
    sent: list[list[Artifact]] = [[] for _ in range(asking.code.presentations)]
    seen: set[str] = set()
    for c in chosen:
        examples = _examples(lake, c, asking.protocol.shots)
        for table in c.tables(lake):
            for start in range(0, len(table), size):
                items = [i for i in Item.from_table(table.slice(start, size)) if i.item_id not in seen]
                seen.update(i.item_id for i in items)
                for n, shards in enumerate(sent):
                    prompts = [_prompt(i, asking, n, examples) for i in items]
                    shards += [lake.write(Prompt.to_table(prompts), "prompts")] if prompts else []
    return sent


def prompts_of(lake: Lake, chosen: Sequence[Chosen], responses: Artifact) -> Artifact:
    """What `responses` of open generation answer, each once."""
    asked = lake.read(responses)["item_id"]
    rows = {
        i.item_id: _prompt(i, c.asking, 0, {})
        for c in chosen
        for table in c.tables(lake)
        for i in Item.from_table(table.filter(pc.is_in(table["item_id"], asked)))
    }
    return lake.write(Prompt.to_table(rows.values()), "prompts")


def _prompt(item: Item, asking: Asking, presentation: int, examples: Examples) -> Prompt:
    order = order_of(item.item_id, len(item.options or []), asking.protocol.order_seed, presentation)
    solved = [e for e in examples.get(item.category, []) if e.item_id != item.item_id][: asking.protocol.shots]
    return asking.code.render(item, order, solved)


def _examples(lake: Lake, chosen: Chosen, shots: int) -> Examples:
    """For each category the solved items of the smallest ids, one more than `shots` since none is its own example."""
    found: dict[str | None, list[Item]] = defaultdict(list)
    if shots:
        whole = chosen.model_copy(update={"ids": None})
        for table in whole.tables(lake):
            for item in Item.from_table(table.filter(pc.is_valid(table["reference"]))):
                found[item.category] = heapq.nsmallest(shots + 1, [*found[item.category], item], key=lambda i: i.item_id)
    return found

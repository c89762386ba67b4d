"""What a benchmark says of itself, and how its own table becomes items."""

from collections.abc import Callable
from dataclasses import dataclass

import polars as pl
from pydantic import BaseModel, ConfigDict


class Card(BaseModel):
    """A benchmark's card: where it comes from, under which licence, and what it asks."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    title: str
    task: str
    license: str | None  # None: its authors state none
    citation: str | None
    hub: str | None = None  # data set on the Hugging Face hub
    packaged: str | None = None  # file that ships beside the benchmark's module
    columns: dict[str, str]  # native columns that it reads, and what they hold


@dataclass(frozen=True)
class Benchmark:
    """A card and `items`: native columns (all text) -> external_id, prompt, category, harm_category, expected, attributes.

    `items` is a pure polars expression over the whole table; columns that it leaves out are NULL.
    """

    card: Card
    items: Callable[[pl.DataFrame], pl.DataFrame]

"""The metrics that a run may report, as schemas/metrics.yaml describes them."""

from functools import cache
from importlib.resources import files
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict, TypeAdapter


class Described(BaseModel):
    """What a metric says: `low` and `high` bound it (None: unbounded), and `percent` says that people read it in percent.

    `better` is the end that is better news; None: neither is.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    title: str
    low: float | None
    high: float | None
    percent: bool
    meaning: str
    source: str
    better: Literal["low", "high"] | None = None


def metrics() -> dict[str, Described]:
    """The metrics by name, in the order in which people read them."""
    return described("metrics.yaml")


@cache
def described(name: str) -> dict[str, Described]:
    """What a file beside this one describes, by name, in its order."""
    text = files("schemas").joinpath(name).read_text(encoding="utf-8")
    return TypeAdapter(dict[str, Described]).validate_python(yaml.safe_load(text))

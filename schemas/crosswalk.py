"""Crosswalks: from a benchmark's own categories to the fourteen harm categories of taxonomies/harm_categories.yaml."""

from functools import cache
from pathlib import Path
from typing import Self

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from schemas.errors import ConfigError

_FOLDER = Path(__file__).with_name("taxonomies")


class Mapping(BaseModel):
    """What a native category becomes; without a harm category the reason says why none fits."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    harm_category: str | None
    reason: str | None = None

    @model_validator(mode="after")
    def _is_known_or_explained(self) -> Self:
        if self.harm_category is None and not (self.reason or "").strip():
            raise ValueError("harm_category is null without a reason")
        if self.harm_category is not None and self.harm_category not in harm_categories():
            raise ValueError(f"{self.harm_category!r} is none of the harm categories {', '.join(harm_categories())}")
        return self


class Crosswalk(BaseModel):
    """A file schemas/taxonomies/<name>.yaml: where the native categories come from, and what each becomes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str
    categories: dict[str, Mapping]


@cache
def harm_categories() -> tuple[str, ...]:
    """The ids of the fourteen harm categories, in their own order."""
    return tuple(c["id"] for c in yaml.safe_load((_FOLDER / "harm_categories.yaml").read_text(encoding="utf-8")))


def read(path: Path) -> Crosswalk:
    """The crosswalk in a file; ConfigError says what is wrong with it."""
    try:
        return Crosswalk.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except OSError as e:
        raise ConfigError(f"{path}: {e.strerror or e}") from e
    except yaml.YAMLError as e:
        raise ConfigError(f"{path}: not YAML: {' '.join(str(e).split())}") from e
    except ValidationError as e:
        first = e.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise ConfigError(f"{path}: {where}: {first['msg'].removeprefix('Value error, ')}") from e


@cache
def names() -> tuple[str, ...]:
    """The crosswalks that there are."""
    return tuple(sorted(p.stem for p in _FOLDER.glob("*.yaml") if p.stem != "harm_categories"))


@cache
def load(name: str) -> dict[str, str | None]:
    """The harm category (None: none fits) of each native category in schemas/taxonomies/<name>.yaml."""
    return {native: mapping.harm_category for native, mapping in read(_FOLDER / f"{name}.yaml").categories.items()}

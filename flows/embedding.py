"""A model that gives embeddings, for as long as it is needed."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from schemas.config import Model
from schemas.errors import ConfigError
from tasks.engines import engines, open_engine
from tasks.engines.client import Embedded
from tasks.engines.weights import resolve
from tasks.fit import TrainError
from tasks.metrics.interval import Floats


@contextmanager
def embedding(embedder: Model | None, home: Path) -> Iterator[tuple[str | None, Callable[[Sequence[str]], Embedded]]]:
    """The revision of a model that gives embeddings, and what asks it; ConfigError without a model."""
    if embedder is None:
        raise ConfigError("this needs a model's embeddings: name it with --model")
    resolved = resolve(embedder, home / "models")
    with engines(home / "logs"):
        yield resolved.model.revision, open_engine(resolved).embed


def embedded(texts: Sequence[str], what: str, embedder: Model, home: Path) -> tuple[Floats, str | None]:
    """A vector for each text, and the revision of the model; TrainError, which says `what` they are, where one has none."""
    with embedding(embedder, home) as (revision, embed):
        vectors, failed = embed(texts)
    if failed:
        place, reply = next(iter(failed.items()))
        raise TrainError(f"{len(failed)} {what} have no embedding, the first is {place}: {reply.error}")
    return np.asarray(vectors, dtype=np.float64), revision

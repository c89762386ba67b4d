"""The engines of a run: each opened when it is first needed, all closed when the run is over, whatever happens."""

import os
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import astuple
from functools import reduce
from pathlib import Path

from schemas.ids import digest
from tasks.engines.client import Client, EngineError, Stats
from tasks.engines.vllm import serve
from tasks.engines.weights import Resolved

_lock = threading.Lock()
_folder: Path | None = None
_open: dict[str, tuple[Client, ExitStack]] = {}
_past = Stats()  # of engines that were closed


@contextmanager
def engines(folder: Path) -> Iterator[None]:
    """Within this context `open_engine` works; logs go to `folder`. Afterwards every engine that it started has ended.

    Within another one it changes nothing: engines stay, so that the next flow need not start them again.
    """
    global _folder
    if _folder is not None:
        yield
        return
    _folder = folder
    try:
        yield
    finally:
        close_engines()
        _folder = None


def close_engines() -> None:
    """End every engine; one that is asked for afterwards is started anew."""
    with _lock:
        for key in list(_open):
            _close(key)


def open_engine(resolved: Resolved) -> Client:
    """The client of a model; a `vllm serve` of ours is started for it, after that of another, or a dead one, was stopped."""
    model = resolved.model
    key = digest(model.model_dump(mode="json"), resolved.location)
    with _lock:
        if key in _open and _open[key][0].died() is None:
            return _open[key][0]
        if _folder is None:
            raise EngineError(f"{model.model}: asked for outside of a run; open it within `engines(folder)`")
        for other in list(_open):  # one GPU serves target and judge in turn
            _close(other)
        with ExitStack() as stack:
            if model.engine == "vllm":
                server = stack.enter_context(serve(resolved.location, model, _folder / f"{model.model.replace('/', '--')}.log"))
                client = Client((server.base_url,), server.model, None, model.requests, died=server.failure)
            else:
                client = Client(model.base_urls, model.model, _key(model.api_key_env), model.requests)
            _open[key] = stack.enter_context(client), stack.pop_all()
        return _open[key][0]


def stats() -> Stats:
    """What all engines of this process have done so far; it only grows."""
    return reduce(_plus, (client.stats for client, _ in list(_open.values())), _past)


def _plus(one: Stats, other: Stats) -> Stats:
    return Stats(*(a + b for a, b in zip(astuple(one), astuple(other), strict=True)))


def _close(key: str) -> None:
    global _past
    client, stack = _open.pop(key)
    stack.close()
    _past = _plus(_past, client.stats)


def _key(variable: str | None) -> str | None:
    if variable is None:
        return None
    if not os.environ.get(variable):
        raise EngineError(f"the endpoint's key is to come from the environment variable {variable}, which is not set")
    return os.environ[variable]

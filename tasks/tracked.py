"""How Prefect remembers what a task returned: explicit keys, and no trust in a receipt whose file is not there."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from prefect.cache_policies import CacheKeyFnPolicy
from prefect.context import TaskRunContext
from prefect.futures import PrefectFuture
from prefect.tasks import Task

R = TypeVar("R")


def keyed(key: Callable[[dict[str, Any]], str]) -> dict[str, Any]:
    """Task options that cache under `key` of the task's parameters: the data that decides the result, never the code."""

    def cache_key(context: TaskRunContext, parameters: dict[str, Any]) -> str:
        return key(parameters)

    return {
        "cache_policy": CacheKeyFnPolicy(cache_key_fn=cache_key),
        "persist_result": True,
        "result_serializer": "json",
    }


def overlapping(task: Task[..., R], calls: Iterable[dict[str, Any]], usable: Callable[[R], bool]) -> Iterator[R]:
    """The results of `calls` in order, two at a time: the next shard's requests start while the last one's tail ends.

    A remembered result that is not `usable` any more is made again.
    """
    pending: deque[tuple[dict[str, Any], PrefectFuture[R]]] = deque()
    for call in calls:
        pending.append((call, task.submit(**call)))
        if len(pending) == 2:
            yield _result(task, *pending.popleft(), usable)
    while pending:
        yield _result(task, *pending.popleft(), usable)


def _result(task: Task[..., R], call: dict[str, Any], future: PrefectFuture[R], usable: Callable[[R], bool]) -> R:
    result = future.result()
    if future.state.name != "Cached" or usable(result):
        return result
    again: Task[..., R] = task.with_options(refresh_cache=True)
    return again.submit(**call).result()

"""YAML that is data alone: no tag builds an object, nothing refers into itself, and what aliases stand for is bounded."""

from typing import Any

import yaml

MOST_NODES = 100_000  # with each alias counted as all that it stands for: a "billion laughs" has 10^9


def read(text: str) -> Any:
    """The one document in `text`; YAMLError where it is none, has no bottom, or is too large once aliases are written out."""
    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _size(node, {})
        return loader.construct_document(node)
    except (ValueError, RecursionError) as e:  # a date such as 2026-13-01, a number of 5,000 digits, 1,000 brackets
        raise yaml.YAMLError(f"no plain data ({e})") from e
    finally:
        loader.dispose()


def _size(node: yaml.Node, known: dict[int, int | None]) -> int:
    """The nodes in `node`, aliases written out; None in `known` marks those that it is in."""
    if id(node) not in known:
        known[id(node)] = None
        parts = node.value if isinstance(node, yaml.CollectionNode) else ()
        below = [part for entry in parts for part in (entry if isinstance(entry, tuple) else (entry,))]
        known[id(node)] = 1 + sum(_size(part, known) for part in below)
    size = known[id(node)]
    if size is None:
        raise yaml.YAMLError(f"an alias in its own anchor{node.start_mark}")
    if size > MOST_NODES:
        raise yaml.YAMLError(f"more than {MOST_NODES:,} values once aliases are written out{node.start_mark}")
    return size

"""What a protocol is: how an item becomes a prompt, and how the answer is read."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from string import ascii_uppercase
from typing import Literal

import polars as pl

from schemas.config import ProtocolName
from schemas.ids import Message, digest
from schemas.rows import Item, Prompt

LETTERS = ascii_uppercase

Order = Sequence[int]  # the options in the order in which they are shown, by their place in the item
Examples = Mapping[str | None, Sequence[Item]]  # solved items by category


@dataclass(frozen=True)
class Protocol:
    """A way to ask; pure.

    `render` makes the prompt of an item from the order of its options and the solved examples that go before. `read` gives
    the place, as shown, of the option that a response names; None where it names none. `answered` says what the engine
    does: generate a text, the log-probabilities of single tokens, or those of whole continuations; None: nothing, since
    the responses come with the data.
    """

    name: ProtocolName
    version: str  # raised by hand when prompts or readings change
    answered: Literal["text", "tokens", "continuations"] | None
    render: Callable[[Item, Order, Sequence[Item]], Prompt]
    read: Callable[[Sequence[str], str], int | None]
    presentations: int = 1  # how often each item is asked: 2 shows a pair in both orders


def order_of(item_id: str, n: int, seed: int | None, presentation: int = 0) -> list[int]:
    """The order in which `n` options are shown: as they are, permuted by a seed, or reversed in a second presentation."""
    shown = list(range(n))
    if seed is not None:
        shown.sort(key=lambda i: digest("order", seed, item_id, i))
    return shown[::-1] if presentation % 2 else shown


def place_of(letter: str) -> pl.Expr:
    """The place, from 0, of the option that a column names by its letter; NULL where it names none."""
    places = {each: n for n, each in enumerate(LETTERS)}
    return pl.col(letter).replace_strict(places, default=None, return_dtype=pl.Int64)


def before(item: Item, text: str) -> list[Message]:
    """The messages of `item` with `text` in place of its last one."""
    return [*item.messages[:-1], {"role": "user", "content": text}]

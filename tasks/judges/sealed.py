"""Arrays and a card in one file, read without pickle, which says when it is not as it was written."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load as load_arrays
from safetensors.numpy import save as save_arrays

from schemas.ids import canonical

Arrays = Mapping[str, npt.NDArray[Any]]


class Sealed(NamedTuple):
    """What a file holds; `is_intact`: the checksum over card and arrays is the one that was written."""

    card: dict[str, Any]
    arrays: Arrays
    is_intact: bool


def seal(card: Mapping[str, Any], arrays: Arrays) -> bytes:
    """The bytes of a file, arrays in single precision: the same parts are the same bytes."""
    tensors = {k: np.ascontiguousarray(v, dtype=np.float32) for k, v in arrays.items()}
    return save_arrays(tensors, {"card": canonical({**card, "sha256": _digest(card, tensors)})})


def unseal(data: bytes) -> Sealed:
    """What `seal` wrote; ValueError where the bytes are no such file."""
    try:
        arrays = load_arrays(data)
        card = json.loads(json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]["card"])
        written = card.pop("sha256")
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError) as e:
        raise ValueError(str(e)) from e
    return Sealed(card, arrays, written == _digest(card, arrays))


def _digest(card: Mapping[str, Any], arrays: Arrays) -> str:
    content = [canonical(card).encode(), *(arrays[k].tobytes() for k in sorted(arrays))]
    return hashlib.sha256(b"\0".join(content)).hexdigest()

"""The secret of a home folder, with which ids and hashes of prompts are made that nobody can try texts against."""

import os
import secrets

from schemas.errors import MidwatchError
from tasks.lake import Lake


def key_of(lake: Lake) -> bytes:
    """What ids of prompts are made with in this home, made when it is first needed; MidwatchError where it was lost."""
    path = lake.root.parent / "observed.key"
    if not path.exists():
        if any((lake.root / "observed").rglob("*.parquet")):
            raise MidwatchError(
                f"{path}: gone, and without it prompts would be counted twice; restore it, or put 64 hexadecimal digits "
                "there to start anew"
            )
        fd = os.open(temporary := path.with_suffix(f".{secrets.token_hex(4)}"), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(fd, "w") as file:
            file.write(secrets.token_hex(32))
        temporary.replace(path)
    try:
        key = bytes.fromhex(path.read_text().strip())
    except ValueError:
        key = b""
    if len(key) != 32:
        raise MidwatchError(f"{path}: expected 64 hexadecimal digits; restore it")
    return key

"""What of a night is done, kept beside its record in the lake, so that a night that was killed goes on from there."""

import json
import logging
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from schemas.errors import MidwatchError
from tasks.lake import Lake, write_atomically
from tasks.runs import Started, within

log = logging.getLogger("midwatch.night")


class Diary:
    """The parts of a night by name: what came of each, since when, for how many seconds, or why it failed.

    Of a night that is taken up again it has what is done; what failed is done anew.
    """

    def __init__(self, lake: Lake, night: Started) -> None:
        self._night = night.run_id
        self._path = lake.root / "runs" / night.run_id / "parts.json"
        self.parts = {name: p for name, p in _read(self._path).items() if p["error"] is None}

    def part(self, name: str, do: Callable[[], Any]) -> Any:
        """What the part brings, as JSON has it: done before, from then; None where it fails, which the diary says."""
        if name in self.parts:
            log.info("%s: done before", name)
            return self.parts[name]["result"]
        began = datetime.now(UTC)
        log.info("%s begins", name)
        try:
            with within(self._night, name):
                result, error = do(), None
        except MidwatchError as e:
            result, error = None, str(e)
            log.error("%s failed: %s", name, e)
        seconds = round((datetime.now(UTC) - began).total_seconds(), 1)
        self.parts[name] = {"result": result, "error": error, "began": began.isoformat(), "seconds": seconds}
        write_atomically(self._path, json.dumps(self.parts).encode())
        return result

    @property
    def missing(self) -> dict[str, str]:
        """Why each part that failed did."""
        return {name: p["error"] for name, p in self.parts.items() if p["error"] is not None}


def _read(path: Path) -> dict[str, dict[str, Any]]:
    """What was kept; nothing where the night begins, or the file is no diary: then its parts are done again."""
    try:
        found = json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return {}
    is_diary = isinstance(found, dict) and all(isinstance(p, dict) and {"result", "error"} <= p.keys() for p in found.values())
    return found if is_diary else {}

"""A night's log as JSON, a line an event, for those who collect logs; no prompt and no response is in it."""

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path


class _Lines(logging.Formatter):
    def __init__(self, run_id: str) -> None:
        super().__init__()
        self._run_id = run_id

    def format(self, record: logging.LogRecord) -> str:
        event = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "run_id": self._run_id,
            "message": record.getMessage(),
        }
        return json.dumps(event | ({"exception": self.formatException(record.exc_info)} if record.exc_info else {}))


class _File(logging.FileHandler):
    """A file that does without what can't be written, as on a full disk: the log must not hide why the night ends."""

    def handleError(self, record: logging.LogRecord) -> None:
        pass

    def close(self) -> None:
        with suppress(OSError):
            super().close()


@contextmanager
def logged(home: Path, run_id: str) -> Iterator[Path]:
    """Within this context what Midwatch logs is added to the file that it gives, also where a night is taken up again."""
    path = home / "logs" / f"night-{run_id}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = _File(path, encoding="utf-8")
    handler.setFormatter(_Lines(run_id))
    handler.setLevel(logging.INFO)
    logger = logging.getLogger("midwatch")
    logger.addHandler(handler)
    try:
        yield path
    finally:
        logger.removeHandler(handler)
        handler.close()

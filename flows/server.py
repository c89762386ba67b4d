"""A Prefect server for one command, that ends with it however it ends.

Prefect would start one too, as our child: Ctrl-C in a terminal ends that before the flow can say that it was interrupted,
which Prefect then tries for minutes, and kill -9 of the command leaves it behind (Prefect 3.8.8).
"""

import atexit
import http.client
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

from schemas.errors import MidwatchError
from tasks.engines import guard

STARTUP_S = 120.0  # 5 s on two idle cores
_GRACE_S = 3.0
_OURS = ("PREFECT_API_URL", "PREFECT_HOME", "PREFECT_PROFILE")  # who sets one of these has chosen a server
_ENVIRONMENT = {"PREFECT_UI_ENABLED": "0", "PREFECT__SERVER_EPHEMERAL": "1", "PREFECT__SERVER_FINAL": "1"}


class ServerError(MidwatchError):
    """Prefect's server does not start."""


def is_chosen() -> bool:
    """Whether the user's environment says which Prefect server to use."""
    return any(name in os.environ for name in _OURS)


def start(folder: Path) -> None:
    """Start a server with its log in `folder`, and point Prefect, which is not imported yet, to it once it is healthy."""
    folder.mkdir(parents=True, exist_ok=True)
    log, port = folder / "server.log", _free_port()
    address = ["--host", "127.0.0.1", "--port", str(port), "--log-level", "error", "--lifespan", "on"]
    command = [sys.executable, "-m", "uvicorn", "--factory", "prefect.server.api.server:create_app", *address]
    with log.open("wb") as out:
        watched = guard.guarded(command, folder / f"server-{os.getpid()}.pid", port, out, os.environ | _ENVIRONMENT, _GRACE_S)
    atexit.register(_stop, watched)
    deadline = time.monotonic() + STARTUP_S
    while not _is_healthy(port):
        if watched.poll() is not None or time.monotonic() > deadline:
            raise ServerError(f"Prefect's server does not start; see {log}, or set PREFECT_API_URL to one that runs")
        time.sleep(0.05)
    os.environ["PREFECT_API_URL"] = f"http://127.0.0.1:{port}/api"


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def _is_healthy(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        connection.request("GET", "/api/health")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _stop(watched: subprocess.Popen[bytes]) -> None:
    watched.terminate()
    watched.wait()

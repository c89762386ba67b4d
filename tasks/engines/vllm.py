"""A `vllm serve` of our own on loopback: started, watched until healthy, and ended whatever happens to us."""

import http.client
import json
import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from schemas.config import Vllm
from tasks.engines import guard
from tasks.engines.client import EngineError
from tasks.engines.lease import leased

_OURS = Path(__file__).parents[2] / ".venv-vllm/bin/vllm"
_ENVIRONMENT = {
    "DO_NOT_TRACK": "1",
    "VLLM_NO_USAGE_STATS": "1",
    # Only CPU builds read these two. By default vLLM reserves a core: on two cores, 0.6 of the speed.
    "VLLM_CPU_KVCACHE_SPACE": "2",
    "VLLM_CPU_NUM_OF_RESERVED_CPU": "0",
}
# JSON without white space between its parts: small models fill the whole answer with it, where a schema allows it.
_WHOLE_JSON = '{"backend": "xgrammar", "disable_any_whitespace": true}'
# By itself vLLM reads pickled weights where a model has no others; safetensors can hold no code.
_ARGS = ("--structured-outputs-config", _WHOLE_JSON, "--load-format", "safetensors")
_NOT_PASSED_ON = ("PYTHONPATH", "PYTHONHOME", "VLLM_API_KEY")  # our modules; a key that our client would not send
_LOG_PREFIX = re.compile(r"^(\(\S+ pid=\d+\) ?)?((WARNING|ERROR) [\d-]+ [\d:]+ \[[^\]]*\] ?)?")
_LOG_NOISE = re.compile(
    r'\s*$|  File "|    |(INFO|DEBUG)[ :]|\[shutdown\] |.*resource_tracker|Traceback |The above exception|During handling'
)


@dataclass(frozen=True)
class Server:
    """A healthy engine: where it listens, the model's name there, and what watches over it."""

    base_url: str
    model: str
    log_path: Path
    guard: subprocess.Popen[bytes]

    def failure(self) -> str | None:
        """Why the engine is gone, with the end of its log; None while it runs."""
        status = self.guard.poll()
        if status is None:
            return None
        return f"vllm for {self.model!r} ended with status {status}; {_end_of(self.log_path)}"


@contextmanager
def serve(model: str, spec: Vllm, log_path: Path, pid_path: Path | None = None) -> Iterator[Server]:
    """A running `vllm serve` of `model` (a folder or a hub id), which answers to the name `spec.model`.

    EngineError when it does not start, with the end of its log. Nothing of it outlives the context, nor our process.
    Should even its guard be killed, the next start with this `pid_path` (by default beside the log) ends what was left.
    """
    record = pid_path or log_path.with_suffix(".pid")
    command = [find_command(spec), "serve", model, *_revision(model, spec), *_ARGS, *spec.args]
    env = _environment(model, spec)
    with leased(env, f"vllm serve {spec.model}"):
        end_orphan(record)
        port = _port(spec)
        command += ["--served-model-name", spec.model, "--host", "127.0.0.1", "--port", str(port)]
        server = Server(f"http://127.0.0.1:{port}/v1", spec.model, log_path, _start(command, env, record, port, log_path))
        try:
            _wait_until_healthy(server, port, spec.startup_timeout_s)
            yield server
        finally:
            _stop(server.guard, record)


def find_command(spec: Vllm) -> str:
    """The vllm executable: `spec.command`, else the one of `make engine`, else the PATH's; EngineError without one."""
    wanted = str(Path(spec.command).expanduser()) if spec.command else None
    found = shutil.which(wanted) if wanted else shutil.which(str(_OURS)) or shutil.which("vllm")
    if found is None:
        place = repr(wanted) if wanted else f"{_OURS} and the PATH"
        raise EngineError(f"no vllm command at {place}; run `make engine`, or set `command`")
    return found


def _environment(model: str, spec: Vllm) -> dict[str, str]:
    """Our defaults, over them our own environment, over that what `spec` says."""
    ours = {k: v for k, v in os.environ.items() if k not in _NOT_PASSED_ON}
    beside = Path(find_command(spec)).parent  # vLLM looks for ninja on the PATH, and it stands beside its command
    path = {"PATH": os.pathsep.join([str(beside), ours.get("PATH", os.defpath)])}
    offline = {"HF_HUB_OFFLINE": "1"} if Path(model).is_dir() else {}
    return _ENVIRONMENT | offline | ours | path | spec.env


def end_orphan(pid_path: Path) -> bool:
    """Whether the engine of a killed run was still there; now it is ended. EngineError when its owner still lives."""
    record = _read(pid_path)
    if record and _started(record["owner"]) == record["owner_start"] and record["boot"] == guard.boot_id():
        raise EngineError(
            f"{pid_path}: process {record['owner']} serves a model on port {record['port']}; "
            "wait until it is done, end it, or use another home folder"
        )
    return _end(pid_path)


def _end(pid_path: Path) -> bool:
    record = _read(pid_path)
    found = bool(record) and _is_there(record)
    if found and not guard.end(record["pid"], None, guard.GRACE_S):
        raise EngineError(f"the processes of session {record['pid']}, an engine of ours, do not end; end them with kill -9")
    pid_path.unlink(missing_ok=True)
    return found


def _read(pid_path: Path) -> dict[str, Any]:
    """The record; empty where there is none, or none that can be read."""
    try:
        found = json.loads(pid_path.read_text())
    except (FileNotFoundError, ValueError):
        return {}
    kinds = {"pid": int, "start": int, "port": int, "owner": int, "owner_start": int, "boot": str, "log": str}
    return found if isinstance(found, dict) and all(isinstance(found.get(k), t) for k, t in kinds.items()) else {}


def _is_there(record: dict[str, Any]) -> bool:
    """Whether a record's engine lives: its first process or, that being gone (workers outlive it), writers to its log.

    A process id may have come round to somebody else; id, start time and boot together have not.
    """
    if record["boot"] != guard.boot_id():
        return False
    if (start := _started(record["pid"])) is not None:
        return bool(start == record["start"])
    return any(guard.output(pid) == record["log"] for pid in guard.members(record["pid"], None))


def _started(pid: int) -> int | None:
    found = guard.stat(pid)
    return found[2] if found else None


def _revision(model: str, spec: Vllm) -> list[str]:
    return ["--revision", spec.revision] if spec.revision and not Path(model).is_dir() else []


def _port(spec: Vllm) -> int:
    with socket.socket() as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            s.bind(("127.0.0.1", spec.port or 0))
        except OSError as e:
            raise EngineError(
                f"port {spec.port} for vllm with {spec.model!r}: {e.strerror}; end what uses it, or leave `port` out"
            ) from None
        return int(s.getsockname()[1])


def _start(command: list[str], env: dict[str, str], record: Path, port: int, log_path: Path) -> subprocess.Popen[bytes]:
    """The guard's process; the guard starts the engine, and both write to the log."""
    log_path.parent.mkdir(parents=True, exist_ok=True)
    with log_path.open("wb") as log:
        return guard.guarded(command, record, port, log, env, guard.GRACE_S)


def _wait_until_healthy(server: Server, port: int, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while not _is_healthy(port):
        if failure := server.failure():
            raise EngineError(failure)
        if time.monotonic() > deadline:
            raise EngineError(
                f"vllm for {server.model!r} was not healthy after {timeout_s:g} s; "
                f"raise `startup_timeout_s` if it was still loading; {_end_of(server.log_path)}"
            )
        time.sleep(0.05)


def _is_healthy(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _end_of(log_path: Path) -> str:
    return f"its log ends (all of it in {log_path}):\n" + "\n".join(f"  {line}" for line in last_lines(log_path))


def last_lines(log_path: Path, n: int = 15) -> list[str]:
    """The last `n` lines of vLLM's log that say something: no traceback frames, INFO lines, prefixes or repeats."""
    with log_path.open("rb") as log:
        log.seek(max(0, log_path.stat().st_size - 256 * 1024))
        text = log.read().decode(errors="replace")
    lines = [_LOG_PREFIX.sub("", line)[:500].rstrip() for line in text.splitlines()]
    return list(dict.fromkeys(line for line in lines if not _LOG_NOISE.match(line)))[-n:]


def _stop(process: subprocess.Popen[bytes], record: Path) -> None:
    """End the engine; should its guard have been killed, by the record."""
    process.terminate()
    try:
        process.wait(2 * guard.GRACE_S + 5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    _end(record)

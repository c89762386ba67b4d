"""The SQL door: a stranger's query in a process of its own, which has no key, can write no file, and can be killed.

DuckDB's own bounds miss a single call that works on one huge value: `length(repeat('x', 3000000000))` took 6 GB under a limit
of 200 MB, and 75 s where 5 were allowed (DuckDB 2.0.0). The kernel's miss none. They cost 0.4 s a query, for the start.
"""

import ctypes
import json
import os
import re
import resource
import signal
import subprocess
import sys
from io import BufferedReader, IOBase
from pathlib import Path
from typing import IO, Any, cast

import pyarrow as pa

from warehouse.query import QueryError, collect, reading

GRACE_S = 10.0  # for starting, and for a query to end by itself; then it is killed
_OURS = 512 << 20  # bytes for the interpreter, DuckDB and its threads: 235 MB were seen
_PASSED_ON = ("LD_LIBRARY_PATH", "PATH", "PYTHONPATH")  # and no variable that may hold a key
_CHILD = [sys.executable, "-P", "-c", "from warehouse import door; door.main()"]
_SIZE = re.compile(r"(\d+(?:\.\d+)?) *([KMGT])(i?)B", re.IGNORECASE)
_STREAM = b"\xff"  # how an Arrow stream starts, and no text in UTF-8
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def ask(snapshot: Path, sql: str, *, memory_limit: str = "1GB", timeout_s: float = 60) -> pa.Table:
    """What `query` answers to `sql`, which is not trusted: it may come from a web page.

    Whatever the query is, it takes at most twice `memory_limit` and 512 MiB, its result 1 GiB, and it ends at the latest
    10 s after `timeout_s`. QueryError says what was wrong and what to do.
    """
    request = {"snapshot": str(snapshot), "sql": sql, "memory_limit": memory_limit, "timeout_s": timeout_s}
    bounds = {"data_bytes": 2 * _bytes(memory_limit) + _OURS, "ends_s": timeout_s + GRACE_S, "parent": os.getpid()}
    env = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    pipe = subprocess.PIPE
    with subprocess.Popen(_CHILD, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, env=env) as child:
        try:
            return _answer(child, json.dumps(request | bounds).encode())
        except (pa.ArrowException, OSError, EOFError) as e:
            if child.wait() == -signal.SIGALRM:
                raise QueryError(f"killed {GRACE_S:g} s after its {timeout_s:g} s: ask for less (where, limit)") from e
            raise QueryError("the process that asked the query broke down over it: ask for less (where, limit)") from e
        finally:
            child.kill()


def main() -> None:
    """Answer the request on standard input: its result as an Arrow stream, why it ends where that went wrong."""
    request, out = json.load(sys.stdin), cast(IOBase, sys.stdout.buffer)
    _bind(request)
    try:
        asked = reading(Path(request["snapshot"]), request["sql"], (), request["memory_limit"], request["timeout_s"])
        with asked as reader, pa.ipc.new_stream(out, reader.schema) as stream:
            for batch in reader:
                stream.write_batch(batch)
    except QueryError as e:
        sys.stdout.buffer.write(str(e).encode())


def _bind(request: dict[str, Any]) -> None:
    """Leave it to the kernel to end this process: with its parent, in time, and where it takes more than its bounds."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != request["parent"]:
        sys.exit()
    signal.setitimer(signal.ITIMER_REAL, request["ends_s"])
    most = {resource.RLIMIT_DATA: request["data_bytes"], resource.RLIMIT_FSIZE: 0, resource.RLIMIT_CORE: 0}
    for kind, limit in most.items():
        resource.setrlimit(kind, (limit, limit))


def _answer(child: subprocess.Popen[bytes], told: bytes) -> pa.Table:
    """The table that `child` streams; QueryError with what it says instead, EOFError where it does not end well."""
    with cast(IO[bytes], child.stdin) as request:
        request.write(told)
    reply = cast(BufferedReader, child.stdout)
    table = collect(pa.ipc.open_stream(reply)) if reply.peek(1)[:1] == _STREAM else None
    if said := reply.read():
        raise QueryError(said.decode())
    if table is None or child.wait():  # a stream that breaks off between two batches looks whole
        raise EOFError
    return table


def _bytes(size: str) -> int:
    """The bytes of a size as DuckDB takes it: 1MB is 10^6, 1MiB is 2^20; QueryError for what is none."""
    found = _SIZE.fullmatch(size.strip())
    if found is None:
        raise QueryError(f"memory {size!r} is no size; give one such as 500MB or 2GiB")
    number, unit, binary = found.groups()
    return int(float(number) * (1024 if binary else 1000) ** (" KMGT".index(unit.upper())))

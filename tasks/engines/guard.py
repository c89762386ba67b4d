"""Runs a command in a session of its own, and ends all of it when told to or when the parent process dies in any way.

`guarded` starts this file as a script, so it imports the standard library alone. The parent's death, kill -9 included,
shows as a changed parent id: PR_SET_PDEATHSIG fires when the thread that started us ends, and a fork keeps a pipe open.
"""

import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO

GRACE_S = 10.0
_SIGNALS = {signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP}
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36  # linux/prctl.h


def stat(pid: int) -> tuple[int, int, int] | None:
    """Parent, session and start time (clock ticks since boot) of a process; None where it is gone or a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in "ZX" else (int(fields[1]), int(fields[3]), int(fields[19]))


def output(pid: int) -> str | None:
    """The file that a process writes its standard output to; None where it is gone or not ours."""
    try:
        return str(Path(f"/proc/{pid}/fd/1").readlink())
    except OSError:
        return None


def boot_id() -> str:
    """This boot's id: start times of another boot mean nothing."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def members(session: int, parent: int | None) -> list[int]:
    """The living processes of a session, and the living children of `parent`."""
    living = {int(p.name): stat(int(p.name)) for p in Path("/proc").iterdir() if p.name.isdigit()}
    return [pid for pid, s in living.items() if s and (s[1] == session or s[0] == parent)]


def end(session: int, parent: int | None, grace_s: float) -> bool:
    """Whether every process of the session is gone: SIGTERM first, SIGKILL after `grace_s`."""
    _signal(members(session, parent), signal.SIGTERM)
    started = time.monotonic()
    while pids := members(session, parent):
        waited = time.monotonic() - started
        if waited > grace_s:
            _signal(pids, signal.SIGKILL)
        if waited > grace_s + GRACE_S:
            return False
        time.sleep(0.05)
    return True


def _signal(pids: list[int], number: int) -> None:
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue


def _reap() -> dict[int, int]:
    """Exit codes of our children that have ended, by process id; minus the signal's number where one ended it."""
    ended = {}
    try:
        while (child := os.waitpid(-1, os.WNOHANG))[0]:
            ended[child[0]] = os.waitstatus_to_exitcode(child[1])
    except ChildProcessError:
        pass
    return ended


def _prctl(option: int, value: int) -> None:
    ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


def _start(command: list[str]) -> int:
    """The process id of the command, which the kernel kills should this process be killed."""

    def in_child() -> None:
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)

    return subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True, preexec_fn=in_child).pid


def _write_record(path: Path, pid: int, owner: int, port: int) -> None:
    """What a later start needs to recognise this engine, and whether its owner still lives."""
    started, owner_started = stat(pid), stat(owner)
    record = {
        "pid": pid,
        "pgid": pid,
        "start": started[2] if started else None,
        "port": port,
        "owner": owner,
        "owner_start": owner_started[2] if owner_started else None,
        "boot": boot_id(),
        "log": output(os.getpid()),
    }
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(record))
    temporary.replace(path)


def guarded(
    command: list[str], record: Path, port: int, out: IO[bytes] | None, env: Mapping[str, str], grace_s: float
) -> subprocess.Popen[bytes]:
    """The guard's process, which starts `command`; told to end, or when we are gone, it ends all of it.

    Both write to `out`; None: where we do. `record` says, while it lives, which process it is.
    """
    record.parent.mkdir(parents=True, exist_ok=True)
    told = [str(os.getpid()), str(record.absolute()), str(port), str(grace_s)]
    watched = [sys.executable, "-I", "-S", __file__, *told, *command]
    return subprocess.Popen(watched, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=env, start_new_session=True)


def main(owner: int, record: Path, port: int, grace_s: float, command: list[str]) -> int:
    """The command's exit status (128 + n for signal n), once nothing of it is left."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)  # orphans of the command become our children, whatever session they chose
    pid = _start(command)
    _write_record(record, pid, owner, port)
    ended: dict[int, int] = {}
    while pid not in ended and os.getppid() == owner:
        got = signal.sigtimedwait(_SIGNALS, 0.5)
        if got and got.si_signo != signal.SIGCHLD:
            break
        ended |= _reap()
    if end(pid, os.getpid(), grace_s):
        record.unlink(missing_ok=True)
    code = (ended | _reap()).get(pid, -signal.SIGKILL)
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]), sys.argv[5:]))

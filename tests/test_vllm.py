import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from schemas.config import Requests, Sampling, Vllm
from tasks.engines import guard, vllm
from tasks.engines.client import Client, EngineError
from tasks.engines.lease import POLL_S, leased
from tasks.engines.vllm import end_orphan, find_command, last_lines, serve

ROOT = Path(__file__).parents[1]

# Behaves like `vllm serve`: a child in the same session (or, deserting, in its own), both with the test's folder as argument.
ENGINE = """\
#!{python}
import argparse, http.server, json, os, signal, subprocess, sys, time
parser = argparse.ArgumentParser()
parser.add_argument("verb")
parser.add_argument("model")
for name in ("--port", "--host", "--served-model-name", "--revision", "--folder"):
    parser.add_argument(name)
for name in ("--structured-outputs-config", "--load-format"):
    parser.add_argument(name)
args = parser.parse_args()
how = os.environ.get("HOW", "")
json.dump({{"argv": sys.argv[1:], "env": dict(os.environ), "pid": os.getpid()}}, open("{folder}/seen.json", "w"))
if how == "broken":
    print("INFO 11-21 03:41:02 [api_server.py:1] vLLM API server")
    raise RuntimeError("no weights in " + args.model)
if how == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = [sys.executable, "-IS", "-c", "import time; time.sleep(600)", "{folder}"]
subprocess.Popen(child, start_new_session=how == "deserting")
if how == "loading":
    print("Loading safetensors checkpoint shards: 0%", flush=True)
    time.sleep(600)

class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        self.answer({{}})
    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if asked["messages"][0]["content"] == "die":
            print("EngineDeadError: out of memory", flush=True)
            os._exit(3)
        self.answer({{"choices": [{{"message": {{"content": asked["model"]}}, "finish_reason": "stop"}}]}})
    def answer(self, body):
        content = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

http.server.ThreadingHTTPServer((args.host, int(args.port)), Handler).serve_forever()
"""

OURS = """\
import signal, sys, time
from pathlib import Path
from schemas.config import Vllm
from tasks.engines.lease import POLL_S, leased
from tasks.engines.vllm import serve
folder = Path(sys.argv[1])
with serve(str(folder), Vllm.model_validate_json(sys.argv[2]), folder / "vllm.log") as server:
    print(server.guard.pid, flush=True)
    time.sleep(600)
"""


def living(folder: Path) -> list[str]:
    """The command lines of processes that name `folder`."""
    lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            lines.append(path.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
    return [line for line in lines if str(folder) in line]


def wait_until(is_so: Callable[[], object]) -> None:
    deadline = time.monotonic() + 20
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture(autouse=True)
def _leases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leases of these tests alone."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where the engine's command, log and record are; nothing that was started there may be left at the end."""
    command = tmp_path / "bin/vllm"
    command.parent.mkdir()
    command.write_text(ENGINE.format(python=sys.executable, folder=tmp_path))
    command.chmod(0o755)
    monkeypatch.setattr(guard, "GRACE_S", 0.5)
    yield tmp_path
    wait_until(lambda: not living(tmp_path))


def spec_of(folder: Path, how: str = "", **options: Any) -> Vllm:
    fields = {"model": "tiny", "command": str(folder / "bin/vllm"), "args": ("--folder", str(folder))}
    return Vllm(engine="vllm", env={"HOW": how}, **{**fields, **options})


def seen(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "seen.json").read_text())
    return found


def test_a_served_model_answers_and_nothing_is_left(folder: Path) -> None:
    with serve("some/model", spec_of(folder), folder / "logs/vllm.log") as server:
        assert len(living(folder)) == 3
        assert server.failure() is None
        with Client([server.base_url], server.model, None, Requests(), died=server.failure) as client:
            (reply,) = client.complete([[{"role": "user", "content": "hello"}]], Sampling())
        assert reply.text == "tiny"
        assert (folder / "logs/vllm.pid").exists()
    assert living(folder) == []
    assert not (folder / "logs/vllm.pid").exists()


def test_the_command_line_is_vllms(folder: Path) -> None:
    with serve("some/model", spec_of(folder, revision="c0ffee"), folder / "vllm.log") as server:
        port = server.base_url.removeprefix("http://127.0.0.1:").removesuffix("/v1")
    given = f"--folder {folder} --served-model-name tiny --host 127.0.0.1 --port {port}"
    assert seen(folder)["argv"] == ["serve", "some/model", "--revision", "c0ffee", *vllm._ARGS, *given.split()]


def test_a_folder_has_no_revision_and_needs_no_hub(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    with serve(str(folder), spec_of(folder, revision="sha256:0"), folder / "vllm.log"):
        pass
    assert "--revision" not in seen(folder)["argv"]
    assert seen(folder)["env"]["HF_HUB_OFFLINE"] == "1"


def test_the_environment_is_ours_then_the_callers_then_the_configurations(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HF_HUB_OFFLINE", "DO_NOT_TRACK"):
        monkeypatch.delenv(name, raising=False)
    for name in ("VLLM_CPU_KVCACHE_SPACE", "VLLM_NO_USAGE_STATS", "PYTHONPATH", "VLLM_API_KEY"):
        monkeypatch.setenv(name, "caller")
    spec = spec_of(folder).model_copy(update={"env": {"VLLM_NO_USAGE_STATS": "configured"}})
    with serve("some/model", spec, folder / "vllm.log"):
        pass
    env = seen(folder)["env"]
    assert env["DO_NOT_TRACK"] == "1"
    assert env["VLLM_CPU_NUM_OF_RESERVED_CPU"] == "0"
    assert env["VLLM_CPU_KVCACHE_SPACE"] == "caller"
    assert env["VLLM_NO_USAGE_STATS"] == "configured"
    assert env["PATH"].split(":")[0] == str(folder / "bin")
    assert not {"HF_HUB_OFFLINE", "PYTHONPATH", "VLLM_API_KEY"} & set(env)


@pytest.mark.parametrize("raised", [KeyboardInterrupt, EngineError])
def test_whatever_is_raised_the_engine_ends(folder: Path, raised: type[BaseException]) -> None:
    with pytest.raises(raised), serve("m", spec_of(folder), folder / "vllm.log"):
        raise raised
    assert living(folder) == []


@pytest.mark.parametrize("how", ["stubborn", "deserting"])
def test_an_engine_that_resists_is_killed(folder: Path, how: str) -> None:
    with serve("m", spec_of(folder, how), folder / "vllm.log"):
        assert len(living(folder)) == 3
    assert living(folder) == []


def test_a_failed_start_says_why(folder: Path) -> None:
    log = folder / "vllm.log"
    with pytest.raises(EngineError) as raised, serve("some/model", spec_of(folder, "broken"), log):
        pass
    assert str(raised.value) == (
        f"vllm for 'tiny' ended with status 1; its log ends (all of it in {log}):\n  RuntimeError: no weights in some/model"
    )
    assert living(folder) == []


def test_a_command_that_cannot_run(folder: Path) -> None:
    (folder / "bin/vllm").write_text("#!/no/such/interpreter\n")
    with pytest.raises(EngineError, match="No such file"), serve("m", spec_of(folder), folder / "vllm.log"):
        pass


def test_a_start_that_takes_too_long(folder: Path) -> None:
    spec = spec_of(folder, "loading", startup_timeout_s=1.0)
    with pytest.raises(EngineError, match="not healthy after 1 s; raise `startup_timeout_s`") as raised:  # noqa: SIM117
        with serve("m", spec, folder / "vllm.log"):
            pass
    assert "Loading safetensors" in str(raised.value)
    assert living(folder) == []


def test_a_port_in_use(folder: Path) -> None:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        s.listen()
        port = s.getsockname()[1]
        message = f"port {port} for vllm with 'tiny': Address already in use"
        with pytest.raises(EngineError, match=message), serve("m", spec_of(folder, port=port), folder / "vllm.log"):
            pass
    assert not (folder / "seen.json").exists()


def test_the_port_of_the_configuration(folder: Path) -> None:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    with serve("m", spec_of(folder, port=port), folder / "vllm.log") as server:
        assert server.base_url == f"http://127.0.0.1:{port}/v1"


def test_an_engine_that_dies_stops_the_call_with_its_log(folder: Path) -> None:
    with serve("m", spec_of(folder), folder / "vllm.log") as server:  # noqa: SIM117
        with Client([server.base_url], "m", None, Requests(), died=server.failure, backoff_s=0.2) as client:
            with pytest.raises(EngineError) as raised:
                client.complete([[{"role": "user", "content": "die"}]], Sampling())
    assert str(raised.value).startswith("vllm for 'tiny' ended with status 3; its log ends")
    assert str(raised.value).endswith("EngineDeadError: out of memory")


def test_without_a_command(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm, "_OURS", folder / "nowhere")
    monkeypatch.setenv("PATH", str(folder))
    with pytest.raises(EngineError, match="nowhere and the PATH; run `make engine`, or set `command`"):
        find_command(spec_of(folder, command=None))
    with pytest.raises(EngineError, match="no vllm command at 'absent'"):
        find_command(spec_of(folder, command="absent"))


def test_which_command_is_taken(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm, "_OURS", folder / "nowhere")
    monkeypatch.setenv("PATH", str(folder / "bin"))
    monkeypatch.setenv("HOME", str(folder))
    for command in (None, "vllm", "~/bin/vllm", str(folder / "bin/vllm")):
        assert find_command(spec_of(folder, command=command)) == str(folder / "bin/vllm")
    ours = folder / "ours"
    ours.write_text("")
    ours.chmod(0o755)
    monkeypatch.setattr(vllm, "_OURS", ours)
    assert find_command(spec_of(folder, command=None)) == str(ours)


@contextlib.contextmanager
def our_process(folder: Path, how: str = "") -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A process that serves, and the id of its guard."""
    command = [sys.executable, "-c", OURS, str(folder), spec_of(folder, how).model_dump_json()]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env, start_new_session=True) as process:
        assert process.stdout is not None
        try:
            yield process, int(process.stdout.readline())
        finally:
            process.kill()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_the_engine_ends_with_us(folder: Path, number: int) -> None:
    with our_process(folder) as (process, _):
        assert len(living(folder)) == 4
        process.send_signal(number)
        process.wait()
        wait_until(lambda: not living(folder))
    assert not (folder / "vllm.pid").exists()


def test_what_a_killed_guard_leaves_is_ended_by_the_next_start(folder: Path) -> None:
    with our_process(folder) as (process, guard_pid):
        os.kill(guard_pid, signal.SIGKILL)
        process.kill()
        process.wait()
        wait_until(lambda: len(living(folder)) == 1)  # the engine's child; the kernel has killed the engine itself
    with serve("m", spec_of(folder), folder / "vllm.log"):
        assert len(living(folder)) == 3


def test_an_orphan_is_ended(folder: Path) -> None:
    with our_process(folder) as (process, guard_pid):
        os.kill(guard_pid, signal.SIGSTOP)
        process.kill()
        process.wait()
        another = subprocess.Popen([sys.executable, "-IS", "-c", "raise SystemExit(7)"])
        assert end_orphan(folder / "vllm.pid")
        assert another.wait() == 7  # the status of other children is left to those who wait for it
        os.kill(guard_pid, signal.SIGKILL)
    assert not end_orphan(folder / "vllm.pid")


def test_an_engine_whose_owner_lives_is_no_orphan(folder: Path) -> None:
    with serve("m", spec_of(folder), folder / "vllm.log") as server:
        with pytest.raises(EngineError, match=f"process {os.getpid()} serves a model on port"):
            end_orphan(folder / "vllm.pid")
        with (
            pytest.raises(EngineError, match=f"taken by this very process {os.getpid()}"),
            serve("m", spec_of(folder), folder / "other.log"),
        ):
            pass
        assert server.failure() is None


def test_engines_of_two_processes_take_turns() -> None:
    code = """
import sys
from tasks.engines.lease import leased
with leased({}, "other"):
    print("mine", flush=True)
    sys.stdin.read()
"""
    command = [sys.executable, "-c", code]
    pipe = subprocess.PIPE
    env = {**os.environ, "TMPDIR": tempfile.gettempdir()}
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, cwd=ROOT, env=env) as other:
        assert other.stdout is not None and other.stdout.readline() == "mine\n"
        with ThreadPoolExecutor(1) as pool:
            mine = pool.submit(lambda: leased({"CUDA_VISIBLE_DEVICES": "1"}, "mine").__enter__())
            with pytest.raises(TimeoutError):
                mine.result(2 * POLL_S)
            other.kill()
            mine.result(60)


def test_engines_on_other_devices_need_not_wait() -> None:
    with (
        leased({"CUDA_VISIBLE_DEVICES": "0"}, "one"),
        leased({"CUDA_VISIBLE_DEVICES": "1, 2"}, "two"),
        pytest.raises(EngineError, match="two; stop that engine first"),
        leased({"CUDA_VISIBLE_DEVICES": "2"}, "three"),
    ):
        pass


def test_our_own_guard_killed(folder: Path) -> None:
    with serve("m", spec_of(folder), folder / "vllm.log") as server:
        server.guard.kill()
        wait_until(lambda: server.failure() is not None)
    assert living(folder) == []


@pytest.mark.parametrize(
    "record",
    [
        "",
        "{",
        "[]",
        "{}",
        json.dumps({"pid": 1}),
        json.dumps({"pid": "1", "start": 0, "port": 1, "owner": 1, "owner_start": 1, "boot": "", "log": ""}),
    ],
)
def test_a_broken_record_ends_nothing(folder: Path, record: str) -> None:
    (folder / "vllm.pid").write_text(record)
    assert not end_orphan(folder / "vllm.pid")
    assert not (folder / "vllm.pid").exists()


@pytest.mark.parametrize("wrong", [{"start": 1}, {"boot": "another"}])
def test_a_process_with_the_same_id_that_is_not_ours_lives_on(folder: Path, wrong: dict[str, Any]) -> None:
    with subprocess.Popen([sys.executable, "-IS", "-c", "import time; time.sleep(60)"], start_new_session=True) as other:
        found = guard.stat(other.pid)
        assert found is not None
        record = {"pid": other.pid, "start": found[2], "port": 1, "owner": 2**22 + 1, "owner_start": 1, "log": "/x"}
        (folder / "vllm.pid").write_text(json.dumps({**record, "boot": guard.boot_id(), **wrong}))
        assert not end_orphan(folder / "vllm.pid")
        assert other.poll() is None
        other.kill()


def test_last_lines_leave_out_what_says_nothing(tmp_path: Path) -> None:
    log = tmp_path / "vllm.log"
    log.write_text(
        textwrap.dedent("""\
        INFO 11-21 03:41:02 [api_server.py:1] vLLM API server version 0.32
        (EngineCore pid=77) INFO 11-21 03:41:03 [core.py:9] Initializing
        (EngineCore pid=77) ERROR 11-21 03:41:04 [core.py:1500] EngineCore failed to start.
        (EngineCore pid=77) ERROR 11-21 03:41:04 [core.py:1500] Traceback (most recent call last):
        (EngineCore pid=77) ERROR 11-21 03:41:04 [core.py:1500]   File "/x/core.py", line 1, in run
        (EngineCore pid=77) ERROR 11-21 03:41:04 [core.py:1500]     raise ValueError(
        (EngineCore pid=77) ERROR 11-21 03:41:04 [core.py:1500]           ^^^^^^^^^^^
        (EngineCore pid=77) ERROR 11-21 03:41:04 [core.py:1500] ValueError: not enough memory

        (APIServer pid=70) Traceback (most recent call last):
        (APIServer pid=70)   File "/x/entry.py", line 3, in main
        (APIServer pid=70) RuntimeError: Engine core initialization failed.
        (APIServer pid=70) RuntimeError: Engine core initialization failed.
        (APIServer pid=70) INFO:     127.0.0.1:54056 - "POST /classify HTTP/1.1" 500 Internal Server Error
        (APIServer pid=70) INFO 11-21 03:41:05 [core_client.py:777] [shutdown] MPClient: complete
        [shutdown] Process manager: force killing remaining processes count=1
        /x/multiprocessing/resource_tracker.py:254: UserWarning: resource_tracker: There appear to be 1 leaked semaphore objects
          warnings.warn('resource_tracker: There appear to be %d '
        """)
    )
    lines = [
        "EngineCore failed to start.",
        "ValueError: not enough memory",
        "RuntimeError: Engine core initialization failed.",
    ]
    assert last_lines(log) == lines
    assert last_lines(log, 1) == lines[-1:]


def test_last_lines_of_any_bytes(tmp_path: Path) -> None:
    log = tmp_path / "vllm.log"
    log.write_bytes(b"\xff" * 600_000 + b"\nend")
    assert last_lines(log)[-1] == "end"
    assert max(map(len, last_lines(log))) <= 500
    log.write_bytes(b"")
    assert last_lines(log) == []

"""A key goes to its endpoint, a notification URL to its service, and neither to anything that is kept, shown or sent on."""

import base64
import json
import sqlite3
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.parquet as pq
import pytest
from command import Midwatch, configured
from scripted import Answer, Body, Scripted, chat, error

from schemas.config import Endpoint, Vllm

KEY = "sk-marker-7c1f0a9be2d84453/+=x"
HOOK = "hookmarker5d20e3f1"
CANARY = "canary-of-the-endpoint"  # stands wherever the key would, so that it is sure that this is looked at


@pytest.fixture
def elsewhere() -> Iterator[tuple[str, list[dict[str, str]]]]:
    """The address of another server, and the headers of all that it is asked."""
    asked: list[dict[str, str]] = []

    class Handler(BaseHTTPRequestHandler):
        def _take(self) -> None:
            asked.append(dict(self.headers) | {"path": self.path})
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b'{"data": [{"id": "moved"}]}')

        do_GET = do_POST = _take

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{server.server_port}", asked
    server.shutdown()
    server.server_close()


def echoing(elsewhere: str) -> Any:
    """An endpoint that hands the key back in every way: by the model's name and the prompt's length."""
    said = f"{CANARY} {{'Authorization': 'Bearer {KEY}'}}"
    mixed = (
        error(400, said),
        error(500, said),
        chat(f"I was asked by {said}"),
        (200, {}, {"error": {"message": said}}),
        (500, {}, said.encode() + b"\xff"),
        (200, {}, {"choices": [{"message": {"content": None}, "finish_reason": said}]}),
        chat("Certainly."),
    )

    def answer(body: Body) -> Answer:
        if body["model"] == "denied":
            return error(401, said)
        if body["model"] == "moved":
            return 307, {"Location": f"http://{elsewhere}/v1?{CANARY}&key={KEY}"}, said.encode()
        return mixed[len(body["messages"][-1]["content"]) % len(mixed)]

    return answer


def held(folder: Path) -> Iterator[tuple[str, str]]:
    """Each file below `folder` by its name, as it is and, where its format packs what it holds, unpacked."""
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        yield str(path.relative_to(folder)), path.read_bytes().decode(errors="replace")
        if path.suffix == ".parquet":
            yield f"{path.relative_to(folder)}, read", str(pq.read_table(path).to_pylist())
        if path.name.endswith("snapshot.duckdb"):
            with duckdb.connect(str(path), read_only=True) as connection:
                for (table,) in connection.execute("select table_name from duckdb_tables()").fetchall():
                    yield f"warehouse {table}", str(connection.table(table).fetchall())
        if path.suffix == ".db":
            with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as database:
                yield f"{path.name}, read", "\n".join(database.iterdump())


def spellings(secret: str) -> list[str]:
    """The secret as it is, and as base64 and hexadecimal digits would hide it."""
    hidden = [base64.b64encode(b" " * n + secret.encode())[4:-4].decode() for n in range(3)]
    return [secret, secret.encode().hex(), *hidden, secret[:24], secret[-16:]]


def places(found: dict[str, str], secret: str) -> list[str]:
    return [where for where, text in found.items() if any(s in text for s in spellings(secret))]


def test_keys_are_in_nothing_that_is_kept_or_shown(tmp_path: Path, elsewhere: tuple[str, list[dict[str, str]]]) -> None:
    other, asked = elsewhere
    env = {"TARGET_KEY": KEY, "HOOK": f"json://{other}/{HOOK}", "DEAD": f"json://user:{HOOK}@127.0.0.1:9/?rto=1&cto=1"}
    midwatch = Midwatch(tmp_path / "home", tmp_path, env=env)
    with Scripted(echoing(other)) as endpoint:
        shared = {
            "engine": "endpoint",
            "base_urls": [endpoint.base_url],
            "api_key_env": "TARGET_KEY",
            "requests": {"attempts": 2},
        }
        names = ("mixed", "denied", "moved")
        models = {name: shared | {"model": name} for name in names}
        arms = [{"name": name, "model": name} for name in names]
        alerts = {"notify_env": ["HOOK", "DEAD"]}
        judges = [{"name": "refusal"}]
        config = configured(tmp_path, {}, models=models, arms=arms, judges=judges, alerts=alerts, max_quarantined=0.9)
        night = midwatch("--verbose", "night", "-c", config)
        one = {"models": {"denied": models["denied"]}, "arms": arms[1:2], "judges": judges}
        failed = midwatch("run", "-c", configured(tmp_path, {}, **one))
    assert night.code == 3, night.err
    assert failed.code == 1
    assert all(headers["Authorization"] == f"Bearer {KEY}" for headers in endpoint.headers)
    report = midwatch("report", "latest", "--out", "report.html")
    answers = midwatch("sql", "from responses", "--format", "csv")
    shown = {"night": night.out + night.err, "run": failed.out + failed.err, "sql": answers.out, "report": report.err}
    (tmp_path / "nightly.yaml").unlink()

    found = dict(held(tmp_path)) | shown | {"sent on": json.dumps([h for h in asked if h["path"] != f"/{HOOK}"])}
    seen = places(found, CANARY)
    assert {"night", "run", "sql", "report.html", "warehouse responses", "warehouse runs", "prefect.db, read"} <= set(seen)
    assert any(where.startswith("home/lake/responses") for where in seen)
    assert any(where.startswith("home/logs") for where in seen)
    assert places(found, KEY) == []

    assert [h["path"] for h in asked] == [f"/{HOOK}"] * len(asked)  # the alerts, and no redirect was followed
    assert asked
    assert places({"alerts": json.dumps(asked)}, KEY) == []
    assert "the service behind DEAD did not take the message" in found["warehouse alert_events"]
    assert places(found, HOOK) == []


@pytest.mark.parametrize("key", [KEY, f"{KEY}\n", f"{KEY}\n{KEY}", f"{KEY}\N{BULLET}"])
@pytest.mark.parametrize("status", [200, 302, 401])
def test_doctor_shows_no_key_and_hands_it_to_no_other_host(
    tmp_path: Path, elsewhere: tuple[str, list[dict[str, str]]], monkeypatch: pytest.MonkeyPatch, status: int, key: str
) -> None:
    from flows.doctor import examine
    from flows.settings import Settings
    from schemas.config import RunSpec

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status, f"{CANARY} {self.headers['Authorization']} \x1b[31m")
            self.send_header("Location", f"http://{elsewhere[0]}/models?key={KEY}")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    monkeypatch.setenv("TARGET_KEY", key)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    model = {"engine": "endpoint", "model": "m", "base_urls": [f"http://127.0.0.1:{server.server_port}"]}
    arms, benchmarks = [{"name": "a", "model": "t"}], [{"id": "starter"}]
    spec = RunSpec.model_validate(
        {"models": {"t": model | {"api_key_env": "TARGET_KEY"}}, "arms": arms, "benchmarks": benchmarks}
    )
    settings = Settings()
    settings.home = tmp_path
    found = [f for f in examine(spec, settings) if f.what.endswith(" of t")]
    server.shutdown()
    server.server_close()
    assert [f.ok for f in found] == [False]
    assert "sk-marker" not in str(found) and "\x1b" not in str(found)
    assert elsewhere[1] == []


@pytest.mark.parametrize("url", [f"https://host/v1?key={KEY}", f"https://host/v1#{KEY}"])
def test_an_address_holds_no_key(url: str) -> None:
    with pytest.raises(ValueError, match="api_key_env"):
        Endpoint(engine="endpoint", model="m", base_urls=(url,))


@pytest.mark.parametrize("name", ["HF_TOKEN", "VLLM_API_KEY", "wandb_api_key", "AWS_SECRET", "DB_PASSWORD"])
def test_the_engines_environment_in_the_configuration_holds_no_key(name: str) -> None:
    with pytest.raises(ValueError, match=f"export {name} instead"):
        Vllm(engine="vllm", model="m", env={name: KEY})
    assert Vllm(engine="vllm", model="m", env={"VLLM_LOGGING_LEVEL": "INFO"}).env

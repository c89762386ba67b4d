"""Is everything there that a run needs?"""

import http.client
import os
import shutil
import urllib.error
import urllib.request
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from flows.settings import FREE_BYTES, Settings
from schemas.config import Endpoint, RunSpec, Vllm
from schemas.errors import MidwatchError
from tasks.engines.vllm import find_command
from tasks.engines.weights import SMOLLM2, gguf_of
from tasks.forgotten import unfinished
from tasks.gc import withdrawn
from tasks.lake import Lake
from tasks.runs import manifests


class Finding(NamedTuple):
    """One thing that a run needs: what was found, and how to mend it where it is not well."""

    what: str
    ok: bool
    found: str
    remedy: str = ""


def examine(spec: RunSpec, settings: Settings) -> list[Finding]:
    """What there is of all that a run of `spec` needs; nothing is written but an empty home folder."""
    findings = [_home(settings)]
    for name, model in spec.models.items():
        findings += _endpoint(name, model) if model.engine == "endpoint" else _vllm(name, model, settings.home)
    return [*findings, _warehouse(settings), *_interrupted(settings), _prefect()]


def _home(settings: Settings) -> Finding:
    try:
        settings.check()
    except MidwatchError as e:
        return Finding("home", False, str(e), f"free {FREE_BYTES / 1e6:.0f} MB, or choose another folder with --home")
    free = shutil.disk_usage(settings.home).free
    return Finding("home", True, f"{settings.home}, {free / 1e9:.1f} GB free")


def _vllm(name: str, model: Vllm, home: Path) -> Iterator[Finding]:
    try:
        command = find_command(model)
    except MidwatchError as e:
        yield Finding(f"engine of {name}", False, str(e), "make engine, or set `command` in the configuration")
        return
    yield Finding(f"engine of {name}", True, command)
    if model.model == SMOLLM2:
        yield _smollm2(name, Path(command), home)
    elif Path(model.model).expanduser().is_dir():
        there = any(Path(model.model).expanduser().glob("**/*.safetensors"))
        yield Finding(f"model {name}", there, model.model, "" if there else "the folder holds no .safetensors file")
    else:
        yield Finding(f"model {name}", True, f"{model.model}, from the hub when the engine starts")


def _smollm2(name: str, command: Path, home: Path) -> Finding:
    if (folder := home / "models" / SMOLLM2).is_dir():
        return Finding(f"model {name}", True, str(folder))
    try:
        return Finding(f"model {name}", True, f"{gguf_of(command)}, converted by the first run")
    except MidwatchError as e:
        return Finding(f"model {name}", False, str(e), "make engine")


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Follows none: urllib would hand the key to wherever the endpoint points."""

    def redirect_request(self, *_: Any) -> None:
        return None


def _endpoint(name: str, model: Endpoint) -> Iterator[Finding]:
    key = os.environ.get(model.api_key_env or "", "").strip()
    if model.api_key_env and not (key and key.isascii() and key.isprintable()):
        found = f"{model.api_key_env} " + ("holds characters that no HTTP header can" if key else "is not set")
        yield Finding(f"key of {name}", False, found, f"export {model.api_key_env}=...")
        return
    for url in model.base_urls:
        request = urllib.request.Request(f"{url}/models", headers={"Authorization": f"Bearer {key}"} if key else {})
        try:
            with urllib.request.build_opener(_NoRedirect).open(request, timeout=10) as response:
                served = model.model.encode() in response.read(1_000_000)
        except (OSError, http.client.HTTPException) as e:
            yield Finding(f"endpoint of {name}", False, f"{url}: {_said(e)}", "start the server, or correct base_urls")
            continue
        found = f"{url}{'' if served else f' does not list a model {model.model!r}'}"
        yield Finding(f"endpoint of {name}", served, found, "" if served else "correct `model`")


def _said(e: Exception) -> str:
    """What went wrong, without the server's own words, which may hold anything."""
    if isinstance(e, urllib.error.HTTPError):
        return f"HTTP {e.code}" + (", and redirects are not followed" if 300 <= e.code < 400 else "")
    return type(e).__name__ if isinstance(e, http.client.HTTPException) else str(e)


def _warehouse(settings: Settings) -> Finding:
    in_lake = len(manifests(Lake(root=settings.lake)))
    if not settings.snapshot.exists():
        found = f"none at {settings.warehouse} yet; the lake holds {in_lake} runs"
        return Finding("warehouse", in_lake == 0, found, "midwatch warehouse rebuild" if in_lake else "")
    try:
        loaded = settings.query("select count(*) as n from runs")[0]["n"]
    except MidwatchError as e:
        return Finding("warehouse", False, str(e), "midwatch warehouse rebuild")
    found = f"{loaded} runs in {settings.warehouse}, {in_lake} in the lake"
    return Finding("warehouse", loaded == in_lake, found, "" if loaded == in_lake else "midwatch warehouse rebuild")


def _interrupted(settings: Settings) -> Iterator[Finding]:
    """What was to be deleted, and is not yet; nothing where all is done."""
    lake = Lake(root=settings.lake)
    if removed := withdrawn(lake):
        yield Finding("removals", False, f"that of run {removed[0]} was interrupted", "midwatch gc --yes")
    if asked := unfinished(lake):
        found = f"requests that were interrupted: {len(asked)}, the first of {asked[0].asked_at:%Y-%m-%d}"
        yield Finding("forget", False, found, "midwatch forget --yes")


def _prefect() -> Finding:
    url = os.environ.get("PREFECT_API_URL")
    if url is None:
        return Finding("prefect", True, f"{version('prefect')}, with a server of its own for each run")
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=10):
            return Finding("prefect", True, f"{version('prefect')}, server at {url}")
    except (urllib.error.URLError, OSError) as e:
        return Finding("prefect", False, f"{url}: {e}", "prefect server start, or unset PREFECT_API_URL")

"""Files that are to run code, or to exhaust the machine, where Midwatch reads a configuration, a judge or a model."""

import pickle
from pathlib import Path

import pytest

from schemas.config import Vllm, load
from schemas.errors import ConfigError
from tasks.engines.client import EngineError
from tasks.engines.vllm import serve
from tasks.engines.weights import content_hash
from tasks.judges.sealed import unseal

BASE = "models: {m: {engine: endpoint, model: m, base_urls: [http://h/v1]}}\nbenchmarks: [{id: starter}]\n"
LAUGHS = "a0: &a0 [x]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 9))
MERGED = "a0: &a0 {x: 1}\n" + "".join(f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 20)}]}}\n" for i in range(1, 7))
ARMS = BASE + "arms:\n- name: a\n  model: m\n"
BOMBS = {
    "!!python/object/apply:os.system ['touch OWNED']": "could not determine a constructor",
    "name: !!python/name:os.system": "could not determine a constructor",
    "name: !!python/object/new:pathlib.Path [OWNED]": "could not determine a constructor",
    LAUGHS: "more than 100,000 values once aliases are written out",
    MERGED: "more than 100,000 values once aliases are written out",
    ARMS + "  sampling: {answer_schema: &a {x: *a}}\n": "an alias in its own anchor",
    "a: &a [*a]": "an alias in its own anchor",
    "[" * 100_000: "no plain data",
    "a: " + "[" * 5_000 + "]" * 5_000: "no plain data",
    f"shard_size: {'1' * 100_000}": "no plain data",
    "name: 2026-13-01": "no plain data",
    "a: 1\n---\nb: 2": "expected a single document",
}


class Runs:
    """Its pickle runs code when it is read."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (self.mark,)


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    """A file that is there once an attack has run code."""
    return tmp_path / "owned"


@pytest.mark.parametrize("text", BOMBS, ids=range(len(BOMBS)))
def test_a_configuration_runs_nothing_and_stays_small(tmp_path: Path, mark: Path, text: str) -> None:
    path = tmp_path / "midwatch.yaml"
    path.write_text(text.replace("OWNED", str(mark)))
    with pytest.raises(ConfigError, match=BOMBS[text]):
        load(path)
    assert not mark.exists()


def test_aliases_that_stay_small_are_fine(tmp_path: Path) -> None:
    path = tmp_path / "midwatch.yaml"
    path.write_text(ARMS + "  sampling: &s {max_tokens: 7}\n- {name: b, model: m, sampling: {<<: *s, seed: 1}}\n")
    assert [arm.sampling.max_tokens for arm in load(path).arms] == [7, 7]


def test_the_attack_would_run_where_pickle_is_read(mark: Path) -> None:
    pickle.loads(pickle.dumps(Runs(mark)))
    assert mark.exists()


def test_a_judges_file_runs_nothing(mark: Path) -> None:
    with pytest.raises(ValueError):
        unseal(pickle.dumps(Runs(mark)))
    assert not mark.exists()


@pytest.mark.parametrize("name", ["model.bin", "pytorch_model.bin", "model.pt", "model.pth", "model.ckpt", "model.pkl"])
def test_a_model_is_safetensors(tmp_path: Path, mark: Path, name: str) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / name).write_bytes(pickle.dumps(Runs(mark)))
    with pytest.raises(EngineError, match=r"no \.safetensors file in it"):
        content_hash(tmp_path / "model")
    assert not mark.exists()


def test_the_engine_is_told_to_read_nothing_else(tmp_path: Path) -> None:
    command, said = tmp_path / "vllm", tmp_path / "said"
    command.write_text(f'#!/bin/sh\necho "$@" > {said}\n')
    command.chmod(0o755)
    spec = Vllm(engine="vllm", model="some/model", command=str(command))
    with pytest.raises(EngineError), serve("some/model", spec, tmp_path / "log"):
        pass
    assert "--load-format safetensors" in said.read_text()

"""The run configuration, `midwatch.yaml`: frozen models in which every key is known, so that a misspelt one is an error."""

from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

import yaml
from pydantic import (
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    field_validator,
    model_validator,
)

from schemas import plain
from schemas.errors import ConfigError
from schemas.monitors import AlertSpec, MonitorSpec, ReferenceSpec
from schemas.night import BudgetSpec, NightSpec, SentinelSpec
from schemas.strict import Config, Name, Share

TEMPLATE = Path(__file__).with_name("midwatch.yaml")  # the commented configuration that `midwatch init` writes

Answered = Literal["text", "tokens", "classes", "logits"]  # how a judge's model answers
Target = Literal["label", "unsafe", "categories"]  # what a trained judge tells
ProtocolName = Literal["generation", "letter", "logprobs", "option", "likelihood", "choice", "moderation"]


def _is_none(value: object) -> bool:
    """Keys that came later are left out of a dump where they are not set, so that they change no id that was given before."""
    return value is None


class Sampling(Config):
    """How a model's answer is drawn; part of the arm's identity."""

    temperature: Annotated[float, Field(ge=0, le=2)] = 0.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    max_tokens: PositiveInt = 256
    seed: int | None = Field(0, description="null: the engine draws its own")
    stop: tuple[str, ...] = ()
    choices: tuple[str, ...] | None = Field(None, description="the only answers allowed (vLLM structured output)")
    answer_schema: dict[str, Any] | None = Field(
        None, description="the JSON Schema that the answer must follow (structured output)", exclude_if=_is_none
    )

    @model_validator(mode="after")
    def _one_constraint(self) -> Self:
        if self.choices and self.answer_schema:
            raise ValueError("choices and answer_schema exclude each other: an answer is one of a list, or follows a schema")
        return self


class Requests(Config):
    """How requests to an endpoint are made; decides speed and patience, never the answer."""

    in_flight: PositiveInt = Field(256, description="requests at the same time, over all base URLs")
    timeout_s: PositiveFloat = Field(600, description="seconds that one request may take")
    attempts: PositiveInt = Field(6, description="tries per request, with exponential backoff between them")
    api: Literal["chat", "completions"] = "chat"


class Endpoint(Config):
    """A model behind one or more OpenAI-compatible base URLs."""

    engine: Literal["endpoint"]
    model: str = Field(description="the model's name as the endpoint knows it")
    base_urls: Annotated[tuple[str, ...], Field(min_length=1, description="such as http://127.0.0.1:8000/v1")]
    api_key_env: str | None = Field(None, description="environment variable that holds the key; never the key itself")
    revision: str | None = Field(None, description="set it only if the weights can't change behind the name")
    requests: Requests = Requests()

    @field_validator("base_urls")
    @classmethod
    def _http_only(cls, urls: tuple[str, ...]) -> tuple[str, ...]:
        for url in urls:
            if not url.startswith(("http://", "https://")):
                raise ValueError(f"{url!r} is not an http(s) URL")
            if "@" in urlsplit(url).netloc:
                raise ValueError("a base URL must not hold a user name or a key; name its variable with api_key_env")
            if "?" in url or "#" in url:
                raise ValueError(
                    "a base URL ends with its path, such as /v1; what follows ? or # would be on record: use api_key_env"
                )
        return tuple(url.rstrip("/") for url in urls)


class Vllm(Config):
    """A model that we serve ourselves: `vllm serve` on loopback, started when first needed and stopped after its arm."""

    engine: Literal["vllm"]
    model: str = Field(
        description="'smollm2-135m-instruct' or, for embeddings, 'all-minilm-l6-v2' (both come with `make engine`), a folder, "
        "or a hub id"
    )
    revision: str | None = Field(None, description="a hub commit (40 hexadecimal digits) pins a hub model")
    command: str | None = Field(None, description="the vllm executable; by default .venv-vllm/bin/vllm, then the PATH")
    args: tuple[str, ...] = Field((), description="more arguments for `vllm serve`")
    env: dict[str, str] = Field({}, description="more environment variables for it")
    port: Annotated[int, Field(ge=1, le=65535)] | None = Field(None, description="by default a free one")
    startup_timeout_s: PositiveFloat = 600
    requests: Requests = Requests()

    @field_validator("env")
    @classmethod
    def _holds_no_key(cls, env: dict[str, str]) -> dict[str, str]:
        for name in env:
            if name.upper().endswith(("KEY", "TOKEN", "SECRET", "PASSWORD")):
                raise ValueError(f"export {name} instead: the engine gets our environment, and this file is kept with each run")
        return env


Model = Annotated[Endpoint | Vllm, Field(discriminator="engine")]


class ArmSpec(Config):
    """An arm: a model as it is asked."""

    name: Name
    model: Name = Field(description="a key of `models`")
    system_prompt: str | None = None
    sampling: Sampling = Sampling()
    samples: PositiveInt = Field(1, description="answers per item")
    chat_template_kwargs: dict[str, Any] | None = Field(
        None, description="for the model's chat template (vLLM), such as {enable_thinking: false}", exclude_if=_is_none
    )


class Columns(Config):
    """Which column of a `file` benchmark holds what."""

    prompt: str = "prompt"
    id: str | None = None
    category: str | None = None
    harm_category: str | None = Field(None, description="values are BeaverTails' fourteen")
    expected: str | None = Field(None, description="values are comply or refuse")


class Protocol(Config):
    """How a benchmark is put to a model; part of the arm's identity, but for free generation, which adds nothing."""

    name: ProtocolName
    shots: NonNegativeInt = 0
    order_seed: int | None = None


class BenchmarkSpec(Config):
    """A benchmark, from its hub data set or from a local file."""

    id: Name
    path: str | None = Field(None, description="local CSV, JSONL, JSON or Parquet file (also .gz), or a folder of them")
    columns: Columns | None = Field(None, description="for `use: file` alone")
    use: Literal["file"] | None = Field(None, description="`file`: `id` is a name of your own for the file at `path`")
    limit: PositiveInt | None = Field(None, description="a fixed pseudo-random sample of this many items")
    protocol: ProtocolName | None = Field(None, description="one that the benchmark's card lists; by default its first")
    shots: NonNegativeInt = Field(0, description="solved examples of the same category before each question")
    order_seed: int | None = Field(None, description="permutes the options; null: as the benchmark has them")

    @model_validator(mode="after")
    def _file_has_a_path(self) -> Self:
        if self.use == "file" and self.path is None:
            raise ValueError(f"benchmark {self.id!r} says 'use: file' but gives no path")
        if self.use is None and self.columns is not None:
            raise ValueError(f"benchmark {self.id!r} maps columns; that needs 'use: file'")
        return self


class JudgeSpec(Config):
    """A judge, and what it needs: a model to ask, a file, or other judges."""

    name: Name
    use: Name | None = Field(None, description="the judge behind a name of your own; also `trained` and `ensemble`")
    model: Name | None = Field(None, description="a key of `models`: for a judge that asks a model, or needs embeddings")
    path: str | None = Field(None, description="what the judge reads: a trained judge's file, a prompt, protected texts")
    members: tuple[Name, ...] = Field((), description="for an ensemble: judges of this list, named before it")
    vote: Literal["majority", "any_unsafe", "weighted"] = Field("majority", description="how an ensemble decides")
    ties: Literal["unscored", "safe", "unsafe"] = Field("unscored", description="what an ensemble says of a tie")
    quorum: PositiveInt | None = Field(None, description="members that must have a verdict; by default more than half")

    @model_validator(mode="after")
    def _members_make_an_ensemble(self) -> Self:
        if (self.judge == "ensemble") != bool(self.members):
            raise ValueError(f"judge {self.name!r}: `use: ensemble` and `members` go together")
        return self

    @property
    def judge(self) -> str:
        """The judge that is meant."""
        return self.use or self.name


class RunSpec(Config):
    """Everything that a run depends on."""

    name: Name = "midwatch"
    models: dict[Name, Model] = {}
    arms: Annotated[tuple[ArmSpec, ...], Field(min_length=1)]
    benchmarks: Annotated[tuple[BenchmarkSpec, ...], Field(min_length=1)]
    judges: Annotated[tuple[JudgeSpec, ...], Field(min_length=1)] = (JudgeSpec(name="refusal"),)
    shard_size: Annotated[int, Field(ge=1, le=10_000)] = Field(256, description="items asked and stored together")
    share: Share | None = Field(
        None, description="of each category's items, the same ones every time; at least one of each", exclude_if=_is_none
    )
    max_quarantined: Share = Field(0.01, description="the run stops when a larger share of rows is bad")
    monitors: tuple[MonitorSpec, ...] = Field((), description="what is watched; changes no run", exclude=True)
    alerts: AlertSpec = Field(AlertSpec(), description="who is told; changes no run", exclude=True)
    night: NightSpec = Field(NightSpec(), description="when it runs by itself; changes no run", exclude=True)

    @model_validator(mode="after")
    def _names_are_known_and_unique(self) -> Self:
        for kind, names in {
            "arm": [a.name for a in self.arms],
            "benchmark": [b.id for b in self.benchmarks],
            "judge": [j.name for j in self.judges],
            "monitor": [m.name for m in self.monitors],
        }.items():
            if twice := {n for n in names if names.count(n) > 1}:
                raise ValueError(f"{kind} {sorted(twice)[0]!r} is listed twice")
        for position, judge in enumerate(self.judges):
            before = [j.name for j in self.judges[:position]]
            if missing := [m for m in judge.members if m not in before]:
                raise ValueError(f"{judge.name!r} has the member {missing[0]!r}; before it, judges has {before or 'none'}")
        for owner, model in [(a.name, a.model) for a in self.arms] + [(j.name, j.model) for j in self.judges if j.model]:
            if model not in self.models:
                raise ValueError(f"{owner!r} names model {model!r}; models has {sorted(self.models) or 'none'}")
        return self


def json_schema() -> dict[str, Any]:
    """The JSON Schema of `midwatch.yaml`, for editors that complete and check it."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **RunSpec.model_json_schema(mode="validation")}


def load(path: Path) -> RunSpec:
    """The configuration in a YAML file, its paths taken from the file's folder; ConfigError names each key that is wrong."""
    try:
        spec = RunSpec.model_validate(plain.read(path.read_text(encoding="utf-8")))
    except OSError as e:
        raise ConfigError(f"{path}: {e.strerror or e}; `midwatch init` writes one") from e
    except (yaml.YAMLError, UnicodeDecodeError) as e:
        raise ConfigError(f"{path}: not YAML: {' '.join(str(e).split())}") from e
    except ValidationError as e:
        raise ConfigError("\n".join(f"{path}: {line}" for line in _explained(e))) from e
    benchmarks = tuple(b.model_copy(update={"path": b.path and str(path.parent / b.path)}) for b in spec.benchmarks)
    judges = tuple(j.model_copy(update={"path": j.path and str(path.parent / j.path)}) for j in spec.judges)
    return spec.model_copy(update={"benchmarks": benchmarks, "judges": judges})


_KEYS: dict[str, tuple[type[Config], ...]] = {
    "models": (Endpoint, Vllm, Requests),
    "arms": (ArmSpec, Sampling),
    "benchmarks": (BenchmarkSpec, Columns),
    "judges": (JudgeSpec,),
    "monitors": (MonitorSpec, ReferenceSpec),
    "alerts": (AlertSpec,),
    "night": (NightSpec, SentinelSpec, BudgetSpec),
}


def _explained(error: ValidationError) -> list[str]:
    """One line an error; not the ones that only say that a list is too short, where its entries were wrong."""
    errors = error.errors()
    inside = {e["loc"][0] for e in errors if len(e["loc"]) > 1}
    return [_line(e["loc"], e["type"], e["msg"]) for e in errors if e["type"] != "too_short" or e["loc"][0] not in inside]


def _line(loc: tuple[int | str, ...], kind: str, message: str) -> str:
    named = loc[:2] + loc[3:] if loc[:1] == ("models",) else loc  # the third part says which engine's keys were expected
    where = ".".join(map(str, named)) or "the file"
    if kind != "extra_forbidden":
        return f"{where}: {message.removeprefix('Value error, ')}"
    known = [n for config in _KEYS.get(str(loc[0]), (RunSpec,)) for n in config.model_fields]
    close = get_close_matches(str(loc[-1]), known, n=1)
    return f"{where}: unknown key" + (f"; did you mean {close[0]!r}?" if close else "")

"""What the arguments of a command mean: a configuration, benchmarks, a run."""

from pathlib import Path

from flows.settings import Settings
from schemas.config import TEMPLATE, BenchmarkSpec, JudgeSpec, Model, ProtocolName, RunSpec, load
from schemas.errors import ConfigError, MidwatchError

CONFIG = Path("midwatch.yaml")
LOCK = Path("midwatch.lock")


def configuration(config: Path | None) -> RunSpec:
    """The configuration that was named, else the one here, else the built-in one."""
    return load(config or (CONFIG if CONFIG.exists() else TEMPLATE))


def model_of(spec: RunSpec, key: str) -> Model:
    """The model that --model names; ConfigError where the configuration has none of the name."""
    if key not in spec.models:
        raise ConfigError(f"--model {key}: the configuration has {', '.join(spec.models) or 'none'}")
    return spec.models[key]


def narrowed(spec: RunSpec, chosen: tuple[str, ...], limit: int | None, protocol: ProtocolName | None) -> RunSpec:
    """`spec` with the benchmarks, the limit and the protocol of the command line."""
    given = {"limit": limit, "protocol": protocol}
    update = {key: value for key, value in given.items() if value is not None}
    benchmarks = tuple(b.model_copy(update=update) for b in benchmarks_of(chosen, limit) or spec.benchmarks)
    return spec.model_copy(update={"benchmarks": benchmarks})


def benchmarks_of(chosen: tuple[str, ...], limit: int | None) -> tuple[BenchmarkSpec, ...]:
    """The benchmarks that --benchmark names; ConfigError for one that is neither ID nor ID=PATH."""
    found = []
    for text in chosen:
        id_, _, path = text.partition("=")
        try:
            found.append(BenchmarkSpec(id=id_, path=path or None, limit=limit))
        except ValueError as e:
            raise ConfigError(f"--benchmark {text}: expected ID or ID=PATH") from e
    return tuple(found)


def run_id_of(settings: Settings, wanted: str) -> str:
    """The id of the run that `wanted` means: the start or end of an id, a name (its newest run), latest, or previous.

    `latest` is the newest run with results of its own, `previous` the newest before it of the same name and kind. ConfigError
    where it means none or several.
    """
    rows = settings.query("select run_id, name, kind from latest_runs order by recency")
    if not rows:
        raise MidwatchError("there is no run yet: midwatch run")
    own = [r for r in rows if r["kind"] not in ("monitor", "observe", "repeat", "night")]
    alike = [r for r in own if (r["name"], r["kind"]) == (own[0]["name"], own[0]["kind"])]
    if wanted == "latest" and own:
        return str(own[0]["run_id"])
    if wanted == "previous" and own:
        if len(alike) < 2:
            what = f"{own[0]['kind']} run called {own[0]['name']}, as the latest is"
            raise ConfigError(f"run 'previous': there is no earlier {what}; say which run: midwatch runs")
        return str(alike[1]["run_id"])
    matches = [r["run_id"] for r in rows if r["run_id"].startswith(wanted) or r["run_id"].endswith(wanted)]
    named = [r["run_id"] for r in rows if r["name"] == wanted]
    if not matches and named:
        return str(named[0])
    if len(matches) != 1:
        raise ConfigError(f"run {wanted!r}: {len(matches) or 'no'} runs are called so; see midwatch runs")
    return str(matches[0])


def newest_run_of(settings: Settings, arm: str) -> str:
    """The id of the newest run that holds responses of its own for the arm of this name; ConfigError without one."""
    rows = settings.query(
        "select run_id from latest_runs where kind in ('evaluate', 'import') and list_contains(arms, ?) order by recency", [arm]
    )
    if not rows:
        raise ConfigError(f"arm {arm!r}: no run has such an arm; see midwatch runs")
    return str(rows[0]["run_id"])


def with_members(spec: RunSpec, judge: str) -> list[JudgeSpec]:
    """The judge as it is configured, else as it comes with Midwatch, after the members of an ensemble and theirs."""
    found = next((j for j in spec.judges if j.name == judge), JudgeSpec(name=judge))
    return [*(m for member in found.members for m in with_members(spec, member)), found]

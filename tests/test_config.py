import json
from pathlib import Path

import jsonschema
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from schemas.config import TEMPLATE, BenchmarkSpec, Columns, Endpoint, RunSpec, Sampling, Vllm, json_schema, load
from schemas.errors import ConfigError

GOOD = {
    "name": "nightly",
    "models": {
        "hosted": {"engine": "endpoint", "model": "m", "base_urls": ["http://127.0.0.1:8000/v1/"], "api_key_env": "MY_KEY"},
        "vllm": {"engine": "vllm", "model": "smollm2-135m-instruct", "args": ["--dtype", "float32"]},
    },
    "arms": [{"name": "target", "model": "hosted", "sampling": {"temperature": 0.7, "seed": None}, "samples": 2}],
    "benchmarks": [{"id": "starter"}, {"id": "own", "use": "file", "path": "own.csv", "columns": {"prompt": "question"}}],
    "judges": [{"name": "refusal"}, {"name": "harm", "model": "vllm"}],
}


def written(folder: Path, config: object) -> Path:
    path = folder / "midwatch.yaml"
    path.write_text(config if isinstance(config, str) else yaml.safe_dump(config))
    return path


def changed(*where: str | int, to: object) -> dict:
    """GOOD with one value changed."""
    config = json.loads(json.dumps(GOOD))
    inner = config
    for key in where[:-1]:
        inner = inner[key]
    inner[where[-1]] = to
    return config


def complaint(folder: Path, config: object) -> str:
    path = written(folder, config)
    with pytest.raises(ConfigError) as caught:
        load(path)
    lines = str(caught.value).splitlines()
    assert all(line.startswith(f"{path}: ") for line in lines)
    return "\n".join(line.removeprefix(f"{path}: ") for line in lines)


def test_the_template_is_a_configuration():
    spec = load(TEMPLATE)
    assert [b.id for b in spec.benchmarks] == ["starter"]
    assert [j.name for j in spec.judges] == ["refusal"]
    assert isinstance(spec.models["smollm2"], Vllm)


def test_what_the_template_comments_out_is_a_configuration_too(tmp_path):
    lines = TEMPLATE.read_text().splitlines()
    start = lines.index("  # hosted:")
    text = "\n".join(
        line.replace("# ", "", 1) if line.startswith(("  # ", "    # ", "# shard", "# max_q")) else line
        for line in lines
        if not line.startswith("# ") or line.startswith(("# shard", "# max_q"))
    )
    spec = load(written(tmp_path, text))
    assert start > 0
    assert isinstance(spec.models["hosted"], Endpoint)
    assert [b.id for b in spec.benchmarks] == ["starter", "xstest", "bbq", "my-prompts"]
    assert [j.name for j in spec.judges] == ["refusal", "harm", "house", "panel"]
    assert spec.judges[2].path == str(tmp_path / "house.safetensors")
    assert (spec.shard_size, spec.max_quarantined) == (256, 0.01)


def test_the_json_schema_takes_the_template_and_refuses_a_misspelt_key():
    schema = json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    template = yaml.safe_load(TEMPLATE.read_text())
    jsonschema.validate(template, schema)
    jsonschema.validate(GOOD, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(template | {"benchmark": []}, schema)


def test_a_configuration_says_what_it_says(tmp_path):
    spec = load(written(tmp_path, GOOD))
    assert spec.arms[0].sampling == Sampling(temperature=0.7, seed=None)
    assert spec.models["hosted"].base_urls == ("http://127.0.0.1:8000/v1",)
    assert spec.benchmarks[1].columns == Columns(prompt="question")


def test_paths_are_taken_from_the_folder_of_the_file(tmp_path):
    assert load(written(tmp_path, GOOD)).benchmarks[1].path == str(tmp_path / "own.csv")
    absolute = changed("benchmarks", 1, "path", to="/data/own.csv")
    assert load(written(tmp_path, absolute)).benchmarks[1].path == "/data/own.csv"


def test_a_configuration_goes_through_json_unchanged(tmp_path):
    spec = load(written(tmp_path, GOOD))
    assert RunSpec.model_validate_json(spec.model_dump_json()) == spec


@pytest.mark.parametrize(
    ("where", "suggestion"),
    [
        (("benchmark",), "benchmarks"),
        (("shard_sise",), "shard_size"),
        (("arms", 0, "sampel"), "samples"),
        (("arms", 0, "sampling", "temprature"), "temperature"),
        (("models", "hosted", "base_url"), "base_urls"),
        (("models", "vllm", "arg"), "args"),
        (("benchmarks", 0, "limits"), "limit"),
        (("benchmarks", 1, "columns", "promt"), "prompt"),
        (("judges", 0, "modle"), "model"),
        (("qqqq",), None),
    ],
    ids=str,
)
def test_a_misspelt_key_is_named_with_the_one_that_was_meant(tmp_path, where, suggestion):
    message = complaint(tmp_path, changed(*where, to="x"))
    assert message == f"{'.'.join(map(str, where))}: unknown key" + (f"; did you mean {suggestion!r}?" if suggestion else "")


def test_a_misspelt_key_deep_inside_is_named(tmp_path):
    message = complaint(tmp_path, changed("models", "hosted", "requests", to={"inflight": 3}))
    assert message == "models.hosted.requests.inflight: unknown key; did you mean 'in_flight'?"


def test_a_model_called_like_an_engine_is_named_all_the_same(tmp_path):
    assert complaint(tmp_path, changed("models", "vllm", "port", to=0)).startswith("models.vllm.port: ")


def test_every_wrong_key_is_named(tmp_path):
    message = complaint(tmp_path, changed("arms", 0, "sampling", to={"max_token": 3, "temperature": 3}))
    assert [line.partition(": ")[0] for line in message.splitlines()] == [
        "arms.0.sampling.temperature",
        "arms.0.sampling.max_token",
    ]


def test_a_key_in_the_configuration_is_refused_and_not_shown(tmp_path):
    message = complaint(tmp_path, changed("models", "hosted", "api_key", to="sk-very-secret"))
    assert message == "models.hosted.api_key: unknown key; did you mean 'api_key_env'?"


@pytest.mark.parametrize("url", ["http://user:sk-very-secret@host/v1", "https://sk-very-secret@host/v1"])
def test_a_key_in_an_address_is_refused_and_not_shown(tmp_path, url):
    message = complaint(tmp_path, changed("models", "hosted", "base_urls", to=[url]))
    assert "api_key_env" in message
    assert "sk-very-secret" not in message


@pytest.mark.parametrize("url", ["ftp://host/v1", "host:8000/v1", "file:///etc/passwd", ""])
def test_an_address_that_is_not_http_is_refused(tmp_path, url):
    assert "is not an http(s) URL" in complaint(tmp_path, changed("models", "hosted", "base_urls", to=[url]))


def test_a_model_that_is_not_there_is_named_with_those_that_are(tmp_path):
    message = complaint(tmp_path, changed("arms", 0, "model", to="hostd"))
    assert message == "the file: 'target' names model 'hostd'; models has ['hosted', 'vllm']"
    assert "'harm' names model 'x'" in complaint(tmp_path, changed("judges", 1, "model", to="x"))


def test_a_name_that_is_listed_twice_is_named(tmp_path):
    for kind, key in (("arm", "arms"), ("benchmark", "benchmarks"), ("judge", "judges")):
        message = complaint(tmp_path, changed(key, to=[GOOD[key][0]] * 2))
        assert message == f"the file: {kind} {GOOD[key][0].get('id') or GOOD[key][0]['name']!r} is listed twice"


@pytest.mark.parametrize("key", ["arms", "benchmarks", "judges"])
def test_a_list_without_entries_is_named(tmp_path, key):
    assert complaint(tmp_path, changed(key, to=[])).startswith(f"{key}: ")


@pytest.mark.parametrize(
    "text",
    ["", "just text", "- a\n- list", "a: [", "\t", "a: b: c", "'\x00'"],
)
def test_what_is_no_configuration_is_said_in_lines_that_name_the_file(tmp_path, text):
    assert complaint(tmp_path, text)


def test_a_file_that_is_not_there_says_how_to_write_one(tmp_path):
    with pytest.raises(ConfigError, match=r"none\.yaml: .*`midwatch init`"):
        load(tmp_path / "none.yaml")
    with pytest.raises(ConfigError):
        load(tmp_path)


def test_latin_1_is_refused(tmp_path):
    path = tmp_path / "midwatch.yaml"
    path.write_bytes("name: café".encode("latin-1"))
    with pytest.raises(ConfigError, match="not YAML"):
        load(path)


def test_a_file_benchmark_needs_a_path_and_columns_need_a_file_benchmark():
    with pytest.raises(ValidationError, match="gives no path"):
        BenchmarkSpec(id="own", use="file")
    with pytest.raises(ValidationError, match="needs 'use: file'"):
        BenchmarkSpec(id="xstest", columns=Columns())


@pytest.mark.parametrize("name", ["", "../up", "a/b", ".hidden", "a b", "a" * 65, "é", "a\n", "$(x)"])
def test_a_name_that_could_be_a_path_or_a_command_is_refused(name):
    with pytest.raises(ValidationError):
        BenchmarkSpec(id=name)


@pytest.mark.parametrize(
    "sampling",
    [
        {"temperature": -0.1},
        {"temperature": float("nan")},
        {"top_p": 0},
        {"top_p": 1.1},
        {"max_tokens": 0},
        {"max_tokens": 1.5},
    ],
    ids=str,
)
def test_sampling_that_no_engine_takes_is_refused(sampling):
    with pytest.raises(ValidationError):
        Sampling(**sampling)


def test_nothing_can_be_changed_afterwards(tmp_path):
    spec = load(written(tmp_path, GOOD))
    with pytest.raises(ValidationError):
        spec.name = "other"


@settings(max_examples=50, deadline=None)
@given(
    st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda v: st.lists(v) | st.dictionaries(st.text(), v))
)
def test_any_yaml_is_a_configuration_or_a_message(tmp_path_factory, value):
    path = tmp_path_factory.mktemp("any") / "midwatch.yaml"
    path.write_text(yaml.safe_dump(value), encoding="utf-8")
    with pytest.raises(ConfigError):
        load(path)


def test_monitors_say_what_they_watch_and_change_no_run(tmp_path):
    rate = {"name": "unsafe", "watch": "rate", "arm": "target", "benchmark": "starter", "judge": "refusal"}
    spec = load(written(tmp_path, GOOD | {"monitors": [rate], "alerts": {"budget": 0.5}}))
    assert (spec.monitors[0].metric, spec.monitors[0].reference.nights, spec.alerts.budget) == ("unsafe_rate", 28, 0.5)
    assert spec.model_dump() == load(written(tmp_path, GOOD)).model_dump()


@pytest.mark.parametrize(
    ("monitor", "message"),
    [
        ({"name": "m", "watch": "rate", "arm": "a"}, "monitor 'm' watches a rate: say its benchmark, judge"),
        ({"name": "m", "watch": "mix"}, "monitor 'm' watches a mix: say its source"),
        ({"name": "m", "watch": "mix", "source": "s", "reference": {"run": "r", "trailing": 7}}, "either one run, or nights"),
        ({"name": "m", "watch": "mix", "source": "s", "refernce": {}}, "did you mean 'reference'"),
    ],
)
def test_a_monitor_that_makes_no_sense_is_an_error(tmp_path, monitor, message):
    with pytest.raises(ConfigError, match=message):
        load(written(tmp_path, GOOD | {"monitors": [monitor]}))

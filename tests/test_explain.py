import csv
import json
import re
from pathlib import Path

import polars as pl
import pytest
from command import Midwatch
from prefect.settings import PREFECT_LOCAL_STORAGE_PATH, temporary_settings

from flows.imports import Columns, import_responses
from flows.labels import Sought, import_verdicts
from schemas.config import BenchmarkSpec
from schemas.errors import ConfigError
from tasks.explain import Explanation, benchmarks, explain, judges, side
from tasks.report import explanation as told

GOLDEN = Path(__file__).parent / "golden"
XSTEST = Path(__file__).parents[2] / "shared/data/xstest"
TEXTS = (
    "response_id",
    "run_id",
    "arm",
    "arm_id",
    "benchmark_id",
    "item_id",
    "cluster",
    "category",
    "harm_category",
    "expected",
)
COLUMNS = {
    **dict.fromkeys((*TEXTS, "prompt", "response", "judge", "judge_id", "label", "error", "protocol", "chat"), pl.String),
    **dict.fromkeys(("sample", "judged_at", "max_tokens"), pl.Int64),
    **{"unsafe": pl.Boolean, "gives_labels": pl.Boolean, "is_own": pl.Boolean, "more_metrics": pl.List(pl.String)},
}
KINDS = {"old1": "rubric", "new1": "rubric"}


def judged(said: dict[str, bool | None], judge_id: str, name: str = "base", **columns: object) -> pl.DataFrame:
    """What a judge of harm says of a run's response to each item."""
    known = {"run_id": f"run-{name}", "arm": "target", "arm_id": "t", "benchmark_id": "b", "sample": 0, "expected": "refuse"}
    known |= {"judge": "harm", "judge_id": judge_id, "judged_at": 1, "protocol": "generation", "gives_labels": False}
    known |= {"is_own": True, "more_metrics": []}
    rows = [
        known
        | {"item_id": item, "cluster": item, "response_id": f"{name}-{item}", "unsafe": unsafe}
        | {
            "prompt": f"Ask {item}",
            "response": f"{name} answers {item}",
            "harm_category": ("theft", "fraud")[int(item[1:]) % 2],
        }
        | {"error": "no verdict" if unsafe is None else None}
        | columns
        for item, unsafe in said.items()
    ]
    return pl.DataFrame(rows, schema=COLUMNS)


def flags(n: int, *every: int) -> dict[str, bool | None]:
    """Of `n` items those are unsafe whose number one of `every` divides."""
    return {f"i{i:03}": any(i % k == 0 for k in every) for i in range(n)}


BASE = pl.concat([judged(flags(100, 10), "old1"), judged(flags(100, 10, 7), "new1", is_own=False)])
CANDIDATE = pl.concat(
    [
        judged(flags(100, 10, 7, 33) | {"i001": None, "i200": True, "i201": False}, "new1", "candidate"),
        judged(flags(100, 10, 33), "old1", "candidate", is_own=False),
    ]
)


def explained(base: pl.DataFrame, candidate: pl.DataFrame, repeat: pl.DataFrame | None = None) -> Explanation:
    ids = judges(base, candidate, None)
    sides = side(base, *ids), side(candidate, ids[1], ids[0])
    return explain(*sides, "unsafe_rate", None if repeat is None else (sides[0], repeat))


def test_the_sentence_adds_up_and_names_every_part():
    repeat = judged(flags(100, 10) | {"i010": False, "i013": True, "i014": None}, "old1", "again")
    e = explained(BASE, CANDIDATE, repeat)
    before, after, parts = told.shown(e)
    assert round(sum(points for _, points in parts), 1) == round(after - before, 1)
    assert told.headline(e) == (
        "Unsafe rate 10.0% -> 26.7%: +13.1 points judge, +3.0 model, +0.5 items added, +0.1 mix; noise floor 2.8"
    )
    assert told.conclusion(e) == "beyond chance: judge +13.1"
    causes = dict(e.flips.group_by("cause").len().iter_rows())
    assert causes == {"judge": 13, "model": 3}


def test_what_is_said_reads_well():
    repeat = judged(flags(100, 10) | {"i010": False, "i013": True}, "old1", "again")
    shown = told.text(explained(BASE, CANDIDATE, repeat), KINDS, 4)
    golden = GOLDEN / "explanation.md"
    assert shown == golden.read_text(encoding="utf-8")
    kept = json.loads(json.dumps(told.record(explained(BASE, CANDIDATE), KINDS)))
    change = kept["candidate"]["value"] - kept["base"]["value"]
    assert sum(part["value"] for part in kept["parts"]) == pytest.approx(change, abs=1e-12)
    assert kept["noise"] is None


def test_without_a_bridge_it_says_how_to_build_one():
    base, candidate = BASE.filter("is_own"), CANDIDATE.filter("is_own")
    e = explained(base, candidate)
    assert "judge and model" in told.headline(e)
    advice = list(told.advice(e, KINDS))
    assert advice == [
        "judge and model cannot be told apart: hardly a response has verdicts of both judges; either of these would do",
        "midwatch rejudge run-base --judge harm -c CONFIG  # CONFIG: as it was for run run-candidate",
        "midwatch rejudge run-candidate --judge harm -c CONFIG  # CONFIG: as it was for run run-base",
    ]
    assert e.flips["cause"].null_count() == e.flips.height
    imported = list(told.advice(e, {"old1": "imported", "new1": "human"}))
    assert imported[1].startswith("midwatch labels import FILE --label COLUMN --annotator harm --run run-base")
    assert imported[2] == "midwatch import verdicts FILE --judge harm --label COLUMN --run run-candidate"


def test_half_a_bridge_and_a_sample_are_said():
    e = explained(BASE.filter("is_own"), CANDIDATE)
    assert next(told.advice(e, KINDS)) == "the judge's part rests on the candidate's responses alone; this would add the others"
    assert dict(e.flips.group_by("cause").len().iter_rows()) == {"judge": 13, "model": 3}
    few = pl.col("is_own") | (pl.col("item_id") < "i040")
    e = explained(BASE.filter(few), CANDIDATE)
    assert "both judges scored 40 of the base's 100 responses" in list(told.advice(e, KINDS))[-1]
    assert list(told.advice(explained(BASE.filter("is_own"), BASE.filter("is_own")), KINDS)) == []


def test_arms_that_are_not_alike_are_said_to_be():
    e = explained(BASE, CANDIDATE.with_columns(max_tokens=pl.lit(32, pl.Int64)))
    assert "the arms are not alike in max_tokens: none and 32; what that moves is in the model's part" in told.remarks(e, KINDS)
    e = explained(BASE, BASE)
    assert "noise floor none, the responses are the same" in told.headline(e)


def test_simpsons_paradox_is_called_by_its_name():
    easy, hard = {"harm_category": "easy"}, {"harm_category": "hard"}

    def mixed(name: str, n: int, each: int) -> pl.DataFrame:
        items = list(flags(100, each))
        kinds = [(items[:n], easy, 20), (items[n:], hard, 2)]
        said = [judged({i: k % (each * at // 10) == 0 for k, i in enumerate(part)}, "old1", name, **c) for part, c, at in kinds]
        return pl.concat(said).with_columns(item_id=name + pl.col("item_id"), cluster=name + pl.col("item_id"))

    e = explained(mixed("base", 80, 10), mixed("candidate", 20, 15))
    assert e.found.change.value > 0
    assert any(r.startswith("Simpson's paradox") for r in told.remarks(e, KINDS))
    assert not any(r.startswith("Simpson's paradox") for r in told.remarks(explained(BASE, CANDIDATE), KINDS))


def test_hostile_text_stays_text():
    evil = "<script>alert(1)</script> | `x` \x1b[2J [l](u)"
    e = explained(BASE, CANDIDATE.with_columns(prompt=pl.lit(evil), response=pl.lit(evil)))
    shown = told.text(e, KINDS, 9)
    assert re.search(r"(?<!\\)<script", shown) is None
    assert "\x1b" not in shown


def test_whose_verdicts_are_meant_must_be_clear():
    two = pl.concat([BASE, judged(flags(100, 3), "other1").with_columns(judge=pl.lit("other"))])
    assert judges(BASE, CANDIDATE, None) == ("old1", "new1")
    assert judges(two, CANDIDATE, "harm") == ("old1", "new1")
    assert judges(two, two, "harm=other") == ("old1", "other1")
    with pytest.raises(ConfigError, match="say by which judge: base was judged by harm, other; --judge NAME"):
        judges(two, CANDIDATE, None)
    with pytest.raises(ConfigError, match="no judge 'other': candidate was judged by harm"):
        judges(two, CANDIDATE, "other")
    with pytest.raises(ConfigError, match=r"--metric refusal_rate: judge harm gives unsafe_rate, unscored_rate"):
        explain(side(BASE, "old1", "new1"), side(CANDIDATE, "new1", "old1"), "refusal_rate", None)
    with pytest.raises(ConfigError, match="no benchmark is in both: base has b, candidate has c"):
        benchmarks(BASE, CANDIDATE.with_columns(benchmark_id=pl.lit("c")))


@pytest.mark.skipif(not XSTEST.exists(), reason="XSTest's completions are not here")
def test_string_matching_against_gpt4_on_the_same_completions_is_the_judge_alone(tmp_path: Path, prefect_api: str) -> None:
    home, benchmark = tmp_path / "home", BenchmarkSpec(id="xstest", path=str(XSTEST / "xstest_prompts.csv"))
    files = {
        name: XSTEST / f"completions/xstest_v2_completions_llama2orig_{kind}eval.csv"
        for name, kind in (("strmatch", "str"), ("gpt4", "gpt"))
    }
    with temporary_settings({PREFECT_LOCAL_STORAGE_PATH: tmp_path / "results"}):
        import_responses(files["gpt4"], benchmark, "llama2", Columns(response="completion"), home, {})
        for name, file in files.items():
            import_verdicts(file, name, f"{name}_label", None, Sought(arm="llama2", response="completion"), home)
    outcome = Midwatch(home, tmp_path, prefect_api)("explain", "strmatch", "gpt4", "--json")
    assert outcome.code == 0, outcome.err
    (found,) = json.loads(outcome.out)
    moved = {part["part"]: part for part in found["parts"]}
    assert set(moved) == {"mix", "judge", "model"}
    assert all(moved[name][end] == 0 for name in ("mix", "model") for end in ("value", "low", "high"))
    before, after, n = counted(files)
    assert moved["judge"]["value"] == pytest.approx((after - before) / n)
    assert (found["base"]["value"], found["candidate"]["value"]) == (pytest.approx(before / n), pytest.approx(after / n))
    assert {flip["cause"] for flip in found["flips"]} == {"judge"}


def counted(files: dict[str, Path]) -> tuple[int, int, int]:
    """From the authors' files alone: answers to unsafe prompts that either judge finds compliant, and all of them."""
    sides = []
    for name, file in files.items():
        with file.open(newline="", encoding="utf-8") as lines:
            sides.append({row["prompt"]: (row["type"], row[f"{name}_label"]) for row in csv.DictReader(lines)})
    with (XSTEST / "xstest_prompts.csv").open(newline="", encoding="utf-8") as lines:
        asked = [row["prompt"] for row in csv.DictReader(lines) if row["type"].startswith("contrast")]
    both = [prompt for prompt in asked if all(prompt in side for side in sides)]
    before, after = (sum(side[prompt][1] == "1_full_compliance" for prompt in both) for side in sides)
    return before, after, len(both)

import csv
import json
import re
from pathlib import Path

import polars as pl
import pytest
from command import Midwatch
from prefect.settings import PREFECT_LOCAL_STORAGE_PATH, temporary_settings
from scipy.stats import binomtest

from flows.imports import Columns, import_responses
from flows.labels import Sought, import_verdicts
from schemas.config import BenchmarkSpec
from schemas.errors import ConfigError
from tasks.compare import CompareError, arms, compare, differing, judges, of_judge
from tasks.report import comparison as told

GOLDEN = Path(__file__).parent / "golden"
XSTEST = Path(__file__).parents[2] / "shared/data/xstest"
COLUMNS = {
    **dict.fromkeys(("response_id", "arm", "benchmark_id", "item_id", "cluster", "category", "harm_category"), pl.String),
    **dict.fromkeys(("expected", "reference", "attributes", "prompt", "response", "judge", "judge_id", "label"), pl.String),
    **dict.fromkeys(("error", "protocol", "chat", "raw"), pl.String),
    **dict.fromkeys(("sample", "max_tokens", "chosen"), pl.Int64),
    **dict.fromkeys(("unsafe", "gives_labels", "is_own"), pl.Boolean),
    **{"score": pl.Float64, "more_metrics": pl.List(pl.String), "judged_at": pl.Int64},
}


def run(said: dict[str, bool | None], arm: str = "one", **columns: object) -> pl.DataFrame:
    """What a judge of harm says of an arm's response to each item."""
    known = {
        "arm": arm,
        "benchmark_id": "b",
        "sample": 0,
        "expected": "refuse",
        "judge": "harm",
        "judge_id": "j1",
        "judged_at": 1,
    }
    known |= {"protocol": "generation", "max_tokens": 64, "gives_labels": False, "is_own": True, "more_metrics": []}
    rows = [
        known
        | {"item_id": item, "cluster": item, "response_id": f"{arm}-{item}", "unsafe": unsafe}
        | {"prompt": f"Ask {item}", "response": f"{arm} answers {item}", "harm_category": "abc"[len(item) % 3] * 2}
        | {"error": "no verdict" if unsafe is None else None}
        | columns
        for item, unsafe in said.items()
    ]
    return pl.DataFrame(rows, schema=COLUMNS)


BEFORE = run(
    {"i1": False, "i2": False, "i3": True, "i4": False, "i5": None, "i6": True, "i7": False, "only": True, "i80": False}
)
AFTER = run(
    {"i1": True, "i2": True, "i3": False, "i4": False, "i5": True, "i6": None, "i7": True, "i80": True, "new": False}, "two"
)


def test_every_case_is_in_a_line_or_counted_apart():
    found = compare(BEFORE, AFTER, (), 0.01, False)
    lines = {(line.metric, line.slice): line for line in found.lines}
    whole = lines["unsafe_rate", "all"]
    assert (whole.found.n, whole.found.up, whole.found.down, whole.unscored) == (6, 4, 1, 2)
    assert (whole.found.before, whole.found.after) == (pytest.approx(1 / 6), pytest.approx(4 / 6))
    assert (found.only_before, found.only_after, found.stored) == (1, 1, 0)
    assert lines["unscored_rate", "all"].found.n == 8
    assert sum(line.found.n for (metric, slice_), line in lines.items() if metric == "unsafe_rate" and slice_ != "all") == 6
    flipped = found.flips.filter(pl.col("metric") == "unsafe_rate")
    assert flipped.select("item_id", "is_worse").rows() == [
        ("i1", True),
        ("i2", True),
        ("i7", True),
        ("i80", True),
        ("i3", False),
    ]
    assert flipped["response_after"].to_list()[0] == "two answers i1"


def test_what_is_said_reads_well():
    found = compare(BEFORE, AFTER.with_columns(max_tokens=pl.lit(32, pl.Int64)), (), 0.01, True)
    shown = told.text(found, 0.01, 3)
    golden = GOLDEN / "comparison.md"
    assert shown == golden.read_text(encoding="utf-8")
    assert json.loads(json.dumps(told.record(found)))["lines"][0]["finding"] == "unclear"


def test_hostile_text_stays_text():
    evil = "<script>alert(1)</script> | `x` \x1b[2J [l](u)"
    found = compare(run({"i1": False}), run({"i1": True}, "two", response=evil, prompt=evil), (), 0.01, False)
    shown = told.text(found, 0.01, 9)
    assert re.search(r"(?<!\\)<script", shown) is None  # an escaped one is text in Markdown
    assert "\x1b" not in shown


def test_runs_that_are_not_alike_are_refused_with_what_differs():
    other = AFTER.with_columns(max_tokens=pl.lit(32, pl.Int64), judge_id=pl.lit("j2"))
    assert differing(BEFORE, other) == ["judge: j1 and j2", "max_tokens: 64 and 32"]
    with pytest.raises(CompareError, match=r"judge: j1 and j2; max_tokens: 64 and 32.*--anyway"):
        compare(BEFORE, other, (), 0.01, False)
    assert list(compare(BEFORE, other, (), 0.01, True).differing) == differing(BEFORE, other)


def test_nothing_in_common_is_an_error_that_says_so():
    with pytest.raises(CompareError, match="no item in common"):
        compare(BEFORE, run({"x": True}, "two"), (), 0.01, False)
    with pytest.raises(ConfigError, match=r"--metric over_refusal: these runs can be compared by .*unsafe_rate"):
        compare(BEFORE, AFTER, ("over_refusal",), 0.01, False)


def test_arms_are_paired_by_name_or_as_asked():
    both = pl.concat([BEFORE, run({"i1": True}, "two")])
    assert arms(BEFORE, AFTER, ()) == [("one", "two")]
    assert arms(both, both, ()) == [("one", "one"), ("two", "two")]
    assert arms(both, AFTER, ("one=two",)) == [("one", "two")]
    with pytest.raises(ConfigError, match="no arm 'three': base has one, two, candidate has two; say --arm BASE=CANDIDATE"):
        arms(both, AFTER, ("three",))


def test_the_judge_must_be_clear():
    two = pl.concat([BEFORE, run({"i1": True}, judge="refusal")])
    assert judges(BEFORE, AFTER, None) == "harm"
    assert judges(two, two, "refusal") == "refusal"
    assert judges(pl.concat([BEFORE, run({"i1": True}, judge="ann", is_own=False)]), AFTER, None) == "harm"
    with pytest.raises(ConfigError, match="--judge NAME; base was judged by harm, refusal"):
        judges(two, two, None)
    with pytest.raises(ConfigError, match="--judge other; base was judged by harm, candidate by harm"):
        judges(BEFORE, AFTER, "other")


def test_the_newest_judge_that_judged_both_is_taken():
    later = run({"i1": False}, judge_id="j2", judged_at=2)
    left, right = of_judge(pl.concat([BEFORE, later]), AFTER, "harm")
    assert set(left["judge_id"]) == set(right["judge_id"]) == {"j1"}
    left, right = of_judge(later, AFTER, "harm")
    assert (set(left["judge_id"]), set(right["judge_id"])) == ({"j2"}, {"j1"})


@pytest.mark.skipif(not XSTEST.exists(), reason="XSTest's completions are not here")
def test_flips_of_published_completions_are_those_of_their_file(tmp_path: Path, prefect_api: str) -> None:
    """GPT-4 and Mistral on XSTest, by the published judge, against the same counted from the authors' files alone."""
    home, files = tmp_path / "home", {}
    with temporary_settings({PREFECT_LOCAL_STORAGE_PATH: tmp_path / "results"}):
        for arm in ("gpt4", "mistralinstruct"):
            files[arm] = XSTEST / "completions" / f"xstest_v2_completions_{arm}_gpteval.csv"
            benchmark = BenchmarkSpec(id="xstest", path=str(XSTEST / "xstest_prompts.csv"))
            import_responses(files[arm], benchmark, arm, Columns(response="completion"), home, {})
            import_verdicts(files[arm], "published", "gpt4_label", None, Sought(arm=arm, response="completion"), home)
    midwatch = Midwatch(home, tmp_path, prefect_api)
    outcome = midwatch("compare", "gpt4", "mistralinstruct", "--json", "--fail-on", "regression")
    assert outcome.code == 3, outcome.err
    (found,) = json.loads(outcome.out)
    expected = counted(files["gpt4"], files["mistralinstruct"])
    lines = {line["metric"]: line for line in found["lines"] if line["slice"] == "all"}
    for metric, (n, up, down, unscored) in expected.items():
        assert tuple(lines[metric][k] for k in ("n", "up", "down", "unscored")) == (n, up, down, unscored)
        assert lines[metric]["p"] == pytest.approx(binomtest(min(up, down), up + down).pvalue)
        assert len([f for f in found["flips"] if f["metric"] == metric]) == up + down
    refused = midwatch("compare", "gpt4", "mistralinstruct", "--metric", "nonsense")
    assert (refused.code, "can be compared by" in refused.err) == (2, True)


def counted(before: Path, after: Path) -> dict[str, tuple[int, int, int, int]]:
    """Cases scored on both sides, flips up and down, and unscored cases, by a loop over the files' own columns."""
    sides = []
    for path in (before, after):
        with path.open(newline="", encoding="utf-8") as lines:
            sides.append({row["prompt"]: row for row in csv.DictReader(lines)})
    with (XSTEST / "xstest_prompts.csv").open(newline="", encoding="utf-8") as lines:
        prompts = [row["prompt"] for row in csv.DictReader(lines)]
    found = {"unsafe_rate": [0, 0, 0, 0], "over_refusal_rate": [0, 0, 0, 0]}
    for prompt in prompts:
        pair = [side.get(prompt) for side in sides]
        if None in pair:
            continue
        metric = "unsafe_rate" if pair[0]["type"].startswith("contrast") else "over_refusal_rate"
        said = [row["gpt4_label"][2:] if row["gpt4_label"][:1].isdigit() else None for row in pair]
        tally = found[metric]
        if None in said:
            tally[3] += 1
            continue
        hits = [(label == "full_compliance") == (metric == "unsafe_rate") for label in said]
        tally[0] += 1
        tally[1] += hits[1] > hits[0]
        tally[2] += hits[0] > hits[1]
    return {metric: tuple(tally) for metric, tally in found.items()}

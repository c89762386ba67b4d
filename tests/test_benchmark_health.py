"""What a benchmark is still good for, from stored responses down to what is said of it."""

import json
from datetime import date
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from click.testing import CliRunner
from history import load
from test_compare import COLUMNS
from warehouse_rows import ARM, JUDGE, at, benchmark, finished, item, observed_day, response, verdict

from flows import answered
from flows.commands.drift import drift
from schemas import rows
from schemas.errors import ConfigError
from tasks import health as stage
from tasks.health import HealthError, health, judge_of
from tasks.report import health as told
from tasks.report.rates import markdown

GOLDEN = Path(__file__).parent / "golden"
CATEGORIES = ("drug_abuse", "privacy_violation", "animal_abuse")
SCHEMA = {**COLUMNS, "arm_id": pl.String, "external_id": pl.String, "judge_kind": pl.String}


def arm(name: str, fails: list[bool | None], **columns: object) -> pl.DataFrame:
    """What a judge of harm says of an arm's response to items i000, i001 ..."""
    known = {"arm": name, "arm_id": f"{name}-1", "benchmark_id": "b", "sample": 0, "expected": "refuse", "judge": "harm"}
    known |= {"judge_id": "j1", "judge_kind": "rubric", "judged_at": 1, "protocol": "generation", "gives_labels": False}
    rows_ = [
        known
        | {"item_id": f"i{n:03d}", "cluster": f"i{n:03d}", "external_id": f"{n}", "harm_category": CATEGORIES[n % 3]}
        | {"response_id": f"{name}-{n}", "unsafe": unsafe, "more_metrics": []}
        | columns
        for n, unsafe in enumerate(fails)
    ]
    return pl.DataFrame(rows_, schema=SCHEMA)


def drawn(shares: list[float], n: int = 60, seed: int = 1) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    return pl.concat([arm(f"arm{k}", list(rng.random(n) < s)) for k, s in enumerate(shares)])


def days(counts: dict[str, int]) -> pl.DataFrame:
    """A day of a source, of the view category_mix."""
    fixed = {"classifier_id": "c1", "day": date(2026, 2, 1)}
    return pl.DataFrame([fixed | {"harm_category": c, "n": n, "weight": float(n)} for c, n in counts.items()])


def items(rows_: pl.DataFrame) -> pl.DataFrame:
    return rows_.select("item_id", "harm_category", "expected").unique(maintain_order=True)


def test_items_are_counted_by_who_fails_them():
    table = {"a": [True, False, False, True], "b": [True, False, True, True], "c": [True, False, False, False]}
    found = health(pl.concat([arm(name, fails) for name, fails in table.items()]), "b", "harm", "unsafe_rate")
    s = found.saturation
    assert (s.none_fails.value, s.all_fail.value, s.best, s.headroom.value) == (0.25, 0.25, "c", 0.25)
    assert [(a.arm, a.items, a.fails.value) for a in found.arms] == [("a", 4, 0.5), ("b", 4, 0.75), ("c", 4, 0.25)]
    assert [row[0] for row in told.telling(found, 9)] == ["i002", "i003"]
    assert [row[0] for row in told.silent(found, 9)] == ["i000", "i001"]
    assert told.telling(found, 1) == [["i002", "2", "animal_abuse", "33%"]]
    assert told.categories(found).rows[0] == ["all", "4", "1", "1", "2"]
    assert [row[0] for row in told.arms(found, None).rows] == ["c", "a", "b"]


def test_a_metric_whose_better_end_is_high_fails_where_it_misses():
    about = {"expected": "comply", "gives_labels": True, "unsafe": None}
    refused = arm("a", [None] * 4, **about).with_columns(label=pl.Series(["full_refusal", "full_compliance"] * 2))
    assert health(refused, "b", "harm", "over_refusal_rate").arms[0].fails.value == 0.5
    asked = {"protocol": "letter", "expected": "choose", "reference": '{"answer": 1}', "judge": "answer_key"}
    chosen = arm("a", [None] * 4, **asked).with_columns(score=pl.Series([1.0, 1.0, 1.0, 0.0]))
    assert health(chosen, "b", "answer_key", "choice_accuracy").arms[0].fails.value == 0.25
    with pytest.raises(ConfigError, match="neither end of it is better"):
        health(refused, "b", "harm", "refusal_rate")


def test_arms_with_few_items_and_other_versions_of_the_judge_are_left_out_and_named():
    few = arm("few", [True] * 5)
    old = arm("arm0", [True] * 60, judge_id="j0", judged_at=9)
    twins = arm("arm1", [True] * 60, arm_id="another")
    found = health(pl.concat([drawn([0.2, 0.5, 0.6]), few, old, twins]), "b", "harm", "unsafe_rate")
    assert sorted(a.arm for a in found.arms) == ["arm0", "arm1 (another)", "arm1 (arm1-1)", "arm2"]
    assert ([a.arm for a in found.left_out], found.versions, found.saturation.items) == (["few"], ["j0"], 60)
    said = list(told.remarks(found))
    assert "left out: few, which has a score on 5 items alone" in said
    assert "left out: what other versions of harm said (j0)" in said


def test_the_judge_is_the_one_asked_for_or_the_only_one():
    both = pl.concat([arm("a", [True]), arm("a", [True], judge="ann", judge_id="p1", judge_kind="human")])
    assert judge_of(both, "b", None) == "harm"
    assert judge_of(both, "b", "ann") == "ann"
    with pytest.raises(ConfigError, match="no judge 'x': b was judged by ann, harm; --judge NAME"):
        judge_of(both, "b", "x")
    with pytest.raises(ConfigError, match="say by which judge"):
        judge_of(pl.concat([both, arm("a", [True], judge="other")]), "b", None)
    with pytest.raises(HealthError, match="midwatch run --benchmark b"):
        judge_of(both.clear(), "b", None)
    with pytest.raises(HealthError, match="scored no response that unsafe_rate is about"):
        health(arm("a", [None, None]), "b", "harm", "unsafe_rate")


def test_rates_are_those_of_the_observed_mix_and_what_is_lacking_is_named():
    rows_ = pl.concat([arm("a", [True, False, False] * 20), arm("b", [False, False, True] * 20)])
    found = health(rows_, "b", "harm", "unsafe_rate")
    mix = days({"none": 500, "drug_abuse": 300, "animal_abuse": 100, "unknown": 100, "privacy_violation": 0, "self_harm": 100})
    beside = stage.observed(rows_, items(rows_), mix, found, "chat")
    assert beside.rates["a"].rate.value == pytest.approx(0.75)
    assert beside.rates["b"].rate.value == pytest.approx(0.25)
    assert beside.rates["a"].covered == pytest.approx(0.4)
    assert beside.gap.lacking == ("none", "self_harm")
    assert beside.gap.unknown == (0, 100)
    assert "it lacks none, self_harm (60.0% of the prompts)" in told.gap_sentence(beside, "b")
    with pytest.raises(HealthError, match="midwatch observe FILE --source chat"):
        stage.observed(rows_, items(rows_), mix.clear(), found, "chat")


def test_annotators_are_read_where_two_labelled_the_same():
    rng = np.random.default_rng(3)
    truth = rng.random(300) < 0.4
    said = {"ann": truth, "bob": truth ^ (rng.random(300) < 0.03), "cat": truth ^ (rng.random(300) < 0.03)}
    said["strict"] = truth | (rng.random(300) < 0.3)
    labels = pl.concat(
        [
            pl.DataFrame({"response_id": [f"r{n}" for n in range(300)], "unsafe": votes}).with_columns(
                annotator=pl.lit(name), harm_category=pl.lit("drug_abuse")
            )
            for name, votes in said.items()
        ]
    )
    found = stage.people(labels)
    assert found is not None
    table = {(row[0], row[1]): row[-1] for row in told.people(found).rows}
    assert table["strict (no vote)", "all"] == "severe"
    assert table["ann", "all"] == "no bias seen"
    assert stage.people(labels.filter(annotator="ann")) is None


def test_what_is_said_reads_well():
    rows_ = drawn([0.02, 0.2, 0.35, 0.5], 90)
    found = health(rows_, "b", "harm", "unsafe_rate")
    beside = stage.observed(rows_, items(rows_), days({"none": 900, "drug_abuse": 60, "privacy_violation": 40}), found, "chat")
    tables = [told.arms(found, beside), told.categories(found), told.gap(beside)]
    plain = [*told.figures(found), *told.telling(found, 3), *told.silent(found, 3)]
    lines = [told.sentence(found), *map(markdown, tables), *map(" | ".join, plain), told.gap_sentence(beside, "b")]
    shown = "\n".join([*lines, *told.remarks(found)]) + "\n"
    assert shown == (GOLDEN / "health.txt").read_text(encoding="utf-8")


def answers(home: Path, run_id: str, name: str, fails: list[bool], minute: int) -> None:
    """A run in which an arm answered items, of which the judge said so."""
    own = ARM.model_copy(update={"arm_id": f"id of {name}", "name": name})
    said = [response(f"{run_id}-{n}", f"i{n}", minute=minute, arm_id=own.arm_id) for n in range(len(fails))]
    judged = [
        verdict(f"v{run_id}-{n}", r.response_id, None, unsafe=bad, error=None, judged_at=at(minute + 1))
        for n, (r, bad) in enumerate(zip(said, fails, strict=True))
    ]
    known = {"expected": "refuse"}
    load(
        home,
        {
            "benchmarks": [benchmark("b1")],
            "benchmark_items": [
                item(f"i{n}", "b1", harm_category=CATEGORIES[n % 3], **known) for n in range(len(fails))
            ],
            "arms": [own],
            "judges": [JUDGE],
            "run_benchmarks": [rows.RunBenchmark(run_id=run_id, benchmark_id="b1", revision="1", n_items=len(fails))],
            "responses": said,
            "run_responses": [rows.RunResponse(run_id=run_id, response_id=r.response_id, from_cache=False) for r in said],
            "verdicts": judged,
            "run_verdicts": [rows.RunVerdict(run_id=run_id, verdict_id=v.verdict_id, from_cache=False) for v in judged],
            "runs": [finished(run_id, minute=minute + 2)],
        },
    )  # fmt: skip


def test_the_command_reads_the_newest_response_of_each_arm(tmp_path: Path):
    answers(tmp_path, "old", "one", [True] * 6, 1)
    answers(tmp_path, "new", "one", [False] * 5 + [True], 10)
    answers(tmp_path, "two", "two", [True, True, True, False, False, True], 20)
    answers(tmp_path, "three", "three", [True, False, True, False, True, True], 30)
    seen = [observed_day("seen", n, c, day=date(2026, 1, 1)) for c, n in {"none": 50, "drug_abuse": 30}.items()]
    load(tmp_path, {"observed_days": seen, "runs": [finished("seen", kind="observe")]})
    assert answered.answered(tmp_path, "b1").select("arm", "item_id").n_unique() == 18
    shown = CliRunner().invoke(drift, ["health", "b1", "--home", str(tmp_path), "--source", "chat"])
    assert shown.exit_code == 0, shown.output
    assert "16.7% of 6 items no arm fails, 16.7% all do; the best, one, fails 16.7%" in shown.output
    assert "No." not in shown.output  # no response is shown
    read = json.loads(CliRunner().invoke(drift, ["health", "b1", "--home", str(tmp_path), "--json"]).output)
    assert (read["saturation"]["items"], len(read["items"]), read["observed"]) == (6, 6, None)
    assert {a["arm"]: a["fails"]["value"] for a in read["arms"]}["one"] == pytest.approx(1 / 6)

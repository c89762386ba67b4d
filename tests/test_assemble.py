from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pytest

from schemas.ids import item_id, response_id, verdict_id
from schemas.rows import Arm, Item, Judge, Metric, Response, RunBenchmark, RunResponse, RunVerdict, Verdict
from tasks.assemble import Parts, assemble, reopen
from tasks.lake import Artifact, Lake
from tasks.runs import Started
from tasks.store import Stored

BEGUN = datetime(2026, 1, 2, tzinfo=UTC)
BEFORE, AFTER = BEGUN - timedelta(seconds=1), BEGUN + timedelta(seconds=1)
RUN = Started(run_id="run-1", name="nightly", kind="evaluate", started_at=BEGUN, config={})
ARM = Arm(**dict.fromkeys(Arm.model_fields) | {"arm_id": "a" * 32, "name": "target", "mutable": False})
LABELS = Judge(judge_id="b" * 32, name="refusal", kind="rule", version="1", model=None, config={"labels": True})
HARM = Judge(judge_id="c" * 32, name="harm", kind="rubric", version="1", model="m", config={"labels": False})


@pytest.fixture
def lake(tmp_path) -> Lake:
    return Lake(root=tmp_path / "lake")


def item(text: str, benchmark: str = "one", expected: str = "refuse") -> Item:
    messages = [{"role": "user", "content": text}]
    known = {"item_id": item_id(messages), "benchmark_id": benchmark, "revision": "r", "external_id": text}
    return Item(**dict.fromkeys(Item.model_fields) | known | {"messages": messages, "expected": expected})


def response(of: Item, at: datetime = AFTER) -> Response:
    known = {"item_id": of.item_id, "arm_id": ARM.arm_id, "sample": 0, "epoch": "", "text": "x", "generated_at": at}
    found = response_id(of.item_id, ARM.arm_id, 0, "")
    return Response(**dict.fromkeys(Response.model_fields) | known | {"response_id": found})


def verdict(of: Response, judge: Judge = LABELS, at: datetime = AFTER, **said: object) -> Verdict:
    known = {"response_id": of.response_id, "judge_id": judge.judge_id, "run_id": "run-1", "epoch": "", "judged_at": at}
    found = verdict_id(of.response_id, judge.judge_id, "")
    return Verdict(**dict.fromkeys(Verdict.model_fields) | known | {"verdict_id": found} | (said or {"label": "full_refusal"}))


def parts(lake: Lake, items: list[list[Item]], responses: list[Response], verdicts: list[Verdict]) -> Parts:
    tables = [Item.to_table(i) for i in items]
    return Parts(
        [],
        [lake.write(t, "items") for t in tables],
        tables,
        [ARM],
        [LABELS, HARM],
        [lake.write(Response.to_table([r]), "responses") for r in responses],
        [lake.write(Verdict.to_table(verdicts), "verdicts")],
    )


def made(lake: Lake, assembled: Parts) -> dict[str, pa.Table]:
    files, _ = assemble(lake, RUN, assembled, 0.0)
    return {table: pa.concat_tables([lake.read(a) for a in artifacts]) for table, artifacts in files.items() if artifacts}


def test_a_run_is_its_parts_and_what_follows_from_them(lake):
    one, two = item("one"), item("two", expected="comply")
    answers = [response(one, BEFORE), response(two)]
    tables = made(lake, parts(lake, [[one, two]], answers, [verdict(answers[0], at=BEFORE), verdict(answers[1])]))
    assert Arm.from_table(tables["arms"]) == [ARM]
    assert Judge.from_table(tables["judges"]) == [LABELS, HARM]
    assert RunBenchmark.from_table(tables["run_benchmarks"]) == [
        RunBenchmark(run_id="run-1", benchmark_id="one", revision="r", n_items=2)
    ]
    assert Response.from_table(tables["responses"]) == answers


def test_what_is_older_than_the_run_came_from_the_cache(lake):
    one, two = item("one"), item("two")
    answers = [response(one, BEFORE), response(two, BEGUN)]
    tables = made(lake, parts(lake, [[one, two]], answers, [verdict(answers[0], at=BEFORE), verdict(answers[1])]))
    assert [r.from_cache for r in RunResponse.from_table(tables["run_responses"])] == [True, False]
    assert [v.from_cache for v in RunVerdict.from_table(tables["run_verdicts"])] == [True, False]
    assert {r.run_id for r in RunResponse.from_table(tables["run_responses"])} == {"run-1"}


def test_each_judge_has_its_own_rates(lake):
    one, two = item("one"), item("two")
    answers = [response(one), response(two)]
    said = [
        verdict(answers[0], label="full_compliance"),
        verdict(answers[1], label="full_refusal"),
        verdict(answers[0], HARM, unsafe=True),
        verdict(answers[1], HARM, error="no verdict"),
    ]
    found = Metric.from_table(made(lake, parts(lake, [[one, two]], answers, said))["metrics"])
    rates = {(m.judge_id, m.metric): (m.value, m.n) for m in found if m.slice == "all"}
    assert rates[LABELS.judge_id, "unsafe_rate"] == (0.5, 2)
    assert rates[HARM.judge_id, "unsafe_rate"] == (1.0, 1)
    assert rates[HARM.judge_id, "unscored_rate"] == (0.5, 2)
    assert (HARM.judge_id, "refusal_rate") not in rates


def test_an_item_of_two_benchmarks_counts_in_both(lake):
    here, there = item("same"), item("same", benchmark="two", expected="comply")
    answer = response(here)
    found = Metric.from_table(made(lake, parts(lake, [[here], [there]], [answer], [verdict(answer)]))["metrics"])
    counts = {(m.benchmark_id, m.metric): m.n for m in found if m.judge_id == LABELS.judge_id}
    assert counts["one", "refusal_rate"] == counts["two", "refusal_rate"] == 1
    assert ("one", "over_refusal_rate") not in counts
    assert counts["two", "over_refusal_rate"] == 1


def test_rows_that_were_left_out_are_counted_once_by_reason(lake):
    one = item("one")
    answer = response(one)
    whole = parts(lake, [[one]], [answer], [verdict(answer)])
    left_out = Stored(**whole.responses[0].model_dump(), quarantined={"a rule": 2, "another": 1})
    more = Stored(**whole.verdicts[0].model_dump(), quarantined={"a rule": 3})
    _, counts = assemble(lake, RUN, whole._replace(responses=[left_out, left_out], verdicts=[more]), 1.0)
    assert counts == {"a rule": 5, "another": 1}


def test_a_finished_run_is_opened_again_without_its_verdicts(lake):
    one, two = item("one"), item("never asked")
    whole = parts(lake, [[one, two]], [response(one)], [verdict(response(one))])
    files, _ = assemble(lake, RUN, whole, 0.0)
    manifest = {
        "artifacts": {table: [a.model_dump(include={"path", "sha256", "rows"}) for a in fs] for table, fs in files.items()}
    }
    again = reopen(lake, manifest)
    assert again.arms == [ARM]
    assert again.responses == [Artifact(**a.model_dump()) for a in whole.responses]
    assert [Item.from_table(t) for t in again.items] == [[one]]
    assert (again.judges, again.verdicts) == ([], [])

"""A judge's verdicts on the same responses over time, from the view down to what is said of them."""

from datetime import timedelta
from pathlib import Path

import duckdb
import numpy as np
import polars as pl
import pytest
from warehouse_rows import JUDGE, at, run, store, verdict
from warehouse_rows import response as answer

from flows.asked import asked
from schemas.rows import RunVerdict
from tasks.concept import ConceptError, concept_shift
from tasks.report import concept
from warehouse.load import load_run

N = 400


def judged(home: Path, said: dict[str, list[bool]]) -> pl.DataFrame:
    """What the view says of a judge that judged `N` responses in several rounds."""
    responses = [answer(f"r{n:03d}", f"i{n:03d}") for n in range(N)]
    verdicts = [
        verdict(f"{name}-{n}", f"r{n:03d}", None, unsafe=unsafe, error=None, epoch=name, judged_at=at(0) + timedelta(days=k))
        for k, (name, round_) in enumerate(said.items())
        for n, unsafe in enumerate(round_)
    ]
    rows = run("first", responses, verdicts) | {"human_labels": [], "calibrations": []}
    rows["run_verdicts"] = [RunVerdict(run_id="first", verdict_id=v.verdict_id, from_cache=False) for v in verdicts]
    load_run(home / "warehouse.duckdb", home / "lake", store(home / "lake", rows))
    return asked(home, "from repeated_verdicts where judge = $judge", judge=JUDGE.name)


def rounds(stricter: float) -> dict[str, list[bool]]:
    rng = np.random.default_rng(20261121)
    truth = rng.random(N) < 0.3
    first, second, last = (truth ^ (rng.random(N) < 0.02) for _ in range(3))
    return {"a": list(first), "b": list(second), "c": list(last | (rng.random(N) < stricter))}


def test_a_judge_that_became_stricter_changed_and_one_that_wavers_did_not(tmp_path: Path) -> None:
    (strict,) = concept_shift(judged(tmp_path / "strict", rounds(0.1)), "refusal")
    (same,) = concept_shift(judged(tmp_path / "same", rounds(0.0)), "refusal")
    assert (strict.is_changed, same.is_changed) == (True, False)
    assert (strict.found.n, strict.found.repeated) == (N, N)
    assert strict.found.worse > 3 * strict.found.better
    assert concept.sentence("refusal", [strict]).endswith("it changed (all)")
    assert "no change beyond chance" in concept.sentence("refusal", [same])
    assert concept.table("refusal", [same]).rows[0][0] == "all"


def test_without_a_third_round_its_own_noise_is_not_known(tmp_path: Path) -> None:
    said = rounds(0.1)
    del said["b"]
    (found,) = concept_shift(judged(tmp_path, said), "refusal")
    assert (found.found.noise, found.found.p_excess, found.is_changed) == (None, None, True)
    assert "is not known" in concept.sentence("refusal", [found])


def test_a_judge_that_judged_once_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ConceptError, match="has judged no response twice; a judge does it by midwatch judge run"):
        concept_shift(judged(tmp_path, {"a": rounds(0)["a"]}), "refusal")


def test_dated_labels_of_an_annotator_are_compared_like_verdicts(tmp_path: Path) -> None:
    from test_views import ROWS

    from warehouse.connect import migrate
    from warehouse.load import TABLES

    labels = ROWS["human_labels"][:1] * 2
    dated = [
        label.model_copy(update={"label_id": f"d{n}", "labeled_at": at(n), "label": said})
        for n, (label, said) in enumerate(zip(labels, ("full_refusal", "full_compliance"), strict=True))
    ]
    with duckdb.connect(":memory:") as connection:
        migrate(connection)
        for name, rows in (ROWS | {"human_labels": dated}).items():
            connection.register("incoming", TABLES[name].to_table(rows))
            connection.table("incoming").insert_into(name)
        found = connection.sql(
            "select judge, flipped, to_unsafe, first_label from repeated_verdicts where judge = 'ann' and benchmark_id = 'b1'"
        )
        assert found.fetchall() == [("ann", True, True, "full_refusal")]

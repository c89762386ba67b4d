"""Whether a source's mix moved: days whose truth is known, from the view down to what is said of them."""

import json
from collections.abc import Sequence
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from click.testing import CliRunner
from history import FIRST, observed
from warehouse_rows import finished, observed_day, store

from flows.commands.drift import drift
from tasks.drift.mix_counts import DriftError
from tasks.mix import MixShift, classifier_of, mix_shift
from tasks.report import mix as told
from tasks.report.rates import markdown
from tasks.windows import MixError, Window, windows
from warehouse.load import load_run

GOLDEN = Path(__file__).parent / "golden"
MIX = {"none": 0.7, "unknown": 0.08, "drug_abuse": 0.1, "privacy_violation": 0.08, "animal_abuse": 0.04}
CLASSES = ("animal_abuse", "drug_abuse", "none", "privacy_violation")


def days(shares: Sequence[dict[str, float]], size: int, seed: int = 1, whim: float = np.inf, **columns: object) -> pl.DataFrame:
    """Rows of the view category_mix, a day for each of `shares`; a finite `whim` draws each day's shares about them."""
    rng, rows = np.random.default_rng(seed), []
    for k, given in enumerate(shares):
        p = np.array(list(given.values())) / sum(given.values())
        p = p if np.isinf(whim) else rng.dirichlet(whim * p)
        for name, n in zip(given, rng.multinomial(size, p).tolist(), strict=True):
            if n:
                rows.append({"classifier_id": "c1", "day": FIRST + timedelta(k), "harm_category": name, "n": n} | columns)
    frame = pl.DataFrame(rows)
    return frame if "weight" in frame.columns else frame.with_columns(weight=pl.col("n").cast(pl.Float64))


def looked_at(rows: pl.DataFrame, card: dict[str, object] | None = None, **asked: tuple[date | None, date | None]) -> MixShift:
    chosen = windows(rows, "chat", asked.get("now", (None, None)), asked.get("before", (None, None)))
    return mix_shift(rows, "chat", chosen, card, max(rows["day"].to_list()) + timedelta(1))


def moved(found: MixShift) -> dict[str, str]:
    return {p.category: p.finding for p in found.parts if p.finding in ("rose", "fell")}


def doubled(category: str) -> dict[str, float]:
    return MIX | {category: 2 * MIX[category], "none": MIX["none"] - MIX[category]}


def card(counts: Sequence[Sequence[int]]) -> dict[str, object]:
    """A classifier's card with its confusion matrix on unseen prompts."""
    return {"figures": {"confusion": {"true": list(CLASSES), "predicted": [*CLASSES, "unknown"], "counts": counts}}}


def test_a_category_that_doubled_rose_and_nothing_else_moved():
    found = looked_at(days([MIX] * 28 + [doubled("animal_abuse")], 5000))
    assert moved(found) == {"animal_abuse": "rose"}
    assert (found.now.window, found.before.window) == (
        Window(FIRST + timedelta(28), FIRST + timedelta(28)),
        Window(FIRST, FIRST + timedelta(21)),
    )
    (part,) = [p for p in found.parts if p.category == "animal_abuse"]
    assert part.low < 0.08 < part.high
    assert part.change.low < 2 < part.change.high
    assert part.visible.share < 0.08
    assert "animal_abuse rose" in told.sentence(found)
    assert found.omnibus.p < 0.001
    assert found.distances.total_variation.value > 2 * found.distances.total_variation.unchanged


def test_nothing_is_found_where_days_only_vary_as_the_reference_does():
    found = [looked_at(days([MIX] * 29, 3000, seed, 400)) for seed in range(100)]
    assert sum(bool(moved(f)) for f in found) <= 5
    assert sum(f.omnibus.p <= 0.05 for f in found) <= 11
    assert 5 < np.mean([f.dispersion.phi for f in found]) < 12  # 1 + 3000 / 401


def test_a_weekend_is_compared_with_weekends_once_there_are_three_weeks():
    weekend = MIX | {"none": 0.55, "drug_abuse": 0.25}
    shares = [weekend if (FIRST + timedelta(n)).weekday() >= 5 else MIX for n in range(27)]  # the last day is a Saturday
    found = looked_at(days(shares, 5000))
    assert (moved(found), found.is_matched, found.before.days, found.nights) == ({}, True, 3, 26)
    assert found.dispersion.phi < 1.5
    assert "against 3 Saturdays" in told.sentence(found)
    week = looked_at(days(shares, 5000), now=(FIRST + timedelta(21), None))
    assert (moved(week), week.is_matched, week.before.days) == ({}, True, 18)
    few = looked_at(days(shares[:6], 5000))
    assert not few.is_matched
    assert moved(few)["drug_abuse"] == "rose"
    assert "too few to match weekdays" in few.weekday


def test_what_prompts_stand_for_is_counted_and_widens_what_is_not_known():
    alone = days([MIX] * 2, 500)
    found = looked_at(alone.with_columns(weight=20 * pl.col("n").cast(pl.Float64)))
    same = looked_at(alone)
    assert (found.is_estimated, found.dispersion.phi, same.dispersion.phi) == (False, 20.0, 1.0)
    assert [p.low for p in found.parts] == pytest.approx([p.low for p in same.parts])
    assert any("10,000" in line for line in told.remarks(found))


def test_too_few_prompts_are_said_to_be_too_few_and_a_new_category_appears():
    found = looked_at(days([MIX] * 28, 2000).vstack(days([MIX], 40).with_columns(day=pl.lit(FIRST + timedelta(28)))))
    assert {p.category for p in found.parts if p.finding == "too few to say"} >= {"animal_abuse", "privacy_violation"}
    assert any(line.startswith("too few prompts to say") for line in told.remarks(found))
    new = looked_at(days([MIX] * 28 + [MIX | {"self_harm": 0.05}], 2000))
    assert moved(new) == {"self_harm": "rose"}
    assert "self_harm appeared, with 5." in told.sentence(new)
    assert "∞" in markdown(told.table(new))


def test_the_classifiers_error_is_taken_off_where_it_is_known():
    seen = np.array([[60, 20, 10, 0, 10], [5, 80, 5, 0, 10], [40, 10, 730, 0, 20], [0, 0, 10, 80, 10]]) * 10  # true, predicted
    truth = np.array([0.05, 0.1, 0.75, 0.1])
    given = dict(zip([*CLASSES, "unknown"], truth @ (seen / seen.sum(axis=1, keepdims=True)), strict=True))
    found = looked_at(days([given] * 29, 20_000), card(seen.tolist()))
    assert found.refused is None
    part = {p.category: p for p in found.parts}
    named = {c: t * (1 - seen[k, 4] / seen[k].sum()) for k, (c, t) in enumerate(zip(CLASSES, truth, strict=True))}
    for category, expected in named.items():
        known = part[category].corrected
        assert known is not None
        assert known.low < expected < known.high
        assert known.before == pytest.approx(expected, abs=0.005)
    assert part["unknown"].corrected is None
    assert part["animal_abuse"].change.after > 1.2 * named["animal_abuse"]
    assert "corrected" in markdown(told.table(found))


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (None, "no confusion matrix of the classifier c1 is stored"),
        (card([[30, 0, 0, 0, 0], [0, 5, 0, 0, 90], [0, 0, 90, 0, 0], [0, 0, 0, 40, 0]]), "fewer than 20 named prompts of drug"),
        (card([[30, 30, 0, 0, 0], [30, 30, 0, 0, 0], [0, 0, 90, 0, 0], [0, 0, 0, 40, 0]]), "hardly tells some categories"),
        ({"figures": {"confusion": {"true": ["none"], "predicted": ["none", "unknown"], "counts": [[9, 0]]}}}, "lacks"),
    ],
)  # fmt: skip
def test_a_correction_that_nothing_supports_is_refused_with_why(given: dict[str, object] | None, reason: str):
    found = looked_at(days([MIX] * 15, 2000), given)
    assert reason in (found.refused or "")
    assert not any(p.corrected for p in found.parts)
    assert any(line.startswith("not corrected for the classifier's error: ") for line in told.remarks(found))


def test_a_bridge_between_classifiers_is_used():
    old, new = days([MIX] * 20, 1000), days([MIX] * 20, 1000, classifier_id="c2")
    rows = old.vstack(new.filter(pl.col("day") >= FIRST + timedelta(19)).select(old.columns))
    chosen = windows(rows, "chat", (None, None), (None, None))
    assert classifier_of(rows, chosen) == "c1"
    both = old.filter(pl.col("day") < FIRST + timedelta(19)).vstack(new.tail(5).select(old.columns))
    with pytest.raises(MixError, match="midwatch observe categorise --source chat --classifier FILE"):
        looked_at(both)


def test_windows_are_those_asked_for_or_refused():
    rows = days([MIX] * 30, 1000)
    day = [FIRST + timedelta(n) for n in range(31)]
    found = looked_at(rows, now=(day[20], day[26]), before=(day[0], day[9]))
    assert (found.now.days, found.before.days, found.before.window) == (7, 10, Window(day[0], day[9]))
    for asked, message in (
        ({"now": (day[5], day[3])}, "is after"),
        ({"now": (day[30], day[30])}, "there are some from 2026-01-05 to 2026-02-03"),
        ({"now": (day[20], day[26]), "before": (day[10], day[22])}, "overlap"),
    ):
        with pytest.raises(MixError, match=message):
            looked_at(rows, **asked)
    with pytest.raises(MixError, match="midwatch observe FILE --source chat"):
        windows(rows.clear(), "chat", (None, None), (None, None))
    with pytest.raises(DriftError, match="at least two categories"):
        looked_at(days([{"none": 1.0}] * 5, 10))


def test_what_is_said_reads_well():
    seen = [[60, 20, 10, 0, 10], [5, 80, 5, 0, 10], [10, 10, 760, 0, 20], [0, 0, 10, 80, 10]]
    rows = days([MIX] * 28 + [MIX | {"privacy_violation": 0.16, "none": 0.62}], 3000, whim=3000)
    chosen = windows(rows, "chat", (None, None), (None, None))
    found = mix_shift(rows, "chat", chosen, card(seen), FIRST + timedelta(31))
    lines = [told.sentence(found), "", markdown(told.table(found)), *(" | ".join(m) for m in told.measures(found)), ""]
    shown = "\n".join([*lines, *told.remarks(found)]) + "\n"
    assert shown == (GOLDEN / "mix.txt").read_text(encoding="utf-8")


def test_the_command_reads_days_that_are_over_and_the_card_of_their_classifier(tmp_path: Path):
    for n, row in enumerate([MIX] * 28 + [doubled("animal_abuse")]):
        observed(tmp_path, n, {c: round(3000 * s) + n % 3 for c, s in row.items()})
    seen = card([[60, 20, 10, 0, 10], [5, 80, 5, 0, 10], [10, 10, 760, 0, 20], [0, 0, 10, 80, 10]])
    known = finished("carded", kind="observe").model_copy(
        update={"config": {"source": "chat", "classifier": "c1"}, "environment": {"observed": {"classifier": seen}}}
    )
    today = observed_day("carded", 10_000, "animal_abuse", day=date(2999, 1, 1))
    load_run(
        tmp_path / "warehouse.duckdb", tmp_path / "lake", store(tmp_path / "lake", {"observed_days": [today], "runs": [known]})
    )
    shown = CliRunner().invoke(drift, ["mix", "chat", "--home", str(tmp_path)])
    assert shown.exit_code == 0
    assert shown.output.startswith("chat, Monday 2026-02-02 (3,")
    assert "animal_abuse rose 4.0% -> 8.0%" in shown.output
    assert "corrected: as if the classifier made no error" in shown.output
    read = CliRunner().invoke(
        drift, ["mix", "chat", "--home", str(tmp_path), "--json", "--from", "2026-01-20", "--to", "2026-01-25"]
    )
    found = json.loads(read.output)
    assert found["now"]["days"] == 6
    assert {c["finding"] for c in found["categories"]} <= {"no change seen", "too few to say"}

"""What monitors decide on histories whose truth is known, and how the alerts that follow read."""

from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from schemas.monitors import AlertSpec, MonitorSpec
from tasks.alerts import event, outcome
from tasks.deliver import DeliveryError, deliver, messages
from tasks.monitor import Finding, Moved, Rules, check, unfinished
from tasks.self_test import self_test

GOLDEN = Path(__file__).parent / "golden"
FIRST = date(2026, 1, 5)
MIX = {"none": 0.5, "privacy_violation": 0.2, "drug_abuse": 0.16, "animal_abuse": 0.1, "self_harm": 0.04}
RATE = MonitorSpec(name="tiny-unsafe", watch="rate", arm="tiny", benchmark="b1", judge="refusal")
PROMPTS = MonitorSpec(name="chat-mix", watch="mix", source="chat")
FLIPS = MonitorSpec(name="judge", watch="flips", judge="refusal")
DEFAULT = AlertSpec()


def nights(
    spec: MonitorSpec, shares: list[dict[str, float]], size: int, unscored: int = 0, seed: int = 1, **versions: list[str]
) -> pl.DataFrame:
    """A row for each night and series; a mix is drawn as a whole, other series each by themselves."""
    rng, rows = np.random.default_rng(seed), []
    for n, given in enumerate(shares):
        day, p = FIRST + timedelta(n), np.array(list(given.values()))
        hits = rng.multinomial(size, p / p.sum()) if spec.watch == "mix" else rng.binomial(size, p)
        rows += [
            {
                "day": day,
                "measured_at": datetime(day.year, day.month, day.day, 2, tzinfo=UTC),
                "run_id": f"night-{n:03d}",
                "series": series,
                "hits": float(h),
                "size": float(size),
                "n_unscored": None if spec.watch == "mix" else unscored if n >= 28 else 2,
                "n_responses": None if spec.watch == "mix" else size,
                "versions": {name: of[n] for name, of in versions.items()} or {"judge": "j1"},
            }
            for series, h in zip(given, hits, strict=True)
        ]
    return pl.DataFrame(rows, schema_overrides={"n_unscored": pl.Int64, "n_responses": pl.Int64})


def looked_at(spec: MonitorSpec, rows: pl.DataFrame, late: float = 12) -> dict[str, Finding]:
    """The findings by kind, some hours after the newest night."""
    now = rows["measured_at"].max() + timedelta(hours=late) if rows.height else datetime(2026, 1, 5, tzinfo=UTC)
    found = check(spec, rows, Rules.of([spec] * 5, DEFAULT), now)
    return {f.kind: f for f in found}


def until(rows: pl.DataFrame, n: int) -> pl.DataFrame:
    return rows.filter(pl.col("day") < FIRST + timedelta(n))


def doubled(category: str, start: int, total: int) -> list[dict[str, float]]:
    return [MIX | ({category: MIX[category] * 2} if n >= start else {}) for n in range(total)]


def test_a_quiet_history_is_ok_and_says_on_what_grounds():
    found = looked_at(PROMPTS, nights(PROMPTS, [MIX] * 60, 1000))
    assert {kind: f.decision for kind, f in found.items()} == {"mix": "ok", "missing": "ok"}
    assert (len(found["mix"].reference_nights), found["mix"].cause) == (28, None)
    assert found["mix"].evidence < found["mix"].needed


def test_a_category_that_doubles_raises_a_mix_alert_that_names_it():
    rows = nights(PROMPTS, doubled("self_harm", 40, 60), 1000)
    delays = [n for n in range(41, 60) if looked_at(PROMPTS, until(rows, n))["mix"].decision == "alert"]
    found = looked_at(PROMPTS, until(rows, delays[0]))["mix"]
    assert delays[0] <= 43
    assert (found.cause, found.moved[0].series) == ("MIX", "self_harm")
    assert found.moved[0].low > found.moved[0].before
    assert found.moved[0].since >= FIRST + timedelta(39)


def test_a_change_that_goes_on_alarms_again():
    rows = nights(PROMPTS, doubled("self_harm", 40, 60), 1000)
    found = [looked_at(PROMPTS, until(rows, n))["mix"] for n in range(41, 60)]
    alerts = [f for f in found if f.decision == "alert"]
    assert not alerts[0].is_again
    assert any(f.is_again for f in alerts)
    assert {f.moved[0].series for f in alerts} == {"self_harm"}


def test_an_alert_goes_on_until_the_share_was_back_for_some_nights():
    shares = [MIX | ({"self_harm": 0.08} if 40 <= n < 50 else {}) for n in range(60)]
    rows = nights(PROMPTS, shares, 2000)
    decisions = {n: looked_at(PROMPTS, until(rows, n + 1))["mix"].decision for n in range(42, 60)}
    assert {decisions[n] for n in range(43, 50)} == {"alert"}
    assert decisions[50] == "alert"
    assert decisions[56] != "alert"
    again = [looked_at(PROMPTS, until(rows, n + 1))["mix"] for n in range(43, 50)]
    assert len({f.moved[0].since for f in again}) == 1


def test_a_category_that_nobody_asked_about_is_a_new_one():
    shares = [MIX | {"terrorism": 0.0 if n < 35 else 0.03} for n in range(45)]
    found = looked_at(PROMPTS, nights(PROMPTS, shares, 1000))["mix"]
    assert (found.decision, found.cause, found.moved[0].series, found.moved[0].ratio) == (
        "alert",
        "NEW CATEGORY",
        "terrorism",
        None,
    )


@pytest.mark.parametrize(
    ("changed", "cause"),
    [
        ({}, "MODEL"),
        ({"judge": ["j1"] * 35 + ["j2"] * 10}, "JUDGE"),
        ({"arm": ["a1"] * 35 + ["a2"] * 10}, "MODEL"),
        ({"benchmark revision": ["1"] * 35 + ["2"] * 10}, "INSTRUMENT"),
    ],
)
def test_the_cause_of_a_rate_is_what_it_is_measured_with_or_else_the_model(changed, cause):
    shares = [{"all": 0.05 if n < 35 else 0.12} for n in range(45)]
    found = looked_at(RATE, nights(RATE, shares, 1000, **changed))["rate"]
    assert (found.decision, found.cause) == ("alert", cause)
    assert found.moved[0].series == "unsafe_rate"
    assert len(found.versions) == len(changed)


def test_another_judge_is_watched_even_if_the_rate_stays():
    rows = nights(RATE, [{"all": 0.05}] * 45, 1000, judge=["j1"] * 40 + ["j2"] * 5)
    found = looked_at(RATE, rows)["rate"]
    assert (found.decision, found.versions) == ("watch", ["judge j1 -> j2"])


def test_a_rate_by_category_is_one_monitor_that_names_the_category():
    spec = RATE.model_copy(update={"slices": "harm_category"})
    usual = {"all": 0.05, "harm_category=drugs": 0.05, "harm_category=privacy": 0.05, "harm_category=weapons": 0.04}
    rows = nights(spec, [usual | ({"harm_category=weapons": 0.2} if n >= 33 else {}) for n in range(42)], 200)
    found = looked_at(spec, rows)
    assert [m.series for m in found["rate"].moved] == ["unsafe_rate of weapons"]
    assert set(found["rate"].visible) == {f"unsafe_rate of {c}" for c in ("drugs", "privacy", "weapons")}
    assert found["unscored"].decision == "ok"


def test_a_missing_night_is_never_ok():
    rows = nights(RATE, [{"all": 0.05}] * 40, 1000)
    found = looked_at(RATE, rows, late=50)
    assert (found["missing"].decision, found["missing"].cause) == ("alert", "INSTRUMENT")
    nothing = looked_at(RATE, rows.clear())
    assert (nothing["rate"].decision, nothing["rate"].cause) == ("insufficient data", "NOT ENOUGH DATA")
    assert (nothing["missing"].decision, nothing["missing"].cause) == ("alert", "INSTRUMENT")
    early = looked_at(RATE, until(rows, 20))["rate"]
    assert (early.decision, early.reason) == ("insufficient data", "20 of 28 reference nights are there")


def test_responses_without_a_verdict_are_an_alert_when_they_rise_and_not_when_they_fall():
    more = looked_at(RATE, nights(RATE, [{"all": 0.05}] * 33, 1000, unscored=80))["unscored"]
    assert (more.decision, more.cause) == ("alert", "INSTRUMENT")
    assert looked_at(RATE, nights(RATE, [{"all": 0.05}] * 33, 1000, unscored=0))["unscored"].decision == "ok"


def test_a_judge_that_became_stricter_on_one_category_is_found():
    shares = [{"drugs": 0.03 if n < 35 else 0.12, "privacy": 0.03, "weapons": 0.02} for n in range(48)]
    found = looked_at(FLIPS, nights(FLIPS, shares, 300))["flips"]
    assert (found.decision, found.cause, found.moved[0].series) == ("alert", "JUDGE", "drugs")


def test_references_can_be_a_run_a_later_start_or_move_along():
    rows = nights(RATE, [{"all": 0.05 if n < 30 else 0.10} for n in range(70)], 1000)
    of_run = RATE.model_copy(update={"reference": RATE.reference.model_copy(update={"run": "night-005"})})
    assert looked_at(of_run, rows)["rate"].decision == "alert"
    later = RATE.model_copy(update={"reference": RATE.reference.model_copy(update={"start": FIRST + timedelta(30)})})
    assert looked_at(later, rows)["rate"].decision == "ok"
    moving = RATE.model_copy(update={"reference": RATE.reference.model_copy(update={"trailing": 7})})
    assert looked_at(moving, until(rows, 37))["rate"].decision == "alert"
    assert looked_at(moving, rows)["rate"].decision == "ok"
    gone = RATE.model_copy(update={"reference": RATE.reference.model_copy(update={"run": "other"})})
    assert "other is no night of this series" in looked_at(gone, rows)["rate"].reason


def test_the_self_test_sees_a_known_shift_and_says_where_nights_are_too_small():
    def tested(spec: MonitorSpec, rows: pl.DataFrame) -> Finding:
        return self_test(spec, rows, Rules(DEFAULT.budget, 5, DEFAULT.quiet_nights))

    large = tested(PROMPTS, nights(PROMPTS, [MIX] * 40, 2000))
    assert (large.decision, "drug_abuse is seen within 7 nights" in large.reason) == ("ok", True)
    small = tested(PROMPTS, nights(PROMPTS, [MIX] * 40, 12))
    assert (small.decision, "too small" in small.reason) == ("insufficient data", True)
    assert tested(RATE, nights(RATE, [{"all": 0.0}] * 40, 100)).reason == "every share of the reference is 0"
    assert tested(RATE, nights(RATE, [{"all": 0.05}] * 9, 100)).decision == "insufficient data"


def found(
    monitor: str, kind: str, cause: str, series: str, before: tuple[int, int], now: tuple[int, int], **more: object
) -> Finding:
    """An alert with given numbers: hits of sizes in the reference and since the change."""
    share = now[0] / now[1]
    since = FIRST + timedelta(36)
    moved = Moved(
        series,
        since,
        3,
        *before,
        before[0] / before[1],
        *now,
        share,
        share * 0.9,
        share * 1.1,
        share * before[1] / before[0] if before[0] else None,
        0.97,
    )
    known = {
        "night": FIRST + timedelta(38),
        "last_run": "019b-new",
        "reference_run": "019a-old",
        "evidence": 9.25,
        "needed": 7.3,
        "budget": 0.1,
    }
    details = {"source": "chat"} if kind == "mix" else {}
    return Finding(monitor, kind, "alert", "it left its reference", cause, moved=[moved], details=details, **known | more)


def test_alerts_read_well():
    raised = [
        found("chat-mix", "mix", "MIX", "self_harm", (1120, 28_000), (240, 3000), phi=1.8, evidence=21.0),
        found("chat-mix", "mix", "NEW CATEGORY", "terrorism", (0, 28_000), (91, 3000), phi=1.0),
        found("tiny-unsafe", "rate", "MODEL", "unsafe_rate", (1400, 28_000), (360, 3000)),
        found("tiny-unsafe", "rate", "JUDGE", "unsafe_rate of drugs", (140, 2800), (36, 300), versions=["judge 3f2a -> 77c1"]),
        found("judge", "flips", "JUDGE", "drugs", (252, 8400), (108, 900)),
        found("tiny-unsafe", "unscored", "INSTRUMENT", "unscored", (56, 28_000), (240, 3000)),
        Finding(
            "tiny-unsafe", "missing", "alert", "no night for 50 hours; one is expected every 36 hours", "INSTRUMENT", FIRST
        ),
        unfinished("019b-run", "nightly", "evaluate", datetime(2026, 2, 13, 2, tzinfo=UTC)),
    ]
    explained = {"tiny-unsafe": "Unsafe rate 5.0% -> 12.0%: +6.8 points model, +0.2 mix; noise floor 0.3"}
    now = datetime(2026, 2, 14, 8, tzinfo=UTC)
    alerts = [
        outcome([RATE, PROMPTS, FLIPS], [f], [], explained if f.kind == "rate" else {}, "r1", now).raised[0] for f in raised
    ]
    shown = "\n\n".join(f"{a.title}\n{a.body}" for a in alerts) + "\n"
    assert shown == (GOLDEN / "alerts.txt").read_text(encoding="utf-8")


def test_an_alert_is_raised_once_seen_again_and_resolved_by_itself():
    alarm = Finding("m", "rate", "alert", "it left", "MODEL", FIRST)
    now, specs = datetime(2026, 2, 14, tzinfo=UTC), [RATE.model_copy(update={"name": "m"})]
    (first,) = outcome(specs, [alarm], [], {}, "r1", now).raised
    standing = [{"monitor": "m", "cause": "MODEL", "alert_id": first.alert_id, "details": first.details}]
    assert outcome(specs, [alarm], standing, {}, "r2", now)[1:] == ([], [])
    (again,) = outcome(specs, [alarm._replace(is_again=True)], standing, {}, "r2", now).events
    (over,) = outcome(specs, [alarm._replace(decision="ok", cause=None)], standing, {}, "r2", now).events
    assert (again.kind, over.kind, over.alert_id) == ("seen again", "resolved", first.alert_id)
    blind = alarm._replace(decision="insufficient data", cause="NOT ENOUGH DATA")
    assert outcome(specs, [blind], standing, {}, "r2", now)[1:] == ([], [])
    other = outcome(specs, [alarm._replace(cause="JUDGE")], standing, {}, "r2", now)
    assert ([a.cause for a in other.raised], [e.kind for e in other.events]) == (["JUDGE"], ["resolved"])


def test_an_alert_about_what_nobody_looks_at_any_more_ends():
    now = datetime(2026, 2, 14, tzinfo=UTC)
    details = {"kind": "rate"}
    standing = [
        {"monitor": "gone", "cause": "MODEL", "alert_id": "a", "details": details},
        {"monitor": RATE.name, "cause": "MODEL", "alert_id": "b", "details": details},
        {"monitor": "run nightly", "cause": "INSTRUMENT", "alert_id": "c", "details": {"kind": "unfinished"}},
        {"monitor": "chat", "cause": "NEW CATEGORY", "alert_id": "d", "details": {"kind": "emerging", "subject": "c1"}},
    ]
    ended = outcome([RATE], [], standing, {}, "r2", now).events
    assert {e.alert_id: e.note for e in ended} == {"a": "it is no longer watched", "c": "it was run again, or is long ago"}


def test_events_have_ids_of_their_own():
    now = datetime(2026, 2, 14, tzinfo=UTC)
    made = [event("a", "r", "delivered", now, note=name) for name in ("ONE", "TWO", "ONE")]
    assert len({e.event_id for e in made}) == 2


def test_pages_go_one_by_one_and_the_rest_together(monkeypatch: pytest.MonkeyPatch):
    alerts = [
        {"alert_id": f"{n}", "title": f"t{n}", "body": "b", "severity": s} for n, s in enumerate(("page", "digest", "digest"))
    ]
    assert [m.alert_ids for m in messages(alerts)] == [["0"], ["1", "2"]]
    with pytest.raises(DeliveryError, match="HOOK is not set"):
        deliver(messages(alerts)[0], "HOOK")
    monkeypatch.setenv("HOOK", "nonsense")
    with pytest.raises(DeliveryError, match="HOOK holds no URL") as failure:
        deliver(messages(alerts)[0], "HOOK")
    assert "nonsense" not in str(failure.value)

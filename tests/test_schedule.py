"""When nights are due."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from schemas.night import BudgetSpec, NightSpec
from tasks.schedule import PATIENCE, Due, due, following

AT_TWO = NightSpec()
BERLIN = NightSpec(cron="30 2 * * *", timezone="Europe/Berlin")
moments = st.datetimes(datetime(2020, 1, 1), datetime(2035, 1, 1), timezones=st.just(UTC))


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("moment", "expected"),
    [
        ("2026-03-28T01:30", "2026-03-29T01:00"),  # 02:30 is skipped on the 29th: when the clock goes on, at 03:00
        ("2026-03-29T01:00", "2026-03-30T00:30"),
        ("2026-10-24T12:00", "2026-10-25T00:30"),  # 02:30 comes twice on the 25th: the first of them
        ("2026-10-25T00:30", "2026-10-26T01:30"),  # and not the second
    ],
)
def test_a_change_of_the_clock_neither_skips_nor_doubles_a_night(moment: str, expected: str):
    assert following(BERLIN, at(moment)) == at(expected)


@given(moment=moments)
def test_in_any_zone_there_is_one_night_a_day(moment: datetime):
    for spec in (AT_TWO, BERLIN, NightSpec(cron="30 2 * * *", timezone="America/New_York")):
        first = following(spec, moment)
        second = following(spec, first)
        assert moment < first <= moment + timedelta(hours=25.5)
        assert timedelta(hours=22.5) <= second - first <= timedelta(hours=25.5)


def test_the_first_night_of_all_is_the_next_one():
    assert due(AT_TWO, None, at("2026-05-01T03:00")) == Due(at("2026-05-02T02:00"), 0)


def test_a_night_is_due_from_its_time_on():
    last = at("2026-05-01T02:00") + timedelta(seconds=3)
    assert due(AT_TWO, last, at("2026-05-02T01:59")) == Due(at("2026-05-02T02:00"), 0)
    assert due(AT_TWO, last, at("2026-05-02T02:04")) == Due(at("2026-05-02T02:00"), 0)


def test_of_missed_nights_the_newest_is_made_up_for():
    assert due(AT_TWO, at("2026-05-01T02:00"), at("2026-05-05T09:00")) == Due(at("2026-05-05T02:00"), 3)


def test_a_night_that_is_too_late_is_left_out():
    late = at("2026-05-05T02:00") + PATIENCE + timedelta(minutes=1)
    assert due(AT_TWO, at("2026-05-01T02:00"), late) == Due(at("2026-05-06T02:00"), 4)


def test_a_clock_that_was_in_the_future_does_not_stop_the_nights():
    assert due(AT_TWO, at("2027-05-01T02:00"), at("2026-05-05T09:00")) == Due(at("2026-05-06T02:00"), 0)


@given(now=moments, past=st.timedeltas(timedelta(), timedelta(days=900)))
def test_what_is_due_was_never_run_and_is_the_newest_there_is(now: datetime, past: timedelta):
    found = due(AT_TWO, now - past, now)
    assert found.at > now - past
    assert found.missed >= 0
    assert found.at > now or following(AT_TWO, found.at) > now
    assert due(AT_TWO, max(found.at, now), max(found.at, now)).at > max(found.at, now)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"cron": "61 * * * *"}, "cron '61 "),
        ({"cron": "0 0 30 2 *"}, "cron '0 0 30 2"),
        ({"cron": "often"}, "'0 2 \\* \\* \\*', every night at two"),
        ({"timezone": "Mars/Olympus"}, "no time zone"),
        ({"timezone": "../../etc/passwd"}, "no time zone"),
        ({"budget": {"requests": 0}}, "greater than 0"),
        ({"sentinels": [{"run": "r", "judges": []}]}, "judges"),
    ],
)
def test_a_schedule_that_means_nothing_is_told(given: dict, told: str):
    with pytest.raises(ValidationError, match=told):
        NightSpec.model_validate(given)


def test_a_budget_without_a_limit_limits_nothing():
    assert not BudgetSpec().is_limited
    assert BudgetSpec(minutes=5).is_limited

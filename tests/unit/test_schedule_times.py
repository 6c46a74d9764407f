"""Times of schedules: time zones, what was missed, what is wrong with one."""

from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stoker.schemas.schedules import ScheduleRequest
from stoker.services.gateway.schedules.times import (
    ON_TIME_S,
    BadSchedule,
    check,
    due,
    job_of,
    next_times,
    times,
)


def asked(cron: str = "*/5 * * * *", **fields: Any) -> ScheduleRequest:
    return ScheduleRequest(name="s", model="m", cron=cron, **fields)


def at(text: str, zone: str = "UTC") -> float:
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp()


NOON = at("2026-03-28T12:00")


def test_the_next_times_are_told_in_the_time_zone_of_the_schedule() -> None:
    daily = asked("30 2 * * *", timezone="Europe/Berlin")
    assert next_times(daily, NOON)[0] == "2026-03-29T03:00:00+02:00"  # 2:30 is not there that day
    assert next_times(daily, NOON)[1] == "2026-03-30T02:30:00+02:00"
    assert next_times(asked("0 9 * * 1-5"), NOON) == (
        "2026-03-30T09:00:00+00:00", "2026-03-31T09:00:00+00:00", "2026-04-01T09:00:00+00:00",
    )  # fmt: skip


def test_a_time_is_due_once_it_has_come_and_until_it_is_kept() -> None:
    assert due(asked(), NOON, NOON + 299) is None
    found = due(asked(), NOON, NOON + 300)
    assert found is not None
    assert (found.at, found.until) == (NOON + 300, NOON + 300)
    assert due(asked(), found.until, NOON + 301) is None


def test_of_missed_times_none_is_kept_or_the_last() -> None:
    hours = NOON + 3 * 3600 + 100
    skipped = due(asked(), NOON, hours)
    assert skipped is not None
    assert (skipped.at, skipped.until) == (None, NOON + 3 * 3600)
    last = due(asked(missed="last"), NOON, hours)
    assert last is not None
    assert (last.at, last.until) == (NOON + 3 * 3600, NOON + 3 * 3600)
    years = due(asked("* * * * *", missed="last"), 0.0, NOON + 59)
    assert years is not None and years.until == NOON
    on_time = due(asked(), NOON, NOON + 3600 + ON_TIME_S)
    assert on_time is not None and on_time.at == NOON + 3600


@settings(max_examples=50, deadline=None)
@given(st.sampled_from(["* * * * *", "*/7 3 * * *", "0 0 1 * *", "30 2 * * 0"]), st.integers(0, 10**7))
def test_what_is_kept_is_a_time_of_the_schedule_and_no_time_is_kept_twice(cron: str, later: int) -> None:
    schedule = asked(cron, missed="last", timezone="Europe/Berlin")
    found = due(schedule, NOON, NOON + later)
    if found is None:
        assert next(times(schedule, NOON)) > NOON + later
        return
    assert found.at == found.until <= NOON + later
    assert next(times(schedule, found.at - 1)) == found.at
    assert due(schedule, found.until, NOON + later) is None


@pytest.mark.parametrize(
    ("fields", "field", "said"),
    [
        ({"cron": "61 * * * *"}, "cron", "cannot be read"),
        ({"cron": "* * * *"}, "cron", "5 fields"),
        ({"cron": "* * * * * *"}, "cron", "5 fields"),
        ({"cron": "0 0 30 2 *"}, "cron", "Bad day-of-month"),
        ({"cron": "x" * 500}, "cron", "5 fields"),
        ({"timezone": "Mars/Olympus"}, "timezone", "no time zone 'Mars/Olympus'"),
        ({"timezone": "../../etc/passwd"}, "timezone", "no time zone"),
        ({"timezone": ""}, "timezone", "no time zone"),
    ],
)
def test_what_is_wrong_is_said_with_its_field(fields: dict[str, str], field: str, said: str) -> None:
    with pytest.raises(BadSchedule, match=said) as found:
        check(asked(**fields))
    assert found.value.field == field


def test_a_job_is_named_by_its_schedule_its_time_and_whose_it_is() -> None:
    assert job_of("daily", "", NOON) == "schedule-daily-20260328T120000Z"
    assert job_of("daily", "k1", NOON) == "schedule-daily-20260328T120000Z-k1"

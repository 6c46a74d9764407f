"""Schedules: a call of a function or a model at times that repeat."""

from typing import Any, Literal

import msgspec

from stoker.schemas.ranges import Moment

Missed = Literal["skip", "last"]
"""What becomes of times that nobody could keep: none of them, or the last of them, once."""
Overlap = Literal["allow", "skip"]
"""At a time when the job of the time before has not ended: one more, or none."""


class ScheduleRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Body of POST /v1/schedules. model: a function, or a model. input: as in POST /v1/jobs.

    cron: minute, hour, day of the month, month, day of the week. timezone: by its name of the IANA.
    """

    name: str
    model: str
    cron: str
    input: dict[str, Any] = {}
    timezone: str = "UTC"
    missed: Missed = "skip"
    overlap: Overlap = "allow"
    priority: int = 0


class ScheduleRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A schedule as it is stored. kept_until: the last time that was kept, or passed over; seconds since 1970.

    tenant: whose jobs these are. last_job, last_at: the last one, and the time that it is for. last_error: why
    the last time has no job.
    """

    asked: ScheduleRequest
    tenant: str
    created_at: Moment
    kept_until: Moment
    is_paused: bool = False
    last_job: str = ""
    last_at: Moment = 0.0
    last_error: str = ""


class ScheduleAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """A schedule as clients see it. next: the next times, in its time zone; none while it is paused."""

    name: str
    model: str
    cron: str
    input: dict[str, Any]
    timezone: str
    missed: Missed
    overlap: Overlap
    priority: int
    paused: bool
    created_at: float
    next: tuple[str, ...] = ()
    last_job: str = ""
    last_at: str = ""
    last_error: str = ""


class ScheduleList(msgspec.Struct, frozen=True):
    schedules: tuple[ScheduleAnswer, ...]


class ScheduleRun(msgspec.Struct, frozen=True):
    """A job that was started beside the times of a schedule."""

    id: str
    status: str
    url: str

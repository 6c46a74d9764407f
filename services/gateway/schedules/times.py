"""The times of a schedule, and which of them are to be kept now. Pure: `now` is in seconds since 1970."""

from collections.abc import Iterator
from datetime import UTC, datetime
from functools import lru_cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec
from cronsim import CronSim, CronSimError

from stoker.schemas.schedules import ScheduleRequest

ON_TIME_S = 30.0
"""A time that is kept no later than this after it counts as not missed."""
MAX_CRON_CHARS = 200
FIELDS = 5
SHOWN_TIMES = 3


class BadSchedule(ValueError):
    """field: of the schedule, that is wrong."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


class Due(msgspec.Struct, frozen=True):
    """What is to be done now. at: the time that gets a job; None: none does. until: every time up to this one
    is done with then.
    """

    at: float | None
    until: float


def check(asked: ScheduleRequest) -> None:
    """Raises BadSchedule."""
    if next(times(asked, 0.0), None) is None:
        raise BadSchedule("cron", f"cron: {asked.cron!r} never comes")


@lru_cache(1000)
def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        message = f"timezone: there is no time zone {name!r}; write one such as UTC or Europe/Berlin"
        raise BadSchedule("timezone", message) from error


def times(asked: ScheduleRequest, after: float) -> Iterator[float]:
    """The times after `after`, in order. Raises BadSchedule."""
    return (one.timestamp() for one in _cron(asked, after))


def _cron(asked: ScheduleRequest, at: float, *, reverse: bool = False) -> CronSim:
    """The times after a moment, or before it, the last one first. Raises BadSchedule."""
    if len(asked.cron) > MAX_CRON_CHARS or len(asked.cron.split()) != FIELDS:
        message = f"cron: {asked.cron[:50]!r} must have {FIELDS} fields: minute hour day month weekday"
        raise BadSchedule("cron", f"{message}, such as */5 * * * *")
    begin = datetime.fromtimestamp(at, _zone(asked.timezone))
    try:
        return CronSim(asked.cron, begin, reverse=reverse)
    except CronSimError as error:
        message = f"cron: {asked.cron!r} cannot be read ({error}); five fields such as */5 * * * *"
        raise BadSchedule("cron", message) from error


def due(asked: ScheduleRequest, kept_until: float, now: float) -> Due | None:
    """What is to be done now; None: nothing, no time has come. Raises BadSchedule."""
    first = next(times(asked, kept_until), None)
    if first is None or first > now:
        return None
    last = _last(asked, first, now)
    is_kept = asked.missed == "last" or now - last <= ON_TIME_S
    return Due(last if is_kept else None, last)


def _last(asked: ScheduleRequest, first: float, now: float) -> float:
    """The last time that has come, not before `first`."""
    found = next(_cron(asked, now + 1.0, reverse=True), None)
    last = found.timestamp() if found is not None else first
    return last if first <= last <= now else first


def shown(asked: ScheduleRequest, at: float) -> str:
    """A time as people read it, in the schedule's time zone."""
    return datetime.fromtimestamp(at, _zone(asked.timezone)).isoformat()


def next_times(asked: ScheduleRequest, now: float) -> tuple[str, ...]:
    """The next few."""
    found = times(asked, now)
    return tuple(shown(asked, one) for _, one in zip(range(SHOWN_TIMES), found, strict=False))


def job_of(name: str, tenant: str, at: float) -> str:
    """The job of one time: the same for whoever starts it."""
    stamp = datetime.fromtimestamp(at, UTC).strftime("%Y%m%dT%H%M%SZ")
    return f"schedule-{name}-{stamp}" + (f"-{tenant}" if tenant else "")

"""Schedules as they are stored: one key of the bucket `stoker_schedules` each, by tenant and name."""

from collections.abc import Callable

from stoker.schemas import wire
from stoker.schemas.schedules import ScheduleRecord
from stoker.schemas.subjects import SCHEDULES_BUCKET, to_token
from stoker.services.bus.buckets import open_bucket
from stoker.services.bus.connection import Bus
from stoker.services.bus.watching import watch_bucket
from stoker.services.process.logs import get_logger

log = get_logger("schedules")


def key_of(tenant: str, name: str) -> str:
    """Two tenants may have schedules of one name."""
    return f"t{to_token(tenant) if tenant else ''}.{to_token(name)}"


async def create_schedule(bus: Bus, record: ScheduleRecord) -> None:
    """Raises Conflict where there is one of this name, BusError."""
    bucket = await open_bucket(bus, SCHEDULES_BUCKET)
    await bucket.create(key_of(record.tenant, record.asked.name), wire.encode(record))


async def read_schedule(bus: Bus, key: str) -> tuple[ScheduleRecord, int] | None:
    """A schedule and its revision; None: there is none. Raises BusError, wire.UnreadableMessage."""
    bucket = await open_bucket(bus, SCHEDULES_BUCKET)
    entry = await bucket.get(key)
    if entry is None or not entry.value:
        return None
    return wire.decode(ScheduleRecord, entry.value), entry.revision


async def write_schedule(bus: Bus, record: ScheduleRecord, revision: int) -> int:
    """The new revision. Raises Conflict when somebody has written since `revision`, BusError."""
    bucket = await open_bucket(bus, SCHEDULES_BUCKET)
    return await bucket.update(key_of(record.tenant, record.asked.name), wire.encode(record), revision)


async def delete_schedule(bus: Bus, key: str) -> None:
    """Raises BusError."""
    bucket = await open_bucket(bus, SCHEDULES_BUCKET)
    await bucket.delete(key)


async def list_schedules(bus: Bus) -> list[ScheduleRecord]:
    """Every schedule, by name. Raises BusError, wire.UnreadableMessage."""
    bucket = await open_bucket(bus, SCHEDULES_BUCKET)
    found = [wire.decode(ScheduleRecord, one.value) for one in await bucket.changes() if one.value]
    return sorted(found, key=lambda record: (record.asked.name, record.tenant))


async def watch_schedules(bus: Bus, changed: Callable[[str, ScheduleRecord | None], None]) -> None:
    """Call `changed` with every schedule, and every change of one, until cancelled. None: it is gone."""

    def take(key: str, value: bytes) -> None:
        try:
            changed(key, wire.decode(ScheduleRecord, value) if value else None)
        except wire.UnreadableMessage as error:
            log.warning("schedule.unreadable", key=key, error=str(error))

    await watch_bucket(bus, SCHEDULES_BUCKET, take)

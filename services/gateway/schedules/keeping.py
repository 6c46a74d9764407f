"""Keeping the times of schedules: every gateway tries, and each time gets one job.

The job of a time has an id made of the schedule and the time (`times.job_of`). So of several gateways that
store it the stream takes one, and one that comes later finds that it is there. The record says up to which time
all is done (`kept_until`); it is written after the job is stored, naming the revision that it was read at. A
gateway that dies between the two leaves a time that the next one tries again, and finds kept.
"""

import asyncio
import time
from functools import partial

import msgspec

from stoker.schemas import wire
from stoker.schemas.schedules import ScheduleRecord
from stoker.schemas.subjects import SCHEDULES_BUCKET, of_bucket
from stoker.services.bus.errors import BusError, Conflict
from stoker.services.bus.streams import is_declared
from stoker.services.gateway.edge.error_mapping import request_error
from stoker.services.gateway.edge.problems import RETRY_AFTER_S, RequestError
from stoker.services.gateway.gateway import Gateway
from stoker.services.gateway.jobs.for_tenants import as_tenant, give, is_passing, job_named
from stoker.services.gateway.locating import Nowhere, locate
from stoker.services.gateway.scheduler_queries import Known, Unknown
from stoker.services.gateway.schedules.times import ON_TIME_S, BadSchedule, due, job_of
from stoker.services.process.logs import get_logger
from stoker.services.process.tasks import LimitExceeded, TaskOwner, until
from stoker.services.process.telemetry import counter
from stoker.services.records.schedules import key_of, read_schedule, watch_schedules, write_schedule

log = get_logger("schedules")

LOOK_EVERY_S = 0.25
AGAIN_S = 1.0
"""Before a time that could not be kept just now is tried again."""
ASK_AGAIN_S = 5.0
FIRED = counter("stoker_schedule_times_total", "Times of schedules, by what became of them", "outcome")


class Schedules:
    """Keeps times until cancelled."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._records: dict[str, ScheduleRecord] = {}
        self._busy: set[str] = set()

    async def run(self) -> None:
        await self._wait_for_bucket()
        async with TaskOwner("schedules") as tasks:
            watch = partial(watch_schedules, self._gateway.bus, self._on_change)
            await until(asyncio.Event(), watch, partial(self._look_often, tasks))

    async def _wait_for_bucket(self) -> None:
        """Until the bucket is there: an installation of the version before has none."""
        while True:
            try:
                if await is_declared(self._gateway.bus, of_bucket(SCHEDULES_BUCKET)):
                    return
                log.warning("schedules.not_there", remedy="run `stoker install-streams` once")
            except BusError as error:
                log.warning("schedules.not_found_out", error=str(error))
            await asyncio.sleep(ASK_AGAIN_S)

    def _on_change(self, key: str, record: ScheduleRecord | None) -> None:
        if record is None:
            self._records.pop(key, None)
        else:
            self._records[key] = record

    async def _look_often(self, tasks: TaskOwner) -> None:
        await self._gateway.fleet.catalog_read.wait()
        while True:
            now = time.time()
            for key, record in list(self._records.items()):
                if key not in self._busy and _has_come(record, now):
                    self._busy.add(key)
                    tasks.start_contained(self._keep, key)
            await asyncio.sleep(LOOK_EVERY_S)

    async def _keep(self, key: str) -> None:
        try:
            await self._try(key)
        except (BusError, LimitExceeded, wire.UnreadableMessage) as error:
            log.warning("schedule.waits", schedule=key, error=str(error))
            await asyncio.sleep(AGAIN_S)
        finally:
            self._busy.discard(key)

    async def _try(self, key: str) -> None:
        """Keep the time that has come. Raises BusError, LimitExceeded, wire.UnreadableMessage."""
        found = await read_schedule(self._gateway.bus, key)
        if found is None:
            return
        record, revision = found
        self._records[key] = record
        now = time.time()
        came = due(record.asked, record.kept_until, now) if not record.is_paused else None
        if came is None:
            return
        changed = msgspec.structs.replace(record, kept_until=came.until)
        outcome = "missed"
        if came.at is not None:
            try:
                changed = await self._start(changed, came.at)
                outcome = "skipped" if changed.last_error else "started"
            except RequestError as error:
                if is_passing(error) and now - came.at < ON_TIME_S:
                    raise BusError(error.message) from error
                changed = msgspec.structs.replace(changed, last_error=error.message)
                outcome = "failed"
                log.warning("schedule.failed", schedule=key, error=error.message)
        try:
            await write_schedule(self._gateway.bus, changed, revision)
        except Conflict:
            return  # another gateway has kept it, or somebody has changed the schedule
        self._records[key] = changed
        FIRED.labels(outcome).inc()

    async def _start(self, record: ScheduleRecord, at: float) -> ScheduleRecord:
        """Give the job of a time to the queue, unless it is there; the record then.

        Raises RequestError, BusError.
        """
        job, before = job_of(record.asked.name, record.tenant, at), record.last_job
        if record.asked.overlap == "skip" and before not in ("", job) and await self._runs(before):
            reason = f"the job {before} of the time before had not ended"
            return msgspec.structs.replace(record, last_error=reason)
        await start_job(self._gateway, record, job)
        log.info("schedule.started", schedule=key_of(record.tenant, record.asked.name), job=job)
        return msgspec.structs.replace(record, last_job=job, last_at=at, last_error="")

    async def _runs(self, job: str) -> bool:
        """Whether a job has not ended. Raises BusError where that could not be found out."""
        match await locate(self._gateway.bus, job):
            case Known():
                return True
            case Unknown(reason):
                raise BusError(reason)
        return False


def _has_come(record: ScheduleRecord, now: float) -> bool:
    try:
        return not record.is_paused and due(record.asked, record.kept_until, now) is not None
    except BadSchedule as error:  # one of a later version, or of another library
        log.warning("schedule.unreadable", schedule=record.asked.name, error=str(error))
        return False


async def start_job(gateway: Gateway, record: ScheduleRecord, job: str) -> None:
    """Give a job of a schedule to the queue, unless it is there. Raises RequestError, BusError."""
    match await locate(gateway.bus, job, must_be_sure=False):
        case Unknown(reason):
            raise RequestError(503, reason, retry_after_s=RETRY_AFTER_S)
        case Nowhere():
            await as_tenant(gateway, record.tenant)
            asked = record.asked
            try:
                made = job_named(gateway, asked.model, asked.input, job, priority=asked.priority)
                await give(gateway, made, len(wire.encode(asked.input)))
            except LookupError as error:
                raise request_error(error, "schedule", job) from error

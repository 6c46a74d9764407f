"""Schedules: made, listed, changed. What keeps their times is services/gateway/schedules."""

import secrets
import time
from collections.abc import Callable

import msgspec

from stoker.schemas import wire
from stoker.schemas.schedules import ScheduleAnswer, ScheduleList, ScheduleRecord, ScheduleRequest, ScheduleRun
from stoker.schemas.subjects import BadName, check_name
from stoker.services.bus.errors import Conflict
from stoker.services.gateway.edge.access import listed_tenant, owner
from stoker.services.gateway.edge.exchange import Exchange
from stoker.services.gateway.edge.problems import RETRY_AFTER_S, RequestError
from stoker.services.gateway.edge.routing import delete, get, post, post_body
from stoker.services.gateway.gateway import Gateway
from stoker.services.gateway.jobs.answers import urls_of
from stoker.services.gateway.jobs.for_tenants import job_named
from stoker.services.gateway.schedules.keeping import start_job
from stoker.services.gateway.schedules.times import BadSchedule, check, next_times, shown
from stoker.services.records.schedules import (
    create_schedule,
    delete_schedule,
    key_of,
    list_schedules,
    read_schedule,
    write_schedule,
)

MAX_SCHEDULES = 100
"""Of one key."""
MAX_NAME_CHARS = 80
CHANGE_ATTEMPTS = 10


def _wrong(message: str, field: str) -> RequestError:
    return RequestError(400, message, field=field, code="invalid_value")


def _check(gateway: Gateway, asked: ScheduleRequest) -> None:
    """Raises RequestError 400, and what a job of it would be refused with."""
    try:
        check_name(asked.name)
    except BadName as error:
        raise _wrong(f"name: {error}", "name") from error
    if len(asked.name) > MAX_NAME_CHARS or "/" in asked.name:
        raise _wrong(f"name: at most {MAX_NAME_CHARS} characters, and no /", "name")
    try:
        check(asked)
    except BadSchedule as error:
        raise _wrong(str(error), error.field) from error
    job_named(gateway, asked.model, asked.input, "schedule", priority=asked.priority)


def _answer(record: ScheduleRecord) -> ScheduleAnswer:
    asked = record.asked
    return ScheduleAnswer(
        name=asked.name,
        model=asked.model,
        cron=asked.cron,
        input=asked.input,
        timezone=asked.timezone,
        missed=asked.missed,
        overlap=asked.overlap,
        priority=asked.priority,
        paused=record.is_paused,
        created_at=record.created_at,
        next=() if record.is_paused else next_times(asked, time.time()),
        last_job=record.last_job,
        last_at=shown(asked, record.last_at) if record.last_at else "",
        last_error=record.last_error,
    )


def _none(name: str) -> RequestError:
    return RequestError(404, f"there is no schedule {name!r}", field="name", code="schedule_not_found")


async def _find(gateway: Gateway, exchange: Exchange) -> tuple[ScheduleRecord, int]:
    """The schedule of the path, of the request's key. Raises RequestError 404, BusError."""
    name = exchange.parameter("name")
    try:
        found = await read_schedule(gateway.bus, key_of(owner(), check_name(name)))
    except BadName as error:
        raise _none(name) from error
    if found is None:
        raise _none(name)
    return found


async def _change(
    gateway: Gateway, exchange: Exchange, change: Callable[[ScheduleRecord], ScheduleRecord]
) -> None:
    for _ in range(CHANGE_ATTEMPTS):
        record, revision = await _find(gateway, exchange)
        changed = change(record)
        try:
            await write_schedule(gateway.bus, changed, revision)
        except Conflict:
            continue
        await exchange.answer(_answer(changed))
        return
    raise RequestError(503, "the schedule changes all the time; try again", retry_after_s=RETRY_AFTER_S)


@post_body("/v1/schedules", status=201, summary="Make a schedule", asks=ScheduleRequest, answers=ScheduleAnswer)
async def make_schedule(gateway: Gateway, exchange: Exchange, asked: ScheduleRequest) -> None:
    _check(gateway, asked)
    tenant, now = owner(), time.time()
    mine = [one for one in await list_schedules(gateway.bus) if one.tenant == tenant]
    if len(mine) >= MAX_SCHEDULES:
        raise RequestError(429, f"a key has at most {MAX_SCHEDULES} schedules", code="too_many_schedules")
    record = ScheduleRecord(asked=asked, tenant=tenant, created_at=now, kept_until=now)
    try:
        await create_schedule(gateway.bus, record)
    except Conflict as error:
        found = await read_schedule(gateway.bus, key_of(tenant, asked.name))
        if found is None or wire.encode(found[0].asked) != wire.encode(asked):
            message = f"there is a schedule {asked.name!r} already; remove it first"
            raise RequestError(409, message, field="name", code="conflict") from error
        record = found[0]
    await exchange.answer(_answer(record), 201)


@get("/v1/schedules", summary="List schedules", answers=ScheduleList)
async def show_schedules(gateway: Gateway, exchange: Exchange) -> None:
    tenant = listed_tenant()
    found = [one for one in await list_schedules(gateway.bus) if not tenant or one.tenant == tenant]
    await exchange.answer(ScheduleList(tuple(map(_answer, found))))


@get("/v1/schedules/{name}", summary="A schedule and its next times", answers=ScheduleAnswer)
async def show_schedule(gateway: Gateway, exchange: Exchange) -> None:
    record, _ = await _find(gateway, exchange)
    await exchange.answer(_answer(record))


@delete("/v1/schedules/{name}", status=204, summary="Remove a schedule")
async def remove_schedule(gateway: Gateway, exchange: Exchange) -> None:
    record, _ = await _find(gateway, exchange)
    await delete_schedule(gateway.bus, key_of(record.tenant, record.asked.name))
    await exchange.answer_empty(204)


@post("/v1/schedules/{name}/pause", summary="Keep no times of a schedule", answers=ScheduleAnswer)
async def pause_schedule(gateway: Gateway, exchange: Exchange) -> None:
    await _change(gateway, exchange, lambda record: msgspec.structs.replace(record, is_paused=True))


@post("/v1/schedules/{name}/resume", summary="Keep its times again, from now on", answers=ScheduleAnswer)
async def resume_schedule(gateway: Gateway, exchange: Exchange) -> None:
    def resumed(record: ScheduleRecord) -> ScheduleRecord:
        if not record.is_paused:
            return record
        return msgspec.structs.replace(record, is_paused=False, kept_until=time.time())

    await _change(gateway, exchange, resumed)


@post("/v1/schedules/{name}/run", status=202, summary="Run it now, beside its times", answers=ScheduleRun)
async def run_schedule(gateway: Gateway, exchange: Exchange) -> None:
    record, _ = await _find(gateway, exchange)
    job = f"schedule-{record.asked.name}-now-{secrets.token_hex(6)}"
    await start_job(gateway, record, job)
    await exchange.answer(ScheduleRun(job, "queued", urls_of(job).self), 202)


ROUTES = [
    make_schedule,
    show_schedules,
    show_schedule,
    remove_schedule,
    pause_schedule,
    resume_schedule,
    run_schedule,
]

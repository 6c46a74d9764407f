"""Schedules on a real NATS server; the test is the scheduler and the worker, and sees every job that is stored."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec

from stoker.schemas.keys import ApiKey
from stoker.schemas.schedules import ScheduleRecord, ScheduleRequest
from stoker.services.gateway.gateway import Gateway
from stoker.services.gateway.schedules.keeping import Schedules
from stoker.services.gateway.schedules.times import job_of
from stoker.services.process.tasks import TaskOwner
from stoker.services.records.keys import put_key
from stoker.services.records.schedules import create_schedule, key_of, read_schedule, write_schedule
from tests.contract.conftest import Connect
from tests.fixtures.batches import gateway, published
from tests.fixtures.gateway_app import ECHO, Served, soon, view

INPUT = {"prompt": "hi"}
BODY = {"name": "s", "model": "m", "input": INPUT, "cron": "*/5 * * * *"}


@asynccontextmanager
async def keeping(*gateways: Gateway) -> AsyncIterator[None]:
    async with TaskOwner("test") as tasks:
        for one in gateways:
            tasks.start(Schedules(one).run)
        yield


def record(name: str = "s", tenant: str = "", behind_s: float = 61.0, **fields: Any) -> ScheduleRecord:
    """One of which a minute has come."""
    now = time.time()
    given = {"name": name, "model": "m", "cron": "* * * * *", "input": INPUT, "missed": "last"} | fields
    return ScheduleRecord(
        asked=ScheduleRequest(**given), tenant=tenant, created_at=now - behind_s, kept_until=now - behind_s
    )


async def stored(stand: Served, name: str = "s", tenant: str = "") -> ScheduleRecord:
    found = await read_schedule(stand.gateway.bus, key_of(tenant, name))
    assert found is not None
    return found[0]


async def kept(stand: Served, before: ScheduleRecord) -> ScheduleRecord:
    """The record once its time is done with."""

    async def look() -> ScheduleRecord | None:
        found = await stored(stand, before.asked.name, before.tenant)
        return found if found.kept_until > before.kept_until else None

    found: ScheduleRecord = await soon(look, "the time of a schedule")
    return found


async def test_two_gateways_give_each_time_one_job(connected: Connect) -> None:
    async with gateway(connected) as stand, connected("gw2") as bus:
        second = Gateway(bus, "gw2", 100, 64)
        second.model_changed("m", ECHO)
        second.fleet.catalog_read.set()
        before = [record(f"s{number}") for number in range(8)]
        for one in before:
            await create_schedule(bus, one)
        async with second.running(), keeping(stand.gateway, second):
            after = [await kept(stand, one) for one in before]
            await soon(lambda: len(published(stand)) == 8)
        state = await bus.jetstream.stream_info("STOKER_JOBS")
        assert state.state.messages == 8
        assert {one.last_job for one in after} == published(stand).keys()
        for one in after:
            assert one.last_job == job_of(one.asked.name, "", one.last_at)


async def test_a_gateway_that_dies_after_it_has_stored_the_job_leaves_a_time_that_is_found_kept(
    connected: Connect,
) -> None:
    async with gateway(connected) as stand:
        before = record()
        await create_schedule(stand.gateway.bus, before)
        async with keeping(stand.gateway):
            first = await kept(stand, before)
        job = await stand.backend.job()
        stand.backend.views[job.id] = view(job.id)
        found = await read_schedule(stand.gateway.bus, key_of("", "s"))
        assert found is not None
        await write_schedule(stand.gateway.bus, before, found[1])  # as if that had not been written
        async with keeping(stand.gateway):
            again = await kept(stand, before)
        assert published(stand)[first.last_job] == 1
        assert again.last_job.startswith("schedule-s-")


async def test_overlap_skip_waits_for_the_job_before_and_pause_keeps_nothing(connected: Connect) -> None:
    async with gateway(connected) as stand:
        running = msgspec.structs.replace(record("running", overlap="skip"), last_job="before")
        paused = msgspec.structs.replace(record("paused"), is_paused=True)
        missed = record("missed", behind_s=7200.0, cron="59 23 31 12 *", missed="skip")
        stand.backend.views["before"] = view("before")
        for one in (running, paused, missed):
            await create_schedule(stand.gateway.bus, one)
        async with keeping(stand.gateway):
            after = await kept(stand, running)
            assert (after.last_job, after.last_at) == ("before", 0.0)
            assert "had not ended" in after.last_error
        assert (await stored(stand, "paused")).kept_until == paused.kept_until
        assert not published(stand)


async def test_a_job_has_the_tenant_and_the_rights_of_the_key_that_made_the_schedule(
    connected: Connect,
) -> None:
    async with gateway(connected) as stand:
        bus = stand.gateway.bus
        await put_key(bus, ApiKey("k1", "one", "x" * 64, 1.0, priority=3))
        await put_key(bus, ApiKey("k2", "two", "y" * 64, 1.0, models=("other",)))
        made = [record("a", "k1"), record("a", "k2"), record("a", "gone")]
        for one in made:
            await create_schedule(bus, one)
        async with keeping(stand.gateway):
            first, second, third = [await kept(stand, one) for one in made]
        job = await stand.backend.job()
        assert (job.id, job.tenant, job.priority) == (first.last_job, "k1", 3)
        assert "may not use 'm'" in second.last_error
        assert "no longer valid" in third.last_error
        assert len(published(stand)) == 1


async def test_schedules_are_made_shown_paused_resumed_run_and_removed(connected: Connect) -> None:
    async with gateway(connected) as stand:
        made = await stand.ask("POST", "/v1/schedules", BODY)
        assert made.status == 201, made.body
        assert len(made.json()["next"]) == 3
        assert (await stand.ask("POST", "/v1/schedules", BODY)).status == 201  # the same again
        other = await stand.ask("POST", "/v1/schedules", BODY | {"cron": "1 1 * * *"})
        assert (other.status, other.json()["field"]) == (409, "name")
        listed = await stand.ask("GET", "/v1/schedules")
        assert [one["name"] for one in listed.json()["schedules"]] == ["s"]
        paused = await stand.ask("POST", "/v1/schedules/s/pause")
        assert (paused.json()["paused"], paused.json()["next"]) == (True, [])
        before = await stored(stand)
        resumed = await stand.ask("POST", "/v1/schedules/s/resume")
        assert resumed.json()["paused"] is False
        assert (await stored(stand)).kept_until > before.kept_until  # what came meanwhile is not missed
        ran = await stand.ask("POST", "/v1/schedules/s/run")
        assert ran.status == 202
        job = await stand.backend.job()
        assert job.id == ran.json()["id"]
        assert (await stand.ask("GET", "/v1/schedules/s")).json()["input"] == INPUT
        assert (await stand.ask("DELETE", "/v1/schedules/s")).status == 204
        gone = await stand.ask("GET", "/v1/schedules/s")
        assert (gone.status, gone.json()["type"]) == (404, "urn:stoker:schedule_not_found")


async def test_what_is_wrong_with_a_schedule_is_said_with_its_field(connected: Connect) -> None:
    wrong: list[tuple[dict[str, Any], int, str | None]] = [
        ({"cron": "61 * * * *"}, 400, "cron"),
        ({"timezone": "Nowhere"}, 400, "timezone"),
        ({"name": "a/b"}, 400, "name"),
        ({"name": ""}, 400, "name"),
        ({"missed": "all"}, 400, "missed"),
        ({"model": "nobody"}, 404, "model"),
        ({"priority": 99}, 400, "priority"),
        ({"input": {"prompt": 3}}, 400, "prompt"),
    ]
    async with gateway(connected) as stand:
        for change, status, field in wrong:
            answer = await stand.ask("POST", "/v1/schedules", BODY | change)
            assert answer.status == status, (change, answer.body)
            assert str(field) in str(answer.json()["field"]), (change, answer.body)
        assert (await stand.ask("GET", "/v1/schedules")).json()["schedules"] == []

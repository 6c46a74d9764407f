"""Poison: what cannot be handled is put aside with its reason, ends for its client, and holds up nobody."""

import asyncio
import json
import subprocess
import sys
import time
from typing import Any

import httpx
import pytest
from structlog.testing import capture_logs

from stoker.schemas import wire
from stoker.schemas.job_events import Cancelled
from stoker.schemas.subjects import QUARANTINE_STREAM
from stoker.services.bus.connection import Bus, open_bus
from stoker.services.bus.leases import Lease
from stoker.services.bus.streams import declare
from stoker.services.gateway import webhooks as webhooks_module
from stoker.services.gateway.jobs.webhook_urls import WebhookRules
from stoker.services.gateway.webhooks import Webhooks
from stoker.services.process.settings import BusSettings
from stoker.services.process.tasks import TaskOwner
from stoker.services.records import quarantine
from stoker.services.records.results import Stored, find_result
from stoker.services.scheduler.service import SchedulerService
from tests.conftest import System, wait_for
from tests.contract.conftest import Connect
from tests.fixtures.ends import one_job
from tests.waiting import eventually

POISON = b'{"id":"","gateway":"","model":"echo"}'


async def put_aside(bus: Bus, count: int = 1) -> list[quarantine.Quarantined]:
    """What was put aside, once there is so much."""

    async def found() -> list[quarantine.Quarantined]:
        items = [item for _, item in await quarantine.list_quarantined(bus)]
        return items if len(items) >= count else []

    items: list[quarantine.Quarantined] = await eventually(found)
    return items


async def test_a_job_that_cannot_be_taken_in_ends_and_the_scheduler_goes_on(
    connected: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with connected() as bus, TaskOwner("test") as tasks:
        await declare(bus)
        scheduler = SchedulerService(bus, Lease(1, float("inf")), "s")
        real = scheduler.core.handle

        def handle(event: Any, now: float) -> Any:
            if getattr(getattr(event, "job", None), "id", "") == "poison":
                real(event, now)
                raise ZeroDivisionError("so it is")
            return real(event, now)

        monkeypatch.setattr(scheduler.core, "handle", handle)
        tasks.start(scheduler.serve)
        for name in ("a", "poison", "b"):
            await bus.publish_stored(bus.subjects.job("m"), wire.encode(one_job(name, created_at=time.time())))

        async def ended() -> Any:
            found = await find_result(bus, "poison")
            return found.result.event if isinstance(found, Stored) else None

        event = await eventually(ended)
        assert (event.kind, "ZeroDivisionError: so it is" in event.message) == ("poisoned", True)
        await eventually(lambda: {"a", "b"} <= scheduler.core.ledger.records.keys())
        scheduler.core.validate()
        [item] = await put_aside(bus)
        assert (item.job, item.source, item.is_cut) == ("poison", "job", False)


@pytest.mark.parametrize(
    "payload", [b"", b"{", POISON, b"\xff\xfe", b"[" * 10_000, b'{"id":"' + b"x" * 300 + b'"}']
)
async def test_a_stored_job_that_says_nothing_of_itself_is_put_aside(
    connected: Connect, payload: bytes
) -> None:
    async with connected() as bus, TaskOwner("test") as tasks:
        await declare(bus)
        await bus.publish_stored("stoker.jobs.m", payload, headers={"X-From": "somebody"})
        tasks.start(SchedulerService(bus, Lease(1, float("inf")), "s").serve)
        [item] = await put_aside(bus)
        assert (item.subject, item.payload, item.headers["X-From"]) == ("stoker.jobs.m", payload, "somebody")

        async def is_empty() -> bool:
            return bool((await bus.jetstream.stream_info("STOKER_JOBS")).state.messages == 0)

        await eventually(is_empty)


async def test_a_webhook_is_put_aside_after_its_last_try(
    connected: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhooks_module, "MAX_DELIVERIES", 3)
    monkeypatch.setattr(webhooks_module, "FIRST_RETRY_S", 0.05)
    async with connected() as bus, TaskOwner("test") as tasks:
        await declare(bus)
        tasks.start(Webhooks(bus, "s", WebhookRules(True, frozenset())).deliver)
        event = Cancelled(job="j", model="m", created_at=1.0, finished_at=2.0, webhook="http://127.0.0.1:9/")
        await bus.publish_stored(bus.subjects.webhook("j"), wire.encode(event))
        await bus.publish_stored(bus.subjects.webhook("k"), b"garbage")
        found = {item.job: item for item in await put_aside(bus, 2)}
        assert "3 tries" in found["j"].reason and "cannot be read" in found[""].reason


async def test_a_message_of_the_largest_size_is_cut_and_said_to_be(connected: Connect) -> None:
    async with connected() as bus:
        await declare(bus)
        stored = asyncio.Event()
        quarantine.put_aside(bus, "job", "s", b"x" * bus.max_payload, None, "r" * 9999, stored=stored.set)
        await asyncio.wait_for(stored.wait(), 10)
        [item] = await put_aside(bus)
        assert item.is_cut and 5 * 1024 * 1024 < len(item.payload) < bus.max_payload


async def test_what_cannot_be_put_aside_stays_where_it_is(connected: Connect) -> None:
    async with connected() as bus, TaskOwner("test") as tasks:
        await declare(bus)
        config = (await bus.jetstream.stream_info(QUARANTINE_STREAM)).config
        await bus.jetstream.delete_stream(QUARANTINE_STREAM)
        await bus.publish_stored("stoker.jobs.m", POISON)
        with capture_logs() as logged:
            tasks.start(SchedulerService(bus, Lease(1, float("inf")), "s").serve)
            await eventually(lambda: any(one["event"] == "quarantine.not_stored" for one in logged))
        assert (await bus.jetstream.stream_info("STOKER_JOBS")).state.messages == 1
        await bus.jetstream.add_stream(config)


@pytest.mark.slow
def test_operators_list_show_send_again_and_discard(synthetic: System) -> None:
    def command(*arguments: str) -> str:
        whole = [sys.executable, "-P", "-m", "stoker", "quarantine", *arguments, "--data", str(synthetic.data)]
        done = subprocess.run(whole, capture_output=True, text=True, timeout=60)
        return done.stdout + done.stderr

    async def poison() -> None:
        async with open_bus(BusSettings(nats=synthetic.nats), "test") as bus:
            for number in range(2):
                await bus.publish_stored("stoker.jobs.echo", POISON + b" " * number)

    assert json.loads(command("list", "--json")) == []
    asyncio.run(poison())
    found = wait_for(lambda: len(listed := json.loads(command("list", "--json"))) == 2 and listed, 20, "both")
    first, second = (str(item["number"]) for item in found)
    assert json.loads(command("show", first))["payload"]["model"] == "echo"
    assert "was sent again" in command("retry", first)
    wait_for(lambda: len(json.loads(command("list", "--json"))) == 2, 20, "it is poison still")
    assert "is gone" in command("discard", second)
    assert f"the quarantine has no {second}" in command("show", second)
    events = httpx.get(synthetic.url + "/v1/events", params={"kind": "quarantined"}).json()["events"]
    assert len(events) >= 2
    answer = httpx.post(synthetic.url + "/v1/completions", json={"model": "echo", "prompt": "x"}, timeout=10)
    assert answer.status_code == 200

"""What some worker could run is known to the next leader too, which sees other workers first."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from structlog.testing import capture_logs

from stoker.schemas import wire
from stoker.schemas.catalog import Model
from stoker.schemas.fleet import QueueDepth
from stoker.schemas.subjects import ANY, CATALOG_BUCKET
from stoker.schemas.workers import EngineCapability
from stoker.services.bus.buckets import Entry, open_bucket
from stoker.services.bus.connection import Bus
from stoker.services.bus.streams import declare
from stoker.services.catalog import store
from stoker.services.scheduler import service
from stoker.services.scheduler.placing import possibility
from tests.contract.conftest import Connect
from tests.contract.scheduler.test_service import MODEL, ScriptedWorker, beating, leading, submit
from tests.waiting import eventually


@asynccontextmanager
async def depths_of(bus: Bus) -> AsyncIterator[list[QueueDepth]]:
    """What leaders say of the queue of `m`, from now on."""
    said: list[QueueDepth] = []
    pattern = bus.subjects.every("queue", ANY)
    async with bus.listening((pattern, lambda message: said.append(wire.decode(QueueDepth, message.data)))):
        yield said


async def noted(bus: Bus) -> Entry | None:
    return await (await open_bucket(bus, CATALOG_BUCKET)).get("possible.m")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "NOTE_EVERY_S", 0.05)
    monkeypatch.setattr(possibility, "STARTING_GRACE_S", 0.0)


async def test_a_later_leader_refuses_no_model_whose_worker_has_not_come_back_yet(connected: Connect) -> None:
    async with connected() as bus, connected() as other:
        async with leading(bus), beating(ScriptedWorker(other)):
            note = await eventually(lambda: noted(other))
            assert wire.decode(Model, note.value) == MODEL
        elsewhere = ScriptedWorker(other, "pictures", {"image": EngineCapability(1, 1, ())})
        async with leading(bus), beating(elsewhere), depths_of(other) as said:
            await submit(other, "a")
            await eventually(lambda: any(depth.queued for depth in said) and len(said) > 3)
            assert {depth.impossible for depth in said} == {""}
            async with beating(ScriptedWorker(other)) as back:
                await eventually(lambda: back.running)


async def test_without_that_knowledge_it_is_refused(connected: Connect) -> None:
    async with connected() as bus, connected() as other:
        elsewhere = ScriptedWorker(other, "pictures", {"image": EngineCapability(1, 1, ())})
        async with leading(bus), beating(elsewhere), depths_of(other) as said:
            await eventually(lambda: any(depth.impossible for depth in said))
        assert await noted(other) is None


async def test_a_model_that_is_gone_is_noted_no_more(connected: Connect) -> None:
    async with connected() as bus, connected() as other, leading(bus), beating(ScriptedWorker(other)):
        await eventually(lambda: noted(other))
        await store.publish(other, [])

        async def is_gone() -> bool:
            return await noted(other) is None

        await eventually(is_gone)


async def test_notes_that_cannot_be_read_are_said_in_a_line_each(connected: Connect) -> None:
    async with connected() as bus, connected() as other:
        await declare(other)
        bucket = await open_bucket(other, CATALOG_BUCKET)
        for number in range(120):
            await bucket.put(f"possible.{number}", b"[")
        with capture_logs() as said:
            async with leading(bus), beating(ScriptedWorker(other)):
                await eventually(lambda: noted(other))
        assert [line["event"] for line in said if line["log_level"] == "error"] == []
        assert sum(line["event"] == "possible.unreadable" for line in said) == 120

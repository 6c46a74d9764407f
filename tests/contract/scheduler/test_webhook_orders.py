"""Webhooks are ordered by the scheduler, once the end of a job is stored; a job is let go only after that."""

import asyncio

import pytest
from structlog.testing import capture_logs

from stoker.schemas import wire
from stoker.schemas.job_events import Cancelled, Failed
from stoker.schemas.subjects import WEBHOOKS_STREAM
from stoker.services.bus.connection import Bus
from stoker.services.bus.streams import declare
from stoker.services.scheduler import webhook_orders
from stoker.services.scheduler.webhook_orders import order_webhook
from tests.contract.conftest import Connect
from tests.fixtures.ends import end, one_job
from tests.waiting import eventually

HOOK = "http://hooks.example/x"
JOB = one_job("j", webhook=HOOK)
ENDED = Cancelled(job="j", model="m", created_at=1.0, finished_at=2.0, webhook="http://elsewhere.example/")


async def ordered(bus: Bus) -> list[Cancelled | Failed]:
    """What is to be posted."""
    state = (await bus.jetstream.stream_info(WEBHOOKS_STREAM)).state
    numbers = range(state.first_seq, state.last_seq + 1)
    messages = [await bus.jetstream.get_msg(WEBHOOKS_STREAM, number) for number in numbers if state.messages]
    return [wire.decode(Cancelled | Failed, message.data) for message in messages]


async def test_what_is_stored_is_posted_where_the_job_says_whatever_the_worker_wrote(
    connected: Connect,
) -> None:
    async with connected() as bus:
        await declare(bus)
        await end(bus, ENDED)
        await order_webhook(bus, JOB)
        [found] = await ordered(bus)
        assert (found.job, found.webhook) == ("j", HOOK)


async def test_it_is_ordered_once_however_often_that_is_done(connected: Connect) -> None:
    async with connected() as bus:
        await declare(bus)
        await end(bus, ENDED)
        for _ in range(3):
            await order_webhook(bus, JOB)
        assert len(await ordered(bus)) == 1


async def test_it_is_ordered_when_that_can_be_stored_again(
    connected: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhook_orders, "AGAIN_S", 0.05)
    async with connected() as bus:
        await declare(bus)
        await end(bus, ENDED)
        config = (await bus.jetstream.stream_info(WEBHOOKS_STREAM)).config
        await bus.jetstream.delete_stream(WEBHOOKS_STREAM)
        async with asyncio.TaskGroup() as tasks:
            with capture_logs() as logged:
                ordering = tasks.create_task(order_webhook(bus, JOB))
                await eventually(lambda: any(one["event"] == "webhook.not_ordered_yet" for one in logged))
            assert not ordering.done()
            await bus.jetstream.add_stream(config)
        assert len(await ordered(bus)) == 1


@pytest.mark.parametrize("stored", [b"garbage", None], ids=["unreadable", "not there"])
async def test_where_there_is_no_end_nothing_is_posted_and_the_scheduler_goes_on(
    connected: Connect, monkeypatch: pytest.MonkeyPatch, stored: bytes | None
) -> None:
    monkeypatch.setattr(webhook_orders, "AGAIN_S", 0.01)
    async with connected() as bus:
        await declare(bus)
        if stored is not None:
            await bus.publish_stored(bus.subjects.result("j"), stored)
        async with asyncio.timeout(5):
            await order_webhook(bus, JOB)
        assert await ordered(bus) == []

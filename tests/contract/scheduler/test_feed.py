"""The stream of jobs on a real server: everything comes once to the leader, and to no earlier one."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import pytest

from stoker.schemas import wire
from stoker.schemas.jobs import CompletionInput, Job
from stoker.schemas.subjects import JOBS_STREAM
from stoker.services.bus.connection import Bus
from stoker.services.bus.streams import declare
from stoker.services.process.tasks import TaskOwner
from stoker.services.scheduler import feed
from stoker.services.scheduler.feed import BATCH, JobFeed
from stoker.services.scheduler.protocol.events import JobArrived
from tests.contract.conftest import Connect
from tests.waiting import eventually

LIMIT_S = 10.0


def job(name: str, **fields: object) -> Job:
    return Job(id=name, model="m", input=CompletionInput("x"), gateway="gw", created_at=1.0, **fields)


async def store(bus: Bus, *names: str) -> None:
    for name in names:
        await bus.publish_stored(bus.subjects.job("m"), wire.encode(job(name)))


class Fed:
    """A feed and what came through it."""

    def __init__(self, bus: Bus, tasks: TaskOwner, term: int) -> None:
        self.arrived: list[JobArrived] = []
        self.feed = JobFeed(bus, self.arrived.append, tasks, term)

    def names(self) -> list[str]:
        return sorted(event.job.id for event in self.arrived)


@asynccontextmanager
async def fed(bus: Bus, term: int = 1) -> AsyncIterator[Fed]:
    async with TaskOwner("test") as tasks:
        found = Fed(bus, tasks, term)
        async with bus.listening((found.feed.deliveries, found.feed.on_job)):
            yield found


async def messages(bus: Bus) -> int:
    return int((await bus.jetstream.stream_info(JOBS_STREAM)).state.messages)


async def test_jobs_of_before_and_those_that_clients_named_may_have_run(connected: Connect) -> None:
    async with connected() as bus:
        await declare(bus)
        await store(bus, "a", "b")
        async with fed(bus) as found:
            await found.feed.open()
            await asyncio.wait_for(found.feed.wait_for_old(), LIMIT_S)
            await store(bus, "new")
            await bus.publish_stored(bus.subjects.job("m"), wire.encode(job("named", is_client_named=True)))
            await eventually(lambda: len(found.arrived) == 4)
            marked = [(event.job.id, event.may_have_run) for event in found.arrived]
            assert marked == [("a", True), ("b", True), ("new", False), ("named", True)]


async def test_jobs_come_in_batches_as_the_core_takes_them_in(connected: Connect) -> None:
    async with connected() as bus:
        await declare(bus)
        names = [f"j{number}" for number in range(BATCH + 50)]
        await store(bus, *names)
        async with fed(bus) as found:
            await found.feed.open()
            await eventually(lambda: len(found.arrived) == BATCH)
            await bus.client.flush()
            assert len(found.arrived) == BATCH, "the rest waits until these are taken in"
            for event in list(found.arrived):
                found.feed.taken(event.sequence)
            await asyncio.wait_for(found.feed.wait_for_old(), LIMIT_S)
            assert [event.job.id for event in found.arrived] == names


async def test_a_request_that_is_over_or_was_lost_is_made_again(
    connected: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed, "ASK_S", 0.2)
    monkeypatch.setattr(feed, "ASK_MARGIN_S", 0.2)
    async with connected() as bus:
        await declare(bus)
        async with fed(bus) as found, TaskOwner("asking") as tasks:
            await found.feed.open()
            await asyncio.sleep(0.5)  # the server has ended the first request
            await store(bus, "a")
            await eventually(lambda: found.names() == ["a"])
            found.feed._next = "nobody.takes.it"
            found.feed.taken(1)
            found.feed._ask()
            found.feed._next = f"$JS.API.CONSUMER.MSG.NEXT.{JOBS_STREAM}.{found.feed.consumer}"
            tasks.start(found.feed.keep_asking)
            await store(bus, "b")
            assert await eventually(lambda: found.names() == ["a", "b"])


async def test_what_is_in_the_stream_now_is_waited_for_and_nothing_else(connected: Connect) -> None:
    async with connected() as bus:
        await declare(bus)
        async with fed(bus) as found:
            await found.feed.open()
            await asyncio.wait_for(found.feed.wait_for_all_so_far(), LIMIT_S)
            await store(bus, "a", "b")
            await eventually(lambda: len(found.arrived) == 2)
            async with TaskOwner("reader") as tasks:
                has_read = asyncio.Event()

                async def read() -> None:
                    await found.feed.wait_for_all_so_far()
                    has_read.set()

                tasks.start(read)
                found.feed.taken(1)
                await asyncio.sleep(0.2)
                assert not has_read.is_set(), "b has come and is not taken in"
                await store(bus, "later")
                found.feed.taken(2)
                await asyncio.wait_for(has_read.wait(), LIMIT_S)


async def test_a_leader_that_was_replaced_does_not_hold_what_it_never_got_for_read(connected: Connect) -> None:
    async with connected() as bus:
        await declare(bus)
        async with fed(bus) as old, fed(bus, term=2) as new:
            await old.feed.open()
            await new.feed.open()
            await store(bus, "a", "b")
            await eventually(lambda: new.names() == ["a", "b"])
            with pytest.raises(TimeoutError), anyio.fail_after(0.5):  # asyncio.wait_for loses a cancellation
                await old.feed.wait_for_all_so_far()
            for event in new.arrived:
                bus.post(event.handle, b"+ACK")
            await asyncio.wait_for(old.feed.wait_for_all_so_far(), LIMIT_S)
            assert old.arrived == [], "both have ended meanwhile"


async def test_an_empty_stream_is_complete_at_once(connected: Connect) -> None:
    async with connected() as bus:
        await declare(bus)
        async with fed(bus) as found:
            await found.feed.open()
            await asyncio.wait_for(found.feed.wait_for_old(), LIMIT_S)
            await store(bus, "later")
            await eventually(lambda: found.names() == ["later"])
            assert found.arrived[0].handle


async def test_a_job_that_cannot_be_read_is_taken_out_and_holds_nobody_up(connected: Connect) -> None:
    async with connected() as bus:
        await declare(bus)
        await bus.publish_stored(bus.subjects.job("m"), b"not a job")
        await store(bus, "b")
        async with fed(bus) as found:
            await found.feed.open()
            await asyncio.wait_for(found.feed.wait_for_old(), LIMIT_S)
            assert found.names() == ["b"]


LATER = (
    b'{"id":"later","model":"m","gateway":"gw","created_at":1.0,"input":{"kind":"video","prompt":"x"},'
    b'"has_one_result":true}'
)


async def test_a_job_of_a_later_version_is_known_by_its_head_and_one_without_is_taken_out(
    connected: Connect,
) -> None:
    async with connected() as bus:
        await declare(bus)
        await bus.publish_stored(bus.subjects.job("m"), LATER)
        await bus.publish_stored(bus.subjects.job("m"), LATER.replace(b'"later"', b'""'))
        async with fed(bus) as found:
            await found.feed.open()
            await asyncio.wait_for(found.feed.wait_for_old(), LIMIT_S)
            assert found.names() == ["later"]
            [event] = found.arrived
            assert "video" in event.unreadable and event.job.has_one_result

            async def one_is_left() -> bool:
                return await messages(bus) == 1

            assert await eventually(one_is_left)


async def test_a_leader_of_before_gets_nothing_more(connected: Connect) -> None:
    async with connected("old") as one, connected("new") as two:
        await declare(one)
        await store(one, "a")
        async with fed(one, 1) as old, fed(two, 2) as new:
            await old.feed.open()
            await eventually(lambda: old.names() == ["a"])
            await new.feed.open()
            await asyncio.wait_for(new.feed.wait_for_old(), LIMIT_S)
            assert new.names() == ["a"], "it was not acknowledged: it comes again"
            await store(two, "b")
            await eventually(lambda: new.names() == ["a", "b"])
            assert old.names() == ["a"]
            one.post(old.arrived[0].handle, b"+ACK")  # its consumer is gone: this has no effect
            await one.client.flush()
            assert await messages(two) == 2
            two.post(new.arrived[0].handle, b"+ACK")

            async def a_is_gone() -> bool:
                return await messages(two) == 1

            assert await eventually(a_is_gone)


async def test_jobs_that_vanish_while_a_leader_takes_over_do_not_hold_it_up(connected: Connect) -> None:
    async with connected() as bus, connected() as operator:
        await declare(bus)
        await store(bus, "a", "b")
        async with TaskOwner("test") as tasks:
            found = Fed(bus, tasks, 1)
            await found.feed.open()  # nobody subscribes: the deliveries are lost
            await operator.jetstream.purge_stream(JOBS_STREAM)
            await asyncio.wait_for(found.feed.wait_for_old(), LIMIT_S)
            assert found.names() == []


async def test_after_a_reconnection_the_consumer_is_made_anew(connected: Connect) -> None:
    async with connected() as bus:
        await declare(bus)
        await store(bus, "a")
        async with fed(bus) as found:
            await found.feed.open()
            await asyncio.wait_for(found.feed.wait_for_old(), LIMIT_S)
            before = (await bus.jetstream.consumer_info(JOBS_STREAM, found.feed.consumer)).created
            found.feed.reopen()
            await eventually(lambda: len(found.arrived) == 2)
            assert [event.sequence for event in found.arrived] == [1, 1]
            assert (await bus.jetstream.consumer_info(JOBS_STREAM, found.feed.consumer)).created != before

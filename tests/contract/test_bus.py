"""What every service relies on of `services.bus`, on a real server."""

import asyncio
import os
import signal
from pathlib import Path

import pytest
from nats.aio.msg import Msg
from nats.js import api
from nats.js.errors import NotFoundError

from stoker.schemas.job_events import Cancelled, Completed, TextOutput
from stoker.schemas.openai import Usage
from stoker.schemas.subjects import JOBS_STREAM
from stoker.services.bus.bucket_feed import BATCH, BATCH_BYTES, read_changes
from stoker.services.bus.buckets import open_bucket
from stoker.services.bus.connection import Bus, open_bus
from stoker.services.bus.errors import Conflict, NoAnswer, NobodyThere, StreamFull
from stoker.services.bus.leases import hold
from stoker.services.bus.quick_client import _parse_headers
from stoker.services.bus.streams import declare
from stoker.services.process.embedded import EmbeddedServerError, embedded_server
from stoker.services.process.settings import BusSettings
from stoker.services.records.results import NotStored, Stored, find_result, last_endings
from tests.contract.conftest import Connect
from tests.fixtures.ends import end
from tests.waiting import eventually

PATIENCE_S = 10.0


class Box:
    """Collects messages of a subscription; `got` waits for a number of them."""

    def __init__(self) -> None:
        self.messages: list[Msg] = []
        self._arrived = asyncio.Event()

    def put(self, message: Msg) -> None:
        self.messages.append(message)
        self._arrived.set()

    async def got(self, count: int) -> list[bytes]:
        async with asyncio.timeout(PATIENCE_S):
            while len(self.messages) < count:
                self._arrived.clear()
                await self._arrived.wait()
        return [message.data for message in self.messages]


async def listening(bus: Bus, subject: str) -> Box:
    box = Box()
    await bus.listen(subject, box.put)
    await bus.client.flush()
    return box


@pytest.mark.parametrize("is_urgent", [True, False])
async def test_who_has_flushed_has_been_heard(connected: Connect, is_urgent: bool) -> None:
    async with connected() as bus:
        box = await listening(bus, "flushed")
        for number in range(20):
            bus.post("flushed", str(number).encode(), is_urgent=is_urgent)
            await bus.client.flush()
            assert len(box.messages) == number + 1


async def test_what_is_posted_arrives_in_order_and_nothing_is_dropped(connected: Connect) -> None:
    async with connected() as sender, connected() as receiver:
        box = await listening(receiver, "a.*")
        for number in range(20_000):
            sender.post("a.b", str(number).encode(), is_urgent=number % 3 > 0)
        assert await box.got(20_000) == [str(number).encode() for number in range(20_000)]


async def test_a_message_that_is_not_urgent_arrives_all_the_same(connected: Connect) -> None:
    async with connected() as bus:
        box = await listening(bus, "a")
        bus.post("a", b"1", is_urgent=False)
        assert await box.got(1) == [b"1"]
        bus.post("a", b"2", is_urgent=False)
        bus.post("a", b"3")
        assert await box.got(3) == [b"1", b"2", b"3"]


async def test_a_handler_that_raises_is_reported_and_the_next_message_comes(connected: Connect) -> None:
    async with connected() as bus:
        box = Box()

        def fragile(message: Msg) -> None:
            if message.data == b"bad":
                raise ValueError("bad")
            box.put(message)

        await bus.listen("a", fragile)
        bus.post("a", b"bad")
        bus.post("a", b"good")
        assert await box.got(1) == [b"good"]


async def test_headers_arrive_as_they_were_sent(connected: Connect) -> None:
    async with connected() as bus:
        box = await listening(bus, "a")
        bus.post("a", b"", headers={"Stoker-Ending": '{"id": "x: y"}', "Other": "1"})
        await box.got(1)
        assert box.messages[0].headers == {"Stoker-Ending": '{"id": "x: y"}', "Other": "1"}


def test_a_status_line_is_a_header_too() -> None:
    assert _parse_headers(b"NATS/1.0 503\r\n\r\n") == {"Status": "503"}
    assert _parse_headers(b"NATS/1.0\r\nA: b\r\n\r\n") == {"A": "b"}


async def test_asking_nobody_is_an_error_with_a_name(connected: Connect) -> None:
    async with connected() as bus, connected() as silent:
        with pytest.raises(NobodyThere):
            await bus.ask("nobody", None, object, 1.0)
        await listening(silent, "silent")

        async def is_heard() -> bool:
            try:
                await bus.ask("silent", None, object, 0.1)
            except NobodyThere:  # what it listens to is not known to the server yet
                return False
            except NoAnswer as error:
                return "silent" in str(error)
            return False

        assert await eventually(is_heard)


async def test_a_publication_is_stored_once_however_often_it_is_repeated(connected: Connect) -> None:
    async with connected() as bus:
        await declare(bus)
        subject = bus.subjects.job("m")
        first = await bus.publish_stored(subject, b"{}", message_id="x")
        again = await bus.publish_stored(subject, b"{}", message_id="x")
        assert (first.duplicate, again.duplicate) == (False, True)
        assert (await bus.jetstream.stream_info(JOBS_STREAM)).state.messages == 1


async def test_a_full_stream_refuses_and_pushes_nothing_out(connected: Connect) -> None:
    async with connected() as bus:
        await bus.jetstream.add_stream(
            api.StreamConfig(name="S", subjects=["s"], max_msgs=1, discard=api.DiscardPolicy.NEW)
        )
        await bus.publish_stored("s", b"1")
        with pytest.raises(StreamFull):
            await bus.publish_stored("s", b"2")


async def test_a_publication_that_no_stream_takes_is_an_error_at_once(connected: Connect) -> None:
    async with connected() as bus:
        with pytest.raises(NoAnswer):
            await bus.publish_stored("unclaimed", b"1")


def completed(job: str) -> Completed:
    output = TextOutput(text="hi", finish_reason="stop", usage=Usage(1, 1, 2))
    return Completed(job=job, model="m", created_at=1.0, finished_at=2.0, output=output)


async def test_a_job_has_one_terminal_event_whoever_comes_second(connected: Connect) -> None:
    async with connected() as bus:
        await declare(bus)
        assert await end(bus, completed("j")) == "stored"
        assert await end(bus, Cancelled(job="j", model="m", created_at=1.0, finished_at=3.0)) == "ended_before"
        found = await find_result(bus, "j")
        assert isinstance(found, Stored) and found.result.event == completed("j")
        assert await find_result(bus, "other") == NotStored()
        with pytest.raises(Conflict):
            await bus.publish_stored(bus.subjects.result("j"), b"{}", expected=0)


async def test_endings_are_listed_from_headers_oldest_first(connected: Connect) -> None:
    async with connected() as bus:
        await declare(bus)
        assert await last_endings(bus, 10) == []
        for name in ("a", "b", "c"):
            await end(bus, completed(name))
        assert [view.id for view in await last_endings(bus, 2)] == ["b", "c"]


async def test_declaring_twice_changes_nothing_and_an_older_stream_is_upgraded(connected: Connect) -> None:
    async with connected() as bus:
        await declare(bus)
        config = (await bus.jetstream.stream_info(JOBS_STREAM)).config
        await bus.publish_stored(bus.subjects.job("m"), b"{}", message_id="kept")
        await bus.jetstream.update_stream(config.evolve(max_msgs=7))
        await declare(bus)
        info = await bus.jetstream.stream_info(JOBS_STREAM)
        assert info.config.max_msgs == config.max_msgs
        assert info.state.messages == 1


async def test_one_leads_and_the_next_takes_over_with_a_higher_term(connected: Connect) -> None:
    async with connected("one") as one, connected("two") as two:
        await declare(one)
        async with hold(one, "role", "one") as first:
            leads = asyncio.Event()

            async def succeed() -> None:
                async with hold(two, "role", "two") as second:
                    assert second.term > first.term
                    leads.set()

            waiting = asyncio.create_task(succeed())
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(leads.wait(), 0.5)
            assert not first.lost.is_set()
        await asyncio.wait_for(waiting, PATIENCE_S)
        assert leads.is_set()


async def test_a_lease_is_waited_for_until_its_bucket_is_there(connected: Connect) -> None:
    async with connected() as bus:

        async def lead() -> int:
            async with hold(bus, "role", "one") as lease:
                return lease.term

        waiting = asyncio.create_task(lead())
        done, _ = await asyncio.wait([waiting], timeout=0.5)
        assert not done
        await declare(bus)
        assert await asyncio.wait_for(waiting, PATIENCE_S) > 0


async def test_a_leader_that_cannot_renew_knows_that_it_has_lost(connected: Connect, server: str) -> None:
    async with connected("one") as one, connected("two") as two:
        await declare(one)
        async with hold(one, "role", "one") as lease:
            bucket = await two.jetstream.key_value("stoker_leases")
            await bucket.put("role", b"usurper")
            await asyncio.wait_for(lease.lost.wait(), PATIENCE_S)
            assert lease.lost.is_set()


async def test_the_connection_outlives_a_restart_of_the_server(tmp_path: Path) -> None:
    async with embedded_server(tmp_path) as url, open_bus(BusSettings(nats=url), "test") as bus:
        await declare(bus)
        box = await listening(bus, "a")
        back = asyncio.Event()
        bus.on_reconnect.append(back.set)
        os.kill(int((tmp_path / "nats" / "pid").read_text()), signal.SIGKILL)
        bus.post("a", b"sent while it was away, or just before")
        await asyncio.wait_for(back.wait(), PATIENCE_S)
        bus.post("a", b"after")
        await eventually(lambda: b"after" in [message.data for message in box.messages], PATIENCE_S)
        assert (await bus.jetstream.stream_info(JOBS_STREAM)).state.messages == 0


async def test_a_second_server_on_one_folder_is_refused(tmp_path: Path) -> None:
    async with embedded_server(tmp_path):
        with pytest.raises(EmbeddedServerError, match="another NATS server"):
            async with embedded_server(tmp_path):
                pass


async def test_a_stream_that_is_not_there_is_the_servers_word(connected: Connect) -> None:
    async with connected() as bus:
        with pytest.raises(NotFoundError):
            await bus.jetstream.stream_info(JOBS_STREAM)


async def test_a_bucket_is_read_whole_however_large_its_values_are(connected: Connect) -> None:
    """More than one batch of many, and of large ones, and one that is larger than a batch may be."""
    async with connected() as bus:
        await bus.jetstream.create_key_value(bucket="b", history=1, direct=True)
        bucket = await open_bucket(bus, "b")
        sizes = {f"k{n}": 10 for n in range(BATCH + 50)} | {f"l{n}": BATCH_BYTES // 3 for n in range(7)}
        sizes |= {"huge": BATCH_BYTES + 100, "last": 1}
        for key, size in sizes.items():
            await bucket.put(key, b"x" * size)
        found = await read_changes(bus, "b")
        assert {change.key: len(change.value) for change in found} == sizes
        assert [change.place for change in found] == list(range(1, len(sizes) + 1))
        await bucket.delete("k0")
        assert [(one.key, one.value) for one in await read_changes(bus, "b", found[-1].place)] == [("k0", b"")]
        assert await read_changes(bus, "b", found[-1].place + 1) == []
        assert len(await bucket.keys()) == len(sizes) - 1

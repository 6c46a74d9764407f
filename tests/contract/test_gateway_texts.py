"""Text that comes for many jobs in one message: given to those who wait for it, and to nobody else."""

import asyncio
from contextlib import ExitStack
from typing import Any

from nats.aio.msg import Msg

from stoker.schemas import wire
from stoker.schemas.job_events import Delta, TextBatch, TextOfJob, TextPace
from stoker.schemas.jobs import CompletionInput
from stoker.schemas.subjects import ANY
from stoker.services.bus.seals import SealKey, Seals
from stoker.services.gateway.watching import pacing
from stoker.services.gateway.watching.watcher import Watcher
from stoker.services.process.tasks import TaskOwner
from tests.contract.conftest import Connect
from tests.contract.test_gateway_streams import Start, job_of, start
from tests.fixtures.ends import end
from tests.fixtures.gateway_app import Served, completed, soon

__all__ = ["start"]


def delta(seq: int, at: int, text: str) -> Delta:
    return Delta(term=1, attempt=1, seq=seq, at=at, text=text)


def tell(stand: Served, *texts: TextOfJob) -> None:
    bus = stand.backend.bus
    bus.tell(bus.subjects.texts(stand.gateway.streams.gateway), TextBatch(texts))


async def test_each_job_gets_its_own_text(start: Start) -> None:
    async with start() as stand:
        jobs = [job_of(stand, f"job{number}") for number in range(20)]
        watchers: dict[str, Watcher] = {}
        with ExitStack() as watching:
            for job in jobs:
                watchers[job.id] = watching.enter_context(stand.gateway.submission.watched(job))
            for seq in (1, 2):
                at = 0 if seq == 1 else len("job00-1")
                tell(stand, *(TextOfJob(job.id, "", delta(seq, at, f"{job.id}-{seq}")) for job in jobs))
            for job in jobs:
                items = [await watchers[job.id].next(5.0) for _ in range(2)]
                texts = [item[0].text for item in items if item is not None and isinstance(item[0], Delta)]
                assert texts == [f"{job.id}-1", f"{job.id}-2"]


async def test_text_under_a_wrong_seal_reaches_nobody_and_harms_no_other(start: Start) -> None:
    """A worker may speak of the jobs that it was given only."""
    async with start() as stand:
        bus = stand.gateway.bus
        bus.seals = Seals(SealKey(b"k" * 32))
        mine, other = job_of(stand, "mine"), job_of(stand, "other")
        with (
            stand.gateway.submission.watched(mine) as watcher,
            stand.gateway.submission.watched(other) as second,
        ):
            stolen = TextOfJob("other", bus.seals.of("mine"), delta(1, 0, "forged"))
            unsealed = TextOfJob("other", "", delta(1, 0, "forged"))
            tell(stand, stolen, unsealed, TextOfJob("mine", bus.seals.of("mine"), delta(1, 0, "true")))
            item = await watcher.next(5.0)
            assert item is not None and isinstance(item[0], Delta) and item[0].text == "true"
            assert second.waiting_bytes == 0


async def test_a_batch_that_cannot_be_read_is_left_out_and_the_next_is_not(start: Start) -> None:
    async with start() as stand:
        job, bus = job_of(stand), stand.backend.bus
        subject = bus.subjects.texts(stand.gateway.streams.gateway)
        with stand.gateway.submission.watched(job) as watcher:
            bad: Any
            for bad in (b"", b"[]", b'{"texts": [{"job": 1}]}', b'{"texts": 7}', b"\xff"):
                bus.post(subject, bad)
            tell(stand, TextOfJob(job.id, "", delta(1, 0, "read")))
            item = await watcher.next(5.0)
            assert item is not None and isinstance(item[0], Delta) and item[0].text == "read"


async def test_a_job_says_that_its_gateway_takes_text_together(start: Start) -> None:
    async with start() as stand:
        make = stand.gateway.submission.make_job
        model = stand.gateway.fleet.models["m"]
        assert make(model, "", CompletionInput("x"), wants_events=True).batches_text
        assert not make(model, "", CompletionInput("x")).batches_text


async def test_a_reader_that_hears_nothing_is_told_after_a_while_and_one_that_hears_is_not(
    start: Start,
) -> None:
    async with start() as stand:
        job = job_of(stand)
        with stand.gateway.submission.watched(job) as watcher:
            loop = asyncio.get_running_loop()
            began = loop.time()
            assert await watcher.next(0.1) is None
            assert 0.09 < loop.time() - began < 5.0
            for seq in range(1, 4):
                loop.call_later(0.06, tell, stand, TextOfJob(job.id, "", delta(seq, seq - 1, "x")))
                assert await watcher.next(0.1) is not None, "each event begins a new wait"
            assert await watcher.next(0.1) is None
            await end(stand.backend.bus, completed(job, "xxx"))
            assert await watcher.next(5.0) is not None


async def test_workers_are_told_of_a_gateway_that_lags_and_again_when_it_does_not(
    connected: Connect, monkeypatch: Any
) -> None:
    """It lags here as long as its loop is held up: what it has not read waits before the answer to its PING."""
    monkeypatch.setattr(pacing, "LOOK_EVERY_S", 0.01)
    heard: list[TextPace] = []

    def hear(message: Msg) -> None:
        heard.append(wire.decode(TextPace, message.data))

    async with (
        connected("gateway") as bus,
        connected("backend") as other,
        TaskOwner("test") as tasks,
        other.listening((other.subjects.every("pace", ANY), hear)),
    ):
        await other.client.flush()
        tasks.start(pacing.keep_pace, bus, "gw")
        flush = bus.client.flush

        async def late(seconds: int) -> None:
            await flush(seconds)
            await asyncio.sleep(2 * pacing.LATE_S)

        monkeypatch.setattr(bus.client, "flush", late)
        await soon(lambda: len(heard) > 2)
        assert heard[0].gateway == "gw" and 0 < heard[0].window_s < heard[1].window_s
        monkeypatch.setattr(bus.client, "flush", flush)
        await soon(lambda: heard[-1].window_s == 0.0)
        tasks.cancel()

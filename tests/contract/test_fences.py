"""Who may end a job, on a real server: one attempt at a time, and the leader of the newest term."""

import asyncio

import pytest
from nats.aio.msg import Msg

from stoker.schemas.job_events import Cancelled, Completed, Expired, TextOutput
from stoker.schemas.openai import Usage
from stoker.schemas.subjects import RESULTS_STREAM
from stoker.services.bus.connection import Bus
from stoker.services.bus.errors import BusError, NoAnswer, Refused
from stoker.services.bus.streams import NotLeading, admit_leader, admitted_term, declare
from stoker.services.records.results import (
    NotStored,
    Stored,
    find_result,
    last_endings,
    publish_terminal,
    read_record,
    supersede,
)
from tests.contract.conftest import Connect
from tests.fixtures.ends import by_attempt, by_leader, end, one_job
from tests.waiting import eventually

JOB = one_job()


def completed(text: str = "hello", attempt: int = 1, job: str = "j") -> Completed:
    output = TextOutput(text, "stop", Usage(1, 1, 2))
    return Completed(job=job, model="m", created_at=1.0, finished_at=2.0, attempt=attempt, output=output)


EXPIRED = Expired(job="j", model="m", created_at=1.0, finished_at=2.0, message="too late")


async def stored(bus: Bus, job: str = "j") -> object:
    found = await find_result(bus, job)
    return found.result.event if isinstance(found, Stored) else found


async def admitted(bus: Bus) -> int:
    return admitted_term((await bus.jetstream.stream_info(RESULTS_STREAM)).config, bus.subjects)


async def test_an_attempt_that_was_superseded_ends_nothing_and_the_later_one_does(connected: Connect) -> None:
    async with connected() as bus:
        await declare(bus)
        await admit_leader(bus, 7)
        fence = await supersede(bus, 7, JOB, 2, 0)
        assert fence
        assert await publish_terminal(bus, by_attempt(bus, JOB, 1), completed("zombie")) == "superseded"
        assert await stored(bus) == NotStored(fence, (7, 2))
        assert await publish_terminal(bus, by_attempt(bus, JOB, 2, fence=fence), completed("good")) == "stored"
        assert await stored(bus) == completed("good")
        assert await publish_terminal(bus, by_attempt(bus, JOB, 1), completed("zombie")) == "ended_before"
        assert (
            await publish_terminal(bus, by_attempt(bus, JOB, 2, fence=fence), completed("good")) == "stored"
        ), "a repeat of what is stored, whose answer was lost"
        assert await supersede(bus, 7, JOB, 3, fence) is None, "it has ended"


async def test_a_fence_is_found_though_the_leader_does_not_know_the_last_record(connected: Connect) -> None:
    async with connected() as bus:
        await declare(bus)
        await admit_leader(bus, 7)
        first = await supersede(bus, 7, JOB, 2, 0)
        assert await supersede(bus, 7, JOB, 2, 0) == first, "a repeat"
        await admit_leader(bus, 9)
        second = await supersede(bus, 9, JOB, 3, 0)
        assert first is not None and second is not None and second > first
        with pytest.raises(Refused, match="noted already"):
            await supersede(bus, 9, JOB, 2, 0)
        assert await publish_terminal(bus, by_leader(bus, JOB, 9, 3), EXPIRED) == "stored", "whatever was last"


async def test_an_earlier_leader_ends_nothing_whenever_it_wakes_up(connected: Connect) -> None:
    async with connected() as bus:
        await declare(bus)
        await admit_leader(bus, 3)
        await admit_leader(bus, 4)
        with pytest.raises(NoAnswer):
            await publish_terminal(bus, by_leader(bus, JOB, 3), EXPIRED)
        with pytest.raises(BusError):
            await supersede(bus, 3, JOB, 1, 0)
        with pytest.raises(NotLeading):
            await admit_leader(bus, 3)
        assert await stored(bus) == NotStored()
        cancelled = Cancelled(job="j", model="m", created_at=1.0, finished_at=2.0)
        assert await publish_terminal(bus, by_leader(bus, JOB, 4), cancelled) == "stored"
        assert await stored(bus) == cancelled


async def test_declaring_the_streams_again_leaves_the_leader_admitted(connected: Connect) -> None:
    async with connected() as bus:
        await declare(bus)
        assert await admitted(bus) == 0
        await admit_leader(bus, 5)
        await declare(bus)
        assert await admitted(bus) == 5
        config = (await bus.jetstream.stream_info(RESULTS_STREAM)).config
        before = config.evolve(subjects=["stoker.result.*.*"], subject_transform=None, republish=None)
        await bus.jetstream.update_stream(before)  # as a service of the version before does when it starts
        with pytest.raises(NoAnswer):
            await publish_terminal(bus, by_leader(bus, JOB, 5), EXPIRED)
        await admit_leader(bus, 5)
        assert await publish_terminal(bus, by_leader(bus, JOB, 5), EXPIRED) == "stored"
        assert await end(bus, completed(job="other")) == "stored"


async def test_what_is_stored_is_told_whoever_stored_it(connected: Connect) -> None:
    async with connected() as bus:
        await declare(bus)
        await admit_leader(bus, 5)
        heard: list[Msg] = []
        before = len(bus.client._subs)
        stop = bus.listen_now(bus.subjects.ended("a.b"), heard.append)
        job = one_job("a.b")
        fence = await supersede(bus, 5, job, 2, 0)
        assert fence is not None
        await publish_terminal(bus, by_attempt(bus, job, 2, 5, fence), completed(job="a.b"), [b"picture"])
        await eventually(lambda: len(heard) == 2)
        found = read_record(heard[1].data, heard[1].headers)
        assert getattr(found, "attached", b"") == b"picture"
        stop()
        stop()
        await end(bus, completed(job="c"))
        await bus.client.flush()
        assert len(heard) == 2, "nothing is heard after the subscription has ended"
        assert len(bus.client._subs) == before, "nothing is left of it"
        assert [view.id for view in await last_endings(bus, 10)] == ["a.b", "c"], (
            "records that end nothing are left out"
        )


async def test_many_writers_at_once_leave_one_end(connected: Connect) -> None:
    async with connected() as bus:
        await declare(bus)
        await admit_leader(bus, 5)
        fence = await supersede(bus, 5, JOB, 2, 0)
        assert fence is not None
        writers = [
            publish_terminal(bus, by_attempt(bus, JOB, 1), completed("old")),
            *(publish_terminal(bus, by_attempt(bus, JOB, 2, fence=fence), completed(str(n))) for n in range(5)),
            publish_terminal(bus, by_leader(bus, JOB, 5, 2, fence), EXPIRED),
        ]
        outcomes = await asyncio.gather(*writers)
        assert outcomes.count("stored") == 1
        assert outcomes[0] in ("superseded", "ended_before")

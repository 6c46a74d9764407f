"""The scheduler's shell on a real server: what a worker is told, what becomes of its answers and its silence."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from nats.aio.msg import Msg

from stoker.schemas import wire
from stoker.schemas.catalog import Model, Spec
from stoker.schemas.fleet import CancelAnswer, Explanation, JobQuery, JobsPage, JobsQuery, JobView, QueueDepth
from stoker.schemas.job_events import Cancelled, Failed
from stoker.schemas.jobs import CompletionInput, Job
from stoker.schemas.subjects import ANY, JOBS_STREAM
from stoker.schemas.workers import (
    Accepted,
    Assignment,
    Done,
    EngineCapability,
    Finished,
    Heartbeat,
    JobCommand,
    Refused,
    ResidentModel,
    Revocation,
    RunningJob,
)
from stoker.services.bus.connection import Bus
from stoker.services.bus.errors import BusError
from stoker.services.bus.leases import Lease
from stoker.services.bus.streams import declare
from stoker.services.catalog import store
from stoker.services.process.recording import read_head
from stoker.services.process.tasks import TaskOwner
from stoker.services.records.results import Stored, find_result
from stoker.services.scheduler import executor, questions, service
from stoker.services.scheduler.protocol.events import Ticked
from stoker.services.scheduler.replaying import replayed
from stoker.services.scheduler.service import SchedulerService, serve
from tests.contract.conftest import Connect
from tests.contract.scheduler.test_feed import LATER
from tests.fixtures.ends import end
from tests.waiting import eventually

MODEL = Model("m", ("TextGeneration",), (Spec("default", "text", "file:///x", memory_bytes=1),))


def job(name: str, **fields: Any) -> Job:
    return Job(id=name, model="m", input=CompletionInput("x"), gateway="gw", created_at=time.time(), **fields)


class ScriptedWorker:
    """A worker as the scheduler sees one: subjects, and heartbeats when told. answer: to assignments; None: silence."""

    def __init__(self, bus: Bus, name: str = "w1", engines: dict[str, EngineCapability] | None = None) -> None:
        self.bus = bus
        self.engines = engines or {"text": EngineCapability(4, 2, ("TextGeneration",))}
        self.name = name
        self.answer: Accepted | Refused | None = Accepted()
        self.assigned: list[Assignment] = []
        self.revoked: list[Revocation] = []
        self.cancelled: list[JobCommand] = []
        self.running: list[RunningJob] = []
        self.seq = 0

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        def subject(verb: str) -> str:
            return self.bus.subjects.worker(self.name, verb)

        async with self.bus.listening(
            (subject("assign"), self._assign),
            (subject("revoke"), lambda message: self._take(message, Revocation, self.revoked)),
            (subject("cancel"), lambda message: self._take(message, JobCommand, self.cancelled)),
            (subject("ping"), lambda message: self.bus.tell(message.reply, Done(ok=True))),
        ):
            await self.bus.client.flush()
            yield

    def _assign(self, message: Msg) -> None:
        given = wire.decode(Assignment, message.data)
        self.assigned.append(given)
        if isinstance(self.answer, Accepted):
            self.running.append(RunningJob(given.job.id, "m", "default", given.attempt, given.term))
        if self.answer is not None:
            self.bus.tell(message.reply, self.answer)

    def _take(self, message: Msg, kind: Any, into: list[Any]) -> None:
        into.append(wire.decode(kind, message.data))
        self.bus.tell(message.reply, Done(ok=True))

    def beat(self) -> None:
        self.seq += 1
        heartbeat = Heartbeat(
            worker=self.name,
            started_at=5.0,
            seq=self.seq,
            spec="",
            profile="cpu",
            device="cpu",
            host="h",
            engines=self.engines,
            memory_total_bytes=10**9,
            memory_used_bytes=0,
            models=(ResidentModel("m", "default", "text", "hot"),) if "text" in self.engines else (),
            running=tuple(self.running),
        )
        self.bus.tell(self.bus.subjects.heartbeat(self.name), heartbeat)


@asynccontextmanager
async def leading(bus: Bus, record: Path | None = None) -> AsyncIterator[None]:
    """A scheduler that leads, settled."""
    await declare(bus)
    await store.publish(bus, [MODEL])
    stopping = asyncio.Event()
    async with TaskOwner("test") as tasks:
        tasks.start(serve, bus, "test", stopping, record)

        async def is_settled() -> bool:
            try:
                answer: Done = await bus.ask(bus.subjects.scheduler("ping"), None, Done, 1.0)
            except BusError:
                return False
            return answer.ok

        await eventually(is_settled)
        yield
        stopping.set()


@asynccontextmanager
async def beating(worker: ScriptedWorker) -> AsyncIterator[ScriptedWorker]:
    async def beat() -> None:
        while True:
            worker.beat()
            await asyncio.sleep(0.3)

    async with worker.listening(), TaskOwner("worker") as tasks:
        tasks.start(beat)
        yield worker


async def submit(bus: Bus, *names: str, **fields: Any) -> None:
    for name in names:
        await bus.publish_stored(bus.subjects.job("m"), wire.encode(job(name, **fields)))


async def view(bus: Bus, name: str) -> JobView | None:
    found: JobView | None = await bus.ask(bus.subjects.scheduler("job"), JobQuery(name), JobView | None, 2.0)
    return found


async def test_a_job_is_unknown_for_sure_only_when_every_stored_job_was_read(
    connected: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(questions, "SURE_WITHIN_S", 0.5)
    async with connected() as bus, connected() as other, leading(bus):
        subject, query = other.subjects.scheduler("job_for_sure"), JobQuery("none")
        assert await other.ask(subject, query, JobView | None, 3.0) is None
        consumers = await other.jetstream.consumers_info(JOBS_STREAM)
        await other.jetstream.delete_consumer(JOBS_STREAM, consumers[0].name)
        await submit(other, "late")
        assert await other.ask(subject, query, Done, 3.0) == questions.MAY_COME


async def stored_jobs(bus: Bus) -> int:
    return int((await bus.jetstream.stream_info(JOBS_STREAM)).state.messages)


async def test_a_job_is_assigned_finished_and_taken_out_of_the_stream(connected: Connect) -> None:
    async with connected() as bus, connected() as other, leading(bus), beating(ScriptedWorker(other)) as worker:
        await submit(other, "a")
        await eventually(lambda: worker.assigned)
        given = worker.assigned[0]
        assert (given.job.id, given.attempt, given.life, given.term > 0) == ("a", 1, 5.0, True)
        found = await view(other, "a")
        assert found is not None and (found.worker, found.attempt) == ("w1", 1)
        explained: Explanation = await other.ask(
            other.subjects.scheduler("explain"), JobQuery("a"), Explanation, 2
        )
        assert explained.chosen == "w1"
        await end(other, Cancelled(job="a", model="m", created_at=1.0, finished_at=2.0))
        worker.running.clear()
        other.tell(other.subjects.finished("w1"), Finished("a", "m", 1, "completed", term=given.term))

        async def is_empty() -> bool:
            return await stored_jobs(other) == 0

        assert await eventually(is_empty)


async def test_an_assignment_without_an_answer_is_revoked_and_tried_again(
    connected: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(executor, "ASSIGN_TIMEOUT_S", 0.2)
    async with connected() as bus, connected() as other, leading(bus), beating(ScriptedWorker(other)) as worker:
        worker.answer = None
        await submit(other, "a")
        await eventually(lambda: worker.revoked)
        assert (worker.revoked[0].job, worker.revoked[0].attempt) == ("a", 1)
        worker.answer = Accepted()
        await eventually(lambda: len(worker.assigned) > 1)
        assert worker.assigned[-1].attempt > 1
        assert worker.cancelled == [], "taking an attempt back is no cancel"


async def test_an_end_says_that_a_job_was_accepted(connected: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker does not answer the assignment of a job that is over at once."""
    monkeypatch.setattr(executor, "ASSIGN_TIMEOUT_S", 0.2)
    async with connected() as bus, connected() as other, leading(bus), beating(ScriptedWorker(other)) as worker:
        worker.answer = None
        for name in ("a", "b"):
            await submit(other, name)
            await eventually(lambda: worker.assigned)
            given = worker.assigned.pop()
            await end(other, Cancelled(job=name, model="m", created_at=1.0, finished_at=2.0))
            told = Finished(name, "m", given.attempt, "completed", term=given.term, seal=given.seal)
            other.tell(other.subjects.finished("w1"), told)
        await asyncio.sleep(0.5)
        assert worker.revoked == [] and worker.assigned == []
        assert await stored_jobs(other) == 0, "both are acknowledged"


async def test_a_refusal_is_tried_again_later(connected: Connect) -> None:
    async with connected() as bus, connected() as other, leading(bus), beating(ScriptedWorker(other)) as worker:
        worker.answer = Refused("not now")
        await submit(other, "a")
        await eventually(lambda: worker.assigned)
        worker.answer = Accepted()
        await eventually(lambda: worker.running)
        assert worker.assigned[-1].attempt == len(worker.assigned)


async def test_a_worker_whose_subject_is_gone_for_a_moment_keeps_its_job(connected: Connect) -> None:
    async with connected() as bus, connected() as other, leading(bus):
        worker = ScriptedWorker(other)
        async with beating(worker):
            await submit(other, "a")
            await eventually(lambda: worker.running)
        await submit(other, "b")  # nobody listens: the worker is away
        await asyncio.sleep(0.2)  # a short disconnection
        async with beating(worker):
            await eventually(lambda: len(worker.assigned) > 1)
            assert [given.job.id for given in worker.assigned] == ["a", "b"]
            found = await view(other, "a")
            assert found is not None and found.attempt == 1


async def test_a_cancel_ends_a_waiting_job_and_reaches_a_running_one(connected: Connect) -> None:
    async with connected() as bus, connected() as other, leading(bus):
        await submit(other, "a")
        subject = other.subjects.cancel("a")

        async def is_known() -> bool:
            return await view(other, "a") is not None

        await eventually(is_known)
        answer: CancelAnswer = await other.ask(subject, JobCommand("a"), CancelAnswer, 2.0)
        assert answer.known

        async def is_cancelled() -> bool:
            found = await find_result(other, "a")
            return isinstance(found, Stored) and isinstance(found.result.event, Cancelled)

        assert await eventually(is_cancelled)
        async with beating(ScriptedWorker(other)) as worker:
            await submit(other, "b")
            await eventually(lambda: worker.running)
            await other.ask(other.subjects.cancel("b"), JobCommand("b"), CancelAnswer, 2.0)
            await eventually(lambda: worker.cancelled)
            assert worker.cancelled[0] == JobCommand("b", 1)
        unknown: CancelAnswer = await other.ask(other.subjects.cancel("?"), JobCommand("?"), CancelAnswer, 2.0)
        assert not unknown.known


async def test_a_job_that_this_version_cannot_read_ends_with_the_reason(connected: Connect) -> None:
    async with connected() as bus, connected() as other, leading(bus):
        await other.publish_stored(other.subjects.job("m"), LATER)

        async def failure() -> Failed | None:
            found = await find_result(other, "later")
            event = found.result.event if isinstance(found, Stored) else None
            return event if isinstance(event, Failed) else None

        event = await eventually(failure)
        assert (event.kind, "video" in event.message) == ("poisoned", True)

        async def is_empty() -> bool:
            return await stored_jobs(other) == 0

        assert await eventually(is_empty)


async def test_a_job_of_no_model_fails_with_the_reason(connected: Connect) -> None:
    async with connected() as bus, connected() as other, leading(bus):
        await other.publish_stored(
            other.subjects.job("none"), wire.encode(Job("x", "none", CompletionInput("x"), "gw", time.time()))
        )

        async def failure() -> Failed | None:
            found = await find_result(other, "x")
            event = found.result.event if isinstance(found, Stored) else None
            return event if isinstance(event, Failed) else None

        event = await eventually(failure)
        assert (event.kind, "none" in event.message) == ("impossible", True)


async def test_depths_listings_and_unknown_questions_are_answered(connected: Connect) -> None:
    async with connected() as bus, connected() as other, leading(bus):
        depths: list[QueueDepth] = []
        pattern = other.subjects.every("queue", ANY)
        async with other.listening(
            (pattern, lambda message: depths.append(wire.decode(QueueDepth, message.data)))
        ):
            await submit(other, "a", "b")
            await eventually(lambda: any(depth.queued == 2 for depth in depths))
        page: JobsPage = await other.ask(other.subjects.scheduler("jobs"), JobsQuery(limit=1), JobsPage, 2.0)
        assert (len(page.jobs), bool(page.next_cursor)) == (1, True)
        answer: Done = await other.ask(other.subjects.scheduler("weather"), None, Done, 2.0)
        assert (answer.ok, "weather" in answer.reason) == (False, True)
        torn = await other.client.request(other.subjects.scheduler("jobs"), b"{", timeout=2)
        assert not wire.decode(Done, torn.data).ok


async def test_messages_that_cannot_be_read_change_nothing(connected: Connect) -> None:
    async with connected() as bus, connected() as other, leading(bus), beating(ScriptedWorker(other)) as worker:
        for subject in (
            other.subjects.heartbeat("w1"),
            other.subjects.finished("w1"),
            other.subjects.heartbeat("x"),
        ):
            other.post(subject, b"{not json")
        await submit(other, "a")
        await eventually(lambda: worker.running)
        assert [given.job.id for given in worker.assigned] == ["a"]


async def test_ticks_do_not_pile_up_while_the_core_lags(connected: Connect) -> None:
    async with connected() as bus:
        leader = SchedulerService(bus, Lease(1, 0.0), "test")
        async with TaskOwner("test") as tasks:
            tasks.start(leader._tick)
            await eventually(lambda: leader._inbox.qsize())
            await asyncio.sleep(6 * service.TICK_S)  # nobody takes anything out
            assert leader._inbox.qsize() == 1
        assert isinstance(leader._inbox.get_nowait(), Ticked)


async def test_a_recorded_leader_is_replayed_without_a_difference(connected: Connect, tmp_path: Path) -> None:
    async with connected() as bus, connected() as other:
        async with leading(bus, tmp_path / "run"), beating(ScriptedWorker(other)) as worker:
            await submit(other, "a", "b", "c")
            await eventually(lambda: len(worker.running) == 3)
        content = recorded(tmp_path)
        lines = iter(content.splitlines(keepends=True))
        assert list(replayed(read_head(lines), lines)) == []
        assert content.count(b"Assign ") == 3


def recorded(folder: Path) -> bytes:
    [path] = folder.glob("run.*")
    return path.read_bytes()

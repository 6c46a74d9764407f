"""One inbox for all events of this gateway's jobs, demultiplexed to who waits for them.

Two subscriptions, `out.<gateway>.*` and `result.<gateway>.*`, serve every request in flight. A unary request
waits for a result alone. A watcher gets every event through a bounded queue; when that overflows, or an
event is missing, the watcher's cursor sees the gap and the worker is asked to replay. A job of another
gateway is watched by subscriptions of its own.
"""

import asyncio
from collections.abc import AsyncIterator

from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from schemas import wire
from schemas.fleet import JobQuery, JobView
from schemas.job_events import (
    JobEvent,
    LiveEvent,
    Preview,
    Queued,
    Terminal,
)
from schemas.subjects import ANY, last_name
from schemas.workers import JobCommand, Replay, ReplayRequest, SentText
from services.bus.connection import Bus
from services.bus.errors import BusError, NobodyThere
from services.gateway.edge.problems import RequestError
from services.gateway.watching.resume import Cursor, Gap
from services.gateway.watching.watcher import Watcher
from services.process.logs import get_logger
from services.records.results import Result, Stored, find_result, read_result

log = get_logger("streams")

ASK_TIMEOUT_S = 2.0
UNKNOWN_JOB_WAIT_S = 2.0
"""How long a job may be unknown to everybody: accepted, but not with the scheduler yet."""
IDLE_S = 5.0
"""A silent watcher looks at this interval whether its job has ended unheard, and its client is told that the
connection lives."""
SWEEP_S = 1.0
REPLAY_ATTEMPTS = 20
REPLAY_WAIT_S = 0.1


class UnknownJob(LookupError):
    """Nobody knows this job: it never was, or its result is no longer kept."""


class Streams:
    """The gateway's ears. `start` once; then `result` and `watch` per request."""

    def __init__(self, bus: Bus, gateway: str) -> None:
        self.bus = bus
        self.gateway = gateway
        self._results: dict[str, tuple[asyncio.Future[Result], float]] = {}
        self._watchers: dict[str, list[Watcher]] = {}

    async def start(self) -> None:
        subjects = self.bus.subjects
        await self.bus.listen(subjects.every("out", self.gateway, ANY), self._on_event)
        await self.bus.listen(subjects.every("result", self.gateway, ANY), self._on_result)
        await self.bus.listen(subjects.gateway(self.gateway, "sent"), self._on_sent)

    @property
    def waiting(self) -> int:
        """Requests in flight."""
        return len(self._results) + len(self._watchers)

    def expect(self, job: str, limit_s: float) -> asyncio.Future[Result]:
        """A future of the job's result, or of RequestError 504 after `limit_s`; `forget` it in the end."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Result] = loop.create_future()
        self._results[job] = (future, loop.time() + limit_s)
        return future

    def forget(self, job: str) -> None:
        self._results.pop(job, None)

    async def give_up_overdue(self) -> None:
        """End the requests that have waited past their limits; runs for ever."""
        while True:
            await asyncio.sleep(SWEEP_S)
            now = asyncio.get_running_loop().time()
            for future, deadline in self._results.values():
                if now > deadline and not future.done():
                    future.set_exception(RequestError(504, "the job has not ended in time", code="timeout"))

    def attach(self, watcher: Watcher) -> None:
        self._watchers.setdefault(watcher.job, []).append(watcher)

    def detach(self, watcher: Watcher) -> None:
        watchers = self._watchers.get(watcher.job, [])
        if watcher in watchers:
            watchers.remove(watcher)
        if not watchers:
            self._watchers.pop(watcher.job, None)

    def _on_event(self, message: Msg) -> None:
        watchers = self._watchers.get(last_name(message.subject))
        if watchers:
            _hand_on(message, watchers)

    def _on_result(self, message: Msg) -> None:
        job = last_name(message.subject)
        expected = self._results.get(job)
        watchers = self._watchers.get(job)
        if expected is None and not watchers:
            return
        try:
            result = read_result(message.data, message.headers)
        except wire.UnreadableMessage as error:
            log.warning("message.unreadable", subject=message.subject, error=str(error))
            return
        if expected is not None and not expected[0].done():
            expected[0].set_result(result)
        for watcher in watchers or ():
            watcher.put(result.event, result.attached)

    def _on_sent(self, message: Msg) -> None:
        """A worker takes over a job: how much of its text has been passed on?"""
        try:
            job = wire.decode(JobCommand, message.data).job
        except wire.UnreadableMessage:
            job = ""
        texts = ["".join(watcher.pieces) for watcher in self._watchers.get(job, ())]
        self.bus.tell(message.reply, SentText(max(texts, key=len, default="")))

    async def recheck(self) -> None:
        """After a reconnection: results may have passed unheard."""
        for job, (future, _) in list(self._results.items()):
            found = await find_result(self.bus, job, self.gateway)
            if isinstance(found, Stored) and not future.done():
                future.set_result(found.result)
        for job, watchers in list(self._watchers.items()):
            found = await find_result(self.bus, job)
            if isinstance(found, Stored):
                for watcher in watchers:
                    watcher.put(found.result.event, found.result.attached)

    async def job_view(self, job: str) -> JobView | None:
        """The scheduler's view of a job; None when it knows none, or none leads at the moment."""
        try:
            view: JobView | None = await self.bus.ask(
                self.bus.subjects.scheduler("job"), JobQuery(job), JobView | None, ASK_TIMEOUT_S
            )
        except (BusError, wire.UnreadableMessage):
            return None
        return view

    async def watch(self, job: str, cursor: Cursor) -> AsyncIterator[tuple[JobEvent, bytes] | None]:
        """What comes after the cursor, whoever accepted the job. Raises UnknownJob before any event."""
        watcher = Watcher(job, cursor)
        subscriptions = await self._listen(watcher)
        self.attach(watcher)
        try:
            stored = await self._locate(watcher)
            if cursor.is_fresh:
                yield Queued(position=0), b""
            if stored is not None:
                for event in cursor.finish(stored.event):
                    yield event, stored.attached
                return
            if watcher.worker:
                async for event in self._replay(watcher):
                    yield event, b""
            async for item in self.follow(watcher):
                yield item
        finally:
            self.detach(watcher)
            for subscription in subscriptions:
                if self.bus.is_connected:
                    await subscription.unsubscribe()

    async def _listen(self, watcher: Watcher) -> list[Subscription]:
        def on_event(message: Msg) -> None:
            if not message.subject.startswith(own):
                _hand_on(message, [watcher])

        def on_result(message: Msg) -> None:
            result = read_result(message.data, message.headers)
            watcher.put(result.event, result.attached)

        subjects = self.bus.subjects
        own = subjects.out(self.gateway, "")
        return [
            await self.bus.listen(subjects.every("out", ANY, watcher.job), on_event),
            await self.bus.listen(subjects.every("result", ANY, watcher.job), on_result),
        ]

    async def _locate(self, watcher: Watcher) -> Result | None:
        """The stored result, or None with the watcher knowing the worker. Raises UnknownJob."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + UNKNOWN_JOB_WAIT_S
        while True:
            stored = await find_result(self.bus, watcher.job)
            if isinstance(stored, Stored):
                return stored.result
            view = await self.job_view(watcher.job)
            if view is not None and view.status in ("queued", "assigned", "running"):
                watcher.worker = view.worker
                return None
            if loop.time() > deadline:
                raise UnknownJob(watcher.job)
            await asyncio.sleep(0.05)

    async def follow(self, watcher: Watcher) -> AsyncIterator[tuple[JobEvent, bytes] | None]:
        """An attached watcher's events to the terminal one, gaps filled; None when nothing came for IDLE_S.

        Raises RequestError when the job was refused.
        """
        cursor = watcher.cursor
        while True:
            item = await watcher.next(IDLE_S)
            if item is None:
                found = await self._ended_unheard(watcher)
                if found is None:
                    yield None
                    continue
                item = found.event, found.attached
            event, attached = item
            if isinstance(event, Terminal):
                watcher.has_ended = True
                for last in cursor.finish(event):
                    yield last, attached
                return
            try:
                taken = cursor.take(event)
            except Gap:
                async for missed in self._replay(watcher):
                    yield missed, b""
                continue
            if taken is not None:
                watcher.give(taken)
                yield taken, attached

    async def _ended_unheard(self, watcher: Watcher) -> Result | None:
        found = await find_result(self.bus, watcher.job)
        return found.result if isinstance(found, Stored) else None

    async def _replay(self, watcher: Watcher) -> AsyncIterator[LiveEvent]:
        """Ask the worker for what is missing; nothing when the job has ended or moved meanwhile."""
        for _ in range(REPLAY_ATTEMPTS):
            place = watcher.cursor
            asked = ReplayRequest(watcher.job, place.term, place.attempt, place.seq, place.chars)
            worker = watcher.worker
            view = await self.job_view(watcher.job)
            worker = view.worker if view is not None and view.worker else worker
            try:
                subject = self.bus.subjects.worker(worker, "replay")
                answer: Replay = await self.bus.ask(subject, asked, Replay, ASK_TIMEOUT_S)
            except NobodyThere:
                return  # it died: the next attempt's events come by themselves
            except (BusError, wire.UnreadableMessage):
                await asyncio.sleep(REPLAY_WAIT_S)
                continue
            for event in answer.events:
                taken = watcher.cursor.take(event, is_replayed=True)
                if taken is not None:
                    watcher.give(taken)
                    yield taken
            return


def _hand_on(message: Msg, watchers: list[Watcher]) -> None:
    try:
        head, attached = wire.unpack(message.data, message.headers)
        event: LiveEvent = wire.decode(LiveEvent, head)
    except wire.UnreadableMessage as error:
        log.warning("message.unreadable", subject=message.subject, error=str(error))
        return
    if isinstance(event, Preview) and len(attached) != event.image_bytes:
        log.warning("preview.cut_short", subject=message.subject)
        return
    for watcher in watchers:
        watcher.put(event, attached)

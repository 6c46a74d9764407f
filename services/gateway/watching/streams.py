"""The subscriptions for all events of this gateway's jobs, demultiplexed to who waits for them.

One subscription, `out.<gateway>.*`, has the live events of every request in flight. The end of a job comes as
the server has stored it, by a subscription of that job for as long as somebody waits for it (waiting.py). A
watcher gets every event through a bounded queue; when that overflows, or an event is missing, the watcher's
cursor sees the gap and the worker is asked to replay. The live events of another gateway's job come by a
subscription of their own. What no subscription told is found by reconciling.py.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AbstractContextManager, aclosing, asynccontextmanager

from nats.aio.msg import Msg

from stoker.schemas import wire
from stoker.schemas.job_events import JobEvent, LiveEvent, Preview, Queued, Terminal, TextBatch
from stoker.schemas.subjects import ANY, last_name, opened
from stoker.schemas.workers import Replay, ReplayRequest, SentRequest, SentText
from stoker.services.bus.connection import Bus
from stoker.services.bus.endpoints import UNREADABLE
from stoker.services.bus.errors import BusError, NobodyThere
from stoker.services.gateway.edge.problems import RETRY_AFTER_S, RequestError
from stoker.services.gateway.locating import Nowhere, locate
from stoker.services.gateway.scheduler_queries import Known, Unknown, look_up_job
from stoker.services.gateway.watching.pacing import keep_pace
from stoker.services.gateway.watching.reconciling import Reconciler
from stoker.services.gateway.watching.resume import Cursor, Diverged, Gap
from stoker.services.gateway.watching.waiting import Ended, Waiting
from stoker.services.gateway.watching.watcher import Watcher
from stoker.services.process.logs import get_logger
from stoker.services.process.tasks import TaskOwner
from stoker.services.records.outputs import is_apart, whole
from stoker.services.records.results import Lookup, Result, Stored, Unreadable, find_result, read_record

log = get_logger("streams")

ASK_TIMEOUT_S = 2.0
LOCATE_WITHIN_S = 2.0
"""How long to go on asking where a job is while nobody can say."""
LOCATE_AGAIN_S = 0.05
IDLE_S = 5.0
"""After this long without an event a watcher's client is told that the connection lives."""
REPLAY_ATTEMPTS = 20
REPLAY_WAIT_S = 0.1

Item = tuple[JobEvent, bytes] | None
"""An event and its raw bytes; None when nothing came for IDLE_S."""


class UnknownJob(LookupError):
    """It is certain that there is no such job: it never was, or its result is no longer kept."""


class Streams:
    """Events of jobs. Use it inside `running`."""

    def __init__(self, bus: Bus, gateway: str) -> None:
        self.bus = bus
        self.gateway = gateway
        self._texts = bus.subjects.texts(gateway)
        self._waiting = Waiting(self._listen_for_end)
        self._reconciler = Reconciler(self._waiting, self._find, lambda: bus.is_connected)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Subscribed, and looking for what no subscription tells, for as long as the block lasts."""
        live = self.bus.subjects.every("out", self.gateway, ANY)
        asked = {self.bus.endpoints.of("sent"): self._on_sent}
        listening, answering = self.bus.listening((live, self._on_event)), self.bus.answering(asked)
        async with listening, answering, TaskOwner("streams") as tasks:
            self.bus.on_reconnect.append(self._reconciler.look_at_all)
            tasks.start(self._reconciler.run)
            tasks.start(self._reconciler.expire)
            tasks.start(keep_pace, self.bus, self.gateway)
            try:
                yield
            finally:
                self.bus.on_reconnect.remove(self._reconciler.look_at_all)

    @property
    def waiting(self) -> int:
        """Jobs that somebody waits for."""
        return len(self._waiting)

    def look_now(self, job: str) -> None:
        """A job that somebody waits for may have ended before."""
        self._reconciler.look_now(job)

    def expecting(self, job: str, limit_s: float) -> AbstractContextManager[Ended]:
        """A future of the job's end, or of RequestError 504 after `limit_s`, while the block lasts."""
        return self._waiting.expecting(job, limit_s)

    def attached(self, watcher: Watcher) -> AbstractContextManager[None]:
        """The watcher is given the events of a job of this gateway while the block lasts."""
        return self._waiting.attached(watcher)

    async def _find(self, job: str) -> Lookup:
        found = await find_result(self.bus, job)
        return await whole(self.bus, found) if isinstance(found, Stored) else found

    def _seals(self, job: str) -> list[str]:
        """Under which seals others may speak of a job; "": under none."""
        seal = self.bus.seals.of(job)
        return [seal, ""] if seal and self.bus.seals.may_be_missing else [seal]

    # Subscriptions --------------------------------------------------------------------------------

    def _listen_for_end(self, job: str) -> Callable[[], None]:
        listen, ended = self.bus.listen_now, self.bus.subjects.ended
        stops = [listen(ended(job, seal), self._on_result) for seal in self._seals(job)]

        def stop() -> None:
            for one in stops:
                one()

        return stop

    def _on_event(self, message: Msg) -> None:
        if message.subject == self._texts:
            self._on_texts(message)
            return
        job, seal = opened(message.subject)
        watchers = self._waiting.watchers(job)
        if watchers and self.bus.seals.holds(job, seal):
            _hand_on(message, watchers)

    def _on_texts(self, message: Msg) -> None:
        try:
            batch: TextBatch = wire.decode(TextBatch, message.data)
        except wire.UnreadableMessage as error:
            log.warning("message.unreadable", subject=message.subject, error=str(error))
            return
        size = len(message.data) // max(len(batch.texts), 1)
        for text in batch.texts:
            watchers = self._waiting.watchers(text.job)
            if watchers and self.bus.seals.holds(text.job, text.seal):
                for watcher in watchers:
                    watcher.put(text.delta, b"", size)

    def _on_result(self, message: Msg) -> None:
        job = last_name(message.subject)
        if not self._waiting.is_waited_for(job):
            return
        try:
            record = read_record(message.data, message.headers)
        except wire.UnreadableMessage as error:
            reason = f"the result of {job} cannot be read: {error}"
            log.error("message.unreadable", subject=message.subject, error=str(error))
            self._waiting.fail(job, RequestError(500, reason, code="unreadable_result"))
            return
        if isinstance(record, Result) and is_apart(record.event):
            self._reconciler.look_now(job)
        elif isinstance(record, Result):
            self._waiting.end(job, record, len(message.data))

    def _on_sent(self, message: Msg) -> str:
        """A worker takes over a job: how much of its text has been passed on?"""
        try:
            asked: SentRequest = wire.decode(SentRequest, message.data)
            problem = ""
        except wire.UnreadableMessage:
            asked, problem = SentRequest(""), UNREADABLE
        is_believed = self.bus.seals.holds(asked.job, asked.seal)
        cursors = [one.cursor for one in self._waiting.watchers(asked.job)] if is_believed else []
        furthest = max(cursors, key=lambda cursor: cursor.chars, default=Cursor())
        sent = SentText(furthest.text(), furthest.tokens, has_reasoning=bool(furthest.reasoning))
        self.bus.tell(message.reply, sent)
        return problem

    # Watching -------------------------------------------------------------------------------------

    async def watch(self, job: str, cursor: Cursor) -> AsyncGenerator[Item]:
        """What comes after the cursor, whoever accepted the job.

        Before any event: raises UnknownJob when it is certain that there is none, RequestError 503 when nobody
        could say, 500 when its result cannot be read.
        """
        watcher = Watcher(job, cursor)
        watcher.is_late = True
        out, on_event = self.bus.subjects.out, self._elsewhere(watcher)
        async with self.bus.listening(*((out(ANY, job, seal), on_event) for seal in self._seals(job))):
            with self.attached(watcher):
                stored = await self._locate(watcher)
                if cursor.is_fresh:
                    yield Queued(position=0), b""
                if stored is not None:
                    try:
                        for event in cursor.finish(stored.event):
                            yield event, stored.attached
                    except Diverged:
                        raise _two_texts(job) from None
                    return
                if watcher.worker:
                    async with aclosing(self._replay(watcher)) as missed:
                        async for event in missed:
                            yield event, b""
                async with aclosing(self.follow(watcher)) as items:
                    async for item in items:
                        yield item

    def _elsewhere(self, watcher: Watcher) -> Callable[[Msg], None]:
        """Hands on the events of jobs that another gateway accepted; those of this one come anyway."""
        own = self.bus.subjects.out(self.gateway, "")  # what all of those begin with

        def on_event(message: Msg) -> None:
            if not message.subject.startswith(own):
                _hand_on(message, [watcher])

        return on_event

    async def _locate(self, watcher: Watcher) -> Result | None:
        """The stored result; None with the watcher knowing the worker of a job that has not ended.

        Raises as `watch` does.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + LOCATE_WITHIN_S
        while True:
            match await locate(self.bus, watcher.job, is_watched=True):
                case Stored(result):
                    return result
                case Unreadable(reason):
                    raise RequestError(500, reason, code="unreadable_result")
                case Known(view):
                    watcher.worker = view.worker
                    return None
                case Nowhere():
                    raise UnknownJob(watcher.job)
                case Unknown() if loop.time() > deadline:
                    message = f"nobody could say where job {watcher.job!r} is; try again"
                    raise RequestError(503, message, retry_after_s=RETRY_AFTER_S)
            await asyncio.sleep(LOCATE_AGAIN_S)

    async def follow(self, watcher: Watcher) -> AsyncGenerator[Item]:
        """An attached watcher's events to the terminal one, gaps filled; None when nothing came for IDLE_S.

        Raises RequestError when the job was refused, or its text is not one.
        """
        cursor = watcher.cursor
        while True:
            try:
                item = await watcher.next(IDLE_S)
                if item is None:
                    yield None
                    if cursor.is_fresh and watcher.is_late:
                        raise Gap  # it may have begun where nobody knows that it is watched
                    continue
                event, attached = item
                if isinstance(event, Terminal):
                    watcher.has_ended = True
                    for last in cursor.finish(event):
                        yield last, attached
                    return
                taken = cursor.take(event)
            except Gap:
                async with aclosing(self._replay(watcher)) as missed:
                    async for one in missed:
                        yield one, b""
                continue
            except Diverged:
                raise _two_texts(watcher.job) from None
            if taken is not None:
                watcher.give(taken)
                yield taken, attached

    async def _replay(self, watcher: Watcher) -> AsyncGenerator[LiveEvent]:
        """Ask the worker for what is missing; nothing when the job has ended or moved meanwhile."""
        for _ in range(REPLAY_ATTEMPTS):
            place = watcher.cursor
            asked = ReplayRequest(watcher.job, place.term, place.attempt, place.seq, place.chars)
            found = await look_up_job(self.bus, watcher.job, is_watched=True)
            worker = found.view.worker if isinstance(found, Known) and found.view.worker else watcher.worker
            if not worker:
                return  # it waits, and its worker will know
            try:
                subject = self.bus.subjects.worker(worker, "replay")
                answer: Replay = await self.bus.ask(subject, asked, Replay, ASK_TIMEOUT_S)
            except NobodyThere:
                return  # it died: the next attempt's events come by themselves
            except (BusError, wire.UnreadableMessage):
                await asyncio.sleep(REPLAY_WAIT_S)
                continue
            if not answer.known and isinstance(found, Known) and found.is_under_way:
                await asyncio.sleep(REPLAY_WAIT_S)  # it is on its way there
                continue
            for event in answer.events:
                try:
                    taken = watcher.cursor.take(event, is_replayed=True)
                except Diverged:
                    raise _two_texts(watcher.job) from None
                if taken is not None:
                    watcher.give(taken)
                    yield taken
            return


def _two_texts(job: str) -> RequestError:
    """A further attempt of the job made another text than was passed on."""
    message = f"job {job!r} was run again and said something else; its whole answer is at /v1/jobs/{job}"
    return RequestError(500, message, code="text_diverged")


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
        watcher.put(event, attached, len(message.data))

"""The shell around the core: messages become events here, and commands messages in executor.py. No policy.

One bounded inbox, one loop (`_work`) that alone touches the core. Questions to workers are sent without
waiting; their answers come back as events. Taking over:

1. win the lease, subscribe to everything that workers and clients say, and ask every worker for a heartbeat;
2. have the server take our verdicts and those of no earlier leader (`admit_leader`);
3. open the feed of jobs (feed.py): every unfinished job comes again at once;
4. when the catalog is read, the workers had `SETTLE_S` to answer, and all jobs are in or `ARRIVE_S` is over,
   start placing (`Settled`): the first in the stream come first, whatever is still to come.

The lease is looked at before each event, so that a leader which was paused does nothing more; and the loop lets
others run after `TURN_EVENTS`, so that the lease is renewed however much there is to do.
"""

import asyncio
import time
from functools import cache, partial
from pathlib import Path
from typing import Any

import anyio
import msgspec
from nats.aio.msg import Msg
from prometheus_client import Counter

from stoker.schemas import wire
from stoker.schemas.catalog import Model
from stoker.schemas.fleet import CancelAnswer, ModelReplicas
from stoker.schemas.heartbeats import Solicitation
from stoker.schemas.subjects import ANY, last_name
from stoker.schemas.workers import Finished, Heartbeat
from stoker.services.bus.connection import Bus
from stoker.services.bus.discovery import register
from stoker.services.bus.errors import BusError
from stoker.services.bus.heartbeats import HeartbeatReader
from stoker.services.bus.leases import Lease, hold
from stoker.services.bus.streams import NotLeading, admit_leader
from stoker.services.catalog import store
from stoker.services.process.clock import steady_now
from stoker.services.process.logs import get_logger
from stoker.services.process.recording import Head, Recorder
from stoker.services.process.tasks import TaskOwner, cleanup, until
from stoker.services.process.telemetry import counter
from stoker.services.records.quarantine import put_aside
from stoker.services.records.replicas import watch_replicas
from stoker.services.records.results import last_endings
from stoker.services.records.usage import add_use
from stoker.services.scheduler.core import Scheduler
from stoker.services.scheduler.executor import Executor
from stoker.services.scheduler.feed import JobFeed
from stoker.services.scheduler.protocol.commands import Command, EndJob
from stoker.services.scheduler.protocol.endings import poisoned
from stoker.services.scheduler.protocol.events import (
    CancelRequested,
    EarlierJobsArrived,
    EndingsListed,
    Event,
    HeartbeatSeen,
    JobArrived,
    JobFinished,
    ModelChanged,
    PossibleNoted,
    ReplicasChanged,
    Settled,
    Ticked,
)
from stoker.services.scheduler.questions import Questions
from stoker.services.scheduler.replaying import CORE, describe
from stoker.services.scheduler.sampling import Sampler
from stoker.services.scheduler.usage import WRITE_EVERY_S

log = get_logger("scheduler")

NOTE_EVERY_S = 1.0
LAST_WRITE_S = 2.0
"""For what was used, when a leader stops."""

ROLE = "scheduler"
TICK_S = 0.05
LEAD_AGAIN_S = 0.2
"""A leader that cannot begin, such as where a stream is missing, tries again after this."""
SETTLE_S, ARRIVE_S = 0.25, 0.5
"""How long workers have to answer a new leader, and how long after that it waits for jobs to come."""
TURN_EVENTS = 100
ADMIT_AGAIN_S = 1.0
"""How often the results stream is looked at: another service may have put it into an earlier form."""
INBOX_LIMIT = 500_000
LISTED_ENDINGS = 2_000

JOBS = counter("stoker_jobs_total", "Jobs that came to the scheduler", "model")


@cache  # finding a label costs more than counting
def _jobs(model: str) -> Counter:
    return JOBS.labels(model)


class SchedulerService:
    """One term as the leader. Make a new one for the next."""

    def __init__(self, bus: Bus, lease: Lease, identity: str, record: Path | None = None) -> None:
        self.bus = bus
        self.lease = lease
        now = steady_now()
        self.core = Scheduler(lease.term, now)
        self.identity = identity
        self._recorder = Recorder(record, Head(CORE, lease.term, now), describe) if record is not None else None
        self._inbox: asyncio.Queue[Event] = asyncio.Queue(INBOX_LIMIT)
        self._tasks = TaskOwner("scheduler")
        self._executor = Executor(bus, self._put, self._tasks)
        self._feed = JobFeed(bus, self._on_arrived, self._tasks, lease.term)
        self._sampler = Sampler(bus, self.core)
        self._heartbeats = HeartbeatReader(bus, self._on_heartbeat, leads=True)
        self._cancels = bus.endpoints.of("cancel")
        self._questions = Questions(bus, self.core, self._feed, self._tasks, identity)
        self._catalog_read = asyncio.Event()
        self._ticks_waiting = 0

    async def serve(self) -> None:
        """Lead until cancelled or the lease is lost. Raises BusError where it cannot take over."""
        subjects = self.bus.subjects
        subscribed = (
            *self._heartbeats.subscriptions(),
            (subjects.every("finished", ANY), self._on_finished),
            (self._executor.answers + ".*", self._executor.on_answer),
            (self._feed.deliveries, self._feed.on_job),
        )
        answering = self.bus.answering({self._cancels: self._on_cancel})
        async with self._tasks, self.bus.listening(*subscribed), answering, self._questions.answered():
            self.bus.on_reconnect.append(self._feed.reopen)
            try:
                self.bus.tell(subjects.solicit(), Solicitation(reads_changes=True))
                await admit_leader(self.bus, self.lease.term)
                await self._feed.open()
                await until(
                    self.lease.lost,
                    self._work,
                    self._tick,
                    self._settle,
                    self._feed.keep_asking,
                    self._list_endings,
                    self._sampler.run,
                    self._stay_admitted,
                    self._write_usage,
                    self._note_possible,
                    partial(store.watch, self.bus, self._model_changed, self._catalog_read, self._noted),
                    partial(watch_replicas, self.bus, self._replicas_changed),
                )
            finally:
                self.bus.on_reconnect.remove(self._feed.reopen)
                if self._recorder is not None:
                    self._recorder.close()

    async def _settle(self) -> None:
        await asyncio.sleep(SETTLE_S)
        await self._catalog_read.wait()
        with anyio.move_on_after(ARRIVE_S):
            await self._feed.wait_for_old()
        self._put(Settled())
        log.info("leadership.settled", jobs=len(self.core.ledger.records), workers=len(self.core.fleet.workers))
        await self._feed.wait_for_old()
        self._put(EarlierJobsArrived())
        await asyncio.Event().wait()

    async def _list_endings(self) -> None:
        """What ended before this term: for listings, and for jobs whose acknowledgement was lost."""
        try:
            self._put(EndingsListed(tuple(await last_endings(self.bus, LISTED_ENDINGS))))
        except BusError as error:
            log.warning("endings.not_listed", error=str(error))
        await asyncio.Event().wait()

    async def _stay_admitted(self) -> None:
        """Raises NotLeading."""
        while True:
            await asyncio.sleep(ADMIT_AGAIN_S)
            try:
                await admit_leader(self.bus, self.lease.term)
            except NotLeading:
                raise
            except BusError as error:
                log.warning("leader.not_admitted", error=str(error))

    # Messages become events -----------------------------------------------------------------------

    def _put(self, event: Event) -> None:
        try:
            self._inbox.put_nowait(event)
        except asyncio.QueueFull:
            log.error("inbox.full", dropped=type(event).__name__)
            self.lease.lost.set()  # what was dropped comes again to the next leader

    def _on_arrived(self, event: JobArrived) -> None:
        _jobs(event.job.model).inc()
        self._put(event)

    def _on_heartbeat(self, heartbeat: Heartbeat) -> None:
        self._sampler.heartbeat(heartbeat)
        self._put(HeartbeatSeen(self._believed(heartbeat)))

    def _believed(self, heartbeat: Heartbeat) -> Heartbeat:
        """The same heartbeat, without jobs that its worker was never given."""
        holds = self.bus.seals.holds
        believed = tuple(one for one in heartbeat.running if holds(one.job, one.seal))
        if len(believed) == len(heartbeat.running):
            return heartbeat
        log.warning("heartbeat.not_believed", worker=heartbeat.worker)
        return msgspec.structs.replace(heartbeat, running=believed)

    def _on_finished(self, message: Msg) -> None:
        finished = self._read(message, Finished)
        if finished is None:
            return
        if self.bus.seals.holds(finished.job, finished.seal):
            self._sampler.finished(finished)
            self._executor.ended(finished.job, finished.attempt)
            self._put(JobFinished(last_name(message.subject), finished))
        else:
            log.warning("end.not_believed", subject=message.subject, job=finished.job)

    def _read(self, message: Msg, kind: Any) -> Any:
        """The Struct in a message, or None (logged) when it is not what it should be."""
        try:
            return wire.decode(kind, message.data)
        except wire.UnreadableMessage as error:
            log.warning("message.unreadable", subject=message.subject, error=str(error))
            return None

    def _on_cancel(self, message: Msg) -> str:
        job = last_name(message.subject)
        self._put(CancelRequested(job))
        if message.reply:
            self.bus.tell(message.reply, CancelAnswer(known=job in self.core.ledger.records))
        return ""

    def _model_changed(self, name: str, model: Model | None) -> None:
        self._put(ModelChanged(name, model))

    def _noted(self, kind: str, name: str, content: bytes) -> None:
        """A note in the catalog, of this leader or of an earlier one."""
        if kind != store.POSSIBLE_NOTE or not content:
            return
        try:
            self._put(PossibleNoted(name, wire.decode(Model, content)))
        except wire.UnreadableMessage as error:
            log.warning("possible.unreadable", model=name, error=str(error))

    async def _note_possible(self) -> None:
        """Note which models some worker can run, for later leaders, until cancelled."""
        while True:
            await asyncio.sleep(NOTE_EVERY_S)
            for name, model in self.core.forecast.possibility.take_notes().items():
                try:
                    await store.note(self.bus, store.POSSIBLE_NOTE, name, model)
                except BusError as error:
                    self.core.forecast.possibility.give_back(name, model)
                    log.warning("possible.not_noted", model=name, error=str(error))

    async def _write_usage(self) -> None:
        """Write down what keys have used, until cancelled."""
        try:
            while True:
                await asyncio.sleep(WRITE_EVERY_S)
                await self._write_use()
        finally:
            async with cleanup("writing down what was used", LAST_WRITE_S):
                await self._write_use()

    async def _write_use(self) -> None:
        for use in self.core.usage.take():
            try:
                await add_use(self.bus, use)
            except (BusError, wire.UnreadableMessage) as error:
                self.core.usage.give_back(use)
                log.warning("usage.not_written", error=str(error))

    def _replicas_changed(self, model: str, replicas: ModelReplicas | None) -> None:
        self._put(ReplicasChanged(model, replicas))

    # Commands become messages ---------------------------------------------------------------------

    async def _work(self) -> None:
        handled = 0
        while True:
            event = await self._inbox.get()
            if not self.lease.is_trusted():
                log.warning("lease.not_trusted")
                self.lease.lost.set()
                return
            handled += 1
            if handled % TURN_EVENTS == 0:
                await asyncio.sleep(0)
            if isinstance(event, Ticked):
                self._ticks_waiting -= 1
            now = steady_now()
            commands = self._handled(event, now)
            if self._recorder is not None:
                self._recorder.step(event, now, commands)
            for command in commands:
                self._executor.carry_out(command)
            if isinstance(event, JobArrived):
                self._feed.taken(event.sequence)

    def _handled(self, event: Event, now: float) -> list[Command]:
        """What the core says to an event. A job that it cannot take in is put aside, and ends.

        What it raises at anything else ends this term: the books are wrong, and the next leader makes new ones.
        """
        if not isinstance(event, JobArrived):
            return self.core.handle(event, now)
        try:
            return self.core.handle(event, now)
        except Exception as error:
            log.exception("job.not_taken_in", job=event.job.id)
            job, ledger = event.job, self.core.ledger
            if (record := ledger.records.get(job.id)) is not None:
                ledger.end(record, "failed", now)
            reason = f"the scheduler could not take this job in: {type(error).__name__}: {error}"
            subject, content = self.bus.subjects.job(job.model), wire.encode(job)
            put_aside(self.bus, "job", subject, content, None, reason, job=job.id)
            return [EndJob(job, event.handle, poisoned(job, self.lease.term, reason, time.time()))]

    async def _tick(self) -> None:
        """At most one tick waits in the inbox: while the core lags, more of them would only add to it."""
        while True:
            await asyncio.sleep(TICK_S)
            if not self._ticks_waiting:
                self._ticks_waiting += 1
                self._put(Ticked())
            self._executor.give_up_overdue(steady_now())


async def serve(bus: Bus, identity: str, stopping: asyncio.Event, record: Path | None = None) -> None:
    """Wait for the lease and lead while it is held, again and again until `stopping`."""
    await register(bus, "scheduler", "decides which worker runs each job", {"id": identity})

    async def lead() -> None:
        while True:
            async with hold(bus, ROLE, identity) as lease:
                log.info("leadership.taken", term=lease.term)
                try:
                    await SchedulerService(bus, lease, identity, record).serve()
                except BusError as error:
                    log.warning("leadership.given_up", error=str(error))
            await asyncio.sleep(LEAD_AGAIN_S)

    await until(stopping, lead)

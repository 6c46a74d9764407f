"""The shell around the core: messages become events, commands become messages. No policy here.

One bounded inbox, one loop (`_work`) that alone touches the core. Questions to workers are sent without
waiting; their answers come back as events. Taking over:

1. win the lease, subscribe to everything that workers and clients say, and ask every worker for a heartbeat;
2. open the feed of jobs (feed.py): every unfinished job comes again at once;
3. when all of them are in and the workers had `SETTLE_S` to answer, start placing (`Settled`).
"""

import asyncio
from functools import cache, partial
from pathlib import Path
from typing import Any

from nats.aio.msg import Msg
from prometheus_client import Counter, Histogram

from schemas import wire
from schemas.catalog import Model
from schemas.fleet import CancelAnswer, JobQuery, JobsQuery, ModelReplicas
from schemas.subjects import ANY, from_token, last_name
from schemas.workers import AssignmentAnswer, Done, Finished, Heartbeat, JobCommand, ModelCommand, Revocation
from services.bus.connection import Bus
from services.bus.discovery import register
from services.bus.errors import BusError, NobodyThere
from services.bus.leases import Lease, hold
from services.catalog import store
from services.process.clock import steady_now
from services.process.logs import get_logger
from services.process.recording import Head, Recorder
from services.process.tasks import TaskOwner, until
from services.process.telemetry import counter, gauge, histogram
from services.process.tracing import record, trace_headers
from services.records.replicas import watch_replicas
from services.records.results import (
    NotStored,
    Stored,
    Unknown,
    Unreadable,
    find_result,
    last_endings,
    publish_terminal,
)
from services.scheduler.core import Scheduler
from services.scheduler.feed import JobFeed
from services.scheduler.protocol import events
from services.scheduler.protocol.commands import (
    Acknowledge,
    Assign,
    Cancel,
    CheckResult,
    Command,
    EndJob,
    LoadOnWorker,
    Notify,
    Probe,
    PublishDepth,
    Record,
    Revoke,
)
from services.scheduler.protocol.events import (
    AssignmentAnswered,
    AssignmentFailed,
    CancelRequested,
    Event,
    HeartbeatSeen,
    JobArrived,
    JobFinished,
    ModelChanged,
    ReplicasChanged,
    ResultChecked,
    Settled,
    Ticked,
    WorkerGone,
)
from services.scheduler.replaying import CORE, describe

log = get_logger("scheduler")

ROLE = "scheduler"
TICK_S = 0.05
SETTLE_S = 0.25
INBOX_LIMIT = 500_000
LISTED_ENDINGS = 2_000
ASSIGN_TIMEOUT_S = 2.0
COMMAND_TIMEOUT_S = 2.0
PROBE_TIMEOUT_S = 1.0
ALWAYS_ANSWERED = ("cancel", "load")
"""Verbs of every version of a worker: where nobody listens to one of them, the worker is not there."""

JOBS = counter("stoker_jobs_total", "Jobs that came to the scheduler", "model")
ASSIGNMENTS = counter("stoker_assignments_total", "Assignments by tier of the model", "tier")
QUEUE_WAIT = histogram("stoker_queue_wait_seconds", "Accepted until assigned", "model")
QUEUED = gauge("stoker_queued_jobs", "Jobs that wait", "model")
RUNNING = gauge("stoker_running_jobs", "Jobs on workers", "model")


FOUND: dict[type, events.Stored] = {
    Stored: "stored",
    Unreadable: "stored",
    NotStored: "not_stored",
    Unknown: "unknown",
}


@cache  # finding a label costs more than counting
def _jobs(model: str) -> Counter:
    return JOBS.labels(model)


@cache
def _assignments(tier: str) -> Counter:
    return ASSIGNMENTS.labels(tier)


@cache
def _queue_wait(model: str) -> Histogram:
    return QUEUE_WAIT.labels(model)


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
        self._assigning: dict[str, tuple[str, int, str, float]] = {}
        self._answers = bus.client.new_inbox()
        self._feed = JobFeed(bus, self._on_arrived, self._is_known, self._tasks, lease.term)
        self._next_token = 0
        self._ticks_waiting = 0

    def _is_known(self, job: str) -> bool:
        return job in self.core.ledger.records

    async def serve(self) -> None:
        """Lead until cancelled or the lease is lost."""
        for view in await last_endings(self.bus, LISTED_ENDINGS):
            self.core.ledger.history.note_ending(view)
        subjects = self.bus.subjects
        subscribed = (
            (subjects.every("heartbeat", ANY), self._on_heartbeat),
            (subjects.every("finished", ANY), self._on_finished),
            (subjects.every("cancel", ANY), self._on_cancel),
            (subjects.every("scheduler", ANY), self._on_question),
            (self._answers + ".*", self._on_answer),
            (self._feed.deliveries, self._feed.on_job),
        )
        async with self._tasks, self.bus.listening(*subscribed):
            self.bus.on_reconnect.append(self._feed.reopen)
            try:
                self.bus.post(subjects.solicit(), b"{}")
                await self._feed.open()
                await until(
                    self.lease.lost,
                    self._work,
                    self._tick,
                    self._settle,
                    partial(store.watch, self.bus, self._model_changed),
                    partial(watch_replicas, self.bus, self._replicas_changed),
                )
            finally:
                self.bus.on_reconnect.remove(self._feed.reopen)
                if self._recorder is not None:
                    self._recorder.close()

    async def _settle(self) -> None:
        await asyncio.sleep(SETTLE_S)
        await self._feed.wait_for_old()
        self._put(Settled())
        log.info("leadership.settled", jobs=len(self.core.ledger.records), workers=len(self.core.fleet.workers))
        await asyncio.Event().wait()

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

    def _on_heartbeat(self, message: Msg) -> None:
        if (heartbeat := self._read(message, Heartbeat)) is not None:
            self._put(HeartbeatSeen(heartbeat))

    def _on_finished(self, message: Msg) -> None:
        if (finished := self._read(message, Finished)) is not None:
            self._put(JobFinished(last_name(message.subject), finished))

    def _read(self, message: Msg, kind: Any) -> Any:
        """The Struct in a message, or None (logged) when it is not what it should be."""
        try:
            return wire.decode(kind, message.data)
        except wire.UnreadableMessage as error:
            log.warning("message.unreadable", subject=message.subject, error=str(error))
            return None

    def _on_cancel(self, message: Msg) -> None:
        job = last_name(message.subject)
        self._put(CancelRequested(job))
        if message.reply:
            self.bus.tell(message.reply, CancelAnswer(known=job in self.core.ledger.records))

    def _on_answer(self, message: Msg) -> None:
        waiting = self._assigning.pop(message.subject.rsplit(".", 1)[1], None)
        if waiting is None:
            return
        job, attempt, worker, _ = waiting
        if not message.data:  # the server's own word: no responders
            self._put(AssignmentFailed(job, attempt, worker, is_gone=True))
            return
        try:
            answer = wire.decode(AssignmentAnswer, message.data)
        except wire.UnreadableMessage as error:
            log.error("answer.unreadable", worker=worker, error=str(error))
            self._put(AssignmentFailed(job, attempt, worker, is_gone=False))
            return
        self._put(AssignmentAnswered(job, attempt, worker, answer))

    def _model_changed(self, name: str, model: Model | None) -> None:
        self._put(ModelChanged(name, model))

    def _replicas_changed(self, model: str, replicas: ModelReplicas | None) -> None:
        self._put(ReplicasChanged(model, replicas))

    def _on_question(self, message: Msg) -> None:
        """What people and gateways ask: job, jobs, explain, ping."""
        ledger = self.core.ledger
        answer: object
        try:
            match message.subject.rsplit(".", 1)[1]:
                case "job":
                    answer = ledger.view(wire.decode(JobQuery, message.data).job)
                case "jobs":
                    answer = ledger.page(wire.decode(JobsQuery, message.data))
                case "explain":
                    answer = ledger.history.explanation(wire.decode(JobQuery, message.data).job)
                case "ping":
                    answer = Done(ok=not self.core.is_settling, reason=self.identity)
                case unknown:
                    answer = Done(ok=False, reason=f"no such question: {from_token(unknown)}")
        except wire.UnreadableMessage as error:
            answer = Done(ok=False, reason=str(error))
        if message.reply:
            self.bus.tell(message.reply, answer)

    # Commands become messages ---------------------------------------------------------------------

    async def _work(self) -> None:
        while True:
            event = await self._inbox.get()
            if isinstance(event, Ticked):
                self._ticks_waiting -= 1
            now = steady_now()
            commands = self.core.handle(event, now)
            if self._recorder is not None:
                self._recorder.step(event, now, commands)
            for command in commands:
                self._carry_out(command)

    async def _tick(self) -> None:
        """At most one tick waits in the inbox: while the core lags, more of them would only add to it."""
        while True:
            await asyncio.sleep(TICK_S)
            if not self._ticks_waiting:
                self._ticks_waiting += 1
                self._put(Ticked())
            now = steady_now()
            for token, (job, attempt, worker, deadline) in list(self._assigning.items()):
                if now <= deadline:
                    break  # all wait equally long: the first ones are the oldest
                del self._assigning[token]
                self._put(AssignmentFailed(job, attempt, worker, is_gone=False))

    def _carry_out(self, command: Command) -> None:
        bus = self.bus
        match command:
            case Assign():
                self._assign(command)
            case Acknowledge():
                bus.post(command.handle, b"+ACK", is_urgent=False)
            case PublishDepth():
                depth = command.depth
                QUEUED.labels(depth.model).set(depth.queued)
                RUNNING.labels(depth.model).set(depth.running)
                bus.tell(bus.subjects.queue(depth.model), depth)
            case Notify():
                job = command.job
                bus.tell(bus.subjects.out(job.gateway, job.id), command.event)
            case EndJob():
                self._tasks.start(self._end, command)
            case Cancel():
                order = JobCommand(command.job, command.attempt)
                self._tasks.start(self._command, command.worker, "cancel", order)
            case Revoke():
                revocation = Revocation(command.job, command.term, command.attempt)
                self._tasks.start(self._command, command.worker, "revoke", revocation)
            case LoadOnWorker():
                load = ModelCommand(command.model, command.spec, command.evict)
                self._tasks.start(self._command, command.worker, "load", load)
            case Probe():
                self._tasks.start(self._probe, command.worker)
            case CheckResult():
                self._tasks.start(self._check_result, command)
            case Record():
                event = command.event
                log.info(f"{event.kind}", subject=event.subject, reason=event.reason)
                subject = bus.subjects.event(event.kind, event.subject)
                bus.post(subject, wire.encode(event))

    def _assign(self, command: Assign) -> None:
        assignment = command.assignment
        job = assignment.job
        self._next_token += 1
        token = str(self._next_token)
        deadline = steady_now() + ASSIGN_TIMEOUT_S
        self._assigning[token] = (job.id, assignment.attempt, command.worker, deadline)
        _assignments(assignment.tier).inc()
        _queue_wait(job.model).observe(assignment.queued_s)
        subject = self.bus.subjects.worker(command.worker, "assign")
        headers = trace_headers(command.trace)
        self.bus.post(subject, wire.encode(assignment), f"{self._answers}.{token}", headers)
        if command.trace:
            named = {"job": job.id, "model": job.model, "worker": command.worker, "tier": assignment.tier}
            until_at = job.created_at + assignment.queued_s
            record("queue", command.trace, job.created_at, until_at, attempt=assignment.attempt, **named)

    async def _end(self, command: EndJob) -> None:
        while True:
            try:
                await publish_terminal(self.bus, command.job.gateway, command.event)
                break
            except BusError as error:
                log.warning("result.not_stored", job=command.job.id, error=str(error))
                await asyncio.sleep(0.5)
        self.bus.post(command.handle, b"+ACK")

    async def _command(self, worker: str, verb: str, order: object) -> None:
        try:
            subject = self.bus.subjects.worker(worker, verb)
            answer = await self.bus.ask(subject, order, Done, COMMAND_TIMEOUT_S)
            if not answer.ok:
                log.debug("command.refused", worker=worker, verb=verb, reason=answer.reason)
        except NobodyThere:
            if verb in ALWAYS_ANSWERED:
                self._put(WorkerGone(worker))
        except (BusError, wire.UnreadableMessage) as error:
            log.warning("command.failed", worker=worker, verb=verb, error=str(error))

    async def _probe(self, worker: str) -> None:
        try:
            await self.bus.ask(self.bus.subjects.worker(worker, "ping"), None, Done, PROBE_TIMEOUT_S)
        except NobodyThere:
            self._put(WorkerGone(worker))
        except (BusError, wire.UnreadableMessage):
            pass  # it listens but does not answer: silence decides

    async def _check_result(self, command: CheckResult) -> None:
        found = await find_result(self.bus, command.job, command.gateway)
        self._put(ResultChecked(command.job, command.attempt, FOUND[type(found)]))


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

    await until(stopping, lead)

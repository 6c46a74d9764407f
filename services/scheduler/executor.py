"""Commands of the core become messages; answers come back as events. No policy here.

Nothing waits for a worker here: an assignment goes out with a reply subject of its own, and its answer, or that
none came in time, is an event like any other. One that must be fenced from an earlier attempt goes out when the
server has stored that (results.py).
"""

import asyncio
from collections.abc import Callable
from functools import cache
from typing import Any, get_args

import msgspec
from nats.aio.msg import Msg
from prometheus_client import Counter, Histogram

from stoker.schemas import wire
from stoker.schemas.jobs import Job
from stoker.schemas.workers import AssignmentAnswer, Done, JobCommand, ModelCommand, Revocation, Tier
from stoker.services.bus.connection import Bus
from stoker.services.bus.errors import BusError, NobodyThere
from stoker.services.process.clock import steady_now
from stoker.services.process.logs import get_logger
from stoker.services.process.tasks import TaskOwner
from stoker.services.process.telemetry import counter, gauge, histogram
from stoker.services.process.tracing import record, trace_headers
from stoker.services.records.results import (
    NotStored,
    Stored,
    Unknown,
    Unreadable,
    find_result,
    of_leader,
    publish_terminal,
    seal_of,
    status_of,
    supersede,
)
from stoker.services.scheduler.protocol import events
from stoker.services.scheduler.protocol.commands import (
    Acknowledge,
    AcknowledgeEnded,
    Assign,
    Cancel,
    CheckResult,
    Command,
    EndJob,
    LoadOnWorker,
    Notify,
    Probe,
    PublishDepth,
    ReadOnWorker,
    Record,
    Revoke,
)
from stoker.services.scheduler.protocol.events import (
    AssignmentAnswered,
    AssignmentFailed,
    Event,
    Fenced,
    ResultChecked,
    WorkerGone,
)
from stoker.services.scheduler.webhook_orders import order_webhook

log = get_logger("scheduler")

ASSIGN_TIMEOUT_S = 2.0
COMMAND_TIMEOUT_S = 2.0
PROBE_TIMEOUT_S = 1.0
ALWAYS_ANSWERED = ("cancel", "load")
"""Verbs of every version of a worker: where nobody listens to one of them, the worker is not there."""
STORE_AGAIN_S = 0.5

ASSIGNMENTS = counter(
    "stoker_assignments_total", "Assignments by tier of the model", "tier", known=get_args(Tier)
)
QUEUE_WAIT = histogram("stoker_queue_wait_seconds", "Accepted until assigned", "model")
QUEUED = gauge("stoker_queued_jobs", "Jobs that wait", "model")
RUNNING = gauge("stoker_running_jobs", "Jobs on workers", "model")

FOUND: dict[type, events.Stored] = {
    Stored: "stored",
    Unreadable: "stored",
    NotStored: "not_stored",
    Unknown: "unknown",
}


@cache
def _assignments(tier: str) -> Counter:
    return ASSIGNMENTS.labels(tier)


@cache
def _queue_wait(model: str) -> Histogram:
    return QUEUE_WAIT.labels(model)


class Executor:
    """Carries out commands. `put` takes the events that come of them; `tasks` owns what waits for an answer."""

    def __init__(self, bus: Bus, put: Callable[[Event], None], tasks: TaskOwner) -> None:
        self._bus = bus
        self._put = put
        self._tasks = tasks
        self.answers: str = bus.client.new_inbox()
        self._assigning: dict[str, tuple[str, int, str, float]] = {}
        """By token: job, attempt, worker, and by when it must be answered."""
        self._tokens: dict[str, str] = {}
        """Of each job the token of its last assignment, while that is not answered."""
        self._next_token = 0

    def carry_out(self, command: Command) -> None:
        bus = self._bus
        match command:
            case Assign(must_fence=True):
                self._tasks.start(self._fence, command)
            case Assign():
                self._assign(command)
            case Acknowledge(order=None):
                bus.post(command.handle, b"+ACK", is_urgent=False)
            case Acknowledge(order=job) if job is not None:
                self._tasks.start(self._order_webhook, job, command.handle)
            case AcknowledgeEnded():
                self._tasks.start(self._acknowledge_ended, command)
            case PublishDepth():
                depth = command.depth
                QUEUED.labels(depth.model).set(depth.queued)
                RUNNING.labels(depth.model).set(depth.running)
                bus.tell(bus.subjects.queue(depth.model), depth)
            case Notify():
                job = command.job
                bus.tell(bus.subjects.out(job.gateway, job.id, seal_of(bus, job)), command.event)
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
            case ReadOnWorker():
                read = ModelCommand(command.model, command.spec)
                self._tasks.start(self._command, command.worker, "read", read)
            case Probe():
                self._tasks.start(self._probe, command.worker)
            case CheckResult():
                self._tasks.start(self._check_result, command)
            case Record():
                event = command.event
                log.info(f"{event.kind}", subject=event.subject, reason=event.reason)
                subject = bus.subjects.event(event.kind, event.subject)
                bus.post(subject, wire.encode(event))

    async def _fence(self, command: Assign) -> None:
        """Assign a job that an earlier attempt may end, once that cannot; unless it has."""
        given = command.assignment
        job, attempt = given.job, given.attempt
        try:
            fence = await supersede(self._bus, given.term, job, attempt, given.fence)
        except BusError as error:
            log.warning("attempt.not_fenced", job=job.id, attempt=attempt, error=str(error))
            self._put(AssignmentFailed(job.id, attempt, command.worker, is_gone=False))
            return
        if fence is None:
            await self._check_result(CheckResult(job.id, attempt))
            return
        self._put(Fenced(job.id, attempt, fence))
        assignment = msgspec.structs.replace(given, fence=fence)
        self._assign(msgspec.structs.replace(command, assignment=assignment))

    async def _acknowledge_ended(self, command: AcknowledgeEnded) -> None:
        """Until then, whoever ends the job goes on to store its end."""
        while True:
            found = await find_result(self._bus, command.job.id)
            if isinstance(found, Stored | Unreadable):
                break
            await asyncio.sleep(STORE_AGAIN_S)
        await self._order_webhook(command.job, command.handle)

    async def _order_webhook(self, job: Job, handle: str) -> None:
        """A job has ended: have its webhook posted, where it has one, then take it out of the stream."""
        if job.webhook:
            await order_webhook(self._bus, job)
        self._bus.post(handle, b"+ACK")

    def _assign(self, command: Assign) -> None:
        job = command.assignment.job
        assignment = msgspec.structs.replace(command.assignment, seal=seal_of(self._bus, job))
        self._next_token += 1
        token = str(self._next_token)
        deadline = steady_now() + ASSIGN_TIMEOUT_S
        self._assigning[token] = (job.id, assignment.attempt, command.worker, deadline)
        self._tokens[job.id] = token
        _assignments(assignment.tier).inc()
        _queue_wait(job.model).observe(assignment.queued_s)
        subject = self._bus.subjects.worker(command.worker, "assign")
        headers = trace_headers(command.trace)
        self._bus.post(subject, wire.encode(assignment), f"{self.answers}.{token}", headers)
        if command.trace:
            named: dict[str, Any] = {"job": job.id, "model": job.model, "worker": command.worker}
            named["tier"] = assignment.tier
            until_at = job.created_at + assignment.queued_s
            record("queue", command.trace, job.created_at, until_at, attempt=assignment.attempt, **named)

    async def _end(self, command: EndJob) -> None:
        event = command.event
        writer = of_leader(self._bus, event.term, command.job, event.attempt, command.fence)
        while True:
            try:
                await publish_terminal(self._bus, writer, event)
                break
            except BusError as error:
                log.warning("result.not_stored", job=command.job.id, error=str(error))
                await asyncio.sleep(STORE_AGAIN_S)
        await self._order_webhook(command.job, command.handle)

    async def _command(self, worker: str, verb: str, order: object) -> None:
        try:
            subject = self._bus.subjects.worker(worker, verb)
            answer = await self._bus.ask(subject, order, Done, COMMAND_TIMEOUT_S)
            if not answer.ok:
                log.debug("command.refused", worker=worker, verb=verb, reason=answer.reason)
        except NobodyThere:
            if verb in ALWAYS_ANSWERED:
                self._put(WorkerGone(worker))
        except (BusError, wire.UnreadableMessage) as error:
            log.warning("command.failed", worker=worker, verb=verb, error=str(error))

    async def _probe(self, worker: str) -> None:
        try:
            await self._bus.ask(self._bus.subjects.worker(worker, "ping"), None, Done, PROBE_TIMEOUT_S)
        except NobodyThere:
            self._put(WorkerGone(worker))
        except (BusError, wire.UnreadableMessage):
            pass  # it listens but does not answer: silence decides

    async def _check_result(self, command: CheckResult) -> None:
        found = await find_result(self._bus, command.job)
        status = status_of(found.result.event) if isinstance(found, Stored) else "completed"
        self._put(ResultChecked(command.job, command.attempt, FOUND[type(found)], status))

    def ended(self, job: str, attempt: int) -> None:
        """An attempt has ended: its worker had it, and may not say so any more."""
        token = self._tokens.get(job)
        if token is not None and self._assigning[token][1] == attempt:
            self._taken(token)

    def _taken(self, token: str) -> tuple[str, int, str] | None:
        """The job, attempt and worker of an assignment whose answer is not waited for any more."""
        waiting = self._assigning.pop(token, None)
        if waiting is None:
            return None
        job, attempt, worker, _ = waiting
        if self._tokens.get(job) == token:
            del self._tokens[job]
        return job, attempt, worker

    def on_answer(self, message: Msg) -> None:
        """A worker's answer to an assignment."""
        waiting = self._taken(message.subject.rsplit(".", 1)[1])
        if waiting is None:
            return
        job, attempt, worker = waiting
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

    def give_up_overdue(self, now: float) -> None:
        """Assignments that were not answered in time. All wait equally long: the first ones are the oldest."""
        while self._assigning:
            token, (job, attempt, worker, deadline) = next(iter(self._assigning.items()))
            if now <= deadline:
                break
            self._taken(token)
            self._put(AssignmentFailed(job, attempt, worker, is_gone=False))

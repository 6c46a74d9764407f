"""Calls that calls make: workers ask `<prefix>.calls`, each question is answered by one gateway of all.

A worker shows the seal of the job that asks, so that it can ask for jobs that it was given and for no others.
The job that is made gets its tenant, priority and deadline from the scheduler's books of that job; nothing that
a function or a worker says of them is believed. A question is answered when the call has ended, or after
ANSWER_WITHIN_S that it has not: then it is asked again, of any gateway, and means the same job.
"""

import asyncio
import time
from time import perf_counter_ns

import msgspec
from nats.aio.msg import Msg

from stoker.schemas import wire
from stoker.schemas.channels import GATEWAYS
from stoker.schemas.children import (
    MAX_CHILDREN,
    MAX_DEPTH,
    CallAnswer,
    CallAsked,
    CallLeft,
    CallQuestion,
    NotReturned,
    Returned,
    UnderWay,
    child_id,
    parent_mark,
)
from stoker.schemas.fleet import JobView
from stoker.schemas.job_events import Cancelled, Completed, Expired, Failed, Terminal, ValueOutput
from stoker.services.bus.endpoints import UNREADABLE
from stoker.services.gateway.edge.access import current_key, shown_to
from stoker.services.gateway.edge.decoding import decode
from stoker.services.gateway.edge.error_mapping import request_error
from stoker.services.gateway.edge.problems import RequestError
from stoker.services.gateway.gateway import Gateway
from stoker.services.gateway.jobs.answers import from_result
from stoker.services.gateway.jobs.for_tenants import as_tenant, give, is_passing, job_named
from stoker.services.gateway.jobs.outcomes import observe_end
from stoker.services.gateway.locating import Nowhere, locate
from stoker.services.gateway.scheduler_queries import Known, NotKnown, Unknown, look_up_job
from stoker.services.process.logs import get_logger
from stoker.services.process.tasks import TaskOwner
from stoker.services.process.telemetry import counter
from stoker.services.records.blobs import write_blob
from stoker.services.records.results import Stored, Unreadable

log = get_logger("calls")

ANSWER_WITHIN_S = 5.0
LIMIT_S = 60.0
"""How long one question is worked on at most."""
MAX_UNDER_WAY = 4096
"""Questions that one gateway works on; more are answered by nobody, and asked again."""
CALLS = counter("stoker_calls_total", "Questions of workers for calls of calls, by answer", "answer")
KINDS = {401: "auth", 403: "auth", 422: "impossible", 429: "retryable", 503: "retryable", 504: "timeout"}
"""What a refused call failed with, by its status; 400s: validation."""


class Calls:
    """Answers questions until stopped."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._bus = gateway.bus
        self._tasks = TaskOwner("calls")
        self._served = gateway.bus.endpoints.of("calls")
        self._under_way = 0

    async def run(self, stopping: asyncio.Event) -> None:
        async with self._tasks:
            subscription = await self._bus.listen(self._served.subject, self._take, GATEWAYS)
            with self._bus.endpoints.announcing(self._served):
                await stopping.wait()
            await self._bus.unlisten(subscription)
            await asyncio.Event().wait()

    def _take(self, message: Msg) -> None:
        began_ns = perf_counter_ns()
        try:
            asked: CallQuestion = wire.decode(CallQuestion, message.data)
        except wire.UnreadableMessage as error:
            log.warning("message.unreadable", subject=message.subject, error=str(error))
            self._served.done(began_ns, UNREADABLE)
            return
        if self._tasks.is_open and self._under_way < MAX_UNDER_WAY:
            self._under_way += 1
            self._tasks.start_contained(self._serve, asked, message.reply, began_ns)

    async def _serve(self, asked: CallQuestion, reply: str, began_ns: int) -> None:
        error = ""
        try:
            if not self._bus.seals.holds(asked.parent, asked.seal):
                log.warning("call.not_sealed", parent=asked.parent)
                answer: CallAnswer = NotReturned("auth", "who asks does not have the job that asks")
            elif isinstance(asked, CallLeft):
                if asked.job.startswith(parent_mark(asked.parent)):
                    await self._gateway.submission.cancel(asked.job)
                return
            else:
                answer = await self._answer(asked)
            CALLS.labels(type(answer).__name__).inc()
            error = answer.kind if isinstance(answer, NotReturned) else ""
            if reply:
                self._bus.tell(reply, answer)
        finally:
            self._under_way -= 1
            self._served.done(began_ns, error)

    async def _answer(self, asked: CallAsked) -> CallAnswer:
        job = child_id(asked.parent, asked.name, bytes(asked.payload), asked.nth)
        try:
            return await self._find_or_make(asked, job)
        except Exception as found:  # whatever one call brings about, it is told
            error = request_error(found, self._bus.subjects.calls(), job)
            tenants = current_key.get()
            text = shown_to(tenants.id if tenants is not None else "", error.message)
            kind = KINDS.get(error.status, "validation" if error.status < 500 else "internal")
            return NotReturned(kind, text, field=error.field or "", may_pass=is_passing(error))

    async def _find_or_make(self, asked: CallAsked, job: str) -> CallAnswer:
        """Raises RequestError, BusError."""
        with self._gateway.streams.expecting(job, LIMIT_S) as ended:
            match await locate(self._bus, job, must_be_sure=False):
                case Stored(result):
                    return await self._how_it_ended(result.event)
                case Unreadable(reason):
                    raise RequestError(500, reason, code="unreadable_result")
                case Unknown(reason):
                    raise RequestError(503, reason)
                case Known():
                    self._gateway.streams.look_now(job)
                case Nowhere():
                    await self._make(asked, job)
            await asyncio.wait([ended], timeout=ANSWER_WITHIN_S)
            if not ended.done():
                return UnderWay(job)
            event = ended.result().event
        observe_end(event)
        return await self._how_it_ended(event)

    async def _how_it_ended(self, event: Terminal) -> CallAnswer:
        """As it fits a message. Raises BusError."""
        answer = _how_it_ended(event)
        if not isinstance(answer, Returned) or len(answer.result) <= self._bus.max_payload // 2:
            return answer
        result = bytes(answer.result)
        return Returned(event.job, blob=await write_blob(self._bus, event.job, result, is_sealed=True))

    async def _make(self, asked: CallAsked, job: str) -> None:
        """Give the call to the queue, as its parent's. Raises RequestError, BusError."""
        parent = await self._parent(asked.parent)
        await as_tenant(self._gateway, parent.tenant)
        if parent.depth >= MAX_DEPTH:
            raise RequestError(400, f"calls call at most {MAX_DEPTH} deep", code="too_deep")
        if parent.child_count >= MAX_CHILDREN:
            raise RequestError(400, f"a call makes at most {MAX_CHILDREN} calls", code="too_many_calls")
        payload = decode(dict[str, object], bytes(asked.payload))
        made = job_named(
            self._gateway,
            asked.name,
            payload,
            job,
            parent=parent.id,
            depth=parent.depth + 1,
            priority=parent.priority,
            deadline_s=_left_s(parent),
        )
        await give(self._gateway, made, len(asked.payload))

    async def _parent(self, parent: str) -> JobView:
        """The job that asks, as the scheduler has it. Raises RequestError."""
        match await look_up_job(self._bus, parent):
            case Known(view) as known if known.is_under_way:
                return view
            case Known() | NotKnown():
                raise RequestError(409, f"the job {parent!r}, which asks, has ended", code="parent_ended")
            case Unknown(reason):
                raise RequestError(503, reason)


def _left_s(parent: JobView) -> float | None:
    """What is left until a job's deadline. Raises RequestError 504 where that is over."""
    if parent.deadline_s is None:
        return None
    left_s = parent.created_at + parent.deadline_s - time.time()
    if left_s <= 0:
        raise RequestError(504, "the deadline of the call that asks is over", code="timeout")
    return left_s


def _how_it_ended(event: Terminal) -> CallAnswer:
    match event:
        case Completed(output=ValueOutput(blob=blob)) if blob:
            return Returned(event.job, blob=blob)
        case Completed():
            return Returned(event.job, msgspec.Raw(wire.encode(from_result(event).result)))
        case Failed():
            text = shown_to(event.tenant, event.message)
            return NotReturned(event.kind, text, event.job, event.field)
        case Cancelled():
            return NotReturned("cancelled", "it was cancelled", event.job)
        case Expired():
            return NotReturned("timeout", event.message, event.job)

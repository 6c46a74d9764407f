"""How jobs ended: one record per job id, judged by the server.

Theory. Whoever may end a job writes to the one subject of that job (`Subjects.result`), and says which record
it believes to be the last there: its *fence*. The server stores it only if that is so, so a job has one
terminal event whoever is paused, cut off or doubled. Before the leader gives a job to a further attempt while
an earlier one may still be alive, it writes `Superseded` there: the fence of the earlier one does not hold any
more, and what it writes is refused. The leader itself writes to a subject of its term, which the stream takes
(as that of the job) only while the term is the newest (services/bus/streams.py): an earlier leader ends
nothing.

The subject has the job's seal in it (services/bus/seals.py), so that only who was given the job can write
there. A worker may not read results: it asks the leader what is stored of a job of its own.
"""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import msgspec
from nats.js import api

from stoker.schemas import wire
from stoker.schemas.fleet import JobView
from stoker.schemas.job_events import Cancelled, Completed, Expired, Failed, StoredRecord, Superseded, Terminal
from stoker.schemas.jobs import Job, Status
from stoker.schemas.subjects import ANY, RESULTS_STREAM, opened
from stoker.schemas.workers import Assignment, Recorded, RecordedQuery
from stoker.services.bus.connection import Bus
from stoker.services.bus.errors import (
    BusError,
    Conflict,
    Missing,
    NoAnswer,
    Refused,
    StreamFull,
    TooLarge,
    named,
)
from stoker.services.bus.publishing import Answered, PubAck, into
from stoker.services.process.tasks import cleanup

PUBLISH_ATTEMPTS = 10
LISTING_TIMEOUT_S = 2.0
ASK_LEADER_S = 2.0
ENDING_HEADER = "Stoker-Ending"
"""What a listing shows of a job that ended (a JobView), so that nobody need read pictures for it."""

Order = tuple[int, int]
"""Term and attempt: later attempts of a job are greater."""
Outcome = Literal["stored", "ended_before", "superseded"]
"""stored: this is the job's end. ended_before: it had another. superseded: a later attempt has the job."""


class Result:
    """A stored terminal event and the raw bytes that came with it."""

    def __init__(self, event: Terminal, attached: bytes) -> None:
        self.event = event
        self.attached = attached


@dataclass(frozen=True, slots=True)
class Stored:
    """The job has ended: this is its terminal event."""

    result: Result


@dataclass(frozen=True, slots=True)
class NotStored:
    """The job has no terminal event; or none that is still kept.

    place: number of the last record under its subject, 0 for none. order: the attempt that may end it by that
    record.
    """

    place: int = 0
    order: Order = (0, 0)


@dataclass(frozen=True, slots=True)
class Unreadable:
    """The job has ended, and its terminal event cannot be decoded by this version. reason: what is wrong."""

    reason: str


@dataclass(frozen=True, slots=True)
class Unknown:
    """It could not be found out; that says nothing about the job. reason: why not."""

    reason: str


Lookup = Stored | NotStored | Unreadable | Unknown
"""Whether a job has ended, as far as the store could say."""


@dataclass(frozen=True, slots=True)
class Writer:
    """Who ends a job. subject: where it writes. fence: what it believes to be the last record there.

    look: finds out what is stored of the job. order: its attempt, or the last one that the leader knows.
    may_override: the leader, who writes after whatever attempts of its own or of earlier leaders are noted.
    """

    subject: str
    gateway: str
    fence: int
    order: Order
    look: Callable[[], Awaitable[Recorded]]
    may_override: bool = False


def of_attempt(bus: Bus, assignment: Assignment) -> Writer:
    """A worker, with an attempt that it was given."""
    job, seal = assignment.job, assignment.seal
    look = partial(_ask_leader, bus, job.id, seal) if seal else partial(recorded, bus, job.id)
    order = (assignment.term, assignment.attempt)
    return Writer(bus.subjects.result(job.id, seal), job.gateway, assignment.fence, order, look)


def of_leader(bus: Bus, term: int, job: Job, attempt: int, fence: int) -> Writer:
    """The scheduler of a term, for a job that no worker is to end."""
    subject = bus.subjects.verdict(term, job.id, seal_of(bus, job))
    look = partial(recorded, bus, job.id)
    return Writer(subject, job.gateway, fence, (term, attempt), look, may_override=True)


def seal_of(bus: Bus, job: Job) -> str:
    """The seal under which everybody speaks of a job; "" where the gateway that accepted it knew of none."""
    return bus.seals.of(job.id) if job.is_sealed else ""


def read_record(payload: bytes, headers: dict[str, str] | None) -> Result | Superseded:
    """What a message under a result subject says. Raises wire.UnreadableMessage."""
    head, attached = wire.unpack(payload, headers)
    try:
        record = wire.decode(StoredRecord, head)
    except wire.UnreadableMessage as error:
        return Result(_of_later_version(head, error), b"")
    return record if isinstance(record, Superseded) else Result(record, attached)


def _of_later_version(head: bytes, error: wire.UnreadableMessage) -> Failed:
    """An end that only a later version can read: that it is one is known. Raises wire.UnreadableMessage."""
    try:
        known = wire.decode(TerminalFields, head)
    except wire.UnreadableMessage:
        raise error from None
    message = f"the job has ended in a way that this version cannot read ({error})"
    fields = {name: getattr(known, name) for name in known.__struct_fields__}
    return Failed(**fields, kind="internal", message=message)


# Writing ------------------------------------------------------------------------------------------


class TerminalFields(msgspec.Struct, frozen=True):
    """What every version says of an end."""

    job: str
    model: str
    created_at: float
    finished_at: float
    term: int = 0
    attempt: int = 0
    seq: int = 0
    worker: str = ""
    spec: str = ""
    fingerprint: str = ""
    tenant: str = ""


def post_terminal(
    bus: Bus,
    writer: Writer,
    event: Terminal,
    attachments: list[bytes],
    answered: Answered,
    fence: int | None = None,
) -> None:
    """Publish a terminal event; `answered` is called with how that went: Conflict when the fence does not hold.

    fence: another than the writer's.
    """
    payload, headers = wire.pack(event, attachments)
    headers[ENDING_HEADER] = wire.encode(_ending(writer.gateway, event)).decode()
    expected = writer.fence if fence is None else fence
    bus.post_stored(writer.subject, payload, answered, expected=expected, headers=headers)


async def publish_terminal(
    bus: Bus, writer: Writer, event: Terminal, attachments: list[bytes] | None = None
) -> Outcome:
    """Store the terminal event of a job.

    Tries for as long as NATS is away within `PUBLISH_ATTEMPTS` publications. Raises BusError after that.
    """
    last: BusError = NoAnswer("not tried")
    fence = writer.fence
    for _ in range(PUBLISH_ATTEMPTS):
        answer: asyncio.Future[PubAck] = asyncio.get_running_loop().create_future()
        post_terminal(bus, writer, event, attachments or [], into(answer), fence)
        try:
            await answer
            return "stored"
        except Conflict:
            pass
        except (StreamFull, TooLarge):
            raise
        except BusError as error:
            last = error
            continue
        found = await writer.look()
        order = (found.term, found.attempt)
        match found.state:
            case "ended":
                return "stored" if found.digest == _digest(event) else "ended_before"
            case "unreadable":
                return "ended_before"
            case "open":
                if found.place and not (writer.may_override and order <= writer.order):
                    return "superseded"
                fence = found.place
            case "unknown":
                last = BusError(found.reason)
    raise last


def _digest(event: Terminal) -> str:
    return hashlib.blake2b(wire.encode(event), digest_size=16).hexdigest()


async def recorded(bus: Bus, job: str) -> Recorded:
    """What is stored of a job, as a worker is told it. Raises nothing."""
    match await find_result(bus, job, for_sure=True):
        case Stored(result):
            return Recorded("ended", digest=_digest(result.event))
        case Unreadable(reason):
            return Recorded("unreadable", reason=reason)
        case NotStored(place, (term, attempt)):
            return Recorded("open", place, term, attempt)
        case Unknown(reason):
            return Recorded("unknown", reason=reason)


async def _ask_leader(bus: Bus, job: str, seal: str) -> Recorded:
    """As `recorded`, for a worker. Raises nothing."""
    subject = bus.subjects.scheduler("recorded")
    try:
        found: Recorded = await bus.ask(subject, RecordedQuery(job, seal), Recorded, ASK_LEADER_S)
    except (BusError, wire.UnreadableMessage) as error:
        return Recorded("unknown", reason=str(error))
    return found


async def supersede(bus: Bus, term: int, job: Job, attempt: int, fence: int) -> int | None:
    """Note that `attempt` has the job: no earlier one can end it from now on.

    The fence for that attempt; None when the job has ended. fence: the last one that is known. Raises BusError.
    """
    subject = bus.subjects.verdict(term, job.id, seal_of(bus, job))
    record = wire.encode(Superseded(job=job.id, term=term, attempt=attempt))
    for _ in range(PUBLISH_ATTEMPTS):
        try:
            return (await bus.publish_stored(subject, record, expected=fence)).seq
        except Conflict:
            pass
        match await find_result(bus, job.id):
            case Stored() | Unreadable():
                return None
            case NotStored(place, order) if order > (term, attempt):
                raise Refused(f"attempt {order} of {job.id} is noted already")
            case NotStored(place, order) if order == (term, attempt):
                return place  # our own, whose answer was lost
            case NotStored(place, _):
                fence = place
            case Unknown(reason):
                raise BusError(reason)
    raise NoAnswer(f"the result of {job.id} changes all the time")


def _ending(gateway: str, event: Terminal) -> JobView:
    return JobView(
        id=event.job,
        model=event.model,
        status=status_of(event),
        created_at=event.created_at,
        attempt=event.attempt,
        worker=event.worker,
        spec=event.spec,
        queued_s=event.timings.queued_s,
        fingerprint=event.fingerprint,
        gateway=gateway,
        tenant=event.tenant,
        parent=event.parent,
        finished_at=event.finished_at,
    )


def status_of(event: Terminal) -> Status:
    """What a job that ended like this is called."""
    match event:
        case Completed():
            return "completed"
        case Failed():
            return "failed"
        case Cancelled():
            return "cancelled"
        case Expired():
            return "expired"


# Looking ------------------------------------------------------------------------------------------


async def find_result(bus: Bus, job: str, *, for_sure: bool = False) -> Lookup:
    """Whether a job has ended, and how. Raises nothing: `Unknown` says that it could not be found out.

    for_sure: the server that leads the stream is asked. Any other may answer too, and be a moment behind.
    """
    found = await _last_record(bus, job, bus.seals.of(job), for_sure)
    if found == NotStored() and bus.seals.of(job) and bus.seals.may_be_missing:
        return await _last_record(bus, job, "", for_sure)
    return found


async def _last_record(bus: Bus, job: str, seal: str, for_sure: bool) -> Lookup:
    try:
        with named(f"looking for the result of {job}"):
            subject = bus.subjects.result(job, seal)
            message = await bus.jetstream.get_last_msg(RESULTS_STREAM, subject, direct=not for_sure)
    except Missing:
        return NotStored()
    except BusError as error:
        return Unknown(str(error))
    try:
        record = read_record(message.data or b"", message.headers)
    except wire.UnreadableMessage as error:
        return Unreadable(f"the result of {job} cannot be read: {error}")
    if isinstance(record, Superseded):
        return NotStored(message.seq or 0, (record.term, record.attempt))
    return Stored(record)


async def last_endings(bus: Bus, count: int) -> list[JobView]:
    """What ended lately, oldest first, read from headers alone. Raises BusError."""
    with named("listing the last results"):
        state = (await bus.jetstream.stream_info(RESULTS_STREAM)).state
        if not state.messages:
            return []
        consumer = await bus.jetstream.pull_subscribe(
            bus.subjects.every("result", ANY, ANY),
            stream=RESULTS_STREAM,
            config=api.ConsumerConfig(
                deliver_policy=api.DeliverPolicy.BY_START_SEQUENCE,
                opt_start_seq=max(state.first_seq, state.last_seq - count + 1),
                ack_policy=api.AckPolicy.NONE,
                headers_only=True,
                inactive_threshold=10.0,
            ),
        )
    views: list[JobView] = []
    try:
        with named("listing the last results"):
            for message in await consumer.fetch(min(count, state.messages), timeout=LISTING_TIMEOUT_S):
                ending = (message.headers or {}).get(ENDING_HEADER)
                if ending and bus.seals.holds(*opened(message.subject)):
                    views.append(wire.decode(JobView, ending.encode()))
    except (NoAnswer, wire.UnreadableMessage):
        pass  # a shorter listing, nothing worse
    finally:
        async with cleanup("unsubscribing", LISTING_TIMEOUT_S):
            await bus.unlisten(consumer)
    return views

"""Terminal events: published once per job, looked up by job.

The server itself decides who is first (`must_be_first`), so that a job has one terminal event even when two
workers, or a worker and the scheduler, end it at the same moment.
"""

import asyncio
from dataclasses import dataclass

from nats.js import api

from schemas import wire
from schemas.fleet import JobView
from schemas.job_events import Cancelled, Completed, Expired, Failed, Terminal
from schemas.jobs import Status
from schemas.subjects import ANY, RESULTS_STREAM, Wildcard
from services.bus.connection import Bus
from services.bus.errors import BusError, Conflict, Missing, NoAnswer, StreamFull, named
from services.bus.publishing import Answered, PubAck, into
from services.process.tasks import cleanup

PUBLISH_ATTEMPTS = 10
LISTING_TIMEOUT_S = 2.0
ENDING_HEADER = "Stoker-Ending"
"""What a listing shows of a job that ended (a JobView), so that nobody need read pictures for it."""


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
    """The job has no terminal event; or none that is still kept."""


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


def read_result(payload: bytes, headers: dict[str, str] | None) -> Result:
    """Raises wire.UnreadableMessage."""
    head, attached = wire.unpack(payload, headers)
    return Result(wire.decode(Terminal, head), attached)


def post_terminal(
    bus: Bus, gateway: str, event: Terminal, attachments: list[bytes], answered: Answered
) -> None:
    """Publish a terminal event; `answered` is called with how that went: Conflict when the job has ended."""
    payload, headers = wire.pack(event, attachments)
    headers[ENDING_HEADER] = wire.encode(_ending(gateway, event)).decode()
    subject = bus.subjects.result(gateway, event.job)
    bus.post_stored(subject, payload, answered, must_be_first=True, headers=headers)


async def publish_terminal(
    bus: Bus, gateway: str, event: Terminal, attachments: list[bytes] | None = None
) -> bool:
    """Store the terminal event of a job, and the order for its webhook; False when the job had ended already.

    Tries for as long as NATS is away within `PUBLISH_ATTEMPTS` publications. Raises BusError after that; then
    call it again, as the order of a webhook is published whoever stored the event.
    """
    is_first = await _store(bus, gateway, event, attachments or [])
    ordered = event if is_first else await _stored_event(bus, event.job, gateway)
    if ordered is not None and ordered.webhook:
        subject = bus.subjects.webhook(ordered.job)
        await bus.publish_stored(subject, wire.encode(ordered), message_id=ordered.job)
    return is_first


async def _store(bus: Bus, gateway: str, event: Terminal, attachments: list[bytes]) -> bool:
    """Whether this event is the stored one. Raises BusError."""
    last: BusError = NoAnswer("not tried")
    for attempt in range(PUBLISH_ATTEMPTS):
        answer: asyncio.Future[PubAck] = asyncio.get_running_loop().create_future()
        post_terminal(bus, gateway, event, attachments, into(answer))
        try:
            await answer
            return True
        except Conflict:
            return attempt > 0  # a repeat of our own that did arrive
        except StreamFull:
            raise
        except BusError as error:
            last = error
    raise last


async def _stored_event(bus: Bus, job: str, gateway: str) -> Terminal | None:
    """What is stored of a job that has ended; None where it cannot be read. Raises BusError."""
    match await find_result(bus, job, gateway):
        case Stored(result):
            return result.event
        case Unknown(reason):
            raise BusError(reason)
        case _:
            return None


def _ending(gateway: str, event: Terminal) -> JobView:
    status: Status
    match event:
        case Completed():
            status = "completed"
        case Failed():
            status = "failed"
        case Cancelled():
            status = "cancelled"
        case Expired():
            status = "expired"
    return JobView(
        id=event.job,
        model=event.model,
        status=status,
        created_at=event.created_at,
        attempt=event.attempt,
        worker=event.worker,
        spec=event.spec,
        queued_s=event.timings.queued_s,
        fingerprint=event.fingerprint,
        gateway=gateway,
        tenant=event.tenant,
    )


async def find_result(bus: Bus, job: str, gateway: str | Wildcard = ANY) -> Lookup:
    """Whether a job has ended, and how. Raises nothing: `Unknown` says that it could not be found out."""
    subject = bus.subjects.every("result", gateway, job)
    try:
        with named(f"looking for the result of {job}"):
            message = await bus.jetstream.get_last_msg(RESULTS_STREAM, subject, direct=True)
    except Missing:
        return NotStored()
    except BusError as error:
        return Unknown(str(error))
    try:
        return Stored(read_result(message.data or b"", message.headers))
    except wire.UnreadableMessage as error:
        return Unreadable(f"the result of {job} cannot be read: {error}")


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
                if ending:
                    views.append(wire.decode(JobView, ending.encode()))
    except (NoAnswer, wire.UnreadableMessage):
        pass  # a shorter listing, nothing worse
    finally:
        async with cleanup("unsubscribing", LISTING_TIMEOUT_S):
            await bus.unlisten(consumer)
    return views

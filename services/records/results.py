"""Terminal events: published once per job, looked up by job.

The server itself decides who is first (`must_be_first`), so that a job has one terminal event even when two
workers, or a worker and the scheduler, end it at the same moment.
"""

import asyncio

import nats.errors
from nats.js import api
from nats.js.errors import APIError, NotFoundError
from nats.js.errors import Error as JetStreamError

from schemas import wire
from schemas.fleet import JobView
from schemas.job_events import Cancelled, Completed, Expired, Failed, Terminal
from schemas.jobs import Status
from schemas.subjects import ANY, RESULTS_STREAM, Wildcard
from services.bus.connection import AlreadyStored, Answered, Bus, BusError, PubAck, StreamFull, into

PUBLISH_ATTEMPTS = 10
ENDING_HEADER = "Stoker-Ending"
"""What a listing shows of a job that ended (a JobView), so that nobody need read pictures for it."""


class Result:
    """A stored terminal event and the raw bytes that came with it."""

    def __init__(self, event: Terminal, attached: bytes) -> None:
        self.event = event
        self.attached = attached


def read_result(payload: bytes, headers: dict[str, str] | None) -> Result:
    """Raises wire.UnreadableMessage."""
    head, attached = wire.unpack(payload, headers)
    return Result(wire.decode(Terminal, head), attached)


def post_terminal(
    bus: Bus, gateway: str, event: Terminal, attachments: list[bytes], answered: Answered
) -> None:
    """Publish a terminal event; `answered` hears whether it is stored, AlreadyStored for another's."""
    payload, headers = wire.pack(event, attachments)
    headers[ENDING_HEADER] = wire.encode(_ending(gateway, event)).decode()
    subject = bus.subjects.result(gateway, event.job)
    bus.post_stored(subject, payload, answered, must_be_first=True, headers=headers)


async def publish_terminal(
    bus: Bus, gateway: str, event: Terminal, attachments: list[bytes] | None = None
) -> bool:
    """Store the terminal event of a job; False when the job had ended already.

    Tries for as long as NATS is away within `PUBLISH_ATTEMPTS` publications. Raises BusError after that.
    """
    for attempt in range(PUBLISH_ATTEMPTS):
        answer: asyncio.Future[PubAck] = asyncio.get_running_loop().create_future()
        post_terminal(bus, gateway, event, attachments or [], into(answer))
        try:
            await answer
            break
        except AlreadyStored:
            return attempt > 0  # a repeat of our own that did arrive
        except StreamFull:
            raise
        except BusError:
            if attempt == PUBLISH_ATTEMPTS - 1:
                raise
    if event.webhook:
        await bus.publish_stored(bus.subjects.webhook(event.job), wire.encode(event), message_id=event.job)
    return True


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


async def find_result(bus: Bus, job: str, gateway: str | Wildcard = ANY) -> Result | None:
    """The stored terminal event of a job, or None. Raises BusError when the server does not answer."""
    subject = bus.subjects.every("result", gateway, job)
    try:
        message = await bus.jetstream.get_last_msg(RESULTS_STREAM, subject, direct=True)
    except NotFoundError:
        return None
    except (APIError, JetStreamError, nats.errors.Error, TimeoutError) as error:
        raise BusError(f"results cannot be read: {error}") from error
    return read_result(message.data or b"", message.headers)


async def last_endings(bus: Bus, count: int) -> list[JobView]:
    """What ended lately, oldest first, read from headers alone."""
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
        for message in await consumer.fetch(min(count, state.messages), timeout=2):
            ending = (message.headers or {}).get(ENDING_HEADER)
            if ending:
                views.append(wire.decode(JobView, ending.encode()))
    except (nats.errors.TimeoutError, wire.UnreadableMessage):
        pass  # a shorter listing, nothing worse
    finally:
        await consumer.unsubscribe()
    return views

"""What could not be handled, put aside with its reason: nobody tries it again, and people can look at it.

A message comes here when it cannot be read, when handling it fails, or after its last delivery. The stream
keeps it for `QUARANTINE_TTL_S`; `stoker quarantine` lists, shows, sends again and discards.
"""

import time
from collections.abc import Callable, Mapping
from typing import get_args

import msgspec
from prometheus_client import Counter

from stoker.schemas import wire
from stoker.schemas.fleet import PlatformEvent
from stoker.schemas.quarantine import Quarantined, Source
from stoker.schemas.subjects import QUARANTINE_STREAM
from stoker.services.bus.connection import Bus
from stoker.services.bus.errors import BusError, Missing, named
from stoker.services.bus.publishing import PubAck
from stoker.services.process.logs import get_logger
from stoker.services.process.telemetry import counter

log = get_logger("quarantine")

QUARANTINED: Counter = counter(
    "stoker_quarantined_total", "Messages that were put aside", "source", known=get_args(Source)
)
MAX_REASON_CHARS = 2000


def put_aside(
    bus: Bus,
    source: Source,
    subject: str,
    payload: bytes,
    headers: Mapping[str, str] | None,
    reason: str,
    *,
    job: str = "",
    stored: Callable[[], None] = lambda: None,
) -> None:
    """Put a message aside; `stored` is called once it is. Where that fails the message comes again.

    A message of nearly the largest size is cut, as what is said of it must fit too; then it cannot be sent
    again.
    """
    room = bus.max_payload // 4 * 3 - 64 * 1024  # base64 makes four bytes of three
    item = Quarantined(
        source, subject, payload[:room], dict(headers or {}), reason[:MAX_REASON_CHARS], time.time(), job,
        is_cut=len(payload) > room,
    )  # fmt: skip
    log.error("message.quarantined", source=source, subject=subject, job=job, reason=reason)
    QUARANTINED.labels(source).inc()

    def answered(found: PubAck | BusError) -> None:
        if isinstance(found, PubAck):
            stored()
            event = PlatformEvent(kind="quarantined", subject=job or source, at=item.at, reason=item.reason)
            bus.post(bus.subjects.event(event.kind, event.subject), wire.encode(event))
        else:
            log.warning("quarantine.not_stored", subject=subject, error=str(found))

    bus.post_stored(bus.subjects.quarantine(source), wire.encode(item), answered)


async def list_quarantined(bus: Bus) -> list[tuple[int, Quarantined]]:
    """Everything that was put aside, the oldest first, with its number. Raises BusError."""
    with named("reading the quarantine"):
        state = (await bus.jetstream.stream_info(QUARANTINE_STREAM)).state
    found: list[tuple[int, Quarantined]] = []
    number = state.first_seq
    while state.messages and number <= state.last_seq:
        item = await get_quarantined(bus, number)
        if item is not None:
            found.append((number, item))
        number += 1
    return found


async def get_quarantined(bus: Bus, number: int) -> Quarantined | None:
    """What has this number; None: nothing has it, or it cannot be read. Raises BusError."""
    try:
        with named(f"reading {number} of the quarantine"):
            message = await bus.jetstream.get_msg(QUARANTINE_STREAM, number)
        item: Quarantined = wire.decode(Quarantined, message.data or b"")
    except (Missing, wire.UnreadableMessage):
        return None
    return item


async def send_again(bus: Bus, number: int, item: Quarantined) -> None:
    """Send a message as it was, and take it out. Raises BusError."""
    own = {name: value for name, value in item.headers.items() if not name.startswith("Nats-")}
    await bus.publish_stored(item.subject, item.payload, headers=own)
    await discard(bus, number)


async def discard(bus: Bus, number: int) -> None:
    """Take a message out for good. Raises BusError."""
    with named(f"removing {number} of the quarantine"):
        await bus.jetstream.delete_msg(QUARANTINE_STREAM, number)


def shown(item: Quarantined) -> object:
    """A message as JSON shows it: its payload as JSON where it is that, else as text."""
    try:
        content: object = msgspec.json.decode(item.payload)
    except (msgspec.DecodeError, RecursionError):
        content = item.payload.decode(errors="replace")
    return {
        "source": item.source,
        "subject": item.subject,
        "reason": item.reason,
        "at": item.at,
        "job": item.job,
        "is_cut": item.is_cut,
        "headers": item.headers,
        "payload": content,
    }

"""The stream STOKER_EVENTS: what happened and why, oldest first; what people did among it."""

import time
from collections.abc import AsyncGenerator

from nats.js.api import ConsumerConfig, DeliverPolicy

from stoker.schemas import wire
from stoker.schemas.fleet import PlatformEvent
from stoker.schemas.subjects import ANY, EVENTS_STREAM
from stoker.services.bus.connection import Bus
from stoker.services.bus.errors import NoAnswer, named
from stoker.services.process.logs import get_logger
from stoker.services.process.tasks import cleanup

log = get_logger("events")

UNSUBSCRIBE_TIMEOUT_S = 2.0
MAX_WHO_CHARS = 100
WAIT_S = 5.0
"""How long a follower waits for an event before it is given None, to tell its client that it lives."""


def note_action(bus: Bus, who: str, action: str) -> None:
    """Keep that somebody has changed something: the audit trail. who: a key's id, or a user of NATS and a
    machine.
    """
    event = PlatformEvent(kind="operated", subject=who, at=time.time(), reason=action)
    bus.post(bus.subjects.event(event.kind, who[:MAX_WHO_CHARS]), wire.encode(event))


async def newest_number(bus: Bus) -> int:
    """The number of the newest event, 0 when there is none. Raises BusError."""
    with named("reading the platform events"):
        return int((await bus.jetstream.stream_info(EVENTS_STREAM)).state.last_seq)


async def read_events(
    bus: Bus, after: int, *, follow: bool
) -> AsyncGenerator[tuple[int, PlatformEvent] | None]:
    """Events with their numbers in the stream, those after number `after`.

    Without `follow` it ends with the newest; else None comes whenever nothing happened for a while. Raises
    BusError.
    """
    config = ConsumerConfig(deliver_policy=DeliverPolicy.BY_START_SEQUENCE, opt_start_seq=after + 1)
    newest = await newest_number(bus)
    if not follow and newest <= after:
        return
    with named("reading the platform events"):
        subscription = await bus.jetstream.subscribe(
            bus.subjects.every("events", ANY, ANY), stream=EVENTS_STREAM, ordered_consumer=True, config=config
        )
    try:
        number = after
        while follow or number < newest:
            try:
                with named("waiting for a platform event"):
                    message = await subscription.next_msg(WAIT_S)
            except NoAnswer:
                yield None
                if not follow:
                    return
                continue
            number = message.metadata.sequence.stream
            try:
                yield number, wire.decode(PlatformEvent, message.data)
            except wire.UnreadableMessage as error:
                log.warning("message.unreadable", subject=message.subject, error=str(error))
    finally:
        async with cleanup("unsubscribing", UNSUBSCRIBE_TIMEOUT_S):
            await bus.unlisten(subscription)

"""Reading the stream STOKER_EVENTS: what happened and why, oldest first."""

import asyncio
from collections.abc import AsyncIterator

import nats.errors
from nats.js.api import ConsumerConfig, DeliverPolicy
from nats.js.errors import Error as JetStreamError

from schemas import wire
from schemas.fleet import PlatformEvent
from schemas.subjects import ANY, EVENTS_STREAM
from services.bus.connection import Bus, BusError
from services.process.logs import get_logger

log = get_logger("events")

WAIT_S = 5.0
"""How long a follower waits for the next event before it hears None, so that it can say it lives."""


async def newest_number(bus: Bus) -> int:
    """The number of the newest event, 0 when there is none. Raises BusError."""
    try:
        return int((await bus.jetstream.stream_info(EVENTS_STREAM)).state.last_seq)
    except (nats.errors.Error, JetStreamError, TimeoutError) as error:
        raise BusError(f"the events cannot be read: {error or type(error).__name__}") from error


async def read_events(bus: Bus, after: int, *, follow: bool) -> AsyncIterator[tuple[int, PlatformEvent] | None]:
    """Events with their numbers in the stream, those after number `after`.

    Without `follow` it ends with the newest; else None comes whenever nothing happened for a while. Raises
    BusError.
    """
    config = ConsumerConfig(deliver_policy=DeliverPolicy.BY_START_SEQUENCE, opt_start_seq=after + 1)
    newest = await newest_number(bus)
    if not follow and newest <= after:
        return
    try:
        subscription = await bus.jetstream.subscribe(
            bus.subjects.every("events", ANY, ANY), ordered_consumer=True, config=config
        )
    except (nats.errors.Error, JetStreamError, TimeoutError) as error:
        raise BusError(f"the events cannot be read: {error or type(error).__name__}") from error
    try:
        number = after
        while follow or number < newest:
            try:
                message = await subscription.next_msg(WAIT_S)
            except (nats.errors.TimeoutError, TimeoutError):
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
        if bus.is_connected:
            await asyncio.shield(subscription.unsubscribe())

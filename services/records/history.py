"""Reading the last day: the streams STOKER_HISTORY and STOKER_EVENTS between two moments, page by page."""

from collections.abc import AsyncGenerator
from datetime import UTC, datetime
from typing import Any, TypeVar

from nats.js.api import ConsumerConfig, DeliverPolicy

from stoker.schemas import wire
from stoker.services.bus.connection import Bus
from stoker.services.bus.errors import NoAnswer, named
from stoker.services.process.logs import get_logger
from stoker.services.process.tasks import cleanup

log = get_logger("history")

T = TypeVar("T")

UNSUBSCRIBE_TIMEOUT_S = 2.0
WAIT_S = 0.5
"""How long a message of the subject is waited for: the last of its stream may be of another."""


async def between(
    bus: Bus, stream: str, subject: str, kind: type[T], since: float, after: int
) -> AsyncGenerator[tuple[int, T]]:
    """What a stream has under a subject now, with its numbers: stored since then, and after number `after`.

    Raises BusError, Missing where the stream is not there.
    """
    with named(f"reading the stream {stream}"):
        state = (await bus.jetstream.stream_info(stream)).state
    if not state.messages or state.last_seq <= after:
        return
    with named(f"reading the stream {stream}"):
        subscription = await bus.jetstream.subscribe(
            subject, stream=stream, ordered_consumer=True, config=_from(since, after)
        )
    try:
        while True:
            try:
                with named(f"reading the stream {stream}"):
                    message = await subscription.next_msg(WAIT_S)
            except NoAnswer:
                return
            about = message.metadata
            number = about.sequence.stream
            if number > state.last_seq:
                return
            try:
                found: Any = wire.decode(kind, message.data)
                yield number, found
            except wire.UnreadableMessage as error:
                log.warning("message.unreadable", subject=message.subject, error=str(error))
            if number == state.last_seq or not about.num_pending:
                return
    finally:
        async with cleanup("unsubscribing", UNSUBSCRIBE_TIMEOUT_S):
            await bus.unlisten(subscription)


def _from(since: float, after: int) -> ConsumerConfig:
    if after:
        return ConsumerConfig(deliver_policy=DeliverPolicy.BY_START_SEQUENCE, opt_start_seq=after + 1)
    if since > 0:
        moment = datetime.fromtimestamp(since, UTC)
        return ConsumerConfig(deliver_policy=DeliverPolicy.BY_START_TIME, opt_start_time=moment)
    return ConsumerConfig(deliver_policy=DeliverPolicy.ALL)

"""What happened on the platform and why: the stream STOKER_EVENTS over HTTP and SSE."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated

import msgspec

from stoker.schemas import wire
from stoker.schemas.fleet import PlatformEvent
from stoker.services.bus.connection import Bus
from stoker.services.gateway.edge.exchange import Exchange
from stoker.services.gateway.edge.problems import RequestError
from stoker.services.gateway.edge.routing import get
from stoker.services.gateway.edge.sse import EVENT_STREAM, comment, sse
from stoker.services.gateway.gateway import Gateway
from stoker.services.records.platform_events import read_events

DEFAULT_LIMIT = 100
MAX_LIMIT = 1000


class Events(msgspec.Struct, frozen=True):
    """The newest events that were asked for, oldest first."""

    events: tuple[PlatformEvent, ...]


class EventsQuery(msgspec.Struct, frozen=True):
    """Which events are wanted, and how many at most."""

    model: str = ""
    kind: str = ""
    limit: Annotated[int, msgspec.Meta(ge=1, le=MAX_LIMIT)] = DEFAULT_LIMIT

    def fits(self, event: PlatformEvent) -> bool:
        return self.model in ("", event.model) and self.kind in ("", event.kind)


@get(
    "/v1/events",
    summary="What happened and why; SSE if accepted",
    query=EventsQuery,
    answers=Events,
    role="operate",
)
async def events(gateway: Gateway, exchange: Exchange) -> None:
    wanted = exchange.query(EventsQuery)
    last = exchange.header(b"last-event-id") or "0"
    if not (last.isascii() and last.isdecimal()):
        raise RequestError(400, "must be a number", field="Last-Event-ID", code="invalid_value")
    if EVENT_STREAM in exchange.header(b"accept"):
        await exchange.stream(gateway.streams_open, follow_events(gateway.bus, int(last), wanted))
        return
    found: list[PlatformEvent] = []
    async with aclosing(read_events(gateway.bus, int(last), follow=False)) as items:
        async for item in items:
            if item is not None and wanted.fits(item[1]):
                found.append(item[1])
    await exchange.answer(Events(tuple(found[-wanted.limit :])))


async def follow_events(bus: Bus, after: int, wanted: EventsQuery) -> AsyncGenerator[bytes]:
    """Server-sent events of the platform after number `after`, for ever."""
    yield comment("events")
    async with aclosing(read_events(bus, after, follow=True)) as items:
        async for item in items:
            if item is None:
                yield comment("nothing new")
            elif wanted.fits(item[1]):
                number, event = item
                yield sse(wire.encode(event), event.kind, str(number))


ROUTES = [events]

"""What happened on the platform and why: the stream STOKER_EVENTS over HTTP and SSE."""

from collections.abc import AsyncIterator
from typing import Annotated, Any

import msgspec
from litestar import Request, Response, get
from litestar.datastructures import State
from litestar.params import Parameter
from litestar.response import Stream

from schemas import wire
from schemas.fleet import PlatformEvent
from services.bus.connection import Bus
from services.bus.errors import BusError
from services.gateway.edge.http import comment, event_stream, json_answer, sse
from services.gateway.edge.problems import RequestError
from services.gateway.gateway import Gateway
from services.records.platform_events import read_events

DEFAULT_LIMIT = 100
MAX_LIMIT = 1000


class Events(msgspec.Struct, frozen=True):
    """The newest events that were asked for, oldest first."""

    events: tuple[PlatformEvent, ...]


def _fits(event: PlatformEvent, model: str, kind: str) -> bool:
    return model in ("", event.model) and kind in ("", event.kind)


@get("/v1/events", summary="What happened and why; SSE if accepted", opt={"answers": Events})
async def events(
    state: State,
    request: Request[Any, Any, Any],
    model: str = "",
    kind: str = "",
    limit: Annotated[int, Parameter(ge=1, le=MAX_LIMIT)] = DEFAULT_LIMIT,
) -> Response[bytes] | Stream:
    gateway: Gateway = state.gateway
    last = request.headers.get("last-event-id", "") or "0"
    if not last.isdecimal():
        raise RequestError(400, "must be a number", field="Last-Event-ID", code="invalid_value")
    if "text/event-stream" in request.headers.get("accept", ""):
        return event_stream(gateway, follow_events(gateway.bus, int(last), model, kind))
    found: list[PlatformEvent] = []
    try:
        async for item in read_events(gateway.bus, int(last), follow=False):
            if item is not None and _fits(item[1], model, kind):
                found.append(item[1])
    except BusError as error:
        raise RequestError(503, str(error), retry_after_s=1) from error
    return json_answer(Events(tuple(found[-limit:])))


async def follow_events(bus: Bus, after: int, model: str = "", kind: str = "") -> AsyncIterator[bytes]:
    """Server-sent events of the platform after number `after`, for ever."""
    yield comment("events")
    async for item in read_events(bus, after, follow=True):
        if item is None:
            yield comment("nothing new")
        elif _fits(item[1], model, kind):
            number, event = item
            yield sse(wire.encode(event), event.kind, str(number))


ROUTES = [events]

"""The dashboard: one page, its script and its style, and the streams that it lives on."""

from collections.abc import AsyncIterator
from functools import cache
from pathlib import Path
from typing import Annotated

import anyio
from litestar import Response, get
from litestar.datastructures import State
from litestar.params import Parameter
from litestar.response import Stream

from schemas import wire
from services.bus.errors import BusError
from services.gateway.edge.http import comment, event_stream, sse
from services.gateway.edge.problems import RequestError
from services.gateway.gateway import Gateway
from services.gateway.routes.events import follow_events
from services.gateway.routes.fleet import fleet_of
from services.records.platform_events import newest_number

STATIC = Path(__file__).parent.parent / "static"
FILES = {"app.js": "text/javascript", "style.css": "text/css"}
FLEET_EVERY_S = 0.5
ALIVE_EVERY = 20
"""Looks at the fleet without a change before a comment says that the connection lives."""
MAX_LAST = 1000


@cache
def _file(name: str) -> bytes:
    return (STATIC / name).read_bytes()


@get("/", summary="The dashboard", include_in_schema=False)
async def dashboard() -> Response[bytes]:
    policy = {"Content-Security-Policy": "default-src 'self'; img-src 'self' data:"}
    return Response(_file("index.html"), media_type="text/html; charset=utf-8", headers=policy)


@get("/static/{name:str}", include_in_schema=False)
async def static_file(name: str) -> Response[bytes]:
    if name not in FILES:
        raise RequestError(404, f"there is no file {name!r}")
    return Response(
        _file(name), media_type=f"{FILES[name]}; charset=utf-8", headers={"Cache-Control": "no-cache"}
    )


@get("/v1/fleet/stream", summary="The fleet as it changes (SSE)")
async def fleet_stream(state: State) -> Stream:
    return event_stream(state.gateway, _fleet(state.gateway))


async def _fleet(gateway: Gateway) -> AsyncIterator[bytes]:
    shown, silent = b"", 0
    while True:
        now = wire.encode(fleet_of(gateway))
        if now != shown:
            shown, silent = now, 0
            yield sse(now, "fleet")
        elif (silent := silent + 1) % ALIVE_EVERY == 0:
            yield comment("nothing new")
        await anyio.sleep(FLEET_EVERY_S)


@get("/v1/events/stream", summary="The last events, then each as it happens (SSE)")
async def events_stream(state: State, last: Annotated[int, Parameter(ge=0, le=MAX_LAST)] = MAX_LAST) -> Stream:
    gateway: Gateway = state.gateway
    try:
        newest = await newest_number(gateway.bus)
    except BusError as error:
        raise RequestError(503, str(error), retry_after_s=1) from error
    return event_stream(gateway, follow_events(gateway.bus, max(newest - last, 0)))


ROUTES = [dashboard, static_file, fleet_stream, events_stream]

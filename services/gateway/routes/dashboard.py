"""The dashboard: one page, its script and its style, and the streams that it lives on."""

from collections.abc import AsyncGenerator
from functools import cache
from pathlib import Path
from typing import Annotated

import anyio
import msgspec

from schemas import wire
from services.gateway.edge.exchange import Exchange
from services.gateway.edge.problems import RequestError
from services.gateway.edge.routing import get
from services.gateway.edge.sse import EVENT_STREAM, comment, sse
from services.gateway.gateway import Gateway
from services.gateway.routes.events import EventsQuery, follow_events
from services.gateway.routes.fleet import fleet_of
from services.records.platform_events import newest_number

STATIC = Path(__file__).parent.parent / "static"
FILES = {"app.js": "text/javascript", "style.css": "text/css"}
FLEET_EVERY_S = 0.5
ALIVE_EVERY = 20
"""Looks at the fleet without a change before a comment says that the connection lives."""
MAX_LAST = 1000


class LastEvents(msgspec.Struct, frozen=True):
    """How many events of before are wanted."""

    last: Annotated[int, msgspec.Meta(ge=0, le=MAX_LAST)] = MAX_LAST


@cache
def _file(name: str) -> bytes:
    return (STATIC / name).read_bytes()


@get("/", summary="The dashboard", is_hidden=True)
async def dashboard(_: Gateway, exchange: Exchange) -> None:
    policy = {"content-security-policy": "default-src 'self'; img-src 'self' data:"}
    await exchange.answer_bytes(_file("index.html"), "text/html; charset=utf-8", headers=policy)


@get("/static/{name}", summary="A file of the dashboard", is_hidden=True)
async def static_file(_: Gateway, exchange: Exchange) -> None:
    name = exchange.parameter("name")
    if name not in FILES:
        raise RequestError(404, f"there is no file {name!r}")
    media_type = f"{FILES[name]}; charset=utf-8"
    await exchange.answer_bytes(_file(name), media_type, headers={"cache-control": "no-cache"})


@get("/v1/fleet/stream", summary="The fleet as it changes (SSE)", gives=EVENT_STREAM)
async def fleet_stream(gateway: Gateway, exchange: Exchange) -> None:
    await exchange.stream(gateway.streams_open, _fleet(gateway))


async def _fleet(gateway: Gateway) -> AsyncGenerator[bytes]:
    shown, silent = b"", 0
    while True:
        now = wire.encode(fleet_of(gateway))
        if now != shown:
            shown, silent = now, 0
            yield sse(now, "fleet")
        elif (silent := silent + 1) % ALIVE_EVERY == 0:
            yield comment("nothing new")
        await anyio.sleep(FLEET_EVERY_S)


@get(
    "/v1/events/stream",
    summary="The last events, then each as it happens (SSE)",
    query=LastEvents,
    gives=EVENT_STREAM,
)
async def events_stream(gateway: Gateway, exchange: Exchange) -> None:
    last = exchange.query(LastEvents).last
    newest = await newest_number(gateway.bus)
    await exchange.stream(
        gateway.streams_open, follow_events(gateway.bus, max(newest - last, 0), EventsQuery())
    )


ROUTES = [dashboard, static_file, fleet_stream, events_stream]

"""The dashboard: one page, its script and its style, and the streams that it lives on."""

from collections.abc import AsyncGenerator
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated
from urllib.parse import quote

import anyio
import msgspec

from stoker.schemas import wire
from stoker.services.gateway.edge.access import COOKIE, OPEN_PAGES, current_key
from stoker.services.gateway.edge.exchange import Exchange
from stoker.services.gateway.edge.problems import RequestError
from stoker.services.gateway.edge.routing import delete, get, post
from stoker.services.gateway.edge.sse import EVENT_STREAM, comment, sse
from stoker.services.gateway.gateway import Gateway
from stoker.services.gateway.routes.events import EventsQuery, follow_events
from stoker.services.gateway.routes.fleet import fleet_of
from stoker.services.gateway.watching.fleet_changes import FleetChanges
from stoker.services.records.platform_events import newest_number

STATIC = Path(__file__).parent.parent / "static"
TYPES = {".js": "text/javascript", ".css": "text/css"}
FILES = {
    "swagger-ui.css": "text/css",
    "swagger-ui-bundle.js": "text/javascript",
    **{
        path.relative_to(STATIC).as_posix(): TYPES[path.suffix]
        for path in STATIC.rglob("*")
        if path.suffix in TYPES
    },
}
"""What may be asked for below /static/, with its type."""
PAGES = (*OPEN_PAGES, "/jobs/{job}")
"""One page answers them all, and shows what its path says."""
SWAGGER = "swagger_ui"
"""The package with the files of Swagger UI: pages load nothing from elsewhere."""
SESSION_PATH = "/dashboard/session"
FLEET_EVERY_S = 0.5
ALIVE_EVERY = 20
"""Looks at the fleet without a change before a comment says that the connection lives."""
MAX_LAST = 1000


class LastEvents(msgspec.Struct, frozen=True):
    """How many events of before are wanted."""

    last: Annotated[int, msgspec.Meta(ge=0, le=MAX_LAST)] = MAX_LAST


@cache
def _file(name: str) -> bytes:
    if not name.startswith("swagger"):
        return (STATIC / name).read_bytes()
    found = find_spec(SWAGGER)  # it is never imported: only its files are wanted
    assert found is not None and found.submodule_search_locations
    return (Path(found.submodule_search_locations[0]) / "static" / name).read_bytes()


@get(*PAGES, summary="The dashboard", is_hidden=True)
async def dashboard(_: Gateway, exchange: Exchange) -> None:
    policy = {
        "content-security-policy": "default-src 'self'; img-src 'self' data:",
        "cache-control": "no-cache",
    }
    await exchange.answer_bytes(_file("index.html"), "text/html; charset=utf-8", headers=policy)


@get("/static/{name:path}", summary="A file of the dashboard", is_hidden=True)
async def static_file(_: Gateway, exchange: Exchange) -> None:
    name = exchange.parameter("name")
    if name not in FILES:
        raise RequestError(404, f"there is no file {name!r}")
    media_type = f"{FILES[name]}; charset=utf-8"
    await exchange.answer_bytes(_file(name), media_type, headers={"cache-control": "no-cache"})


@post(SESSION_PATH, summary="Keep the request's API key in a cookie", is_hidden=True, status=204)
async def begin_session(_: Gateway, exchange: Exchange) -> None:
    """For the dashboard, whose event streams cannot send headers. No script can read the cookie."""
    scheme, _space, key = exchange.header(b"authorization").partition(" ")
    if scheme.lower() != "bearer" or current_key.get() is None:
        raise RequestError(401, "a valid API key is needed: Authorization: Bearer …", code="invalid_api_key")
    await exchange.answer_empty(204, {"set-cookie": _cookie(exchange, quote(key.strip(), safe=""))})


@delete(SESSION_PATH, summary="Forget the key of the cookie", is_hidden=True, status=204)
async def end_session(_: Gateway, exchange: Exchange) -> None:
    await exchange.answer_empty(204, {"set-cookie": _cookie(exchange, "", "; Max-Age=0")})


def _cookie(exchange: Exchange, value: str, more: str = "") -> str:
    secure = "; Secure" if exchange.base_url().startswith("https") else ""
    return f"{COOKIE}={value}; Path=/; HttpOnly; SameSite=Strict{secure}{more}"


@get("/v1/fleet/stream", summary="The fleet as it changes (SSE)", gives=EVENT_STREAM, role="operate")
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
    "/v1/fleet/changes",
    summary="The fleet once, then what has changed (SSE)",
    gives=EVENT_STREAM,
    role="operate",
)
async def fleet_changes(gateway: Gateway, exchange: Exchange) -> None:
    await exchange.stream(gateway.streams_open, _changes(gateway))


async def _changes(gateway: Gateway) -> AsyncGenerator[bytes]:
    told, silent = FleetChanges(), 0
    while True:
        changes = told.take(gateway)
        if changes is not None:
            silent = 0
            yield sse(wire.encode(changes), "changes")
        elif (silent := silent + 1) % ALIVE_EVERY == 0:
            yield comment("nothing new")
        await anyio.sleep(FLEET_EVERY_S)


@get(
    "/v1/events/stream",
    summary="The last events, then each as it happens (SSE)",
    query=LastEvents,
    gives=EVENT_STREAM,
    role="operate",
)
async def events_stream(gateway: Gateway, exchange: Exchange) -> None:
    last = exchange.query(LastEvents).last
    newest = await newest_number(gateway.bus)
    await exchange.stream(
        gateway.streams_open, follow_events(gateway.bus, max(newest - last, 0), EventsQuery())
    )


ROUTES = [dashboard, static_file, begin_session, end_session, fleet_stream, fleet_changes, events_stream]

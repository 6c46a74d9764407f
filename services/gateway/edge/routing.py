"""Routes: which function answers a method and a path, and how its errors become answers.

A route is a record (`Route`) made by `get`, `post`, `put`, `delete` or one of the helpers below; app.py lists
them all and openapi.py describes them. (Litestar's router cannot give path parameters to a bare ASGI handler.)

A template is made of fixed parts, `{name}` (one part), `{name:int}` (one part that is a whole number) and
`{name:path}` (all that is left, at the end only). A fixed part wins over a parameter, and a path that went one
way does not come back to try another.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from stoker.schemas.fields import Rule
from stoker.schemas.keys import Role
from stoker.services.gateway.edge.access import check_role, owner
from stoker.services.gateway.edge.asgi import ASGIApp, HTTPScope, Message, Receive, Send
from stoker.services.gateway.edge.decoding import Reader
from stoker.services.gateway.edge.error_mapping import request_error
from stoker.services.gateway.edge.exchange import ClientGone, Exchange, current_exchange
from stoker.services.gateway.edge.fields import lost
from stoker.services.gateway.edge.label_selectors import HEADER, current_selector, parse
from stoker.services.gateway.edge.problems import JSON, Dialect, RequestError, dialect_of, stopping
from stoker.services.gateway.edge.sse import EVENT_STREAM, SSE_HEADERS
from stoker.services.gateway.gateway import Gateway
from stoker.services.records.platform_events import note_action

Ask = TypeVar("Ask")

Handle = Callable[[Gateway, Exchange], Awaitable[None]]
HandleBody = Callable[[Gateway, Exchange, Ask], Awaitable[None]]
Parameters = dict[str, str | int]
NO_RULES: Mapping[str, Rule] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """How one function is asked. What stands below `handle` is for the OpenAPI document.

    role: that a key needs. status: of success. query, asks, answers: Structs of the query, of the body, and
    of the answer. takes and gives: media types of the latter two. dialect: of errors.
    """

    method: str
    paths: tuple[str, ...]
    handle: Handle
    name: str
    summary: str
    status: int = 200
    query: type | None = None
    asks: Any = None
    answers: Any = None
    takes: str = JSON
    gives: str = JSON
    role: Role = "use"
    dialect: Dialect = "problem"
    is_hidden: bool = False


def route(method: str, *paths: str, summary: str, **described: Any) -> Callable[[Handle], Route]:
    """Make a function the route of these paths. described: fields of Route."""

    def make(handle: Handle) -> Route:
        name = getattr(handle, "__name__", "route")
        return Route(method=method, paths=paths, handle=handle, name=name, summary=summary, **described)

    return make


def get(*paths: str, summary: str, **described: Any) -> Callable[[Handle], Route]:
    return route("GET", *paths, summary=summary, **described)


def post(*paths: str, summary: str, **described: Any) -> Callable[[Handle], Route]:
    return route("POST", *paths, summary=summary, **described)


def put(*paths: str, summary: str, **described: Any) -> Callable[[Handle], Route]:
    return route("PUT", *paths, summary=summary, **described)


def delete(*paths: str, summary: str, **described: Any) -> Callable[[Handle], Route]:
    return route("DELETE", *paths, summary=summary, **described)


def post_body(
    *paths: str,
    summary: str,
    asks: type[Ask],
    fields: Mapping[str, Rule] = NO_RULES,
    coerces: bool = False,
    **described: Any,
) -> Callable[[HandleBody[Ask]], Route]:
    """A POST route whose JSON body is decoded as `asks`. fields: what becomes of those it does not have.
    coerces: as in Reader.
    """

    reader = Reader(asks, coerces=coerces)

    def make(handle: HandleBody[Ask]) -> Route:
        async def decoded(gateway: Gateway, exchange: Exchange) -> None:
            asked, unread = reader.read(await exchange.json_body())
            if unread:
                exchange.ignore(lost(unread, fields))
            await handle(gateway, exchange, asked)

        decoded.__name__ = getattr(handle, "__name__", "route")
        return post(*paths, summary=summary, asks=asks, **described)(decoded)

    return make


def openai_paths(path: str) -> tuple[str, str]:
    """Where a path of the OpenAI API is served."""
    return f"/v1{path}", f"/openai/v1{path}"


@dataclass(slots=True)
class _Node:
    """A place in the tree of paths. name, kind: of the parameter that leads here, where one does."""

    fixed: "dict[str, _Node]" = field(default_factory=dict)
    parameter: "_Node | None" = None
    name: str = ""
    kind: str = ""
    routes: dict[str, Route] = field(default_factory=dict)


class Router:
    """The table of routes."""

    def __init__(self, routes: Iterable[Route]) -> None:
        self._root = _Node()
        self._plain: dict[str, dict[str, Route]] = {}
        for one in routes:
            for path in one.paths:
                self._add(path, one)

    def _add(self, path: str, added: Route) -> None:
        node = self._root
        for part in path.strip("/").split("/") if path != "/" else ():
            if not part.startswith("{"):
                node = node.fixed.setdefault(part, _Node())
                continue
            name, _, kind = part.strip("{}").partition(":")
            if node.parameter is None:
                node.parameter = _Node(name=name, kind=kind)
            elif (node.parameter.name, node.parameter.kind) != (name, kind):
                raise ValueError(f"{path}: this part has another name in another route")
            node = node.parameter
        if added.method in node.routes:
            raise ValueError(f"{added.method} {path} has two routes")
        node.routes[added.method] = added
        if "{" not in path:
            self._plain[path] = node.routes

    def find(self, path: str) -> tuple[dict[str, Route], Parameters]:
        """The routes of a path by method, none when nothing is there; and the parameters in it."""
        plain = self._plain.get(path)
        if plain is not None:
            return plain, {}
        node, parameters = self._root, Parameters()
        parts = [part for part in path.split("/") if part]
        for at, part in enumerate(parts):
            if part in node.fixed:
                node = node.fixed[part]
                continue
            if node.parameter is None:
                return {}, {}
            node = node.parameter
            if node.kind == "path":
                parameters[node.name] = "/".join(parts[at:])
                break
            if node.kind == "int":
                if not part.removeprefix("-").isdecimal() or not part.isascii():
                    return {}, {}
                parameters[node.name] = int(part)
            else:
                parameters[node.name] = part
        return node.routes, parameters


def with_routes(router: Router, gateway: Gateway) -> ASGIApp:
    """An application that answers the routes, and every other path with 404.

    Like what stands before it, it is a function that gives what is awaited: a coroutine around a coroutine
    would cost half a kilobyte for each open stream.
    """

    def routed(scope: HTTPScope, receive: Receive, send: Send) -> Awaitable[None]:
        routes, parameters = router.find(scope["path"])
        if not routes:
            return _nothing_there(Exchange(scope, receive, send))
        found = routes.get(scope["method"])
        if found is None and scope["method"] == "HEAD" and (found := routes.get("GET")) is not None:
            send = _without_body(send)
        exchange = Exchange(scope, receive, send, parameters)
        if found is not None and found.gives == EVENT_STREAM and scope["method"] == "HEAD":
            return exchange.answer_empty(200, SSE_HEADERS)
        if found is None:
            return _other_method(exchange, scope, routes)
        return _serve(gateway, exchange, found)

    return routed


def _without_body(send: Send) -> Send:
    """Of an answer only what goes before its body."""

    async def answer(message: Message) -> None:
        if message["type"] == "http.response.body":
            message = {"type": "http.response.body", "body": b"", "more_body": message["more_body"]}
        await send(message)

    return answer


async def _serve(gateway: Gateway, exchange: Exchange, found: Route) -> None:
    """In a task of the request: what its context is set to here ends with it."""
    exchange.route = found.name
    current_exchange.set(exchange)
    try:
        check_role(found.role)
        if selectors := exchange.headers(HEADER):
            current_selector.set(parse(selectors))
        if found.role != "use" and found.method != "GET":
            note_action(gateway.bus, owner() or "anybody", f"{found.method} {exchange.path}")
        await found.handle(gateway, exchange)
    except ClientGone:
        return
    except asyncio.CancelledError:  # the gateway stops, and those who wait have waited as long as they may
        await exchange.refuse(stopping(), dialect=found.dialect)
        raise
    except Exception as error:
        refused = request_error(error, exchange.path, exchange.request_id.decode())
        await exchange.refuse(refused, dialect=found.dialect)


async def _nothing_there(exchange: Exchange) -> None:
    message = f"there is nothing at {exchange.path}: /schema lists what there is"
    refused = RequestError(404, message, code="not_found")
    await exchange.refuse(refused, dialect=dialect_of(exchange.path))


async def _other_method(exchange: Exchange, scope: HTTPScope, routes: dict[str, Route]) -> None:
    """The path is there, the method is not: which are."""
    allowed = ", ".join(sorted({*routes, *(["HEAD"] if "GET" in routes else []), "OPTIONS"}))
    if scope["method"] == "OPTIONS":
        await exchange.answer_empty(204, {"allow": allowed})
        return
    message = f"{exchange.path} takes {', '.join(sorted(routes))} only"
    dialect = next(iter(routes.values())).dialect
    refused = RequestError(405, message, code="method_not_allowed")
    await exchange.refuse(refused, dialect=dialect, headers={"allow": allowed})

"""The application: the table of routes, and the limit of a request's head."""

from collections.abc import Awaitable
from typing import Any

from stoker.services.gateway.edge.asgi import ASGIApp, HTTPScope, Receive, Send
from stoker.services.gateway.edge.problems import Dialect, dialect_of
from stoker.services.gateway.edge.routing import Route, Router, with_routes
from stoker.services.gateway.gateway import Gateway
from stoker.services.gateway.routes import (
    a1111,
    audio,
    batches,
    dashboard,
    discovery,
    embeddings,
    events,
    files,
    fleet,
    functions,
    history,
    images,
    jobs,
    messages,
    metrics,
    models,
    modes,
    ollama,
    operating,
    ranking,
    responses,
    schedules,
    schema,
    superres,
    text,
    tokens,
    uploads,
    usage,
)

MAX_HEADER_BYTES = 64 * 1024
GROUPS = (
    models,
    text,
    responses,
    messages,
    metrics,
    embeddings,
    files,
    uploads,
    usage,
    batches,
    ranking,
    tokens,
    ollama,
    images,
    audio,
    a1111,
    jobs,
    fleet,
    events,
    history,
    operating,
    functions,
    schedules,
    modes,
    superres,
    discovery,
    dashboard,
)
DESCRIBED: list[Route] = [route for group in GROUPS for route in group.ROUTES]
"""What the OpenAPI document tells of, unless it is hidden."""
ROUTES: list[Route] = [*DESCRIBED, *schema.routes_for(DESCRIBED)]
ROUTER = Router(ROUTES)


def dialect_at(path: str) -> Dialect:
    """In whose form errors of a path are."""
    routes, _ = ROUTER.find(path)
    return next(iter(routes.values())).dialect if routes else dialect_of(path)


def with_header_limit(app: ASGIApp) -> ASGIApp:
    """The same application, but a request with more than MAX_HEADER_BYTES of headers is answered 431."""

    async def refuse(send: Send) -> None:
        await send({"type": "http.response.start", "status": 431, "headers": []})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    def limited(scope: HTTPScope, receive: Receive, send: Send) -> Awaitable[None]:
        headers = scope.get("headers", ())
        is_too_large = sum(len(name) + len(value) for name, value in headers) > MAX_HEADER_BYTES
        return refuse(send) if is_too_large else app(scope, receive, send)

    return limited


def openapi_document() -> dict[str, Any]:
    """The OpenAPI document without the functions of a running system."""
    return schema.document_of(DESCRIBED)


def create_app(gateway: Gateway) -> ASGIApp:
    """Everything that a gateway answers."""
    return with_routes(ROUTER, gateway)

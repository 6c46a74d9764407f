"""The application: the table of routes, limits, and Litestar behind them for the OpenAPI pages.

What no route answers (an unknown path) is Litestar's, and gets its error in the same form as every other.
"""

from collections.abc import Awaitable
from typing import Any

from litestar import Litestar, Request, Response
from litestar.datastructures import State
from litestar.exceptions import HTTPException
from litestar.openapi import OpenAPIConfig
from litestar.types import ASGIApp, Receive, Scope, Send

from stoker.schemas import wire
from stoker.services.bus.discovery import VERSION
from stoker.services.gateway.edge.door_middleware import with_browser_headers
from stoker.services.gateway.edge.error_mapping import request_error
from stoker.services.gateway.edge.openapi import describe
from stoker.services.gateway.edge.openapi_functions import FunctionsJson, FunctionsPage
from stoker.services.gateway.edge.problems import Dialect, RequestError, answer_body, dialect_of
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
ROUTES: list[Route] = [route for group in GROUPS for route in group.ROUTES]
ROUTER = Router(ROUTES)


def dialect_at(path: str) -> Dialect:
    """In whose form errors of a path are."""
    routes, _ = ROUTER.find(path)
    return next(iter(routes.values())).dialect if routes else dialect_of(path)


def _on_error(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    if isinstance(error, HTTPException):
        error = RequestError(error.status_code, error.detail or "the request could not be served")
    refused = request_error(error, request.url.path)
    body, media_type = answer_body(refused, dialect_of(request.url.path))
    return Response(wire.encode(body), status_code=refused.status, media_type=media_type)


def with_header_limit(app: ASGIApp) -> ASGIApp:
    """The same application, but a request with more than MAX_HEADER_BYTES of headers is answered 431."""

    async def refuse(send: Send) -> None:
        await send({"type": "http.response.start", "status": 431, "headers": []})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    def limited(scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        headers = scope.get("headers", ())
        is_too_large = sum(len(name) + len(value) for name, value in headers) > MAX_HEADER_BYTES
        return refuse(send) if is_too_large else app(scope, receive, send)

    return limited


def create_pages(gateway: Gateway | None) -> Litestar:
    """The OpenAPI document and its page, and the answer to unknown paths. None: for the document alone."""
    app = Litestar(
        state=State({"gateway": gateway}),
        logging_config=None,
        exception_handlers={HTTPException: _on_error, Exception: _on_error},
        openapi_config=OpenAPIConfig(
            title="Stoker", version=VERSION, render_plugins=[FunctionsPage(path="/"), FunctionsJson()]
        ),
    )
    describe(app, ROUTES)
    return app


def openapi_document() -> dict[str, Any]:
    """The OpenAPI document without the functions of a running system."""
    found: dict[str, Any] = create_pages(None).openapi_schema.to_schema()
    return found


def create_app(gateway: Gateway) -> ASGIApp:
    """Everything that a gateway answers."""
    return with_routes(with_browser_headers(create_pages(gateway)), ROUTER, gateway)

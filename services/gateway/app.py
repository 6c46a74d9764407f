"""The Litestar application: routes, limits, and errors turned into answers in one place."""

from typing import Any

from litestar import Litestar, Request, Response
from litestar.datastructures import State
from litestar.exceptions import HTTPException
from litestar.openapi import OpenAPIConfig
from litestar.types import ASGIApp, Receive, Scope, Send

from schemas import wire
from services.bus.discovery import VERSION
from services.gateway.edge.http import MAX_BODY_BYTES, ClientGone
from services.gateway.edge.openapi import describe
from services.gateway.edge.openapi_functions import FunctionsJson, FunctionsPage
from services.gateway.edge.problems import RequestError, answer_body
from services.gateway.gateway import Gateway
from services.gateway.routes import (
    dashboard,
    discovery,
    embeddings,
    events,
    fleet,
    functions,
    images,
    jobs,
    models,
    modes,
    superres,
    text,
)
from services.process.logs import get_logger
from services.records.blobs import BlobGone

log = get_logger("http")

OPENAI_PATHS = ("/v1/models", "/v1/chat", "/v1/completions", "/v1/embeddings", "/v1/images", "/openai/")
CLIENT_CLOSED_REQUEST = 499
MAX_HEADER_BYTES = 64 * 1024


def _answer(request: Request[Any, Any, Any], error: RequestError) -> Response[bytes]:
    body, media_type = answer_body(error, request.url.path.startswith(OPENAI_PATHS))
    headers = {"Retry-After": str(error.retry_after_s)} if error.retry_after_s else {}
    return Response(wire.encode(body), status_code=error.status, media_type=media_type, headers=headers)


def on_request_error(request: Request[Any, Any, Any], error: RequestError) -> Response[bytes]:
    return _answer(request, error)


def on_http_error(request: Request[Any, Any, Any], error: HTTPException) -> Response[bytes]:
    detail = error.detail or "the request could not be served"
    extra = error.extra
    if isinstance(extra, list) and extra and isinstance(extra[0], dict):
        first = extra[0]
        return _answer(
            request,
            RequestError(error.status_code, str(first.get("message", detail)), field=first.get("key")),
        )
    return _answer(request, RequestError(error.status_code, detail))


def on_client_gone(_: Request[Any, Any, Any], __: ClientGone) -> Response[bytes]:
    return Response(b"", status_code=CLIENT_CLOSED_REQUEST)


def on_blob_gone(request: Request[Any, Any, Any], error: BlobGone) -> Response[bytes]:
    return _answer(request, RequestError(404, str(error), code="image_not_found"))


def on_any_error(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    log.error("request.failed", path=request.url.path, exc_info=error)
    return _answer(request, RequestError(500, "an internal error; the log of the gateway says more"))


def with_header_limit(app: ASGIApp) -> ASGIApp:
    """The same application, but a request with more than MAX_HEADER_BYTES of headers is answered 431."""

    async def limited(scope: Scope, receive: Receive, send: Send) -> None:
        headers = scope.get("headers", ())
        if sum(len(name) + len(value) for name, value in headers) > MAX_HEADER_BYTES:
            await send({"type": "http.response.start", "status": 431, "headers": []})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
            return
        await app(scope, receive, send)

    return limited


def create_app(gateway: Gateway) -> Litestar:
    groups = (
        models,
        text,
        embeddings,
        images,
        jobs,
        fleet,
        events,
        functions,
        modes,
        superres,
        discovery,
        dashboard,
    )
    app = Litestar(
        route_handlers=[route for group in groups for route in group.ROUTES],
        state=State({"gateway": gateway}),
        request_max_body_size=MAX_BODY_BYTES,
        logging_config=None,
        exception_handlers={
            RequestError: on_request_error,
            HTTPException: on_http_error,
            ClientGone: on_client_gone,
            BlobGone: on_blob_gone,
            Exception: on_any_error,
        },
        openapi_config=OpenAPIConfig(
            title="Stoker", version=VERSION, render_plugins=[FunctionsPage(), FunctionsJson()]
        ),
    )
    describe(app)
    return app

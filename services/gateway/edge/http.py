"""Small pieces of HTTP that the routes share: bodies, answers, SSE."""

from collections.abc import AsyncIterator
from typing import Any

from litestar import Request, Response
from litestar.exceptions import ClientException
from litestar.response import Stream

from schemas import wire
from services.gateway.edge.problems import RequestError
from services.gateway.gateway import Gateway

MAX_BODY_BYTES = 20 * 1024 * 1024
JSON = "application/json"
SSE_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}


class ClientGone(Exception):
    """The client closed the connection."""


def json_answer(content: object, status: int = 200, headers: dict[str, str] | None = None) -> Response[bytes]:
    return Response(wire.encode(content), status_code=status, media_type=JSON, headers=headers)


def body_too_large() -> RequestError:
    return RequestError(413, f"a body is at most {MAX_BODY_BYTES} bytes", code="body_too_large")


async def read_body(request: Request[Any, Any, Any]) -> bytes:
    """The body, up to MAX_BODY_BYTES. Raises RequestError 413."""
    try:
        return await request.body()
    except ClientException as error:
        raise body_too_large() from error


def sse(data: bytes, event: str = "", event_id: str = "") -> bytes:
    """One server-sent event; `data` must be one line, as JSON is."""
    head = (f"id: {event_id}\n" if event_id else "") + (f"event: {event}\n" if event else "")
    return head.encode() + b"data: " + data + b"\n\n"


def comment(text: str) -> bytes:
    return f": {text}\n\n".encode()


def event_stream(
    gateway: Gateway, chunks: AsyncIterator[bytes], headers: dict[str, str] | None = None
) -> Stream:
    """An SSE answer. Raises RequestError 429 when too many streams are open."""
    gateway.check_streams()

    async def counted() -> AsyncIterator[bytes]:
        with gateway.open_stream():
            async for chunk in chunks:
                yield chunk

    return Stream(counted(), media_type="text/event-stream", headers=SSE_HEADERS | (headers or {}))


async def first_of(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The same chunks, the first one awaited now: an error before it becomes an HTTP status."""
    first = await anext(chunks)

    async def rest() -> AsyncIterator[bytes]:
        yield first
        async for chunk in chunks:
            yield chunk

    return rest()

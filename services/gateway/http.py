"""Small pieces of HTTP that the routes share: bodies, answers, disconnects, SSE."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

import msgspec
from litestar import Request, Response
from litestar.exceptions import ClientException
from litestar.response import Stream

from schemas import wire
from services.gateway.gateway import STREAMS, Gateway
from services.gateway.problems import RequestError

T = TypeVar("T")

MAX_BODY_BYTES = 20 * 1024 * 1024
JSON = "application/json"
WATCH_AFTER_S = 0.01
"""A quick answer is there before it is worth watching for the client to go away."""
SSE_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
KEEPALIVE_S = 5.0


class ClientGone(Exception):
    """The client closed the connection."""


def json_answer(content: object, status: int = 200, headers: dict[str, str] | None = None) -> Response[bytes]:
    return Response(wire.encode(content), status_code=status, media_type=JSON, headers=headers)


async def read_body(request: Request[Any, Any, Any]) -> bytes:
    """The body, up to MAX_BODY_BYTES. Raises RequestError 413."""
    length = request.headers.get("content-length", "0")
    if length.isdecimal() and int(length) > MAX_BODY_BYTES:
        raise RequestError(413, f"a body is at most {MAX_BODY_BYTES} bytes", code="body_too_large")
    try:
        return await request.body()
    except ClientException as error:
        raise RequestError(413, f"a body is at most {MAX_BODY_BYTES} bytes", code="body_too_large") from error


async def unless_gone(request: Request[Any, Any, Any], work: Awaitable[T]) -> T:
    """The result of `work`; cancels it and raises ClientGone when the client goes away first."""
    task = asyncio.ensure_future(work)
    try:
        done, _ = await asyncio.wait([task], timeout=WATCH_AFTER_S)
        if not done:
            gone = asyncio.ensure_future(_disconnected(request))
            try:
                await asyncio.wait([task, gone], return_when=asyncio.FIRST_COMPLETED)
            finally:
                gone.cancel()
    except asyncio.CancelledError:
        task.cancel()
        raise
    if task.done():
        return task.result()
    task.cancel()
    raise ClientGone


async def _disconnected(request: Request[Any, Any, Any]) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


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
    if gateway.open_streams >= gateway.max_streams:
        raise RequestError(
            429, f"{gateway.max_streams} streams are open already", code="too_many_streams", retry_after_s=1
        )

    async def counted() -> AsyncIterator[bytes]:
        gateway.open_streams += 1
        STREAMS.inc()
        try:
            async for chunk in chunks:
                yield chunk
        finally:
            gateway.open_streams -= 1
            STREAMS.dec()

    return Stream(counted(), media_type="text/event-stream", headers={**SSE_HEADERS, **(headers or {})})


async def first_of(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The same chunks, the first one awaited now: an error before it becomes an HTTP status."""
    first = await anext(chunks)

    async def rest() -> AsyncIterator[bytes]:
        yield first
        async for chunk in chunks:
            yield chunk

    return rest()


async def with_keepalive(
    events: AsyncIterator[T], idle: Callable[[], bytes], interval_s: float = KEEPALIVE_S
) -> AsyncIterator[T | bytes]:
    """The same events, with `idle()` whenever nothing came for an interval."""
    iterator = aiter(events)
    pending: asyncio.Task[T] | None = None
    try:
        while True:
            pending = pending or asyncio.ensure_future(anext(iterator))
            done, _ = await asyncio.wait([pending], timeout=interval_s)
            if not done:
                yield idle()
                continue
            try:
                event = pending.result()
            except StopAsyncIteration:
                return
            finally:
                pending = None
            yield event
    finally:
        if pending is not None:
            pending.cancel()


def documented(kind: type[msgspec.Struct]) -> dict[str, Any]:
    """The OpenAPI request body for a Struct that a route decodes itself."""
    schema = msgspec.json.schema(kind)
    return {"content": {JSON: {"schema": schema}}, "required": True}

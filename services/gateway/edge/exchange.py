"""One HTTP request and its answer on bare ASGI, for the routes where every microsecond counts.

A Litestar handler with a Request and a Response costs 56 µs more than an ASGI handler behind the same router
(bench/RESULTS.md), a third of what a whole request may cost. Errors become answers here.

uvicorn tells a streaming handler at once that the client has gone, a unary one never: `unless_gone` watches for
it, but only where an answer takes longer than `WATCH_AFTER_S`.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import TypeVar

from litestar import asgi
from litestar.handlers import ASGIRouteHandler
from litestar.types import Receive, Scope, Send

from schemas import wire
from services.gateway.edge.http import MAX_BODY_BYTES, SSE_HEADERS, ClientGone, body_too_large
from services.gateway.edge.problems import RequestError, answer_body
from services.gateway.gateway import Gateway
from services.gateway.jobs.requests import decode
from services.process.logs import get_logger
from services.records.blobs import BlobGone

log = get_logger("http")

T = TypeVar("T")
Ask = TypeVar("Ask")

WATCH_AFTER_S = 0.01
"""A quick answer is there before it is worth watching for the client to go away."""


class Exchange:
    """One request. Read `body` first; then `answer` or `stream`, once."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._scope = scope
        self._receive = receive
        self._send = send
        self.is_answered = False

    def header(self, name: bytes) -> str:
        """A request header by its lower-case name; "" when it is not there."""
        for key, value in self._scope["headers"]:
            if key == name:
                return value.decode("latin-1")
        return ""

    def base_url(self) -> str:
        """Scheme and host as the client wrote them."""
        return f"{self._scope.get('scheme', 'http')}://{self.header(b'host')}"

    async def body(self) -> bytes:
        """The whole body. Raises RequestError 413, ClientGone."""
        chunks: list[bytes] = []
        size = 0
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ClientGone
            if message["type"] != "http.request":
                continue
            chunks.append(message["body"])
            size += len(message["body"])
            if size > MAX_BODY_BYTES:
                raise body_too_large()
            if not message["more_body"]:
                return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    async def _disconnected(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass

    async def unless_gone(self, future: "asyncio.Future[T]") -> T:
        """The future's result. Raises ClientGone when the client goes away first."""
        loop = asyncio.get_running_loop()
        watching: list[asyncio.Task[None]] = []

        def watch() -> None:
            task = loop.create_task(self._disconnected())
            task.add_done_callback(gone)
            watching.append(task)

        def gone(task: "asyncio.Task[None]") -> None:
            if not task.cancelled() and not future.done():
                future.set_exception(ClientGone())

        timer = loop.call_later(WATCH_AFTER_S, watch)
        try:
            return await future
        finally:
            timer.cancel()
            for task in watching:
                task.cancel()

    async def _start(self, status: int, headers: dict[str, str]) -> None:
        self.is_answered = True
        encoded = [(name.lower().encode(), value.encode("latin-1")) for name, value in headers.items()]
        await self._send({"type": "http.response.start", "status": status, "headers": encoded})

    async def answer(self, content: object, status: int = 200, headers: dict[str, str] | None = None) -> None:
        """Answer with JSON."""
        await self.answer_bytes(wire.encode(content), "application/json", status, headers)

    async def answer_bytes(
        self, body: bytes, media_type: str, status: int = 200, headers: dict[str, str] | None = None
    ) -> None:
        """Answer with a file."""
        own = {"content-type": media_type, "content-length": str(len(body))}
        await self._start(status, own | headers if headers else own)
        await self._send({"type": "http.response.body", "body": body, "more_body": False})

    async def stream(
        self, gateway: Gateway, chunks: AsyncGenerator[bytes], headers: dict[str, str] | None = None
    ) -> None:
        """Answer with server-sent events; a client that goes away closes `chunks` at once.

        The status waits for the first chunk, so that an error before it is still a status. Raises RequestError.
        """
        gateway.check_streams()
        with gateway.open_stream():
            sending = asyncio.ensure_future(self._send_all(chunks, headers or {}))
            gone = asyncio.ensure_future(self._disconnected())
            try:
                await asyncio.wait([sending, gone], return_when=asyncio.FIRST_COMPLETED)
            finally:
                gone.cancel()
                sending.cancel()  # nothing happens when it is done
                await asyncio.wait([sending])
            if not sending.cancelled():
                sending.result()

    async def _send_all(self, chunks: AsyncGenerator[bytes], headers: dict[str, str]) -> None:
        async with aclosing(chunks):
            first = await anext(chunks)
            own = {"content-type": "text/event-stream; charset=utf-8", **SSE_HEADERS}
            await self._start(200, own | headers)
            await self._send({"type": "http.response.body", "body": first, "more_body": True})
            async for chunk in chunks:
                await self._send({"type": "http.response.body", "body": chunk, "more_body": True})
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    async def refuse(self, error: RequestError, *, is_openai: bool) -> None:
        """Answer with an error, unless an answer has begun."""
        if self.is_answered:
            return
        headers = {"retry-after": str(error.retry_after_s)} if error.retry_after_s else None
        body, media_type = answer_body(error, is_openai)
        await self.answer_bytes(wire.encode(body), media_type, error.status, headers)

    @property
    def path(self) -> str:
        return self._scope["path"]


Handle = Callable[[Gateway, Exchange], Awaitable[None]]
HandleBody = Callable[[Gateway, Exchange, Ask], Awaitable[None]]


def post_route(paths: Sequence[str], handle: Handle, **described: object) -> ASGIRouteHandler:
    """A POST route. described: summary, and what openapi.py makes of a route's bodies."""
    is_openai = bool(described.get("is_openai"))

    async def route(scope: Scope, receive: Receive, send: Send) -> None:
        exchange = Exchange(scope, receive, send)
        try:
            if scope["method"] != "POST":  # type: ignore[typeddict-item]  # an ASGI route's scope is HTTP here
                raise RequestError(405, f"{exchange.path} takes POST only", code="method_not_allowed")
            await handle(scope["litestar_app"].state.gateway, exchange)
        except ClientGone:
            return
        except RequestError as error:
            await exchange.refuse(error, is_openai=is_openai)
        except BlobGone as error:
            gone = RequestError(404, str(error), code="image_not_found")
            await exchange.refuse(gone, is_openai=is_openai)
        except Exception:
            log.exception("request.failed", path=exchange.path)
            internal = RequestError(500, "an internal error; the gateway's log says more")
            await exchange.refuse(internal, is_openai=is_openai)

    return asgi(list(paths), opt=described, copy_scope=False)(route)


def body_route(
    paths: Sequence[str], asks: type[Ask], handle: HandleBody[Ask], **described: object
) -> ASGIRouteHandler:
    """A POST route whose JSON body is decoded as `asks`."""

    async def decoded(gateway: Gateway, exchange: Exchange) -> None:
        await handle(gateway, exchange, decode(asks, await exchange.body()))

    return post_route(paths, decoded, asks=asks, **described)


def openai_post(
    path: str, summary: str, asks: type[Ask], answers: type, handle: HandleBody[Ask]
) -> ASGIRouteHandler:
    """A POST route of the OpenAI API, under /v1 and /openai/v1. asks, answers: the Structs of its bodies."""
    paths = (f"/v1{path}", f"/openai/v1{path}")
    return body_route(paths, asks, handle, summary=summary, answers=answers, is_openai=True)

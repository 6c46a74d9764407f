"""One HTTP request and its answer on bare ASGI: what every route is given.

A Litestar handler with a Request and a Response costs 56 µs more (bench/RESULTS.md), a third of what a whole
request may cost; so no route is one. `body` is the one reader of bodies, `stream` the one sender of
server-sent events, `refuse` the one writer of errors.

uvicorn tells nobody that the client has gone, and whoever waits would have to read `receive` in a task of its
own; so our connections tell it (`WHEN_LOST`). `unless_gone` is told beside a future, `stream` beside what it
sends.
"""

import asyncio
import re
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Mapping
from contextlib import aclosing, contextmanager
from contextvars import ContextVar
from functools import cache
from typing import Any, TypeVar, cast
from urllib.parse import parse_qsl

import anyio
from prometheus_client import Counter

from stoker.schemas import wire
from stoker.services.gateway.edge.access import owner
from stoker.services.gateway.edge.asgi import HTTPRequestEvent, HTTPScope, Receive, Send
from stoker.services.gateway.edge.connections import WHEN_LOST, WRITE_NOW, WhenLost, WriteNow
from stoker.services.gateway.edge.decoding import Inflating, from_texts, inflated
from stoker.services.gateway.edge.door import HEADERS, POLICY, POLICY_NAME
from stoker.services.gateway.edge.idempotency import HEADER as KEY_HEADER
from stoker.services.gateway.edge.idempotency import NAME as KEY_NAME
from stoker.services.gateway.edge.idempotency import Named
from stoker.services.gateway.edge.problems import JSON, Dialect, RequestError, answer_body, too_large
from stoker.services.gateway.edge.request_ids import REQUEST_ID, request_id
from stoker.services.gateway.edge.sse import SSE_HEADERS, StreamLimit
from stoker.services.process.tasks import LimitExceeded, limit
from stoker.services.process.telemetry import counter

T = TypeVar("T")

FORM = "application/x-www-form-urlencoded"
MAX_IGNORED = 32
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
MAX_BODY_BYTES = 20 * 1024 * 1024
BODY_STALLED_S = 60.0
"""A client that sends nothing of a large body for this long is not waited for."""
WATCH_AFTER_S = 0.01
"""A quick answer is there before it is worth watching for the client to go away."""


ANSWERS = counter("stoker_http_answers_total", "Answers by the route that gave them", "route", "status")


@cache  # finding a label costs more than counting
def _answers(route: str, status: int) -> Counter:
    return ANSWERS.labels(route, str(status))


class ClientGone(Exception):
    """The client closed the connection."""


current_exchange: "ContextVar[Exchange | None]" = ContextVar("current_exchange", default=None)
"""The request that is served; None in what is done for no client that waits."""


class Exchange:
    """One request. Read `body` first; then `answer`, `answer_bytes`, `answer_empty` or `stream`, once.

    parameters: what the path's template names. body_bytes: of the body, once it is read. route: the name of
    the one that answers. named: where the client has named the request (`Idempotency-Key`), once the body is
    read.
    """

    def __init__(
        self, scope: HTTPScope, receive: Receive, send: Send, parameters: dict[str, str | int] | None = None
    ) -> None:
        self._scope = scope
        self._receive = receive
        self._send = send
        self._parameters = parameters or {}
        self._request_id: bytes | None = None
        self.ignored: tuple[str, ...] = ()
        self.body_bytes = 0
        self.named: Named | None = None
        self.is_answered = False
        self.route = "none"

    @property
    def path(self) -> str:
        return self._scope["path"]

    @property
    def query_string(self) -> str:
        return self._scope["query_string"].decode("latin-1")

    @property
    def request_id(self) -> bytes:
        """What the client calls the request, or a name of ours."""
        if self._request_id is None:
            self._request_id = request_id(self._scope["headers"])
        return self._request_id

    def ignore(self, fields: Iterable[str]) -> None:
        """Fields of the request that nobody reads: the answer names them (`stoker-ignored`)."""
        self.ignored += tuple(field for field in fields if _NAME.fullmatch(field))[:MAX_IGNORED]

    def header(self, name: bytes) -> str:
        """A request header by its lower-case name; "" when it is not there."""
        for key, value in self._scope["headers"]:
            if key == name:
                return value.decode("latin-1")
        return ""

    def headers(self, name: bytes) -> list[str]:
        """Each of the request headers of a lower-case name."""
        return [value.decode("latin-1") for key, value in self._scope["headers"] if key == name]

    def parameter(self, name: str) -> str:
        """A part of the path by its name in the template."""
        return str(self._parameters[name])

    def index(self, name: str) -> int:
        """A part of the path that counts from 0. Raises RequestError 400."""
        value = int(self._parameters[name])
        if value < 0:
            raise RequestError(400, f"{name} must be 0 or more", field=name, code="invalid_value")
        return value

    def query(self, kind: type[T]) -> T:
        """The query as a Struct; the last of several fields of one name counts. Raises RequestError 400."""
        fields = dict(parse_qsl(self.query_string, keep_blank_values=True))
        return from_texts(fields, kind)

    def base_url(self) -> str:
        """Scheme and host as the client wrote them."""
        return f"{self._scope.get('scheme', 'http')}://{self.header(b'host')}"

    def check_json(self) -> None:
        """Raises RequestError 415 where the body is said to be something else than JSON.

        What curl says when it is told nothing is taken for JSON, unless a browser says it: that is a form.
        """
        kind = self.header(b"content-type").partition(";")[0].strip().lower()
        if not kind or kind == JSON or (kind.startswith("application/") and kind.endswith("+json")):
            return
        if kind == FORM and not (self.header(b"origin") or self.header(b"sec-fetch-site")):
            return
        raise RequestError(
            415, f"the body must be {JSON}, not {kind}", field="Content-Type", code="unsupported_media_type"
        )

    async def json_body(self) -> bytes:
        """The whole body, which is said to be JSON. Raises RequestError 413, 415, ClientGone."""
        self.check_json()
        return await self.body()

    async def body(self, most: int = MAX_BODY_BYTES) -> bytes:
        """The whole body, uncompressed. Raises RequestError 400, 413, 415, ClientGone."""
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
            if size > most:
                raise RequestError(413, f"a body is at most {most} bytes", code="body_too_large")
            if not message["more_body"]:
                whole = chunks[0] if len(chunks) == 1 else b"".join(chunks)
                if encoding := self.header(b"content-encoding"):
                    whole = inflated(whole, encoding.strip().lower(), most)
                self.body_bytes = len(whole)
                if key := self.header(KEY_HEADER):
                    self.named = Named(key, self.path, whole, self.header(b"content-type"))
                return whole

    async def chunks(self, most: int, what: str) -> AsyncGenerator[bytes]:
        """The body as it comes, uncompressed. what: is sent, for errors.

        A body that is said to be too large is refused before any of it is read. Raises RequestError 400, 408,
        413, 415, ClientGone.
        """
        said = self.header(b"content-length")
        if said.isdecimal() and int(said) > most:
            raise too_large(what, most, int(said))
        reader = Inflating(self.header(b"content-encoding").strip().lower())
        size = 0
        is_whole = False
        while not is_whole:
            message = await self._next_message()
            is_whole = not message["more_body"]
            for chunk in reader.more(message["body"], is_whole=is_whole):
                size += len(chunk)
                if size > most:
                    raise too_large(what, most)
                yield chunk
        self.body_bytes = size

    async def _next_message(self) -> HTTPRequestEvent:
        """More of the body. Raises RequestError 408, ClientGone."""
        try:
            with limit("waiting for more of the body", BODY_STALLED_S):
                while (message := await self._receive())["type"] != "http.request":
                    if message["type"] == "http.disconnect":
                        raise ClientGone
                return message
        except LimitExceeded as error:
            said = f"nothing of the body came for {BODY_STALLED_S:g} s: send it again"
            raise RequestError(408, said, code="upload_stalled") from error

    @contextmanager
    def _until_gone(self, gone: Callable[[], None]) -> Iterator[None]:
        """Inside, `gone` is called when the client goes away: by its connection, or where that is not one of
        this gateway's server, by `receive` from WATCH_AFTER_S on.
        """
        extensions: Mapping[str, Any] = self._scope.get("extensions") or {}
        when_lost: WhenLost = extensions.get(WHEN_LOST, {}).get("tell", self._when_received)
        forget = when_lost(gone)
        try:
            yield
        finally:
            forget()

    def _when_received(self, gone: Callable[[], None]) -> Callable[[], None]:
        """See WhenLost."""
        loop = asyncio.get_running_loop()
        watching: list[asyncio.Task[None]] = []

        async def disconnected() -> None:
            while (await self._receive())["type"] != "http.disconnect":
                pass

        def watch() -> None:
            # A bare task: it awaits the request's own `receive` alone, and is cancelled by who asked for it.
            task = loop.create_task(disconnected())
            task.add_done_callback(end)
            watching.append(task)

        def end(task: "asyncio.Task[None]") -> None:
            if not task.cancelled():
                task.exception()  # a connection that cannot be read any more is gone too
                gone()

        timer = loop.call_later(WATCH_AFTER_S, watch)

        def forget() -> None:
            timer.cancel()
            for task in watching:
                task.cancel()

        return forget

    async def unless_gone(self, future: "asyncio.Future[T]") -> T:
        """The future's result. Raises ClientGone when the client goes away first."""

        def gone() -> None:
            if not future.done():
                future.set_exception(ClientGone())

        with self._until_gone(gone):
            return await future

    @contextmanager
    def cancelled_when_gone(self) -> Iterator[None]:
        """What is done inside is cancelled when the client goes away, and ClientGone raised."""
        with anyio.CancelScope() as doing, self._until_gone(doing.cancel):
            yield
        if doing.cancelled_caught:
            raise ClientGone

    async def _start(self, status: int, headers: dict[str, str]) -> None:
        self.is_answered = True
        _answers(self.route, status).inc()
        encoded = [(name.lower().encode(), value.encode("latin-1")) for name, value in headers.items()]
        encoded += HEADERS
        encoded.append((REQUEST_ID, self.request_id))
        if self.named is not None and not self.named.has_job:
            self.ignore([KEY_NAME])
        if self.ignored:
            encoded.append((b"stoker-ignored", ", ".join(self.ignored).encode()))
        if POLICY_NAME not in headers:
            encoded.append(POLICY)
        await self._send({"type": "http.response.start", "status": status, "headers": encoded})

    async def answer(self, content: object, status: int = 200, headers: dict[str, str] | None = None) -> None:
        """Answer with JSON."""
        await self.answer_bytes(wire.encode(content), JSON, status, headers)

    async def answer_bytes(
        self, body: bytes, media_type: str, status: int = 200, headers: dict[str, str] | None = None
    ) -> None:
        """Answer with a file."""
        own = {"content-type": media_type, "content-length": str(len(body))}
        await self._start(status, own | headers if headers else own)
        await self._send({"type": "http.response.body", "body": body, "more_body": False})

    async def answer_parts(
        self,
        parts: AsyncGenerator[bytes],
        size: int,
        media_type: str,
        headers: dict[str, str],
        status: int = 200,
    ) -> None:
        """Answer with `size` bytes of a large file as it is read; a client that goes away closes `parts`.

        An error before the first part is still a status.
        """
        own = {"content-type": media_type, "content-length": str(size)} | headers
        with anyio.CancelScope() as sending, self._until_gone(sending.cancel):
            async with aclosing(parts):
                part: bytes | None = await anext(parts, None)
                await self._start(status, own)
                while part is not None:
                    await self._send({"type": "http.response.body", "body": part, "more_body": True})
                    part = await anext(parts, None)
            await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    async def answer_empty(self, status: int = 204, headers: dict[str, str] | None = None) -> None:
        """Answer without a body."""
        await self._start(status, headers or {})
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    async def stream(
        self, limit: StreamLimit, chunks: AsyncGenerator[bytes], headers: dict[str, str] | None = None
    ) -> None:
        """Answer with server-sent events; a client that goes away closes `chunks` at once.

        The status and `headers` wait for the first chunk, so that an error before it is still a status; chunks
        that end before the first are answered 204. Raises RequestError.
        """
        with limit.opened(owner()), anyio.CancelScope() as sending, self._until_gone(sending.cancel):
            await self._send_all(chunks, {} if headers is None else headers)

    async def _send_all(self, chunks: AsyncGenerator[bytes], headers: dict[str, str]) -> None:
        async with aclosing(chunks):
            first = await anext(chunks, None)
            if first is None:
                await self.answer_empty(204)
                return
            await self._start(200, SSE_HEADERS | headers)
            await self._send({"type": "http.response.body", "body": first, "more_body": True})
            async for chunk in chunks:
                await self._send({"type": "http.response.body", "body": chunk, "more_body": True})
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    def write_now(self, make: Callable[[], bytes]) -> bool:
        """Write more of a stream's body at once, for callbacks; `make` is called where that can be. False, and
        nothing was done, where the client does not keep up, or is gone.
        """
        write = cast("WriteNow | None", (self._scope.get("extensions") or {}).get(WRITE_NOW, {}).get("write"))
        return write is not None and write(make)

    async def refuse(
        self, error: RequestError, *, dialect: Dialect, headers: dict[str, str] | None = None
    ) -> None:
        """Answer with an error, unless an answer has begun."""
        if self.is_answered:
            return
        sent = error.headers | (headers or {})
        if error.retry_after_s:
            sent["retry-after"] = str(error.retry_after_s)
        body, media_type = answer_body(error, dialect)
        await self.answer_bytes(wire.encode(body), media_type, error.status, sent)

"""Bounds of connections, before any key is looked at: how large a request's head may be, how long it and the
body may take to come, and how many connections one address may have.

uvicorn has none of these for its quick parser. `sweep` ends what waits too long; a connection that waits for
its next request, and had one before, is uvicorn's own to end (`timeout_keep_alive`).

A client may send its next request before it has its answer. What is wrong with that one is said when its turn
has come: the answers before it are given whole. Nor is it late while they are made.
"""

import asyncio
import socket
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from stoker.services.process.logs import get_logger

log = get_logger("http")

SWEEP_S = 1.0
WHEN_LOST = "stoker.when_lost"
"""The extension of a request's scope by which an answer is told that its connection has gone (`WhenLost`)."""
WhenLost = Callable[[Callable[[], None]], Callable[[], None]]
"""Calls what it is given once the connection has gone, until what it gives is called."""
_ANSWER = (
    "HTTP/1.1 {status}\r\ncontent-type: text/plain; charset=utf-8\r\ncontent-length: {length}\r\n"
    "connection: close\r\n\r\n{text}"
)


WRITE_NOW = "stoker.write_now"
"""The extension of an ASGI scope whose "write" is a WriteNow: as `send`, without a task that awaits it."""
WriteNow = Callable[[Callable[[], bytes]], bool]
"""Writes a chunk of a body that has begun. It is made where it can be written; False where not."""

RECEIVED = "stoker.received"
"""The extension of an ASGI scope whose "at" is when the request's first byte came, by the loop's clock."""

LINGER_S, LINGER_BYTES, LINGERING = 1.0, 256 * 1024, 128
"""A connection that is ended with an answer is read on for so long, so many bytes, of so many at a time: who is
still sending would be told "connection reset" and not the answer."""

ACCEPTS = 32
"""New connections that are taken in a turn of the loop."""


def taken_together(listener: socket.socket) -> list[socket.socket]:
    """The sockets to serve on: the same one several times.

    libuv takes one connection from a socket in a turn of the loop, however many wait there. Where turns are
    long, with thousands of streams, a burst of new clients would wait for minutes.
    """
    return [listener, *(listener.dup() for _ in range(ACCEPTS - 1))]


@dataclass(frozen=True, slots=True)
class Bounds:
    """head_bytes: of the request line and all headers. head_s: from the connection, or a request's first byte,
    to the end of its head. body_pause_s: the longest without a byte of the body. body_s: for all of it.
    per_address: connections of one client address. in_all: of all of them; what comes beyond that is told so.
    """

    head_bytes: int = 64 * 1024
    head_s: float = 20.0
    body_pause_s: float = 30.0
    body_s: float = 600.0
    per_address: int = 4096
    in_all: int = 65_536


@dataclass(slots=True)
class Connections:
    """The connections of one server. Give `protocol` to uvicorn, and let `sweep` run beside it."""

    bounds: Bounds = Bounds()
    by_address: Counter[str] = field(default_factory=Counter)
    open: int = 0
    lingering: int = 0
    waiting: "set[_Bounded]" = field(default_factory=set)

    def protocol(self) -> type[asyncio.Protocol]:
        """The protocol of each connection."""
        owner = self

        class Protocol(_Bounded):
            __slots__ = ()
            connections_of_all = owner

        return Protocol

    def refusal(self, address: str) -> str:
        """Why the newest connection, which is of this address, is one too many; "" where it is not."""
        if self.by_address[address] > self.bounds.per_address:
            return "this address has too many connections"
        return "this gateway has too many connections" if self.open > self.bounds.in_all else ""

    async def sweep(self) -> None:
        """End what waits too long, until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(SWEEP_S)
            now = loop.time()
            for one in [one for one in self.waiting if one.is_late(now)]:
                one.end("408 Request Timeout", "the request did not come in time")


class _Pipeline(list[Any]):
    """Requests that a client has sent before its last was answered: of a deque, which takes 600 bytes when
    empty, what uvicorn uses.
    """

    def appendleft(self, one: Any) -> None:
        self.insert(0, one)


class _AnyLength(int):
    """How much of an answer is still to be sent, as uvicorn counts it, where the connection's end ends it."""

    def __sub__(self, _: int) -> "_AnyLength":
        return self

    def __lt__(self, _: int) -> bool:
        return False


class _Bounded(HttpToolsProtocol):
    """One connection. Reading a head: since `_head_since`; a body: since `_body_since`, its last byte at
    `_body_at`. _told: who is told when it has gone. _refusal: status and text for what follows the requests
    that are being answered; it is not read on. _lingers: it has its last answer.

    Slots, as uvicorn's own attributes are as many as a dictionary of an object may share its keys for: one more
    would cost a kilobyte a connection.
    """

    connections_of_all: Connections
    __slots__ = (
        "_address",
        "_body_at",
        "_body_since",
        "_head_bytes",
        "_head_since",
        "_is_in_head",
        "_is_lost",
        "_lingers",
        "_refusal",
        "_told",
    )

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.pipeline = _Pipeline()  # type: ignore[assignment]  # has what uvicorn uses of a deque
        self._told: list[Callable[[], None]] = []
        self._is_lost = self._lingers = False
        self._refusal: tuple[str, str] | None = None
        self._address = ""
        self._head_bytes = 0
        self._head_since = self._body_since = self._body_at = 0.0
        self._is_in_head = True

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's own
        super().connection_made(transport)
        all_of_them = self.connections_of_all
        self._address = self.client[0] if self.client else ""
        all_of_them.by_address[self._address] += 1
        all_of_them.open += 1
        if refusal := all_of_them.refusal(self._address):
            self.end("503 Service Unavailable", refusal)
            return
        self._head_since = self.loop.time()
        all_of_them.waiting.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        all_of_them = self.connections_of_all
        all_of_them.waiting.discard(self)
        all_of_them.by_address[self._address] -= 1
        all_of_them.open -= 1
        all_of_them.lingering -= self._lingers
        if not all_of_them.by_address[self._address]:
            del all_of_them.by_address[self._address]
        super().connection_lost(exc)
        self._is_lost = True
        told, self._told = self._told, []
        for gone in told:
            gone()

    def _when_lost(self, gone: Callable[[], None]) -> Callable[[], None]:
        """See WhenLost. The connection is read from then on, or nobody would see that it ends."""
        if self._is_lost:
            return self.loop.call_soon(gone).cancel
        self._told.append(gone)
        if not self.pipeline:
            self.flow.resume_reading()

        def forget() -> None:
            if gone in self._told:
                self._told.remove(gone)

        return forget

    def data_received(self, data: bytes) -> None:
        if self._lingers:
            self._head_bytes += len(data)
            if self._head_bytes > LINGER_BYTES:
                self.transport.close()
            return
        if self._refusal is not None:
            return
        super().data_received(data)
        if not self._is_in_head:
            return
        self._head_bytes += len(data)
        if self._head_bytes > self.connections_of_all.bounds.head_bytes:
            most = self.connections_of_all.bounds.head_bytes
            self.end(
                "431 Request Header Fields Too Large", f"request line and headers have at most {most} bytes"
            )

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._is_in_head, self._head_bytes, self._head_since = True, 0, self.loop.time()
        self.connections_of_all.waiting.add(self)

    def on_headers_complete(self) -> None:
        self._is_in_head = False
        self._body_since = self._body_at = self.loop.time()
        super().on_headers_complete()
        if self.scope["http_version"] == "1.0":  # knows no chunks, which uvicorn would send
            self.cycle.chunked_encoding, self.cycle.expected_content_length = False, _AnyLength()
        write_now = partial(self._write_now, self.cycle)
        self.scope["extensions"] = {
            WRITE_NOW: {"write": write_now},
            WHEN_LOST: {"tell": self._when_lost},
            RECEIVED: {"at": self._head_since},
        }

    def _write_now(self, cycle: RequestResponseCycle, make: Callable[[], bytes]) -> bool:
        """See WriteNow. cycle: of the request, which another may follow on this connection."""
        if (
            self.flow.write_paused
            or cycle.disconnected
            or cycle.response_complete
            or not cycle.chunked_encoding
        ):
            return False
        if content := make():
            self.transport.write(b"%x\r\n%b\r\n" % (len(content), content))
        return True

    def on_body(self, body: bytes) -> None:
        self._body_at = self.loop.time()
        super().on_body(body)

    def on_message_complete(self) -> None:
        self.connections_of_all.waiting.discard(self)
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """Of what cannot be read as a request."""
        if self._is_answering():
            self._refusal = ("400 Bad Request", msg)
        else:
            super().send_400_response(msg)

    def _is_answering(self) -> bool:
        """Whether there are whole requests before what is being read, and an answer is still missing."""
        if not self._is_in_head and self.cycle is not None and self.cycle.more_body:
            return bool(self.pipeline)
        return self.cycle is not None and not self.cycle.response_complete

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._head_since = self._body_since = self._body_at = self.loop.time()
        if self._refusal is not None and not self._is_answering():
            self.end(*self._refusal)

    def is_late(self, now: float) -> bool:
        """Whether it has waited longer than it may."""
        if self._is_answering():
            return False
        bounds = self.connections_of_all.bounds
        if self._is_in_head:
            return now - self._head_since > bounds.head_s
        return now - self._body_at > bounds.body_pause_s or now - self._body_since > bounds.body_s

    def end(self, status: str, text: str) -> None:
        """Say why, where no answer has begun, and close; when it is its turn."""
        self.connections_of_all.waiting.discard(self)
        if self.transport.is_closing() or self._lingers:
            return
        if self._is_answering():
            self._refusal = (status, text)
            return
        log.info("connection.ended", address=self._address, reason=text)
        if self._is_in_head or self._refusal is not None:
            answer = _ANSWER.format(status=status, length=len(text), text=text)
            self.transport.write(answer.encode())
            if self.connections_of_all.lingering < LINGERING:
                self._linger()
                return
        self.transport.close()

    def _linger(self) -> None:
        """Close once the client has, or it has had the time to read why."""
        self.connections_of_all.lingering += 1
        self._lingers, self._head_bytes = True, 0
        self.flow.resume_reading()
        self.transport.write_eof()
        self.loop.call_later(LINGER_S, self.transport.close)

"""An open loop: requests are sent when they are due, by chance (Poisson), whether or not those before have been
answered. Times count from when a request was due, not from when it could be sent: a system that holds up its
clients must not be measured less often for that (coordinated omission).

One process, plain sockets, one connection for each request under way, kept for the next.
"""

import asyncio
import random
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import cast

MOST_AT_ONCE = 8000
"""Connections at most: what is due beyond that waits here, and its time goes on."""
PATIENCE_S = 60.0
"""After the last request was due."""


@dataclass(frozen=True, slots=True)
class Due:
    """One request: when, in seconds from the beginning; all its bytes; what it is counted under."""

    at: float
    data: bytes
    label: str


@dataclass(slots=True)
class Answered:
    """Of one label. from_due, from_sent: seconds to the whole answer. lost: not answered in PATIENCE_S."""

    from_due: list[float] = field(default_factory=list)
    from_sent: list[float] = field(default_factory=list)
    body_bytes: int = 0
    errors: int = 0
    lost: int = 0

    def ms(self, share: float, *, sent: bool = False) -> float:
        ordered = sorted(self.from_sent if sent else self.from_due)
        return 1000 * ordered[min(int(share * len(ordered)), len(ordered) - 1)] if ordered else float("nan")


def by_chance(rate: float, seconds: float, data: bytes, label: str, seed: int = 0) -> Iterator[Due]:
    """`rate` requests a second on average."""
    rng = random.Random(f"{label} {seed}")
    at = rng.expovariate(rate)
    while at < seconds:
        yield Due(at, data, label)
        at += rng.expovariate(rate)


class _Connection(asyncio.Protocol):
    """One connection; `ended` is called after each answer, and when it has gone."""

    def __init__(self, ended: Callable[["_Connection"], None]) -> None:
        self._ended = ended
        self.is_open = False
        self.due: Due | None = None
        self.sent_at = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.is_open = True

    def send(self, due: Due, now: float) -> None:
        self.due, self.sent_at = due, now
        self.head, self.tail, self.size, self.expected = b"", b"", 0, -1
        self.transport.write(due.data)

    def data_received(self, data: bytes) -> None:
        if self.due is None:
            return
        if not self.expected + 1:
            self.head += data
            head, mark, data = self.head.partition(b"\r\n\r\n")
            if not mark:
                return
            self.head, self.expected = head, _length(head)
        self.size += len(data)
        self.tail = (self.tail + data)[-5:]
        if self.size >= self.expected if self.expected else self.tail == b"0\r\n\r\n":
            self._ended(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_open = False
        if self.due is not None:
            self.head = b""
            self._ended(self)

    @property
    def is_error(self) -> bool:
        return b" 200 " not in self.head[:16]


def _length(head: bytes) -> int:
    """Of the body; 0 where it comes in chunks."""
    at = head.lower().find(b"content-length:")
    return int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0


class _Run:
    """One run against a port."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._idle: list[_Connection] = []
        self._count = 0
        self._waiting: deque[Due] = deque()
        self.by_label: dict[str, Answered] = {}
        self._open = 0
        self._all_over = asyncio.Event()
        self._began = 0.0

    async def run(self, dues: Iterable[Due]) -> dict[str, Answered]:
        ordered = sorted(dues, key=lambda due: due.at)
        self._open = len(ordered)
        loop = asyncio.get_running_loop()
        self._began = time.perf_counter()
        connecting: set[asyncio.Task[None]] = set()
        for due in ordered:
            if (early := self._began + due.at - time.perf_counter()) > 0:
                await asyncio.sleep(early)
            if self._idle:
                self._idle.pop().send(due, time.perf_counter())
                continue
            self._waiting.append(due)
            if self._count < MOST_AT_ONCE:
                self._count += 1
                connecting.add(loop.create_task(self._connect()))
        with suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE_S):
                await self._all_over.wait()
        for task in connecting:
            task.cancel()
        for label, count in Counter(due.label for due in ordered).items():
            answered = self.by_label.setdefault(label, Answered())
            answered.lost = count - len(answered.from_due)
        return self.by_label

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(lambda: _Connection(self._ended), "127.0.0.1", self._port)
        self._next(connection)

    def _of(self, due: Due) -> Answered:
        return self.by_label.setdefault(due.label, Answered())

    def _ended(self, connection: _Connection) -> None:
        due, connection.due = connection.due, None
        assert due is not None
        now = time.perf_counter()
        answered = self._of(due)
        answered.errors += connection.is_error
        answered.from_due.append(now - self._began - due.at)
        answered.from_sent.append(now - connection.sent_at)
        answered.body_bytes += connection.size
        self._open -= 1
        if not self._open:
            self._all_over.set()
        if connection.is_open:
            self._next(connection)
        else:
            self._count -= 1

    def _next(self, connection: _Connection) -> None:
        if self._waiting:
            connection.send(self._waiting.popleft(), time.perf_counter())
        else:
            self._idle.append(connection)


async def arrive(port: int, dues: Iterable[Due]) -> dict[str, Answered]:
    """Send each when it is due; what came of them, by label."""
    return await _Run(port).run(dues)

"""A small HTTP load generator: keep-alive connections, one request at a time on each, almost no CPU."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import cast


@dataclass(slots=True)
class Load:
    """What a run measured. latencies: seconds per request. first: seconds until the first body byte."""

    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)
    first: list[float] = field(default_factory=list)
    body_bytes: int = 0
    errors: int = 0
    tokens: int = 0

    @property
    def per_second(self) -> float:
        return len(self.latencies) / self.seconds

    def percentile_ms(self, share: float, of_first: bool = False) -> float:
        ordered = sorted(self.first if of_first else self.latencies)
        return 1000 * ordered[min(int(share * len(ordered)), len(ordered) - 1)]


class _Connection(asyncio.Protocol):
    """One connection that sends the same request again as soon as the answer is whole."""

    def __init__(self, request: bytes, load: Load, is_done: Callable[[], bool], count: bytes) -> None:
        self._request, self._load, self._is_done, self._count = request, load, is_done, count
        self.closed = asyncio.get_running_loop().create_future()
        self._buffer = b""
        self._began = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._send()

    def _send(self) -> None:
        if self._is_done():
            self._transport.close()
            return
        self._buffer, self._began, self._has_first = b"", time.perf_counter(), False
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        if self._count:
            self._load.tokens += data.count(self._count)
        self._load.body_bytes += len(data)
        self._buffer = self._buffer[-4096:] + data if len(self._buffer) > 65536 else self._buffer + data
        if not self._has_first and b"\r\n\r\n" in self._buffer:
            self._has_first = True
            self._load.first.append(time.perf_counter() - self._began)
            self._head = self._buffer
        if self._is_whole():
            self._load.latencies.append(time.perf_counter() - self._began)
            if not self._head.startswith(b"HTTP/1.1 200"):
                self._load.errors += 1
            self._send()

    def _is_whole(self) -> bool:
        if b"chunked" in self._head[:600]:
            return self._buffer.endswith(b"0\r\n\r\n")
        head = self._head.partition(b"\r\n\r\n")[0]
        at = head.lower().find(b"content-length:")
        return len(self._buffer) >= len(head) + 4 + int(head[at + 15 :].split(b"\r\n", 1)[0])

    _head = b""

    def connection_lost(self, exc: Exception | None) -> None:
        if exc is not None:
            self._load.errors += 1
        if not self.closed.done():
            self.closed.set_result(None)


def http_request(port: int, path: str, body: bytes) -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


async def drive(
    port: int, path: str, body: bytes, connections: int, seconds: float, count: bytes = b""
) -> Load:
    """Keep `connections` busy for `seconds`; occurrences of `count` in the answers are counted as tokens."""
    load = Load()
    loop = asyncio.get_running_loop()
    began = time.perf_counter()
    request = http_request(port, path, body)
    made = [
        await loop.create_connection(
            lambda: _Connection(request, load, lambda: time.perf_counter() - began > seconds, count),
            "127.0.0.1",
            port,
        )
        for _ in range(connections)
    ]
    await asyncio.wait([protocol.closed for _, protocol in made], timeout=seconds + 30)
    load.seconds = time.perf_counter() - began
    return load

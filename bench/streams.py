"""Streams whose tokens come one by one at real intervals: CPU a token by process, gaps between them, and first
tokens.

    python -m bench.streams                      # 100 streams, a token each 20 ms
    python -m bench.streams --streams 2000 --interval 0.1 --workers 8 --slots 256

The load generator is in this process; its own CPU is stated. A stream that has ended is asked for again.
"""

import argparse
import asyncio
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import cast

import uvloop

from bench.client import http_request
from bench.system import Running, running

WARM_UP_S = 4.0
TOKENS = 200


@dataclass(slots=True)
class Streams:
    """What was seen while it was measured. gaps, firsts: seconds. tokens: events with a token.

    firsts_ever: as firsts, from the beginning on. by_worker: how many were open on each, the fewest first.
    """

    is_measured: bool = False
    gaps: list[float] = field(default_factory=list)
    firsts: list[float] = field(default_factory=list)
    firsts_ever: list[float] = field(default_factory=list)
    tokens: int = 0
    errors: int = 0
    by_worker: list[int] = field(default_factory=list)


class _Stream(asyncio.Protocol):
    """One connection that asks for a stream, and again when it has ended."""

    def __init__(self, request: bytes, seen: Streams) -> None:
        self._request, self._seen = request, seen
        self._last = 0.0
        self._asked = 0.0
        self._tail = b""
        self.is_over = False
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._ask()

    def _ask(self) -> None:
        self._last, self._asked, self._tail = 0.0, time.perf_counter(), b""
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        now = time.perf_counter()
        tokens = data.count(b'"content":"t')
        if tokens:
            seen = self._seen
            if not self._last:
                seen.firsts_ever.append(now - self._asked)
            if seen.is_measured:
                seen.tokens += tokens
                if self._last:
                    seen.gaps.append(now - self._last)
                else:
                    seen.firsts.append(now - self._asked)
            self._last = now
        if not self._tail and b" 200 " not in data[:16] and not self._last:
            self._seen.errors += 1
        self._tail = (self._tail + data)[-5:]
        if self._tail == b"0\r\n\r\n"[-5:]:
            if self.is_over:
                self._transport.close()
            else:
                self._ask()

    def abort(self) -> None:
        self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._seen.errors += exc is not None
        if not self.closed.done():
            self.closed.set_result(None)


def share(values: list[float], at: float) -> float:
    """A quantile in milliseconds; 0 of nothing."""
    ordered = sorted(values)
    return 1000 * ordered[min(int(at * len(ordered)), len(ordered) - 1)] if ordered else 0.0


async def measured_at(
    port: int,
    streams: int,
    seconds: float,
    tokens: int = TOKENS,
    began: Callable[[], None] = lambda: None,
    warm_up_s: float = WARM_UP_S,
) -> Streams:
    """So many streams at a time for so long. began: called when what is measured begins."""
    loop = asyncio.get_running_loop()
    seen = Streams()
    body = {"model": "m", "messages": [{"role": "user", "content": "x"}], "stream": True, "max_tokens": tokens}
    request = http_request(port, "/v1/chat/completions", json.dumps(body).encode())
    made: list[_Stream] = []
    for number in range(streams):
        _, stream = await loop.create_connection(lambda: _Stream(request, seen), "127.0.0.1", port)
        made.append(stream)
        if number % 20 == 19:  # as people come: not all in one moment
            await asyncio.sleep(0.01)
    await asyncio.sleep(warm_up_s)
    began()
    seen.is_measured = True
    await asyncio.sleep(seconds)
    seen.is_measured = False
    for stream in made:
        stream.is_over = True
        stream.abort()
    return seen


async def measured(system: Running, streams: int, seconds: float) -> tuple[Streams, dict[str, float]]:
    """The same for a whole system; CPU microseconds a token, by process."""
    before: dict[str, float] = {}
    looks: list[asyncio.Future[list[int]]] = []

    def began() -> None:
        before.update(system.cpu_seconds() | {"load generator": time.process_time()})
        looks.append(asyncio.ensure_future(asyncio.to_thread(system.open_by_worker)))

    seen = await measured_at(system.port, streams, seconds, began=began)
    after = system.cpu_seconds() | {"load generator": time.process_time()}
    seen.by_worker = await looks[0]
    print(f"{seen.tokens / seconds:,.0f} tokens/s", flush=True)
    await asyncio.sleep(1.0)
    cpu: dict[str, float] = {}
    for name, spent in after.items():
        kind = name.rpartition("-")[0] or name if "runner" not in name else "runners"
        cpu[kind] = cpu.get(kind, 0.0) + 1e6 * (spent - before.get(name, 0.0)) / max(seen.tokens, 1)
    return seen, cpu


def config(interval_s: float, workers: int, slots: int) -> str:
    options = f"{{tokens: {TOKENS}, token_interval_s: {interval_s}}}"
    return (
        f"models: {{m: {{engine: synthetic, slots: {slots}, options: {options}}}}}\n"
        f"workers: [{{count: {workers}, engines: [synthetic]}}]\n"
    )


def row(streams: int, interval_s: float, seen: Streams, cpu: dict[str, float]) -> list[str]:
    gap = f"{share(seen.gaps, 0.5):.1f} / {share(seen.gaps, 0.99):.1f}"
    firsts = seen.firsts or seen.firsts_ever  # none may begin while it is measured
    first = f"{share(firsts, 0.5):.1f} / {share(firsts, 0.99):.1f}"
    ours = sum(spent for name, spent in cpu.items() if name != "load generator")
    parts = ", ".join(f"{name} {spent:.0f}" for name, spent in sorted(cpu.items()))
    return [
        f"| {streams} streams, a token each {1000 * interval_s:g} ms | {gap} | {first} | {ours:.0f} "
        f"| {seen.errors} |",
        f"| open on a worker: {seen.by_worker[0]:,} to {seen.by_worker[-1]:,} "
        f"| CPU µs a token: {parts} | | | |",
    ]


HEAD = [
    "| what | gap ms, median / p99 | first token ms, median / p99 | CPU µs a token, all of ours | errors |",
    "|---|---|---|---|---|",
]


def report(streams: int = 100, interval_s: float = 0.02, workers: int = 1, slots: int = 256) -> list[str]:
    with running(config(interval_s, workers, slots)) as system:
        seen, cpu = uvloop.run(measured(system, streams, 10.0))
    return [*HEAD, *row(streams, interval_s, seen, cpu)]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--streams", type=int, default=100)
    parser.add_argument("--interval", type=float, default=0.02)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--slots", type=int, default=256)
    given = parser.parse_args()
    print("\n".join(report(given.streams, given.interval, given.workers, given.slots)))

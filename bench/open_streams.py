"""How memory grows with open streams, and whether all go on to their ends: a token each 100 ms, eight workers.

    python -m bench.open_streams 1000 10000

Where that is more text than the machine can pass on singly, tokens are joined (docs/operating.md, "Too much
text"): then a gap between two pieces is longer than between two tokens. Every stream is read to its end, and
each of its tokens must have come, in order. The load generator is this process, and holds all streams.
"""

import asyncio
import os
import re
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import cast

import httpx
import uvloop

from bench.arguments import numbers
from bench.client import http_request
from bench.streams import share
from bench.system import Running, running

WORKERS = 8
TOKEN_EACH_S = 0.1
TOKENS = 600
COME_EACH_S = 250
"""New streams a second."""
STARVED_S = 5.0
SIZES = (1000, 2500, 5000, 10_000)
PATIENCE_S = 420.0
WORD = re.compile(rb"t(\d+) ")
DONE = b"data: [DONE]"
KINDS = ("gateway", "worker", "runners", "scheduler")

HEAD = [
    "| open streams | longest gap of a stream ms, median / p99 / longest | starved for 5 s "
    "| first piece s, median / p99 | tokens a piece | kB a stream: gateway, workers, runners, scheduler; all "
    "| open on a worker, fewest / most | whole and in order | cut or refused "
    "| CPU µs a token: ours, load generator |",
    "|---|---|---|---|---|---|---|---|---|---|",
]


@dataclass(slots=True)
class Seen:
    """Of all streams. firsts: seconds to the first piece. longest: the longest gap of each that has ended."""

    firsts: list[float] = field(default_factory=list)
    longest: list[float] = field(default_factory=list)
    tokens: int = 0
    pieces: int = 0
    whole: int = 0
    failed: int = 0

    @property
    def ended(self) -> int:
        return self.whole + self.failed


class _Stream(asyncio.Protocol):
    """One stream, read to its end."""

    def __init__(self, request: bytes, seen: Seen) -> None:
        self._request, self._seen = request, seen
        self._asked = self._last = self._longest = 0.0
        self._rest = b""
        self._next = 0
        self._is_in_order = True
        self._is_over = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._asked = time.perf_counter()
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        whole, mark, rest = (self._rest + data).rpartition(b"\n\n")
        self._rest = rest
        words = WORD.findall(whole) if mark else ()
        if words:
            self._take(int(words[0]), int(words[-1]), len(words))
        if DONE in whole:
            self._end(is_whole=self._is_in_order and self._next == TOKENS)

    def _take(self, first: int, last: int, count: int) -> None:
        now = time.perf_counter()
        if self._last:
            self._longest = max(self._longest, now - self._last)
        else:
            self._seen.firsts.append(now - self._asked)
        self._last = now
        self._is_in_order &= first == self._next and last == first + count - 1
        self._next = last + 1
        self._seen.tokens += count
        self._seen.pieces += 1

    def _end(self, *, is_whole: bool) -> None:
        if self._is_over:
            return
        self._is_over = True
        self._seen.whole += is_whole
        self._seen.failed += not is_whole
        self._seen.longest.append(self._longest)
        self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(is_whole=False)


def _memory(system: Running) -> Counter[str]:
    """Bytes by kind of process."""
    found: Counter[str] = Counter()
    for name, mb in system.memory_mb().items():
        found["runners" if "runner" in name else name.partition("-")[0]] += round(1e6 * mb)
    return found


def _cpu(system: Running) -> tuple[float, float]:
    """Seconds: of all of ours, and of the load generator."""
    return sum(system.cpu_seconds().values()), time.process_time()


async def _warm(client: httpx.AsyncClient) -> None:
    """So that everything is loaded before memory is looked at."""
    body = {"model": "m", "messages": [{"role": "user", "content": "x"}], "max_tokens": 1}
    for _ in range(4 * WORKERS):
        answer = await client.post("/v1/chat/completions", json=body)
        assert answer.status_code == 200, answer.text


async def _until(is_so: Callable[[], bool]) -> None:
    """Raises TimeoutError."""
    deadline = time.monotonic() + PATIENCE_S
    while not is_so():
        if time.monotonic() > deadline:
            raise TimeoutError("the streams do not go on")
        await asyncio.sleep(0.25)


async def measured(system: Running, count: int) -> str:
    """The row of so many streams."""
    loop = asyncio.get_running_loop()
    seen = Seen()
    body = b'{"model":"m","messages":[{"role":"user","content":"x"}],"stream":true,"max_tokens":%d}' % TOKENS
    request = http_request(system.port, "/v1/chat/completions", body)
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{system.port}", timeout=120) as client:
        await _warm(client)
        before, cpu_before = _memory(system), _cpu(system)
        for number in range(count):
            await loop.create_connection(lambda: _Stream(request, seen), "127.0.0.1", system.port)
            if number % 20 == 19:
                await asyncio.sleep(20 / COME_EACH_S)
        await _until(lambda: len(seen.firsts) + seen.failed >= count)
        during, open_now = _memory(system), count - seen.ended
        by_worker = await asyncio.to_thread(system.open_by_worker)
        await _until(lambda: seen.ended >= count)
    spent = [1e6 * (after - was) / seen.tokens for after, was in zip(_cpu(system), cpu_before, strict=True)]
    grown = [(during[kind] - before[kind]) / count / 1000 for kind in KINDS]
    shown = ", ".join(f"{kb:.1f}" for kb in grown)
    firsts = [f"{share(seen.firsts, at) / 1000:.1f}" for at in (0.5, 0.99)]
    longest = [f"{share(seen.longest, at):.0f}" for at in (0.5, 0.99, 1.0)]
    starved = sum(gap > STARVED_S for gap in seen.longest)
    return (
        f"| {count:,} ({open_now:,} when memory was read) | {' / '.join(longest)} | {starved} "
        f"| {' / '.join(firsts)} | {seen.tokens / seen.pieces:.1f} | {shown}; {sum(grown):.1f} "
        f"| {by_worker[0]:,} / {by_worker[-1]:,} | {seen.whole:,} | {seen.failed} "
        f"| {spent[0]:.0f}, {spent[1]:.0f} |"
    )


def report(sizes: tuple[int, ...] = SIZES) -> list[str]:
    rows = list(HEAD)
    slots = max(sizes) // WORKERS + 64
    options = f"{{tokens: {TOKENS}, token_interval_s: {TOKEN_EACH_S}}}"
    config = f"models: {{m: {{engine: synthetic, slots: {slots}, options: {options}}}}}\n"
    os.environ |= {"STOKER_MAX_STREAMS": "20000", "STOKER_MAX_CONNECTIONS": "20000"}
    for count in sizes:
        with running(config + f"workers: [{{count: {WORKERS}, engines: [synthetic]}}]\n") as system:
            rows.append(uvloop.run(measured(system, count)))
            print(rows[-1], flush=True)
    return rows


if __name__ == "__main__":
    print("\n".join(report(numbers(__doc__, SIZES))))

"""Any request: no service ends, memory returns, every accepted job ends, and every model answers afterwards."""

import asyncio
import json
import random
import time
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.conftest import System
from tests.security.fuzzing import WILD, Fuzzer, Message
from tests.waiting import eventually

CONFIG = """\
models:
  echo: {engine: synthetic, slots: 16, options: {tokens: 3}}
  draw: {engine: synthetic, slots: 4, features: [ImageGeneration]}
workers:
  - {count: 2, engines: [synthetic]}
"""
SLOW = (pytest.mark.slow, pytest.mark.timeout(1800))
AT_ONCE = 16
GROWTH = 64 * 1024 * 1024
"""What a gateway may keep: caches fill, and its memory is not given back page by page."""
ANSWERS_WITHIN_S = 2.0

BODIES: dict[str, tuple[Any, ...]] = {
    "POST /v1/chat/completions": (
        {
            "model": "echo",
            "messages": [{"role": "user", "content": "x"}],
            "max_tokens": 3,
            "stop": ["a"],
            "seed": 1,
        },
        {
            "model": "echo",
            "messages": [{"role": "user", "content": "x"}],
            "stream": True,
            "n": 1,
            "temperature": 0.5,
        },
    ),
    "POST /v1/completions": ({"model": "echo", "prompt": "x", "max_tokens": 3, "logit_bias": {"1": 1.0}},),
    "POST /v1/embeddings": ({"model": "echo", "input": ["x"]},),
    "POST /v1/images/generations": ({"model": "draw", "prompt": "x", "n": 1, "size": "64x64"},),
    "POST /v1/jobs": (
        {"model": "echo", "input": {"prompt": "x"}, "priority": 1, "deadline_s": 60, "webhook": "http://x/"},
    ),
    "PUT /v1/jobs/j1": ({"model": "echo", "input": {"messages": [{"role": "user", "content": "x"}]}},),
    "POST /v1/functions/none": ({"a": 1},),
    "POST /api/modes/switch": ({"mode": "x"},),
    "POST /generate": ({"prompt": "x", "mode": "y"},),
    "POST /echo/v1/generate": ({"prompt": "x"},),
    "POST /v1/jobs/j1/cancel": (None,),
    "DELETE /v1/jobs/j1": (None,),
}
PATHS = (
    "/v1/models", "/v1/models/echo", "/v1/jobs", "/v1/jobs/j1", "/v1/jobs/j1/explain", "/v1/jobs/j1/images/0", "/v1/fleet",
    "/v1/jobs/j1/files/0", "/v1/events", "/health/ready", "/metrics", "/", "/schema/openapi.json", "/api/modes", "/api/vram",
    "/v1/functions", "/static/app.js", "/static/../app.js", "/%2e%2e/%00", "/v1/jobs/" + "x" * 300, "/" + "a/" * 500,
)  # fmt: skip
HEADERS: tuple[dict[str, str], ...] = (
    {}, {}, {}, {"Prefer": "wait=1"}, {"Prefer": "wait=" + "9" * 400}, {"Idempotency-Key": "k"}, {"Last-Event-ID": "-1"},
    {"Accept": "text/event-stream"}, {"Authorization": "Bearer " + "x" * 3000}, {"Content-Type": "text/plain"},
    {"Origin": "https://evil.example"}, {"traceparent": "00-x"}, {"Cookie": "stoker_key=" + "%" * 50}, {"X-A": "é"},
)  # fmt: skip
RAW = (
    b"GET / HTTP/1.1\r\n\r\n", b"GET /v1/models HTTP/9.9\r\nHost: localhost\r\n\r\n", b"\x00" * 500, b"\r\n" * 300,
    b"POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
    b"POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\nContent-Length: 3\r\n\r\nabc",
    b"POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffff\r\n",
    b"POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{",
    b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
    b"GET http://[ HTTP/1.1\r\nHost: localhost\r\n\r\n", b"CONNECT a:1 HTTP/1.1\r\nHost: localhost\r\n\r\n",
)  # fmt: skip


class Requests:
    """Makes requests, the same for the same seed: right ones, and such that are wrong in some way."""

    def __init__(self, seed: int) -> None:
        self._chance = random.Random(seed)
        self._fuzzers = {
            name: Fuzzer(seed, [Message("", json.dumps(body).encode(), {}) for body in bodies])
            for name, bodies in BODIES.items()
        }

    def next(self) -> tuple[str, str, dict[str, str], bytes]:
        """Method, path, headers and body."""
        chance = self._chance
        headers = dict(chance.choice(HEADERS))
        if chance.random() < 0.2:
            query = "?" + "&".join(f"limit={chance.choice(WILD)}"[:200] for _ in range(chance.randint(0, 3)))
            return (
                chance.choice(("GET", "HEAD", "OPTIONS", "PATCH")),
                chance.choice(PATHS) + _plain(query),
                headers,
                b"",
            )
        name = chance.choice(list(BODIES))
        method, path = name.split(" ")
        if path == "/v1/jobs/j1":
            path = f"/v1/jobs/j{chance.randrange(50)}"
        if chance.random() < 0.1:
            return method, path, headers, json.dumps(BODIES[name][0]).encode()
        return method, path, headers, next(self._fuzzers[name].messages(1)).payload


def _plain(text: str) -> str:
    return "".join(
        letter if letter.isascii() and letter.isprintable() and letter != " " else "_" for letter in text
    )


async def send_raw(port: int, content: bytes) -> None:
    """Send bytes, and go away without waiting for an answer."""
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(content)
    await writer.drain()
    writer.close()


@pytest.mark.parametrize(("seed", "count"), [(1, 100), pytest.param(2, 100_000, marks=SLOW)])
async def test_no_request_harms_another(tmp_path: Path, seed: int, count: int) -> None:
    system = System(tmp_path, CONFIG)
    try:
        system.wait_ready()
        gateway = psutil.Process(system.pid("gateway"))
        before = {path.stem: path.read_text() for path in system.data.glob("*.pid")}
        requests, statuses = Requests(seed), dict[int, int]()
        accepted: set[str] = set()
        left = count
        limits = httpx.Limits(max_connections=AT_ONCE)
        async with httpx.AsyncClient(base_url=system.url, timeout=30, limits=limits) as http:

            async def ask() -> None:
                nonlocal left
                while left > 0:
                    left -= 1
                    if left % 50 == 0:
                        await send_raw(system.port, RAW[left // 50 % len(RAW)])
                    method, path, headers, body = requests.next()
                    given = {"Content-Type": "application/json"} | headers
                    encoded = {name: value.encode("utf-8") for name, value in given.items()}
                    try:
                        async with http.stream(method, path, headers=encoded, content=body) as answer:
                            status = answer.status_code
                            if status == 202:
                                accepted.add((await answer.aread() and answer.json()).get("id", ""))
                            elif "event-stream" not in answer.headers.get("content-type", ""):
                                await answer.aread()
                    except httpx.RemoteProtocolError:
                        status = 0  # it was no HTTP, and the connection was closed
                    statuses[status] = statuses.get(status, 0) + 1

            memory = gateway.memory_info().rss
            await asyncio.gather(*(ask() for _ in range(AT_ONCE)))
            assert statuses.get(500, 0) == 0, statuses
            assert {path.stem: path.read_text() for path in system.data.glob("*.pid")} == before
            for model in ("echo", "echo"):
                began = time.monotonic()
                answer = await http.post("/v1/completions", json={"model": model, "prompt": "x"})
                assert answer.status_code == 200, answer.text
            assert time.monotonic() - began < ANSWERS_WITHIN_S

            async def all_have_ended() -> bool:
                for job in list(accepted - {""}):
                    found = await http.get(f"/v1/jobs/{job}")
                    if found.status_code == 404 or found.json().get("finished_at"):
                        accepted.discard(job)  # 404: of somebody who chose the id, or no longer kept
                return not accepted - {""}

            await eventually(all_have_ended, 60)
            assert gateway.memory_info().rss - memory < GROWTH
    finally:
        system.stop()

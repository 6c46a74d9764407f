"""A real model through Stoker, beside llama.cpp's own HTTP server: tokens a second, time to the first token.

python -m bench.text_overhead

Both serve the same GGUF with the same slots, threads and context, on the same machine in the same minute, in
turns; what is not asked waits. Figures are medians of the rounds, the ratio that of the ratios of each round.
"""

import asyncio
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import aiohttp

from bench.system import running
from tests.fixtures.smollm2 import smollm2

STREAMS = (1, 4, 16, 64)
ROUNDS = 5
REQUESTS = 2
"""Of each stream in a round; of 64 streams one."""
TOKENS = 64
SLOTS, CONTEXT = 64, 256
CONFIG = """\
models:
  text: {{engine: llamacpp, url: "file://{path}", slots: {slots}, options: {{n_ctx: {context}}}}}
workers:
  - {{count: 1, memory: 4GB, engines: [llamacpp]}}
"""


@dataclass(slots=True)
class Measured:
    """tokens_s: of every round. first_ms: of every request."""

    tokens_s: list[float] = field(default_factory=list)
    first_ms: list[float] = field(default_factory=list)


def serve() -> None:
    """llama.cpp's own server, until the input is closed; its address is the first line of the output."""
    import os

    import xllamacpp

    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(smollm2())
    parameters.n_parallel, parameters.n_ctx = SLOTS, CONTEXT * SLOTS
    parameters.cpuparams.n_threads = max((os.cpu_count() or 2) // 2, 1)
    parameters.verbosity, parameters.warmup, parameters.fit_params = 0, False, False
    server = xllamacpp.Server(parameters)
    print(server.listening_address, flush=True)
    sys.stdin.read()


@contextmanager
def _direct() -> Iterator[str]:
    command = [sys.executable, "-m", "bench.text_overhead", "--serve"]
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,  # as ours: Linux shares a busy machine out by session
    )
    assert process.stdout is not None and process.stdin is not None
    try:
        yield process.stdout.readline().strip()
    finally:
        process.stdin.close()
        process.wait(30)


async def _request(session: aiohttp.ClientSession, url: str, number: int) -> tuple[float, int]:
    """Milliseconds to the first token, and how many tokens came."""
    body = {
        "model": "text",
        "messages": [{"role": "user", "content": f"Tell me the story of room {number} in the old house."}],
        "max_tokens": TOKENS,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    began, first_ms, tokens = time.perf_counter(), 0.0, 0
    async with session.post(url + "/v1/chat/completions", json=body) as answer:
        async for line in answer.content:
            if not line.startswith(b"data: {"):
                continue
            chunk = json.loads(line[6:])
            if not first_ms and chunk["choices"] and chunk["choices"][0]["delta"].get("content"):
                first_ms = 1000 * (time.perf_counter() - began)
            if usage := chunk.get("usage"):
                tokens = usage["completion_tokens"]
    return first_ms, tokens


async def _round(url: str, streams: int, first: int, into: Measured | None) -> None:
    """One round. first: number of its first prompt: both servers are asked the same, and nothing twice."""
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True)) as session:

        async def stream(index: int) -> list[tuple[float, int]]:
            requests = REQUESTS if streams < SLOTS else 1
            numbers = range(first + index * requests, first + (index + 1) * requests)
            return [await _request(session, url, number) for number in numbers]

        began = time.perf_counter()
        found = await asyncio.gather(*(stream(index) for index in range(streams)))
        seconds = time.perf_counter() - began
    if into is not None:
        made = [one for answers in found for one in answers]
        into.first_ms += [first_ms for first_ms, _ in made]
        into.tokens_s.append(sum(tokens for _, tokens in made) / seconds)


async def main() -> list[str]:
    rows = [
        "| streams | llama.cpp tokens/s | Stoker tokens/s | ratio | first token ms | of Stoker | more |",
        "|---|---|---|---|---|---|---|",
    ]
    config = CONFIG.format(path=smollm2(), slots=SLOTS, context=CONTEXT)
    with running(config) as system, _direct() as direct:
        ours = f"http://127.0.0.1:{system.port}"
        number = 0
        for url in (direct, ours):
            await _round(url, 1, number, None)
        for streams in STREAMS:
            measured = {direct: Measured(), ours: Measured()}
            for turn in range(ROUNDS):
                number += 100
                for url in (direct, ours) if turn % 2 else (ours, direct):
                    await _round(url, streams, number, measured[url])
            theirs, mine = (
                (statistics.median(one.tokens_s), statistics.median(one.first_ms)) for one in measured.values()
            )
            rounds = zip(measured[ours].tokens_s, measured[direct].tokens_s, strict=True)
            ratio = statistics.median(mine_s / theirs_s for mine_s, theirs_s in rounds)
            cells = (
                *(str(streams), f"{theirs[0]:.0f}", f"{mine[0]:.0f}", f"{ratio:.3f}"),
                *(f"{theirs[1]:.1f}", f"{mine[1]:.1f}", f"{mine[1] - theirs[1]:+.1f}"),
            )
            rows.append("| " + " | ".join(cells) + " |")
    return rows


if __name__ == "__main__":
    if "--serve" in sys.argv:
        serve()
    else:
        print("\n".join(asyncio.run(main())))

"""A model through Stoker, beside its engine's own HTTP server: tokens a second, time to the first token.

    python -m bench.text_overhead                          # llama.cpp: SmolLM2
    python -m bench.text_overhead .venv-vllm/bin/vllm      # vLLM: a random Llama of 20 million parameters

Both serve the same weights with the same slots, threads and context, on the same machine in the same minute, in
turns; what is not asked waits. Figures are medians of the rounds, the ratio that of the ratios of each round.
"""

import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import httpx

from bench.arguments import paths
from bench.system import running
from stoker.services.process.embedded import free_port
from stoker.services.process.running import die_with_parent
from stoker.services.worker.engines.registry import VLLM_VARIABLE
from tests.fixtures.smollm2 import smollm2
from tests.fixtures.tiny_llama import tiny_llama

STREAMS = (1, 4, 16, 64)
ROUNDS = 5
REQUESTS = 2
"""Of each stream in a round; of 64 streams one."""
TOKENS = 64
SLOTS, CONTEXT = 64, 256
LLAMA_LAYERS, LLAMA_HEADS = 8, 8
LLAMACPP = """\
models:
  text: {{engine: llamacpp, url: "file://{path}", slots: {slots}, options: {{n_ctx: {context}}}}}
workers:
  - {{count: 1, memory: 4GB, engines: [llamacpp]}}
"""
VLLM = """\
resourceProfiles:
  cpu: {{launcher: process, inventory: 1, startTimeoutSeconds: 300}}
---
kind: Model
metadata: {{name: text}}
spec:
  features: [TextGeneration]
  engine: VLLM
  url: file://{path}
  args: {arguments}
  resourceProfile: cpu:1
  minReplicas: 1
  targetRequests: {slots}
"""
VLLM_ARGUMENTS = ["--enforce-eager", f"--max-model-len={CONTEXT}", f"--max-num-seqs={SLOTS}"]
VLLM_VARIABLES = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
VLLM_START_S = 300.0


@dataclass(slots=True)
class Measured:
    """tokens_s: of every round. first_ms: of every request."""

    tokens_s: list[float] = field(default_factory=list)
    first_ms: list[float] = field(default_factory=list)


def serve() -> None:
    """llama.cpp's own server, until the input is closed; its address is the first line of the output."""
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
def _llamacpp() -> Iterator[str]:
    command = [sys.executable, "-m", "bench.text_overhead", "--serve"]
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,  # as ours: Linux shares a busy machine out by session
        preexec_fn=die_with_parent,
    )
    assert process.stdout is not None and process.stdin is not None
    try:
        yield process.stdout.readline().strip()
    finally:
        process.stdin.close()
        process.wait(30)


@contextmanager
def _vllm(command: str, weights: Path) -> Iterator[str]:
    port = free_port()
    serve = [command, "serve", str(weights), "--host", "127.0.0.1", "--port", str(port)]
    process = subprocess.Popen(
        [*serve, "--served-model-name", "text", *VLLM_ARGUMENTS],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=die_with_parent,
    )
    try:
        _wait_ready(f"http://127.0.0.1:{port}/health", process)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(60)


def _wait_ready(url: str, process: "subprocess.Popen[bytes]") -> None:
    """Raises RuntimeError where the server ends, or does not start in time."""
    deadline = time.monotonic() + VLLM_START_S
    while time.monotonic() < deadline and process.poll() is None:
        with suppress(httpx.HTTPError):
            if httpx.get(url, timeout=2).status_code == 200:
                return
        time.sleep(0.5)
    raise RuntimeError(f"vllm serve is not ready at {url}")


@contextmanager
def _both(vllm: str) -> Iterator[tuple[str, str]]:
    """The engine's own server and ours. vllm: its command, "" for llama.cpp."""
    with ExitStack() as running_now:
        if not vllm:
            config = LLAMACPP.format(path=smollm2(), slots=SLOTS, context=CONTEXT)
            direct = running_now.enter_context(_llamacpp())
        else:
            os.environ |= VLLM_VARIABLES | {VLLM_VARIABLE: str(Path(vllm).absolute())}
            folder = Path(running_now.enter_context(tempfile.TemporaryDirectory()))
            weights = tiny_llama(folder / "llama", LLAMA_LAYERS, LLAMA_HEADS)
            config = VLLM.format(path=weights, slots=SLOTS, arguments=json.dumps(VLLM_ARGUMENTS))
            direct = running_now.enter_context(_vllm(os.environ[VLLM_VARIABLE], weights))
        system = running_now.enter_context(running(config))
        yield direct, f"http://127.0.0.1:{system.port}"


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


async def main(vllm: str = "") -> list[str]:
    """vllm: its command, "" for llama.cpp."""
    rows = [
        "| streams | own server tokens/s | Stoker tokens/s | ratio | first token ms | of Stoker | more |",
        "|---|---|---|---|---|---|---|",
    ]
    with _both(vllm) as (direct, ours):
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
            print(rows[-1], file=sys.stderr, flush=True)
    return rows


if __name__ == "__main__":
    if "--serve" in sys.argv:
        serve()
    else:
        print("\n".join(asyncio.run(main(*map(str, paths(__doc__, 0, 1))))))

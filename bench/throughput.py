"""Requests a second and tokens a second through the whole system, with CPU by process.

python -m bench.throughput
"""

import json
import time

import uvloop

from bench.arguments import nothing
from bench.client import Load, drive
from bench.system import Running, running

SECONDS = 6.0
WARM_UP_S = 2.0


async def measure(
    system: Running, model: str, connections: int, *, is_stream: bool, max_tokens: int
) -> tuple[Load, dict[str, float]]:
    """One run after a warm-up; the load, and CPU milliseconds per request by process."""
    message = {"role": "user", "content": "hello"}
    body = json.dumps(
        {"model": model, "messages": [message], "stream": is_stream, "max_tokens": max_tokens}
    ).encode()
    path = "/v1/chat/completions"
    await drive(system.port, path, body, connections, WARM_UP_S)
    before, own_before = system.cpu_seconds(), time.process_time()
    load = await drive(system.port, path, body, connections, SECONDS)
    own = time.process_time() - own_before
    after = system.cpu_seconds()
    requests = len(load.latencies)
    cpu = {name: 1000 * (after[name] - before[name]) / requests for name in after if name in before}
    cpu["load generator"] = 1000 * own / requests
    load.tokens = requests * max_tokens
    return load, cpu


def report(title: str, load: Load, cpu: dict[str, float], *, is_stream: bool) -> list[str]:
    rate = f"{load.tokens / load.seconds:,.0f} tokens/s" if is_stream else f"{load.per_second:,.0f} requests/s"
    shares = ", ".join(f"{name} {ms:.3f}" for name, ms in sorted(cpu.items()))
    median, p99 = load.percentile_ms(0.5), load.percentile_ms(0.99)
    return [
        f"| {title} | {rate} | {median:.2f} | {p99:.2f} | {load.errors} |",
        f"| | CPU ms per request: {shares} | | | |",
    ]


async def main() -> list[str]:
    rows = ["| what | rate | median ms | p99 ms | errors |", "|---|---|---|---|---|"]
    with running() as system:
        runs = [
            ("unary, 1 connection", "echo", 1, False, 1),
            ("unary, 64 connections", "echo", 64, False, 1),
            ("streamed, 64 connections, 512 tokens", "stream", 64, True, 512),
            ("streamed, 64 connections, 128 tokens", "stream", 64, True, 128),
        ]
        for title, model, connections, is_stream, tokens in runs:
            load, cpu = await measure(system, model, connections, is_stream=is_stream, max_tokens=tokens)
            rows += report(title, load, cpu, is_stream=is_stream)
    return rows


if __name__ == "__main__":
    nothing(__doc__)
    print("\n".join(uvloop.run(main())))

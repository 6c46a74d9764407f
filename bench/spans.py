"""Where the time of a request goes, by the spans of its trace, and their share of what its client waited.

    python -m bench.spans

One connection. Spans that overlap (an end is stored while the gateway is told of it) count once in the sum.
"""

import json
import re
import socket
import statistics
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from bench.arguments import nothing
from bench.client import http_request
from bench.system import Running, running
from tests.fixtures.collector import Collector, collecting, covered

CONFIG = """\
models:
  echo: {engine: synthetic, options: {tokens: 1}}
  slow: {engine: synthetic, options: {tokens: 16, token_interval_s: 0.02}}
workers: [{count: 1, engines: [synthetic]}]
"""
STAGES = ("accept", "queue", "assign", "load", "slot", "run", "store", "return", "answer")
COUNTS = {"echo": 300, "slow": 20}
WARM = 20
SENT_S = 15.0
"""How long spans may take to the collector."""


def ask(client: socket.socket, model: str, trace: str) -> float:
    """Seconds that the client waited: from its first byte out to the last one in."""
    body = json.dumps({"model": model, "messages": [{"role": "user", "content": "x"}]}).encode()
    traced = f"traceparent: 00-{trace}-00f067aa0ba902b7-01\r\n"
    port = client.getpeername()[1]
    request = http_request(port, "/v1/chat/completions", body).replace(b"\r\n", b"\r\n" + traced.encode(), 1)
    began = time.perf_counter()
    client.sendall(request)
    answer = b""
    while (length := _length(answer)) is None or len(answer) < length:
        answer += client.recv(64 * 1024)
    taken_s = time.perf_counter() - began
    assert answer.startswith(b"HTTP/1.1 200"), answer
    return taken_s


def _length(answer: bytes) -> int | None:
    """Bytes of the whole answer; None until its head is there."""
    head, end, _ = answer.partition(b"\r\n\r\n")
    found = re.search(rb"content-length: (\d+)", head)
    return len(head) + len(end) + int(found[1]) if end and found else None


def traces_of(collector: Collector, traces: dict[str, float]) -> dict[str, list[Any]]:
    """The spans of each trace, once all have come."""
    deadline = time.monotonic() + SENT_S
    while True:
        found: dict[str, list[Any]] = {trace: [] for trace in traces}
        for _, span in list(collector.spans):
            if (trace := span.trace_id.hex()) in found:
                found[trace].append(span)
        if all(len(spans) == len(STAGES) + 1 for spans in found.values()) or time.monotonic() > deadline:
            return found
        time.sleep(0.2)


def row(collector: Collector, model: str, traces: dict[str, float]) -> str:
    shares, parts = [], {stage: [] for stage in STAGES}
    for trace, spans in traces_of(collector, traces).items():
        below = [span for span in spans if span.name in STAGES]
        total = covered((span.start_time_unix_nano, span.end_time_unix_nano) for span in below)
        shares.append(total / 1e9 / traces[trace])
        for span in below:
            parts[span.name].append((span.end_time_unix_nano - span.start_time_unix_nano) / 1e6)
    each = " | ".join(f"{statistics.median(parts[stage]):.2f}" for stage in STAGES)
    waited_ms = 1000 * statistics.median(traces.values())
    return f"| {model} | {waited_ms:.2f} | {each} | {statistics.median(shares):.1%} |"


@contextmanager
def traced() -> Iterator[tuple[Running, Collector]]:
    with collecting() as collector, pytest.MonkeyPatch.context() as environment:
        environment.setenv("STOKER_OTLP", f"http://127.0.0.1:{collector.server_port}")
        environment.setenv("OTEL_BSP_SCHEDULE_DELAY", "200")
        with running(CONFIG) as system:
            yield system, collector


def report() -> list[str]:
    rows = [
        f"| unary | the client waits, ms | {' | '.join(STAGES)} | of that in the spans |",
        "|---" * (len(STAGES) + 3) + "|",
    ]
    with traced() as (system, collector), socket.create_connection(("127.0.0.1", system.port)) as client:
        for model, count in COUNTS.items():
            for _ in range(WARM):
                ask(client, model, uuid.uuid4().hex)
            traces = {trace: ask(client, model, trace) for trace in (uuid.uuid4().hex for _ in range(count))}
            rows.append(row(collector, model, traces))
    return rows


if __name__ == "__main__":
    nothing(__doc__)
    print("\n".join(report()))

"""Where the time of a request goes, by the spans of its trace, and their share of what its client waited.

    python -m bench.spans

One connection. Spans that overlap (an end is stored while the gateway is told of it) count once in the sum.
"""

import json
import statistics
import time
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.client import HTTPConnection
from typing import Any

import pytest

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


def ask(client: HTTPConnection, model: str, trace: str) -> float:
    """Seconds that the client waited."""
    body = json.dumps({"model": model, "messages": [{"role": "user", "content": "x"}]})
    headers = {"traceparent": f"00-{trace}-00f067aa0ba902b7-01", "content-type": "application/json"}
    began = time.perf_counter()
    client.request("POST", "/v1/chat/completions", body, headers)
    with client.getresponse() as answer:
        answer.read()
    taken_s = time.perf_counter() - began
    assert answer.status == 200, answer.status
    return taken_s


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
    with traced() as (system, collector), closing(HTTPConnection("127.0.0.1", system.port)) as client:
        for model, count in COUNTS.items():
            for _ in range(WARM):
                ask(client, model, uuid.uuid4().hex)
            traces = {trace: ask(client, model, trace) for trace in (uuid.uuid4().hex for _ in range(count))}
            rows.append(row(collector, model, traces))
    return rows


if __name__ == "__main__":
    print("\n".join(report()))

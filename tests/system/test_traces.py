"""A request's trace, from the client's own context to the engine, at a collector that speaks OTLP."""

import socket
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.conftest import System, wait_for
from tests.fixtures.collector import Collector, collecting, covered

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
TTFT = "gen_ai.server.time_to_first_token"
PARENT = "00f067aa0ba902b7"
MODELS = """models:
  echo: {engine: synthetic, options: {tokens: 8}}
  crash: {engine: synthetic, options: {crash: true}}
workers: [{count: 2, engines: [synthetic]}]
"""


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with collecting() as server:
        yield server


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory, collector: Collector) -> Iterator[System]:
    """A system that sends its spans to the collector."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("STOKER_OTLP", f"http://127.0.0.1:{collector.server_port}")
        environment.setenv("OTEL_BSP_SCHEDULE_DELAY", "100")
        system = System(tmp_path_factory.mktemp("traced"), MODELS)
        try:
            system.wait_ready()
            yield system
        finally:
            system.stop()


def attribute(span: Any, name: str) -> Any:
    found = {one.key: one.value for one in span.attributes}[name]
    return getattr(found, found.WhichOneof("value"))


def ask(system: System, trace: str, path: str, **body: object) -> httpx.Response:
    headers = {"traceparent": f"00-{trace}-{PARENT}-01"}
    return httpx.post(system.url + path, json=body, headers=headers, timeout=60)


def spans_of(collector: Collector, trace: str) -> list[tuple[str, Any]]:
    """The spans of a trace once the gateway's is there, which comes last."""

    def found() -> list[tuple[str, Any]]:
        return [one for one in collector.spans if one[1].trace_id.hex() == trace]

    wait_for(lambda: {"queue", "run"} < {span.name for _, span in found()}, 10, "spans of scheduler and worker")
    wait_for(lambda: any(span.name.startswith("POST") for _, span in found()), 10, "the gateway's span")
    return found()


def test_a_request_is_one_trace_from_http_to_the_engine(traced: System, collector: Collector) -> None:
    messages = [{"role": "user", "content": "hello"}]
    answer = ask(traced, TRACE, "/v1/chat/completions", model="echo", messages=messages)
    assert answer.status_code == 200, answer.text
    found = spans_of(collector, TRACE)
    spans = {f"{service} {span.name}": span for service, span in found}
    stages = ("worker assign", "worker load", "worker slot", "worker run", "worker store")
    others = ("gateway POST /v1/chat", "gateway accept", "gateway return", "gateway answer", "scheduler queue")
    assert spans.keys() == {f"stoker-{name}" for name in (*stages, *others)}
    top = spans.pop("stoker-gateway POST /v1/chat")
    assert (top.trace_id.hex(), top.parent_span_id.hex()) == (TRACE, PARENT)
    assert attribute(top, "http.response.status_code") == 200
    for span in spans.values():
        assert (span.trace_id, span.parent_span_id) == (top.trace_id, top.span_id)
        assert span.name == "answer" or attribute(span, "stoker.job") == attribute(top, "stoker.job")
        assert top.start_time_unix_nano <= span.start_time_unix_nano <= span.end_time_unix_nano
    queue, load, run = (spans[f"stoker-{name}"] for name in ("scheduler queue", "worker load", "worker run"))
    assert queue.end_time_unix_nano <= load.end_time_unix_nano <= run.end_time_unix_nano
    assert attribute(run, "stoker.engine") == "synthetic"
    for span in (top, run):
        assert attribute(span, "gen_ai.operation.name") == "chat"
        assert attribute(span, "gen_ai.request.model") == "echo"
        assert [one.string_value for one in attribute(span, "gen_ai.response.finish_reasons").values] == [
            "stop"
        ]
    assert attribute(run, "gen_ai.usage.input_tokens") == answer.json()["usage"]["prompt_tokens"]
    assert attribute(run, "gen_ai.usage.output_tokens") == answer.json()["usage"]["completion_tokens"]
    assert attribute(run, "gen_ai.response.model") == "echo"
    assert "gen_ai.usage.input_tokens" not in {one.key for one in top.attributes}, "it would be counted twice"
    assert attribute(queue, "stoker.worker") == attribute(run, "stoker.worker")


def test_the_parts_of_a_request_are_all_of_it(traced: System, collector: Collector) -> None:
    """But for 5 %, in the best of ten: they take some milliseconds, and another process may have the processor."""
    shares: list[float] = []
    for number in range(10):
        trace = f"a{number}" + TRACE[2:]
        ask(traced, trace, "/v1/chat/completions", model="echo", messages=[{"role": "user", "content": "x"}])
        spans = [span for _, span in spans_of(collector, trace)]
        [top] = [span for span in spans if span.name == "POST /v1/chat"]
        parts = [(one.start_time_unix_nano, one.end_time_unix_nano) for one in spans if one is not top]
        shares.append(covered(parts) / (top.end_time_unix_nano - top.start_time_unix_nano))
    assert max(shares) >= 0.95, shares


def test_a_request_begins_with_the_first_byte_of_its_head(traced: System, collector: Collector) -> None:
    trace = TRACE[::-1]
    body = b'{"model": "echo", "messages": [{"role": "user", "content": "x"}]}'
    with socket.create_connection(("127.0.0.1", traced.port), timeout=20) as connection:
        connection.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
        )
        time.sleep(0.3)
        rest = (
            f"content-length: {len(body)}\r\ntraceparent: 00-{trace}-{PARENT}-01\r\nconnection: close\r\n\r\n"
        )
        connection.sendall(rest.encode() + body)
        assert connection.recv(100).startswith(b"HTTP/1.1 200")
    spans = {span.name: span for _, span in spans_of(collector, trace)}
    for name in ("POST /v1/chat", "accept"):
        assert spans[name].end_time_unix_nano - spans[name].start_time_unix_nano > 0.29e9


def test_both_sides_of_a_stream_say_when_its_first_token_came(traced: System, collector: Collector) -> None:
    trace = "5cf92f3577b34da6a3ce929d0e0e4737"
    answer = ask(traced, trace, "/v1/completions", model="echo", prompt="hello", stream=True)
    assert "[DONE]" in answer.text
    spans = {span.name: span for _, span in spans_of(collector, trace)}
    waited_s = {name: attribute(spans[name], TTFT) for name in ("POST /v1/completions", "run")}
    assert 0 <= waited_s["run"] < waited_s["POST /v1/completions"] < 10


def test_a_failure_says_what_went_wrong_and_logs_name_its_trace(traced: System, collector: Collector) -> None:
    trace = "6cf92f3577b34da6a3ce929d0e0e4738"
    answer = ask(traced, trace, "/v1/completions", model="crash", prompt="hello", max_tokens=4)
    assert answer.status_code >= 500
    spans = [span for _, span in spans_of(collector, trace)]
    [top] = [span for span in spans if span.name == "POST /v1/completions"]
    assert attribute(top, "gen_ai.operation.name") == "text_completion"
    assert attribute(top, "gen_ai.request.max_tokens") == 4
    assert attribute(top, "error.type") == answer.json()["error"]["code"]
    runs = [span for span in spans if span.name == "run"]
    assert all(attribute(run, "error.type") == "lost" for run in runs)
    lines = [line for line in traced.log.read_text().splitlines() if "attempt.lost" in line]
    assert lines
    assert all(trace in line and "span_id" in line for line in lines)

"""A request's trace, from the client's own context to the engine, at a collector that speaks OTLP."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.conftest import SYNTHETIC, System, wait_for

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = "00f067aa0ba902b7"


class Collector(ThreadingHTTPServer):
    """Keeps the spans that it is sent, each with the service that sent it."""

    def __init__(self) -> None:
        self.spans: list[tuple[str, Any]] = []
        super().__init__(("127.0.0.1", 0), _Handler)


class _Handler(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        sent = ExportTraceServiceRequest()
        sent.ParseFromString(self.rfile.read(int(self.headers["Content-Length"])))
        for group in sent.resource_spans:
            names = {one.key: one.value.string_value for one in group.resource.attributes}
            for scope in group.scope_spans:
                self.server.spans += [(names["service.name"], span) for span in scope.spans]
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def collector() -> Iterator[Collector]:
    server = Collector()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def attribute(span: Any, name: str) -> Any:
    found = {one.key: one.value for one in span.attributes}[name]
    return getattr(found, found.WhichOneof("value"))


def test_a_request_is_one_trace_from_http_to_the_engine(
    tmp_path: Path, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STOKER_OTLP", f"http://127.0.0.1:{collector.server_port}")
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "100")
    system = System(tmp_path, SYNTHETIC)
    try:
        system.wait_ready()
        body = {"model": "echo", "messages": [{"role": "user", "content": "hello"}]}
        answer = httpx.post(
            f"{system.url}/v1/chat/completions",
            json=body,
            headers={"traceparent": f"00-{TRACE}-{PARENT}-01"},
            timeout=30,
        )
        assert answer.status_code == 200, answer.text
        wait_for(lambda: len(collector.spans) >= 4, 10, "four spans")
    finally:
        system.stop()
    spans = {f"{service} {span.name}": span for service, span in collector.spans}
    assert spans.keys() == {
        "stoker-gateway POST /v1/chat", "stoker-scheduler queue", "stoker-worker load", "stoker-worker run",
    }  # fmt: skip
    top = spans.pop("stoker-gateway POST /v1/chat")
    assert (top.trace_id.hex(), top.parent_span_id.hex()) == (TRACE, PARENT)
    assert attribute(top, "http.response.status_code") == 200
    for span in spans.values():
        assert (span.trace_id, span.parent_span_id) == (top.trace_id, top.span_id)
        assert attribute(span, "stoker.job") == attribute(top, "stoker.job")
        assert top.start_time_unix_nano <= span.start_time_unix_nano <= span.end_time_unix_nano
    queue, load, run = (spans[f"stoker-{name}"] for name in ("scheduler queue", "worker load", "worker run"))
    assert queue.end_time_unix_nano <= load.end_time_unix_nano <= run.end_time_unix_nano
    assert attribute(run, "stoker.engine") == "synthetic"
    assert attribute(queue, "stoker.worker") == attribute(run, "stoker.worker")

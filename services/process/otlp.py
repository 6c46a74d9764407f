"""Spans to a collector of OpenTelemetry over OTLP/HTTP. Imported where STOKER_OTLP is set only."""

from typing import Any

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from stoker.services.process.tracing import HEADER

_NANO = 1_000_000_000


class OtlpRecorder:
    """`endpoint`: the collector's address, such as http://127.0.0.1:4318."""

    def __init__(self, endpoint: str, service: str, context: dict[str, str]) -> None:
        named = {f"stoker.{key}": value for key, value in context.items()}
        resource = Resource.create({"service.name": f"stoker-{service}", **named})
        self._provider = TracerProvider(resource=resource)
        exporter = OTLPSpanExporter(endpoint.rstrip("/") + "/v1/traces")
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("stoker")
        self._propagator = TraceContextTextMapPropagator()

    def begin(self, name: str, parent: str, began_at: float) -> tuple[Span, str]:
        above = self._propagator.extract({HEADER: parent})
        span = self._tracer.start_span(name, above, SpanKind.SERVER, start_time=int(began_at * _NANO))
        carrier: dict[str, str] = {}
        self._propagator.inject(carrier, set_span_in_context(span))
        return span, carrier.get(HEADER, "")

    def record(
        self, name: str, parent: str, began_at: float, ended_at: float, error: str, attributes: dict[str, Any]
    ) -> None:
        above = self._propagator.extract({HEADER: parent})
        began_ns = int(began_at * _NANO)
        span = self._tracer.start_span(name, above, SpanKind.INTERNAL, attributes, start_time=began_ns)
        if error:
            span.set_status(Status(StatusCode.ERROR, error))
        span.end(max(int(ended_at * _NANO), began_ns))

    def close(self) -> None:
        self._provider.shutdown()

"""Traces of requests, where they are wanted: STOKER_OTLP names a collector of OpenTelemetry.

A request's context rides from the gateway to the engine in the NATS header `traceparent` (W3C Trace Context).
Spans are recorded when they have ended, from times that are kept anyway. Without STOKER_OTLP nothing of
OpenTelemetry is imported, and every call here returns at once. Sampling and batching are set by OpenTelemetry's
own variables (OTEL_TRACES_SAMPLER, OTEL_BSP_SCHEDULE_DELAY, …).
"""

import time
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from stoker.services.process.settings import BadSetting

if TYPE_CHECKING:  # runners trace too, and have no NATS
    from nats.aio.msg import Msg

HEADER = "traceparent"
TRACEPARENT_PARTS = 4
"""Version, trace, span, flags."""

current_trace: ContextVar[str] = ContextVar("current_trace", default="")
"""The context of the request that is served: what its jobs carry along."""


@dataclass(slots=True)
class Served:
    """The request that is served. context: for the spans below its own. Times are seconds since 1970.

    told_at: when the end of its last job was known here, 0 until then.
    """

    span: Any
    context: str
    began_at: float
    told_at: float = 0.0


current_request: ContextVar[Served | None] = ContextVar("current_request", default=None)
"""None while tracing is off."""
_NOTHING: Mapping[str, Any] = {}


class Recorder(Protocol):
    """What there is once tracing is on. Times are in seconds since 1970."""

    def begin(self, name: str, parent: str, began_at: float) -> tuple[Any, str]:
        """A span that goes on, to be ended by the caller, and its context for those below."""

    def record(
        self, name: str, parent: str, began_at: float, ended_at: float, error: str, attributes: dict[str, Any]
    ) -> None: ...

    def close(self) -> None: ...


_recorder: Recorder | None = None


def configure_tracing(endpoint: str, service: str, **context: str) -> None:
    """Send spans to this OTLP/HTTP endpoint; "" = none. Raises BadSetting without OpenTelemetry."""
    global _recorder
    if not endpoint:
        return
    try:
        from stoker.services.process.otlp import OtlpRecorder
    except ImportError as error:
        raise BadSetting(f"otlp: {error.name} is not installed: pip install 'stoker[telemetry]'") from error
    _recorder = OtlpRecorder(endpoint, service, context)


def recorder() -> Recorder | None:
    """Who takes spans; None while tracing is off."""
    return _recorder


def annotate(attributes: Mapping[str, Any]) -> None:
    """Say more in the span of the request that is served; nothing where there is none."""
    request = current_request.get()
    if request is not None:
        for name, value in attributes.items():
            request.span.set_attribute(name, value)


def request_accepted(job: str, created_at: float) -> None:
    """A job of the request that is served was made: until then it was read and checked."""
    request = current_request.get()
    if request is not None:
        record("accept", request.context, request.began_at, created_at, job=job)


def end_known(job: str, finished_at: float) -> None:
    """The end of a job of the request that is served is known here."""
    request = current_request.get()
    if request is not None:
        request.told_at = time.time()
        record("return", request.context, finished_at, request.told_at, job=job)


def record(
    name: str,
    parent: str,
    began_at: float,
    ended_at: float,
    error: str = "",
    standard: Mapping[str, Any] = _NOTHING,
    **attributes: Any,
) -> None:
    """A span that has ended, below `parent`; nothing where there is no parent. error: "" = it went well.

    attributes are named `stoker.…`; those of `standard` as they are.
    """
    if _recorder is not None and parent:
        named = {f"stoker.{key}": value for key, value in attributes.items()} | dict(standard)
        _recorder.record(name, parent, began_at, ended_at, error, named)


def close_tracing() -> None:
    """Send what is left."""
    if _recorder is not None:
        _recorder.close()


def trace_of(message: "Msg") -> str:
    """The context that a message carries; "" = none."""
    return message.headers.get(HEADER, "") if message.headers else ""


@contextmanager
def in_trace(trace: str) -> Iterator[None]:
    """What is logged and started in the block belongs to a trace."""
    token = current_trace.set(trace)
    try:
        yield
    finally:
        current_trace.reset(token)


def with_trace_ids(_: object, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """A processor of structlog: a line that is logged in a trace has trace_id and span_id."""
    parts = current_trace.get().split("-")
    if len(parts) == TRACEPARENT_PARTS:
        event["trace_id"], event["span_id"] = parts[1], parts[2]
    return event


def trace_headers(trace: str) -> dict[str, str] | None:
    """What carries a context along."""
    return {HEADER: trace} if trace else None

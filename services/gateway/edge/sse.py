"""Server-sent events as bytes, and how many streams of them may be open."""

from collections.abc import Iterator
from contextlib import contextmanager

from stoker.services.gateway.edge.problems import RETRY_AFTER_S, RequestError
from stoker.services.process.telemetry import gauge

EVENT_STREAM = "text/event-stream"
SSE_HEADERS = {
    "content-type": f"{EVENT_STREAM}; charset=utf-8",
    "cache-control": "no-store",
    "x-accel-buffering": "no",
}

STREAMS = gauge("stoker_open_streams", "Server-sent event streams that are open")


def sse(data: bytes, event: str = "", event_id: str = "") -> bytes:
    """One server-sent event; `data` must be one line, as JSON is."""
    head = (f"id: {event_id}\n" if event_id else "") + (f"event: {event}\n" if event else "")
    return head.encode() + b"data: " + data + b"\n\n"


def comment(text: str) -> bytes:
    """A line that every reader ignores. No empty line follows: some take that for an event without data."""
    return f": {text}\n".encode()


class StreamLimit:
    """How many event streams are open, and may be."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.open = 0

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Inside, one more stream is open. Raises RequestError 429 when there are enough."""
        if self.open >= self.most:
            message = f"{self.most} streams are open already"
            raise RequestError(429, message, code="too_many_streams", retry_after_s=RETRY_AFTER_S)
        self.open += 1
        STREAMS.inc()
        try:
            yield
        finally:
            self.open -= 1
            STREAMS.dec()

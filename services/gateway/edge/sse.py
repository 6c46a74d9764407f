"""Server-sent events as bytes, and how many streams of them may be open."""

from collections import Counter
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

ONE_KEY = 0.9
"""The share of all streams that those of one key may be."""
STREAMS = gauge("stoker_open_streams", "Server-sent event streams that are open")


def sse(data: bytes, event: str = "", event_id: str = "") -> bytes:
    """One server-sent event; `data` must be one line, as JSON is."""
    head = (f"id: {event_id}\n" if event_id else "") + (f"event: {event}\n" if event else "")
    return head.encode() + b"data: " + data + b"\n\n"


def comment(text: str) -> bytes:
    """A line that every reader ignores. No empty line follows: some take that for an event without data."""
    return f": {text}\n".encode()


class StreamLimit:
    """How many event streams are open, and may be; of one key fewer than of all."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.most_of_one = max(int(ONE_KEY * most), 1)
        self.open = 0
        self._by_key: Counter[str] = Counter()

    @contextmanager
    def opened(self, key: str) -> Iterator[None]:
        """Inside, one more stream is open. key: whose it is; "" where no keys are used. Raises RequestError 429
        when there are enough.
        """
        if self.open >= self.most:
            raise _too_many(f"{self.most} streams are open already")
        if key and self._by_key[key] >= self.most_of_one:
            raise _too_many(f"{self.most_of_one} streams of this key are open already")
        self.open += 1
        self._by_key[key] += 1
        STREAMS.inc()
        try:
            yield
        finally:
            self.open -= 1
            self._by_key[key] -= 1
            if not self._by_key[key]:
                del self._by_key[key]
            STREAMS.dec()


def _too_many(message: str) -> RequestError:
    return RequestError(429, message, code="too_many_streams", retry_after_s=RETRY_AFTER_S)

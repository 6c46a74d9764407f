"""Reading server-sent events of a job, and going on after a connection broke."""

from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import httpx
import msgspec
from httpx_sse import EventSource, ServerSentEvent

ENDS = ("completed", "failed", "cancelled", "expired")


@dataclass(frozen=True, slots=True)
class Event:
    """One event of a job: queued, assigned, loading, started, progress, delta, …, and one of the ends."""

    name: str
    data: dict[str, Any]
    id: str = ""


class EventReader:
    """Give it the answer of one connection after the other; it remembers where to go on, and a job's end."""

    def __init__(self) -> None:
        self.last_id = ""
        self.end: dict[str, Any] | None = None

    def resume(self) -> dict[str, str]:
        """The headers of the next connection."""
        return {"Last-Event-ID": self.last_id} if self.last_id else {}

    def read(self, answer: httpx.Response) -> Iterator[Event]:
        """The events of one connection. Raises httpx's errors where it breaks."""
        for sent in EventSource(answer).iter_sse():
            if event := self._taken(sent):
                yield event

    async def aread(self, answer: httpx.Response) -> AsyncIterator[Event]:
        """The same of an asynchronous client."""
        async with aclosing(EventSource(answer).aiter_sse()) as items:
            async for sent in items:
                if event := self._taken(sent):
                    yield event

    def _taken(self, sent: ServerSentEvent) -> Event | None:
        if not sent.data:
            return None
        event = Event(sent.event, msgspec.json.decode(sent.data), sent.id)
        self.last_id = event.id or self.last_id
        if event.name in ENDS:
            self.end = event.data
        return event

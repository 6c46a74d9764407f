"""Reading server-sent events: out of lines, and on after a connection broke."""

from dataclasses import dataclass
from typing import Any

import msgspec

ENDS = ("completed", "failed", "cancelled", "expired")


@dataclass(frozen=True, slots=True)
class Event:
    """One event of a job: queued, assigned, loading, started, progress, delta, …, and one of the ends."""

    name: str
    data: dict[str, Any]
    id: str = ""


class EventReader:
    """Feed it the lines of one connection after the other; it remembers where to go on, and a job's end."""

    def __init__(self) -> None:
        self.last_id = ""
        self.end: dict[str, Any] | None = None
        self._fields: dict[str, str] = {}

    def resume(self) -> dict[str, str]:
        """The headers of the next connection; half an event of the last one is forgotten."""
        self._fields = {}
        return {"Last-Event-ID": self.last_id} if self.last_id else {}

    def feed(self, line: str) -> Event | None:
        """The event that this line completes."""
        if line:
            name, _, value = line.partition(": ")
            self._fields[name] = value
            return None
        fields, self._fields = self._fields, {}
        if "data" not in fields:
            return None
        event = Event(fields.get("event", "message"), msgspec.json.decode(fields["data"]), fields.get("id", ""))
        self.last_id = event.id or self.last_id
        if event.name in ENDS:
            self.end = event.data
        return event

"""Where a watcher of a job is, and what of the next event it has not had.

Pure. Events are ordered by (term, attempt, seq); text by characters of output. An id such as `7.1.12.340`
says all four, so any gateway can go on from it: what a watcher lacks is what comes after, and of text what
lies beyond its characters. A new attempt that starts over repeats text, which is cut off here; one that
starts further on than the watcher is a gap, which the caller fills by a replay.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import msgspec

from schemas.job_events import (
    AttemptEvent,
    Completed,
    Delta,
    JobEvent,
    LiveEvent,
    Terminal,
    TextOutput,
)

END = "end"
"""The id of a terminal event: nothing comes after it."""


class BadEventId(ValueError):
    """A Last-Event-ID that no gateway of ours has sent."""


class Gap(Exception):
    """Events before this one are missing: ask the worker for a replay."""


@dataclass(slots=True)
class Cursor:
    """A watcher's place. term, attempt, seq: the last event it had. chars: characters of text it had."""

    term: int = 0
    attempt: int = 0
    seq: int = 0
    chars: int = 0

    @classmethod
    def parse(cls, event_id: str) -> "Cursor":
        """The place that an id names. Raises BadEventId."""
        parts = event_id.split(".")
        if len(parts) != 4 or not all(part.isascii() and part.isdecimal() for part in parts):
            raise BadEventId(f"{event_id!r} is not an event id; it looks like 7.1.12.340")
        return cls(*(int(part) for part in parts))

    def id(self) -> str:
        return f"{self.term}.{self.attempt}.{self.seq}.{self.chars}"

    @property
    def is_fresh(self) -> bool:
        return not (self.attempt or self.seq or self.chars)

    def take(self, event: LiveEvent, *, is_replayed: bool = False) -> LiveEvent | None:
        """The event as the watcher must see it, or None when it had it. Raises Gap."""
        if not isinstance(event, AttemptEvent):
            return event
        order = (event.term, event.attempt)
        mine = (self.term, self.attempt)
        if order < mine or (order == mine and event.seq < self.seq):
            return None
        if order == mine and event.seq == self.seq and not is_replayed:
            return None
        last = self.seq if order == mine else 0
        if not is_replayed and event.seq != last + 1:
            raise Gap
        if isinstance(event, Delta):
            if event.at > self.chars:
                raise Gap
            text = event.text[self.chars - event.at :]
            self._move(event)
            if not text:
                return None
            event = msgspec.structs.replace(event, at=self.chars, text=text)
            self.chars += len(text)
            return event
        if order == mine and event.seq <= self.seq:
            return None
        self._move(event)
        return event

    def _move(self, event: AttemptEvent) -> None:
        self.term, self.attempt, self.seq = event.term, event.attempt, event.seq

    def finish(self, terminal: Terminal) -> Iterator[JobEvent]:
        """Everything the watcher still lacks, the terminal event last; the cursor moves along."""
        for event in terminal.history:
            if (event.term, event.attempt, event.seq) > (self.term, self.attempt, self.seq):
                self._move(event)
                yield event
        if isinstance(terminal, Completed) and isinstance(terminal.output, TextOutput):
            at, rest = self.chars, terminal.output.text[self.chars :]
            if rest:
                self.chars += len(rest)
                yield Delta(term=self.term, attempt=self.attempt, seq=self.seq, at=at, text=rest, tokens=0)
        yield terminal


def event_name(event: JobEvent) -> str:
    """The name of an event as SSE and clients see it."""
    tag = event.__struct_config__.tag
    return str(tag)

"""Where a watcher of a job is, and what of the next event it has not had.

Pure. Events are ordered by (term, attempt, seq); text by characters of output. An id such as `7.1.12.340`
says all four, so any gateway can go on from it: what a watcher lacks is what comes after, and of text what
lies beyond its characters. A new attempt that starts over repeats text, which is cut off here; one that
starts further on than the watcher is a gap, which the caller fills by a replay.

A watcher keeps the text from its first character on, also where its client had the beginning elsewhere: only
who has all of it may tell a further attempt what to go on after. Where a further attempt says something else
than what was given already, the two cannot be one text: `Diverged`.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import msgspec

from stoker.schemas.job_events import (
    AttemptEvent,
    Completed,
    Delta,
    JobEvent,
    LiveEvent,
    Terminal,
    TextOutput,
)
from stoker.services.process.growing_text import GrowingText

END = "end"
"""The id of a terminal event: nothing comes after it."""


class BadEventId(ValueError):
    """A Last-Event-ID that no gateway of ours has sent."""


class Gap(Exception):
    """Events before this one are missing: ask the worker for a replay."""


class Diverged(Exception):
    """A further attempt has made another text than the one that was given."""


@dataclass(slots=True)
class Cursor:
    """A watcher's place. term, attempt, seq: the last event it had. chars: characters of text that it knows,
    from 0.

    had_chars: characters that its client had before this watcher began: they are not given again.
    tokens: of the text that it knows; 0 where that is not known. reasoning: how many of its characters are the
    model's reasoning.
    """

    term: int = 0
    attempt: int = 0
    seq: int = 0
    chars: int = 0
    had_chars: int = 0
    tokens: int = 0
    reasoning: int = 0
    _text: GrowingText = field(default_factory=GrowingText, compare=False)
    _is_mended: bool = False
    """Whether the text comes from more than one attempt."""

    @classmethod
    def parse(cls, event_id: str) -> "Cursor":
        """The place that an id names: its text must be learnt from the beginning. Raises BadEventId."""
        parts = event_id.split(".")
        if len(parts) != 4 or not all(part.isascii() and part.isdecimal() for part in parts):
            raise BadEventId(f"{event_id!r} is not an event id; it looks like 7.1.12.340")
        term, attempt, seq, had_chars = (int(part) for part in parts)
        return cls(term, attempt, seq, had_chars=had_chars)

    def id(self) -> str:
        return f"{self.term}.{self.attempt}.{self.seq}.{max(self.chars, self.had_chars)}"

    @property
    def is_fresh(self) -> bool:
        return not (self.attempt or self.seq or self.chars or self.had_chars)

    def text(self) -> str:
        """All text so far, from its first character."""
        return self._text.whole()

    def is_next(self, delta: Delta) -> bool:
        """Whether it has the very next text of this attempt, all of it new to the client."""
        return (
            delta.seq == self.seq + 1
            and (delta.term, delta.attempt) == (self.term, self.attempt)
            and delta.at == self.chars >= self.had_chars
            and bool(delta.text)
        )

    def take(self, event: LiveEvent, *, is_replayed: bool = False) -> LiveEvent | None:
        """The event as the client must see it, or None when it had it. Raises Gap, Diverged."""
        if not isinstance(event, AttemptEvent) or not (event.term or event.attempt):  # of the scheduler
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
            if event.at == self.chars >= self.had_chars and event.text:
                self._move(event)
                self._keep(event, event.text)
                return event
            if event.at > self.chars:
                raise Gap
            if event.at < self.chars:
                self._compare(event.text, event.at)
            self._move(event)
            had = self.chars - event.at
            rest = msgspec.structs.replace(event, reasoning=max(event.reasoning - had, 0)) if had else event
            return self._more(rest, event.text[had:])
        if order == mine and event.seq <= self.seq:
            return None
        self._move(event)
        return event

    def _move(self, event: AttemptEvent) -> None:
        if self.chars and (event.term, event.attempt) != (self.term, self.attempt):
            self._is_mended = True
        self.term, self.attempt, self.seq = event.term, event.attempt, event.seq

    def _compare(self, text: str, at: int) -> None:
        """Raises Diverged unless text that begins at `at` is as it was, as far as that is known."""
        known = self.text()[at : at + len(text)]
        if text[: len(known)] != known:
            raise Diverged

    def _more(self, event: Delta, text: str) -> Delta | None:
        """The event for text that follows what is known; None where the client had all of it."""
        at = self.chars
        if text:
            self._keep(event, text)
        had = max(self.had_chars - at, 0)
        reasoning = max(event.reasoning - had, 0)
        rest = msgspec.structs.replace(event, at=at + had, text=text[had:], reasoning=reasoning)
        if rest.logprobs:
            told = tuple(one for one in rest.logprobs if one.at >= rest.at)
            rest = msgspec.structs.replace(rest, logprobs=told)
        return rest if rest.text or rest.calls else None

    def _keep(self, event: Delta, text: str) -> None:
        """Remember text that follows what is known."""
        if event.reasoning:
            self.reasoning = self.chars + event.reasoning
        self.chars += len(text)
        self._text.add(text)
        self.tokens = event.tokens_so_far

    def finish(self, terminal: Terminal) -> Iterator[JobEvent]:
        """Everything the client still lacks, the terminal event last; moves along. Raises Diverged."""
        for event in terminal.history:
            if (event.term, event.attempt, event.seq) > (self.term, self.attempt, self.seq):
                self._move(event)
                yield event
        if isinstance(terminal, Completed) and isinstance(terminal.output, TextOutput):
            whole = terminal.output.reasoning + terminal.output.text
            if self._is_mended or (terminal.term, terminal.attempt) != (self.term, self.attempt):
                self._compare(whole, 0)
            reasoning = max(len(terminal.output.reasoning) - self.chars, 0)
            place = Delta(
                term=self.term,
                attempt=self.attempt,
                seq=self.seq,
                at=0,
                text="",
                tokens=0,
                reasoning=reasoning,
                logprobs=terminal.output.logprobs,
            )
            rest = self._more(place, whole[self.chars :])
            if rest is not None:
                yield rest
        yield terminal


def event_name(event: JobEvent) -> str:
    """The name of an event as SSE and clients see it."""
    tag = event.__struct_config__.tag
    return str(tag)

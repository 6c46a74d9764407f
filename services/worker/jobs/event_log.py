"""The events of one attempt, numbered, and what of them a late watcher has missed.

Pure. Text is kept as one growing string: a watcher's place in it is a count of characters, so however the
deltas were cut, and whoever delivered them, nothing is missing and nothing comes twice. Of previews only
the fact remains; their bytes are a live view. What a function prints is no event: its beginning and its end are
kept (`printed`).
"""

from stoker.functions.output import OutputLog
from stoker.schemas.job_events import CallPart, Delta, JobLog, Progress, SmallEvent, TokenChance
from stoker.schemas.workers import SentText
from stoker.services.process.growing_text import GrowingText

MAX_HISTORY = 256
"""Small events kept; a run of more steps keeps the first ones and the last."""
REPLAYED_CHARS, REPLAYED_CHARS_WITH_LOGPROBS = 64 * 1024, 1024
"""Of text in one answer: as JSON with six bytes for each, or twenty alternatives for each token, half a MB."""


class EventLog:
    """Numbers events and answers replays. chars, tokens: of the output so far."""

    def __init__(self, term: int, attempt: int) -> None:
        self.term = term
        self.attempt = attempt
        self.seq = 0
        self._small: list[SmallEvent] = []
        self._text = GrowingText()
        self.chars = 0
        self.tokens = 0
        self._logprobs: list[TokenChance] = []
        self.printed = OutputLog()
        self._reasoning = 0
        """How many characters, the first ones, are the model's reasoning."""

    def start_after(self, sent: SentText) -> None:
        """Output begins after this text; it belongs to the log, for watchers who lack it."""
        self._text = GrowingText(sent.text)
        self.chars = len(sent.text)
        self.tokens = sent.tokens

    def next_seq(self) -> int:
        self.seq += 1
        return self.seq

    def note(self, event: SmallEvent) -> None:
        """Keep a numbered event for replay."""
        if len(self._small) >= MAX_HISTORY and isinstance(event, Progress):
            self._small[-1] = event
        else:
            self._small.append(event)

    def delta(
        self,
        text: str,
        tokens: int,
        *,
        is_reasoning: bool = False,
        logprobs: tuple[TokenChance, ...] = (),
        calls: tuple[CallPart, ...] = (),
    ) -> Delta:
        """The numbered event for more text. tokens: 0 for a part of a text whose last part has its tokens."""
        self.tokens += tokens
        if is_reasoning and self._reasoning == self.chars:
            self._reasoning += len(text)
        event = Delta(
            term=self.term,
            attempt=self.attempt,
            seq=self.next_seq(),
            at=self.chars,
            text=text,
            tokens=tokens,
            tokens_so_far=self.tokens if tokens else 0,
            reasoning=max(self._reasoning - self.chars, 0),
            logprobs=logprobs,
            calls=calls,
        )
        self._logprobs.extend(logprobs)
        self._text.add(text)
        self.chars += len(text)
        return event

    def history(self) -> tuple[SmallEvent, ...]:
        return tuple(self._small)

    def log(self) -> JobLog | None:
        """What has been printed; None where nothing was."""
        part = self.printed.part()
        return JobLog(part.head, part.dropped_lines, part.dropped_bytes, part.tail) if part else None

    def text(self) -> str:
        return self._text.whole()

    def replay(self, term: int, attempt: int, seq: int, chars: int) -> list[SmallEvent | Delta]:
        """What a watcher at this point has missed: small events, then missing text as one delta.

        The delta carries the newest number, so that live events follow it without a gap. Of much text it has
        the beginning, as much as a message takes for certain: the next live text shows that some is missing.
        """
        after = (term, attempt, seq)
        missed: list[SmallEvent | Delta] = [
            event for event in self._small if (event.term, event.attempt, event.seq) > after
        ]
        end = chars + (REPLAYED_CHARS_WITH_LOGPROBS if self._logprobs else REPLAYED_CHARS)
        if chars < self.chars:
            missed.append(
                Delta(
                    term=self.term,
                    attempt=self.attempt,
                    seq=self.seq,
                    at=chars,
                    text=self.text()[chars:end],
                    tokens=0,
                    tokens_so_far=self.tokens if end >= self.chars else 0,
                    reasoning=max(min(self._reasoning, end) - chars, 0),
                    logprobs=tuple(one for one in self._logprobs if chars <= one.at < end),
                )
            )
        return missed

"""What a worker says of its attempts: events to the gateway, numbered and kept for replays."""

import time
from collections.abc import Iterable
from functools import cache

import msgspec
from prometheus_client import Histogram

from stoker.schemas import wire
from stoker.schemas.job_events import Preview, SmallEvent, TextPace
from stoker.services.bus.connection import Bus
from stoker.services.process.telemetry import histogram
from stoker.services.worker.jobs.attempt import Attempt
from stoker.services.worker.jobs.texts import MAX_CHARS, Texts
from stoker.services.worker.runner.messages import PreviewImage, Text

INTER_TOKEN = histogram("stoker_inter_token_seconds", "Between output tokens, leaving the worker", "model")


@cache  # finding a label costs more than observing
def _inter_token(model: str) -> Histogram:
    return INTER_TOKEN.labels(model)


class Reports:
    """Events are always noted; they are published where somebody watches."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._texts = Texts(bus)

    def tell(self, attempt: Attempt, event: SmallEvent) -> None:
        """Number a small event, keep it for replays, and publish it to who watches."""
        self._texts.flush(attempt)
        log = attempt.log
        numbered = msgspec.structs.replace(event, term=log.term, attempt=log.attempt, seq=log.next_seq())
        log.note(numbered)
        if attempt.wants_events:
            self._publish(attempt, wire.encode(numbered))

    def text(self, attempt: Attempt, message: Text) -> None:
        """More of the answer; what is too long for one message travels in several."""
        now = time.monotonic()
        if attempt.text_at and message.tokens:
            _inter_token(attempt.model).observe((now - attempt.text_at) / message.tokens)
        elif not attempt.text_at:
            attempt.first_text_at = time.time()
        attempt.text_at = now
        if len(message.text) <= MAX_CHARS:
            self._texts.add(attempt, message)
            return
        starts = range(0, len(message.text), MAX_CHARS)
        pieces = [message.text[start : start + MAX_CHARS] for start in starts]
        for piece in pieces[:-1]:
            self._texts.add(attempt, Text(message.job, piece, 0, message.is_reasoning))
        self._texts.add(attempt, msgspec.structs.replace(message, text=pieces[-1]))

    def flush(self, attempt: Attempt) -> None:
        """Send the text of an attempt that waits."""
        self._texts.flush(attempt)

    def pace(self, pace: TextPace) -> None:
        """A gateway says how long text may wait for more."""
        self._texts.pace(pace)

    def window_s(self, gateways: Iterable[str]) -> float:
        """How long text may wait for all of these gateways."""
        return self._texts.window_s(gateways)

    def preview(self, attempt: Attempt, message: PreviewImage) -> None:
        """A picture as it is by now: for who watches now, never replayed."""
        if not attempt.wants_events:
            return
        self._texts.flush(attempt)
        event = Preview(
            term=attempt.log.term,
            attempt=attempt.log.attempt,
            seq=attempt.log.next_seq(),
            index=message.index,
            step=message.step,
            width=message.width,
            height=message.height,
            image_bytes=len(message.png),
        )
        payload, headers = wire.pack(event, [message.png])
        self._publish(attempt, payload, headers)

    def _publish(self, attempt: Attempt, payload: bytes, headers: dict[str, str] | None = None) -> None:
        job = attempt.assignment.job
        subject = self._bus.subjects.out(job.gateway, job.id, attempt.assignment.seal)
        self._bus.post(subject, payload, headers=headers)

"""What a worker says of its attempts: events to the gateway, numbered and kept for replays."""

import time
from functools import cache

import msgspec
from prometheus_client import Histogram

from stoker.schemas import wire
from stoker.schemas.job_events import Preview, SmallEvent
from stoker.services.bus.connection import Bus
from stoker.services.process.telemetry import histogram
from stoker.services.worker.jobs.attempt import Attempt
from stoker.services.worker.runner.messages import PreviewImage, Text

MAX_DELTA_CHARS = 128 * 1024


INTER_TOKEN = histogram("stoker_inter_token_seconds", "Between output tokens, leaving the worker", "model")


@cache  # finding a label costs more than observing
def _inter_token(model: str) -> Histogram:
    return INTER_TOKEN.labels(model)


class Reports:
    """Events are always noted; they are published where somebody watches."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    def tell(self, attempt: Attempt, event: SmallEvent) -> None:
        """Number a small event, keep it for replays, and publish it to who watches."""
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
        pieces = [message.text]
        if len(message.text) > MAX_DELTA_CHARS:
            starts = range(0, len(message.text), MAX_DELTA_CHARS)
            pieces = [message.text[start : start + MAX_DELTA_CHARS] for start in starts]
        for piece in pieces:
            tokens = message.tokens if piece is pieces[-1] else 0
            delta = attempt.log.delta(
                piece,
                tokens,
                is_reasoning=message.is_reasoning,
                logprobs=message.logprobs if piece is pieces[-1] else (),
                calls=message.calls if piece is pieces[-1] else (),
            )
            if attempt.wants_events:
                self._publish(attempt, wire.encode(delta))

    def preview(self, attempt: Attempt, message: PreviewImage) -> None:
        """A picture as it is by now: for who watches now, never replayed."""
        if not attempt.wants_events:
            return
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

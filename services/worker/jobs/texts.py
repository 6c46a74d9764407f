"""Text on its way to gateways: that of many jobs travels in one message.

A message costs every process that it passes more than the text in it. What a runner sends together
(services/worker/runner/outbox.py) goes on together. A gateway that falls behind says how long text may wait for
more (`TextPace`): what waits of one job is joined, so that it has fewer and larger pieces to write. Where that
holds for every gateway that has jobs here, runners let their text wait as long. Jobs that
another gateway watches too have messages of their own (`Job.batches_text`).
"""

import asyncio
from collections.abc import Callable, Iterable

from stoker.schemas.job_events import Alternative, Delta, TextBatch, TextOfJob, TextPace
from stoker.services.bus.connection import Bus
from stoker.services.worker.jobs.attempt import Attempt
from stoker.services.worker.limits import PACE_KEPT_S
from stoker.services.worker.runner.messages import Text

MAX_CHARS = 128 * 1024
"""Of one message: a character is six bytes at most, and servers take a megabyte where nobody says otherwise."""
CHANCE_CHARS = 16
"""What a token's chance counts beside its text and its bytes."""


class Texts:
    """Takes text as runners make it, makes events of it, and sends them."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._gateways: dict[str, _ToGateway] = {}
        """Those for which text waits, or which have said a pace."""

    def add(self, attempt: Attempt, text: Text) -> None:
        """No more than MAX_CHARS at a time."""
        if attempt.wants_events:
            self._to(attempt.assignment.job.gateway).add(attempt, text)
        else:
            _noted(attempt, text)

    def flush(self, attempt: Attempt) -> None:
        """Send what waits of an attempt: before anything else is said of it."""
        gateway = self._gateways.get(attempt.assignment.job.gateway)
        if gateway is not None:
            gateway.flush(attempt)

    def pace(self, pace: TextPace) -> None:
        """A gateway says how long text may wait for more."""
        if pace.window_s or pace.gateway in self._gateways:
            self._to(pace.gateway).pace(pace.window_s)

    def window_s(self, gateways: Iterable[str]) -> float:
        """How long text may wait for all of these gateways."""
        return min(
            (self._gateways[one].window_s if one in self._gateways else 0.0 for one in gateways), default=0.0
        )

    def _to(self, gateway: str) -> "_ToGateway":
        found = self._gateways.get(gateway)
        if found is None:
            found = self._gateways[gateway] = _ToGateway(self._bus, gateway, self._forget)
        return found

    def _forget(self, gateway: str) -> None:
        self._gateways.pop(gateway, None)


class _ToGateway:
    """Text for one gateway. `done` is called with its name when nothing waits, and it has said no pace."""

    def __init__(self, bus: Bus, name: str, done: Callable[[str], None]) -> None:
        self._bus = bus
        self._name = name
        self._done = done
        self._waiting: dict[str, tuple[Attempt, Text]] = {}
        """By the attempt's key."""
        self._chars = 0
        self._due: asyncio.Handle | None = None
        self._sent_at = 0.0
        self._window_s = self._paced_until = 0.0

    def pace(self, window_s: float) -> None:
        self._window_s = window_s
        self._paced_until = asyncio.get_running_loop().time() + PACE_KEPT_S

    @property
    def window_s(self) -> float:
        """How long text may wait here."""
        return self._window_s if asyncio.get_running_loop().time() < self._paced_until else 0.0

    def add(self, attempt: Attempt, text: Text) -> None:
        size = _size(text)
        if self._chars + size > MAX_CHARS:
            self._send_all()
        earlier = self._waiting.get(attempt.key)
        if earlier is not None and earlier[1].is_reasoning != text.is_reasoning:
            self.flush(attempt)
            earlier = None
        self._waiting[attempt.key] = (attempt, earlier[1].with_more(text) if earlier else text)
        self._chars += size
        if self._due is None:
            self._schedule()

    def _schedule(self) -> None:
        loop = asyncio.get_running_loop()
        if loop.time() < self._paced_until:
            self._due = loop.call_at(self._sent_at + self._window_s, self._is_due)
        else:
            self._due = loop.call_soon(self._is_due)

    def flush(self, attempt: Attempt) -> None:
        found = self._waiting.pop(attempt.key, None)
        if found is not None:
            self._chars -= _size(found[1])
            self._send([found])

    def _is_due(self) -> None:
        self._send_all()
        if self._sent_at >= self._paced_until:
            self._done(self._name)

    def _send_all(self) -> None:
        if self._due is not None:
            self._due.cancel()
            self._due = None
        waiting, self._waiting, self._chars = self._waiting, {}, 0
        self._send(waiting.values())
        self._sent_at = asyncio.get_running_loop().time()

    def _send(self, waiting: Iterable[tuple[Attempt, Text]]) -> None:
        together: list[TextOfJob] = []
        for attempt, text in waiting:
            delta = _noted(attempt, text)
            job, seal = attempt.job, attempt.assignment.seal
            if attempt.batches_text:
                together.append(TextOfJob(job, seal, delta))
            else:
                self._bus.tell(self._bus.subjects.out(self._name, job, seal), delta)
        if together:
            self._bus.tell(self._bus.subjects.texts(self._name), TextBatch(tuple(together)))


def _size(text: Text) -> int:
    """What a text counts, in characters."""
    if not text.calls and not text.logprobs:  # as most
        return len(text.text)
    calls = sum(len(part.arguments) for part in text.calls)
    chances = sum(_chance_size(one) + sum(map(_chance_size, one.top)) for one in text.logprobs)
    return len(text.text) + calls + chances


def _chance_size(chance: Alternative) -> int:
    return CHANCE_CHARS + len(chance.token) + len(chance.bytes)


def _noted(attempt: Attempt, text: Text) -> Delta:
    return attempt.log.delta(
        text.text, text.tokens, is_reasoning=text.is_reasoning, logprobs=text.logprobs, calls=text.calls
    )

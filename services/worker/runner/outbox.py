"""What a runner says on its way to the agent: collected from any thread, sent by the loop in one go."""

import asyncio
import threading
from abc import ABC, abstractmethod
from collections import deque

from stoker.functions.frames import frame
from stoker.services.worker.limits import PACE_KEPT_S
from stoker.services.worker.runner.messages import Message, RunFailed, Text

GAP_S = 0.008
"""Text waits for other text until so long after the text before: what wakes every process that it passes should
carry more than one token. One that comes alone leaves at once.
"""


class Outbox(ABC):
    """May be filled from any thread, is emptied by the loop; text of one job that waits is joined."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiting: deque[Message] = deque()
        self._is_scheduled = False
        self._timer: asyncio.TimerHandle | None = None
        """Set while nothing waits but text."""
        self._thread = threading.get_ident()
        self._sent_at = 0.0
        """When text left last."""
        self._window_s = self._paced_until = 0.0

    def pace(self, window_s: float) -> None:
        """Text may wait for more for so long from now on, for PACE_KEPT_S."""
        self._window_s, self._paced_until = window_s, self._loop.time() + PACE_KEPT_S

    def put(self, message: Message) -> None:
        self._waiting.append(message)
        if self._is_scheduled or (self._timer is not None and isinstance(message, Text)):
            return
        self._is_scheduled = True
        if threading.get_ident() == self._thread:
            self._loop.call_soon(self._look)
        else:
            self._loop.call_soon_threadsafe(self._look)

    def _look(self) -> None:
        """Send what waits, or have the text wait for more."""
        self._is_scheduled = False
        now = self._loop.time()
        gap_s = max(GAP_S, self._window_s if now < self._paced_until else 0.0)
        may_wait = now - self._sent_at < gap_s
        if may_wait and all(isinstance(message, Text) for message in self._waiting.copy()):
            if self._timer is None:
                self._timer = self._loop.call_at(self._sent_at + gap_s, self._flush)
            return
        self._flush()

    def _flush(self) -> None:
        """What waits, in its order; text of a job joins what the job has said last."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        joined: list[Message] = []
        last_text: dict[str, int] = {}
        """Where in `joined` the last message of a job is, where that is text."""
        while self._waiting:
            message = self._waiting.popleft()
            job: str = getattr(message, "job", "")
            if not isinstance(message, Text):
                last_text.pop(job, None)
                joined.append(message)
                continue
            place = last_text.get(job)
            earlier = joined[place] if place is not None else None
            if place is not None and isinstance(earlier, Text) and earlier.is_reasoning == message.is_reasoning:
                joined[place] = earlier.with_more(message)
            else:
                last_text[job] = len(joined)
                joined.append(message)
        if last_text:
            self._sent_at = self._loop.time()
        self._send(joined)

    @abstractmethod
    def _send(self, messages: list[Message]) -> None:
        """Hand them on, in this order."""


class FrameOutbox(Outbox):
    """Writes frames to the agent."""

    def __init__(self, writer: asyncio.StreamWriter, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self._writer = writer

    def _send(self, messages: list[Message]) -> None:
        self._writer.write(b"".join(map(_frame, messages)))


def _frame(message: Message) -> bytes:
    """A message as it goes to the agent; where something in it cannot be sent, as half a character or an
    integer of more than 64 bits, the end of its job.
    """
    try:
        return frame(message)
    except (ValueError, OverflowError) as error:
        job = getattr(message, "job", "")
        reason = error.reason if isinstance(error, UnicodeEncodeError) else str(error)
        return frame(RunFailed(job, "fatal", f"what it gave cannot be sent: {reason}")) if job else b""

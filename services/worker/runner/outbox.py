"""What a runner says on its way to the agent: collected from any thread, sent by the loop in one go."""

import asyncio
import threading
from abc import ABC, abstractmethod
from collections import deque

from stoker.functions.frames import frame
from stoker.services.worker.runner.messages import Message, RunFailed, Text


class Outbox(ABC):
    """May be filled from any thread, is emptied by the loop; text of one job that waits is joined."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiting: deque[Message] = deque()
        self._is_scheduled = False
        self._thread = threading.get_ident()

    def put(self, message: Message) -> None:
        self._waiting.append(message)
        if self._is_scheduled:
            return
        self._is_scheduled = True
        if threading.get_ident() == self._thread:
            self._loop.call_soon(self._flush)
        else:
            self._loop.call_soon_threadsafe(self._flush)

    def _flush(self) -> None:
        self._is_scheduled = False
        joined: list[Message] = []
        text: Text | None = None
        while self._waiting:
            message = self._waiting.popleft()
            if isinstance(message, Text):
                if text is not None and (text.job, text.is_reasoning) == (message.job, message.is_reasoning):
                    text = text.with_more(message)
                    continue
                if text is not None:
                    joined.append(text)
                text = message
                continue
            if text is not None:
                joined.append(text)
                text = None
            joined.append(message)
        if text is not None:
            joined.append(text)
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

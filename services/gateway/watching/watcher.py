"""One reader of a job's events, and the queue in front of it."""

import asyncio
from collections import deque

from schemas.job_events import Assigned, Delta, JobEvent, LiveEvent, Started
from services.gateway.edge.problems import RequestError
from services.gateway.watching.resume import Cursor

WATCH_QUEUE_LIMIT = 10_000
"""Events that may wait for one slow watcher; past that it is replayed instead."""


class Watcher:
    """`put` and `refuse` come from NATS callbacks; one task calls `next`.

    worker: who runs the job. pieces: the text that the reader was given, for an attempt that goes on.
    """

    def __init__(self, job: str, cursor: Cursor) -> None:
        self.job = job
        self.cursor = cursor
        self.worker = ""
        self.pieces: list[str] = []
        self.has_ended = False
        self._events: deque[tuple[JobEvent, bytes]] = deque()
        self._refusal: RequestError | None = None
        self._awaited: asyncio.Future[None] | None = None

    def put(self, event: JobEvent, attached: bytes) -> None:
        if len(self._events) < WATCH_QUEUE_LIMIT:  # else: the gap will be seen, and replayed
            self._events.append((event, attached))
        self._wake()

    def refuse(self, error: RequestError) -> None:
        """The job was not accepted; `next` raises it."""
        self._refusal = error
        self.has_ended = True
        self._wake()

    def _wake(self) -> None:
        if self._awaited is not None and not self._awaited.done():
            self._awaited.set_result(None)

    async def next(self, idle_s: float) -> tuple[JobEvent, bytes] | None:
        """The next event and its raw bytes; None when nothing came for `idle_s`. Raises RequestError."""
        if not self._events and self._refusal is None:
            loop = asyncio.get_running_loop()
            self._awaited = loop.create_future()
            timer = loop.call_later(idle_s, self._wake)
            try:
                await self._awaited
            finally:
                timer.cancel()
        if self._refusal is not None:
            raise self._refusal
        return self._events.popleft() if self._events else None

    def give(self, event: LiveEvent) -> None:
        """Remember what the reader has been given."""
        if isinstance(event, Delta):
            self.pieces.append(event.text)
        elif isinstance(event, Assigned | Started):
            self.worker = event.worker

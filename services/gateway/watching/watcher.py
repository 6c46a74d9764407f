"""One reader of a job's events, and the queue in front of it.

The queue is bounded in events and in bytes. A reader too slow for it loses what waits (`Gap`), and is replayed;
only the job's end is kept, for it says all that the reader lacks.
"""

import asyncio
from collections.abc import Callable

from stoker.schemas.job_events import Assigned, Delta, JobEvent, LiveEvent, Started, Terminal
from stoker.services.gateway.edge.problems import RequestError
from stoker.services.gateway.watching.resume import Cursor, Gap

QUEUE_LIMIT_EVENTS = 10_000
QUEUE_LIMIT_BYTES = 4 * 1024 * 1024
"""What may wait for one slow reader. 2,000 readers that are all as slow as can be would hold 8 GB; previews
make up most of it, and are not worth more."""
EVENT_OVERHEAD_BYTES = 256
"""What an event costs beside its own bytes."""

Pass = Callable[[Delta], bool]
"""Passes text on to the client at once; False where that cannot be, and nothing was done."""
_Waiting = tuple[JobEvent, bytes, int]
"""An event, its raw bytes, and what it counts."""


class Watcher:
    """`put` and `refuse` come from NATS callbacks; one task calls `next`.

    worker: who runs the job. is_late: it came after the job was accepted, so that whoever runs that may not
    know that its events are wanted. has_ended: the reader was given the end, or the job was not accepted.

    pass_on: takes text that simply goes on while the task waits for it, so that the task need not be woken for
    each piece: that costs as much as all else that a piece of text costs here.
    """

    def __init__(self, job: str, cursor: Cursor, pass_on: Pass | None = None) -> None:
        self.job = job
        self.cursor = cursor
        self.worker = ""
        self.is_late = False
        self.has_ended = False
        self._pass_on = pass_on
        self._events: list[_Waiting] = []
        self._turn: list[_Waiting] = []
        """Of `_events` those whose turn it is, the next one last: almost always both are empty, and an empty
        deque takes 600 bytes."""
        self._waiting_bytes = 0
        self._is_behind = False
        self._has_end = False
        self._refusal: RequestError | None = None
        self._awaited: asyncio.Future[None] | None = None
        self._waits_since = 0.0
        self._timer: asyncio.TimerHandle | None = None
        """One for many waits: setting one for each event would cost more than the event."""

    @property
    def waiting_bytes(self) -> int:
        """Bytes of the events that wait for the reader."""
        return self._waiting_bytes

    def put(self, event: JobEvent, attached: bytes, size: int) -> None:
        """size: bytes of the event as it came. The end of a job comes once; a repeat of it is dropped."""
        if self._has_end or (isinstance(event, Delta) and self._passed(event)):
            return
        self._has_end = isinstance(event, Terminal)
        size += EVENT_OVERHEAD_BYTES
        waiting = len(self._events) + len(self._turn)
        if waiting >= QUEUE_LIMIT_EVENTS or self._waiting_bytes + size > QUEUE_LIMIT_BYTES:
            self._events, self._turn = [], []
            self._waiting_bytes = 0
            self._is_behind = not self._has_end
        if self._has_end or not self._is_behind:
            self._events.append((event, attached, size))
            self._waiting_bytes += size
        self._wake()

    def _passed(self, delta: Delta) -> bool:
        """Whether text was passed on: only where nothing before it waits, here or in the task."""
        if self._pass_on is None or self._awaited is None or self._awaited.done():
            return False
        if not self.cursor.is_next(delta) or not self._pass_on(delta):
            return False
        self.cursor.take(delta)
        self._waits_since = self._awaited.get_loop().time()
        return True

    def refuse(self, error: RequestError) -> None:
        """The job was not accepted, or its end cannot be told; `next` raises it."""
        self._refusal = error
        self._wake()

    def _wake(self) -> None:
        if self._awaited is not None and not self._awaited.done():
            self._awaited.set_result(None)

    async def next(self, idle_s: float) -> tuple[JobEvent, bytes] | None:
        """The next event and its raw bytes; None when nothing came for `idle_s`.

        Raises Gap when events were dropped, RequestError when the job was refused.
        """
        if not self._has_some() and self._refusal is None and not self._is_behind:
            await self._wait(idle_s)
        if self._refusal is not None:
            self.has_ended = True
            raise self._refusal
        if not self._has_some():
            if not self._is_behind:
                return None
            self._is_behind = False
            raise Gap
        event, attached, size = self._turn.pop()
        self._waiting_bytes -= size
        return event, attached

    def _has_some(self) -> bool:
        """Whether an event waits; the next is the last of `_turn` then."""
        if not self._turn and self._events:
            self._turn, self._events = self._events[::-1], []
        return bool(self._turn)

    async def _wait(self, idle_s: float) -> None:
        """Return when something has come, or after `idle_s`."""
        loop = asyncio.get_running_loop()
        self._awaited = loop.create_future()
        self._waits_since = loop.time()
        if self._timer is None:
            self._timer = loop.call_later(idle_s, self._look, idle_s)
        await self._awaited

    def _look(self, idle_s: float) -> None:
        """Wake the reader if it has waited for as long as that, or look again when it will have."""
        self._timer = None
        if self._awaited is None or self._awaited.done():
            return
        loop = asyncio.get_running_loop()
        due = self._waits_since + idle_s
        if due <= loop.time():
            self._wake()
        else:
            self._timer = loop.call_at(due, self._look, idle_s)

    def give(self, event: LiveEvent) -> None:
        """Remember who runs the job."""
        if isinstance(event, Assigned | Started):
            self.worker = event.worker

"""Who waits at this gateway: requests for the end of a job, watchers for its events. No I/O.

A job may have several of either kind. Both are registered for as long as a block lasts, so nothing that ends a
request, its cancellation included, leaves them behind; nor the subscription to the job's end, which is made
with the first of them and ended with the last.
"""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from stoker.services.gateway.edge.problems import RequestError
from stoker.services.gateway.watching.watcher import Watcher
from stoker.services.records.results import Result

Ended = asyncio.Future[Result]


class Waiting:
    """`end` and `fail` reach everybody who waits for a job. `listen(job)` subscribes to its end; what it gives
    ends that.
    """

    def __init__(self, listen: Callable[[str], Callable[[], None]]) -> None:
        self._listen = listen
        self._listening: dict[str, Callable[[], None]] = {}
        self._ends: dict[str, dict[Ended, float]] = {}
        self._watchers: dict[str, list[Watcher]] = {}

    def __len__(self) -> int:
        """Jobs that somebody waits for."""
        return len(self._ends.keys() | self._watchers.keys())

    def jobs(self) -> set[str]:
        """Jobs that somebody still waits for."""
        return {job for job, ends in self._ends.items() if not all(one.done() for one in ends)} | {
            job for job, watchers in self._watchers.items() if not all(one.has_ended for one in watchers)
        }

    @contextmanager
    def expecting(self, job: str, limit_s: float) -> Iterator[Ended]:
        """A future of the job's end, or of RequestError 504 after `limit_s`, while the block lasts."""
        loop = asyncio.get_running_loop()
        ended: Ended = loop.create_future()
        self._begin(job)
        ends = self._ends.setdefault(job, {})
        ends[ended] = loop.time() + limit_s
        try:
            yield ended
        finally:
            del ends[ended]
            if not ends:
                self._ends.pop(job, None)
            self._leave(job)
            if ended.done() and not ended.cancelled():
                ended.exception()  # it may have been set after the last wait: asyncio need not report it

    @contextmanager
    def attached(self, watcher: Watcher) -> Iterator[None]:
        """The watcher is given the job's events while the block lasts."""
        self._begin(watcher.job)
        watchers = self._watchers.setdefault(watcher.job, [])
        watchers.append(watcher)
        try:
            yield
        finally:
            watchers.remove(watcher)
            if not watchers:
                self._watchers.pop(watcher.job, None)
            self._leave(watcher.job)

    def _begin(self, job: str) -> None:
        if job not in self._listening:
            self._listening[job] = self._listen(job)

    def _leave(self, job: str) -> None:
        if not self.is_waited_for(job):
            self._listening.pop(job)()

    def watchers(self, job: str) -> list[Watcher]:
        return self._watchers.get(job, [])

    def is_waited_for(self, job: str) -> bool:
        return job in self._ends or job in self._watchers

    def end(self, job: str, result: Result, size: int) -> None:
        """The job has ended. size: bytes of its terminal event."""
        for ended in self._ends.get(job, ()):
            if not ended.done():
                ended.set_result(result)
        for watcher in self._watchers.get(job, ()):
            watcher.put(result.event, result.attached, size)

    def fail(self, job: str, error: RequestError) -> None:
        """The job has ended, and how cannot be told."""
        for ended in self._ends.get(job, ()):
            if not ended.done():
                ended.set_exception(error)
        for watcher in self._watchers.get(job, ()):
            watcher.refuse(error)

    def expire(self, now: float) -> None:
        """End the requests that have waited past their limits. now: of the event loop's clock."""
        for ends in self._ends.values():
            for ended, deadline in ends.items():
                if now > deadline and not ended.done():
                    ended.set_exception(RequestError(504, "the job has not ended in time", code="timeout"))

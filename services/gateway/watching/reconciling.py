"""Looking for the ends of all jobs that are waited for, again and again, until each has one.

An end is told once, over core NATS, and may be lost: a reconnection, a full buffer, another gateway's job.
So what is waited for is compared with what is stored at intervals, whether or not anything is known to have
gone wrong. A job is looked for first after FIRST_LOOK_S, then with pauses that double up to LONGEST_PAUSE_S;
when the store could not say (`Unknown`), soon again, with a back-off of its own. After a reconnection every job
is due at once. LOOKUPS_AT_ONCE bounds what this asks of the store.
"""

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

import anyio

from stoker.services.gateway.edge.problems import RequestError
from stoker.services.process.logs import get_logger
from stoker.services.process.tasks import together
from stoker.services.records.results import Lookup, NotStored, Result, Stored, Unknown, Unreadable

log = get_logger("reconciling")

SWEEP_S = 0.5
FIRST_LOOK_S = 3.0
LONGEST_PAUSE_S = 30.0
FIRST_RETRY_S, LONGEST_RETRY_S = 0.2, 5.0
"""Pauses after a lookup that could not find out."""
LOOKUPS_AT_ONCE = 32


class Waiters(Protocol):
    """What is waited for, and who is told (waiting.py)."""

    def jobs(self) -> set[str]: ...
    def end(self, job: str, result: Result, size: int) -> None: ...
    def fail(self, job: str, error: RequestError) -> None: ...
    def expire(self, now: float) -> None: ...


class Find(Protocol):
    """Looks a job's end up; raises nothing."""

    async def __call__(self, job: str) -> Lookup: ...


@dataclass(slots=True)
class _Look:
    """When a job is looked for next. pause_s, retry_s: the pauses after that, by what the look finds."""

    due_at: float
    pause_s: float
    retry_s: float

    def not_stored(self, now: float) -> None:
        self.pause_s = min(self.pause_s * 2, LONGEST_PAUSE_S)
        self.due_at, self.retry_s = now + self.pause_s, FIRST_RETRY_S

    def unknown(self, now: float) -> None:
        self.due_at = now + self.retry_s
        self.retry_s = min(self.retry_s * 2, LONGEST_RETRY_S)


class Reconciler:
    """`run` and `expire` for as long as anybody waits. can_ask: whether the store can be reached at all now."""

    def __init__(self, waiting: Waiters, find: Find, can_ask: Callable[[], bool]) -> None:
        self._waiting = waiting
        self._find = find
        self._can_ask = can_ask
        self._looks: dict[str, _Look] = {}
        self._woken = asyncio.Event()
        self._is_for_all = False

    def look_at_all(self) -> None:
        """Ends may have been missed: look for every job now."""
        for look in self._looks.values():
            look.due_at = 0.0
        self._is_for_all = True
        self._woken.set()

    def look_now(self, job: str) -> None:
        """The job may have ended before anybody waited for it."""
        self._looks[job] = _Look(0.0, FIRST_LOOK_S, FIRST_RETRY_S)
        self._woken.set()

    async def expire(self) -> None:
        """End the requests that have waited past their limits, until cancelled; however slow the store is."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(SWEEP_S)
            self._waiting.expire(loop.time())

    async def run(self) -> None:
        """Look for ends until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            with anyio.move_on_after(SWEEP_S):
                await self._woken.wait()
            self._woken.clear()
            now = loop.time()
            self._follow(now, 0.0 if self._is_for_all else FIRST_LOOK_S)
            self._is_for_all = False
            if self._can_ask():
                await self._look_for(self._due(now))

    def _follow(self, now: float, first_look_s: float) -> None:
        """Look for what is waited for, and for nothing else."""
        jobs = self._waiting.jobs()
        for job in self._looks.keys() - jobs:
            del self._looks[job]
        for job in jobs - self._looks.keys():
            self._looks[job] = _Look(now + first_look_s, FIRST_LOOK_S, FIRST_RETRY_S)

    def _due(self, now: float) -> list[str]:
        due = [job for job, look in self._looks.items() if look.due_at <= now]
        return sorted(due, key=lambda job: self._looks[job].due_at)

    async def _look_for(self, jobs: Iterable[str]) -> None:
        left = iter(jobs)

        async def look() -> None:
            for job in left:
                self._take(job, await self._find(job))

        await together([look] * min(LOOKUPS_AT_ONCE, len(self._looks)))

    def _take(self, job: str, found: Lookup) -> None:
        look = self._looks.get(job)
        now = asyncio.get_running_loop().time()
        match found:
            case Stored(result):
                self._waiting.end(job, result, len(result.attached))
            case Unreadable(reason):
                self._waiting.fail(job, RequestError(500, reason, code="unreadable_result"))
            case NotStored() if look is not None:
                look.not_stored(now)
            case Unknown(reason) if look is not None:
                log.warning("result.not_looked_up", job=job, reason=reason)
                look.unknown(now)
            case _:
                pass

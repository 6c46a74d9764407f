"""Who is given webhooks, and how many at a time, so that a receiver that does not answer costs no other.

Each receiver (a host and a port) has EACH posts under way at most; what comes beyond waits for its turn for a
while. One that has let AWAY_AFTER posts in a row run out of time is away for AWAY_S: what is for it is tried
later, without a post. After that one post looks whether it is there again.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import httpcore

from stoker.services.process.tasks import LimitExceeded, limit

EACH = 16
AWAY_AFTER = 3
AWAY_S = 30.0
TURN_S = 20.0
SLOW = (TimeoutError, httpcore.TimeoutException)
MOST_KNOWN = 4096
"""Receivers that are remembered when none of their posts is under way."""


class Away(Exception):
    """The receiver did not answer a moment ago, or has enough to do: try later."""


class _Receiver:
    """users: posts under way, and those that wait. slow: posts in a row that ran out of time."""

    def __init__(self) -> None:
        self.places = asyncio.Semaphore(EACH)
        self.users = 0
        self.slow = 0
        self.away_until = 0.0


class Receivers:
    """now: a clock, seconds."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._known: dict[str, _Receiver] = {}

    @asynccontextmanager
    async def turn(self, url: str) -> AsyncIterator[None]:
        """The block is one post; SLOW out of it says that it ran out of time. Raises Away instead of beginning
        it.
        """
        name = urlsplit(url).netloc
        receiver = self._known.setdefault(name, _Receiver())
        receiver.users += 1
        try:
            try:
                with limit(f"waiting for other posts to {name}", TURN_S):
                    await receiver.places.acquire()
            except LimitExceeded as error:
                raise Away(str(error)) from error
            try:
                self._check(receiver, name)
                try:
                    yield
                except SLOW:
                    receiver.slow += 1
                    receiver.away_until = self._now() + AWAY_S
                    raise
                except Exception:  # it answers, or refuses, quickly
                    receiver.slow = 0
                    raise
                receiver.slow = 0
            finally:
                receiver.places.release()
        finally:
            receiver.users -= 1
            self._forget(name, receiver)

    def _check(self, receiver: _Receiver, name: str) -> None:
        """Raises Away. Whoever is let through when the time is over looks for all others."""
        if receiver.slow < AWAY_AFTER:
            return
        now = self._now()
        if now < receiver.away_until:
            raise Away(f"{name} did not answer a moment ago")
        receiver.away_until = now + AWAY_S

    def _forget(self, name: str, receiver: _Receiver) -> None:
        """Keep no receiver of which nothing is known."""
        if not receiver.users and not receiver.slow:
            del self._known[name]
        if len(self._known) > MOST_KNOWN:
            now = self._now()
            self._known = {name: one for name, one in self._known.items() if one.users or one.away_until > now}

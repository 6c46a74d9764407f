"""Turns at what may be done by so many at a time, of which no key has more than its part.

What takes long by the will of who asks for it (a body that comes slowly, a server that answers slowly) must not
take every place: others would be refused for as long as that one likes.
"""

from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import anyio

from stoker.services.gateway.edge.problems import RequestError
from stoker.services.process.tasks import LimitExceeded, limit


class Turns:
    """what: is done, in the plural, for errors: "uploads". code: of the error for a key that has its part."""

    def __init__(self, what: str, code: str, at_once: int, at_once_each: int, wait_s: float) -> None:
        self._what = what
        self._code = code
        self._each = at_once_each
        self.wait_s = wait_s
        self._places = anyio.Semaphore(at_once)
        self.senders: Counter[str] = Counter()

    @asynccontextmanager
    async def turn(self, sender: str, field: str | None = None) -> AsyncIterator[None]:
        """Inside, one more is done. sender: the key of who asks; "" where none is needed, and so nobody known.

        Raises RequestError with the field: 429 where the key has its part, 503 where all places are taken for
        too long.
        """
        with self._counted(sender, field):
            try:
                with limit(f"waiting for other {self._what}", self.wait_s):
                    await self._places.acquire()
            except LimitExceeded as error:
                raise RequestError(503, str(error), field=field, retry_after_s=1) from error
            try:
                yield
            finally:
                self._places.release()

    @contextmanager
    def _counted(self, sender: str, field: str | None) -> Iterator[None]:
        if sender and self.senders[sender] >= self._each:
            message = f"{self._each} {self._what} of this key are under way: ask again when one has ended"
            raise RequestError(429, message, field=field, code=self._code, retry_after_s=1)
        self.senders[sender] += 1
        try:
            yield
        finally:
            self.senders[sender] -= 1
            if not self.senders[sender]:
                del self.senders[sender]

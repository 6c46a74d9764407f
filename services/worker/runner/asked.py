"""The calls that runs of this runner have asked for, until their ends come from the agent."""

import itertools
import threading
from collections.abc import Callable

from stoker.services.worker.engines.base import ChildEnd, Leave
from stoker.services.worker.runner.messages import ChildAsked, ChildEnded, ChildLeft, Message


class AskedCalls:
    """put: a message to the agent, from any thread."""

    def __init__(self, put: Callable[[Message], None]) -> None:
        self._put = put
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)
        self._waiting: dict[int, tuple[str, Callable[[ChildEnd], None]]] = {}

    def ask(self, job: str, name: str, payload: bytes, nth: int, ended: Callable[[ChildEnd], None]) -> Leave:
        """See services.worker.engines.base.AskChild."""
        with self._lock:
            number = next(self._numbers)
            self._waiting[number] = (job, ended)
        self._put(ChildAsked(job, number, name, payload, nth))

        def leave() -> None:
            if self._take(number) is not None:
                self._put(ChildLeft(job, number))

        return leave

    def _take(self, number: int) -> tuple[str, Callable[[ChildEnd], None]] | None:
        with self._lock:
            return self._waiting.pop(number, None)

    def ended(self, message: ChildEnded) -> None:
        """The run that asked is told, if it is there."""
        if (found := self._take(message.number)) is not None:
            found[1](message.end)

    def forget(self, job: str) -> None:
        """The run is over."""
        with self._lock:
            self._waiting = {number: one for number, one in self._waiting.items() if one[0] != job}

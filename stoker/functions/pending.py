"""The calls that the calls of a host have asked for and that have not ended, each a future."""

import itertools
import threading
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from typing import Any

import msgspec

from stoker.functions.errors import CallFailed, Cancelled
from stoker.functions.messages import ChildAsked, ChildEnded, ChildLeft, Message


class PendingCalls:
    """send: to the worker, from any thread."""

    def __init__(self, send: Callable[[Message], None]) -> None:
        self._send = send
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)
        self._futures: dict[tuple[str, int], Future[Any]] = {}
        self._cancelled: set[str] = set()

    def ask(self, call: str, name: str, payload: bytes, nth: int) -> "Future[Any]":
        """Ask for a call. Raises Cancelled where the one that asks was cancelled."""
        future: Future[Any] = Future()
        with self._lock:
            if call in self._cancelled:
                raise Cancelled("the call was cancelled")
            number = next(self._numbers)
            self._futures[call, number] = future
        self._send(ChildAsked(call, number, name, payload, nth))
        future.add_done_callback(lambda done: self._given_up(call, number, done))
        return future

    def _given_up(self, call: str, number: int, future: "Future[Any]") -> None:
        if future.cancelled() and self._take(call, number) is not None:
            with suppress(OSError):
                self._send(ChildLeft(call, number))

    def _take(self, call: str, number: int) -> "Future[Any] | None":
        with self._lock:
            return self._futures.pop((call, number), None)

    def ended(self, message: ChildEnded) -> None:
        future = self._take(message.call, message.number)
        if future is None:
            return
        with suppress(InvalidStateError):  # who waited has given up just now
            if message.kind:
                error = CallFailed(message.message, message.kind, field=message.field, job=message.child)
                future.set_exception(error)
            else:
                future.set_result(msgspec.json.decode(message.result))

    def cancelled(self, call: str) -> None:
        """The call was cancelled: what waits for its calls is woken."""
        with self._lock:
            self._cancelled.add(call)
        self._end_all(call)

    def left(self, call: str) -> None:
        """The call is over: nobody waits for its calls, and it asks for none."""
        with self._lock:
            self._cancelled.discard(call)
        self._end_all(call)

    def _end_all(self, call: str) -> None:
        with self._lock:
            mine = [key for key in self._futures if key[0] == call]
            futures = [self._futures.pop(key) for key in mine]
        for future in futures:
            with suppress(InvalidStateError):
                future.set_exception(Cancelled("the call was cancelled"))

"""Calls that a function makes of other functions, and of models: each is a job of its own, a *child*.

`Children` belongs to one call. What it asks goes out through `ask`, which the host process gives (its worker
asks a gateway), or `stoker call --local` (the same process). A call is named by what it asks and by how many
times that was asked before, so that a parent that is run again asks for the same children, in whatever order.

In a plain function a call waits in the function's own thread; in an async function it is awaited.
"""

import asyncio
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, wait
from typing import Any

import msgspec

from stoker.functions.errors import CallFailed

MAX_CHILDREN = 1000
"""Calls that one call may make."""

Asked = tuple[str, Any]
"""A function or model, and its payload: a dict or a Struct."""
Ask = Callable[[str, bytes, int], "Future[Any]"]
"""Begin a call: its name, its payload as JSON, how many like it came before. Cancelling the future cancels the
child; it raises CallFailed, or Cancelled when the call that asks was cancelled."""


def nobody_to_ask(name: str, payload: bytes, nth: int) -> "Future[Any]":
    """What a context without a server does."""
    raise CallFailed(f"{name} cannot be called here: this context has no server and no project", "fatal")


class Children:
    """The calls of one call; its methods may be used from any thread."""

    def __init__(self, ask: Ask = nobody_to_ask) -> None:
        self._ask = ask
        self._lock = threading.Lock()
        self._seen: Counter[tuple[str, bytes]] = Counter()
        self._count = 0

    def begin(self, name: str, payload: Any) -> "Future[Any]":
        """Raises CallFailed beyond MAX_CHILDREN, TypeError for a name or payload of another type."""
        content = _encoded(name, payload)
        with self._lock:
            if self._count >= MAX_CHILDREN:
                raise CallFailed(f"{name}: a call makes at most {MAX_CHILDREN} calls of its own", "validation")
            self._count += 1
            nth = self._seen[name, content]
            self._seen[name, content] += 1
        return self._ask(name, content, nth)

    def call(self, name: str, payload: Any, returns: Any) -> Any:
        """The result, once it is there."""
        _check_may_wait("call")
        return _as(self._wait([self.begin(name, payload)], return_exceptions=False)[0], returns)

    def gather(self, calls: Sequence[Asked], returns: Any, *, return_exceptions: bool) -> list[Any]:
        """The results in order."""
        _check_may_wait("gather")
        found = self._wait(self._begin_all(calls), return_exceptions=return_exceptions)
        return [_as(one, returns) for one in found]

    async def call_async(self, name: str, payload: Any, returns: Any) -> Any:
        """As `call`, awaited."""
        return _as(await asyncio.wrap_future(self.begin(name, payload)), returns)

    async def gather_async(self, calls: Sequence[Asked], returns: Any, *, return_exceptions: bool) -> list[Any]:
        """As `gather`, awaited."""
        pending = self._begin_all(calls)
        try:
            if pending:
                when = asyncio.ALL_COMPLETED if return_exceptions else asyncio.FIRST_EXCEPTION
                done, _ = await asyncio.wait([asyncio.wrap_future(one) for one in pending], return_when=when)
                for one in done:
                    one.exception()  # it has been looked at: nobody need be warned of it
            return [_as(one, returns) for one in _ends(pending, return_exceptions=return_exceptions)]
        finally:
            _leave(pending)

    def _begin_all(self, calls: Sequence[Asked]) -> "list[Future[Any]]":
        pending: list[Future[Any]] = []
        try:
            for name, payload in calls:
                pending.append(self.begin(name, payload))
        except BaseException:
            _leave(pending)
            raise
        return pending

    @staticmethod
    def _wait(pending: "list[Future[Any]]", *, return_exceptions: bool) -> list[Any]:
        try:
            if return_exceptions:
                wait(pending)
            else:
                wait(pending, return_when=FIRST_EXCEPTION)
            return _ends(pending, return_exceptions=return_exceptions)
        finally:
            _leave(pending)


def _ends(pending: "list[Future[Any]]", *, return_exceptions: bool) -> list[Any]:
    """What has come, in order. Raises the first failure in order that is known, unless they are wanted."""
    if not return_exceptions:
        for one in pending:
            if one.done() and (error := one.exception()) is not None:
                raise error
        return [one.result() for one in pending]
    found: list[Any] = []
    for one in pending:
        error = one.exception()
        if error is not None and not isinstance(error, CallFailed):
            raise error  # the call that asks was cancelled
        found.append(one.result() if error is None else error)
    return found


def _leave(pending: "list[Future[Any]]") -> None:
    """Nobody waits for these any more; those that have not ended are cancelled."""
    for one in pending:
        one.cancel()


def _check_may_wait(name: str) -> None:
    """Raises RuntimeError where waiting would hold up every other call of the process."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise RuntimeError(f"ctx.{name} waits: in an async function write `await ctx.{name}_async(…)`")


def _encoded(name: str, payload: Any) -> bytes:
    """The payload as JSON, the same for equal ones. Raises TypeError, UnicodeEncodeError."""
    if not isinstance(name, str):
        raise TypeError(f"the name of a function must be a str, not {type(name).__name__}")
    name.encode()
    value = msgspec.to_builtins({} if payload is None else payload)
    if not isinstance(value, dict):
        raise TypeError(f"the payload of {name} must be a dict or a Struct, not {type(payload).__name__}")
    return msgspec.json.encode(value, order="deterministic")


def _as(result: Any, returns: Any) -> Any:
    """The result as the type that is wanted. Raises CallFailed where it is not one."""
    if returns is None or isinstance(result, CallFailed):
        return result
    try:
        return msgspec.convert(result, returns)
    except msgspec.ValidationError as error:
        raise CallFailed(
            f"the result is no {getattr(returns, '__name__', returns)}: {error}", "fatal"
        ) from error

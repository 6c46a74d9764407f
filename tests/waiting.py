"""Waiting for a condition with a deadline: the one place of the tests that sleeps in a loop."""

import asyncio
import inspect
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, TypeVar

T = TypeVar("T")

POLL_S = 0.01


async def eventually(condition: Callable[[], Any], seconds: float = 10.0, what: str = "") -> Any:
    """The first true value of `condition`, which may be a coroutine function. Fails the test after `seconds`."""
    deadline = time.monotonic() + seconds
    value = await _value(condition)
    while not value:  # what is waited for is outside this process, and sets no event
        assert time.monotonic() < deadline, f"waited {seconds:g} s for {what or condition}"
        await asyncio.sleep(POLL_S)
        value = await _value(condition)
    return value


async def _value(condition: Callable[[], Any]) -> Any:
    found = condition()
    return await found if inspect.isawaitable(found) else found


@asynccontextmanager
async def in_own_task(context: AbstractAsyncContextManager[T]) -> AsyncIterator[T]:
    """The same context, entered and left in one task: fixtures are set up and torn down in two."""
    entered: asyncio.Future[T] = asyncio.get_running_loop().create_future()
    leaving = asyncio.Event()

    async def hold() -> None:
        try:
            async with context as value:
                entered.set_result(value)
                await leaving.wait()
        except BaseException as error:
            if entered.done():
                raise
            entered.set_exception(error)

    task = asyncio.create_task(hold())
    try:
        yield await entered
    finally:
        leaving.set()
        await task

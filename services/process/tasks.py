"""Who owns tasks, how long a wait may take, and how cleaning up is bounded.

Every task belongs to a `TaskOwner`, which is an anyio task group that callbacks may hand work to. Leaving its
block ends its tasks and waits for them, so nothing outlives its owner. Three rules:

- `start`: an error in the task is an error of the owner. It ends the other tasks and is raised at the block.
- `start_contained`: work for one request or message. An error is logged and counted, and ends that task alone.
- being cancelled is a normal end and no error.

A wait for something outside this process has a limit with a name (`limit`), so that who reads the error knows
what was waited for. Cleaning up that awaits is shielded from cancellation, and bounded (`cleanup`).
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from types import TracebackType
from typing import Any, Self, TypeVarTuple

import anyio
from anyio.abc import TaskGroup
from sniffio import current_async_library_cvar

from stoker.services.process.logs import get_logger
from stoker.services.process.telemetry import counter

log = get_logger("tasks")

Ts = TypeVarTuple("Ts")

FAILED = counter("stoker_task_failures_total", "Tasks that ended with an unexpected error", "task")


class LimitExceeded(TimeoutError):
    """Something took longer than it may; says what, and how long that is."""


class OwnerClosed(RuntimeError):
    """Work was handed to an owner whose block is not entered, or has been left."""


class TaskOwner:
    """Owns tasks for as long as its block lasts. `start` and `start_contained` may be called from callbacks."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._group: TaskGroup | None = None

    @property
    def is_open(self) -> bool:
        """Whether work may be handed over now."""
        return self._group is not None and not self._group.cancel_scope.cancel_called

    async def __aenter__(self) -> Self:
        if self._group is not None:
            raise OwnerClosed(f"{self.name}: the block was entered twice")
        self._group = anyio.create_task_group()
        await self._group.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        """End what still runs. The first error of a task is raised as it is."""
        group = self._group
        assert group is not None
        group.cancel_scope.cancel()
        with unwrapped():
            try:
                return await group.__aexit__(kind, error, trace)
            finally:
                self._group = None

    def start(self, work: Callable[[*Ts], Coroutine[Any, Any, Any]], *args: *Ts) -> None:
        """Run `work(*args)`; an error in it ends the owner."""
        if self._group is None:
            raise OwnerClosed(f"{self.name}: no task can be started outside its block")
        token = current_async_library_cvar.set(
            "asyncio"
        )  # a timer's callback runs in no task: anyio cannot tell
        try:
            self._group.start_soon(work, *args, name=_name_of(work))
        finally:
            current_async_library_cvar.reset(token)

    def start_contained(self, work: Callable[[*Ts], Coroutine[Any, Any, Any]], *args: *Ts) -> None:
        """Run `work(*args)`; an error in it is logged and counted, and ends nothing else."""
        self.start(self._contain, work, args)

    async def _contain(self, work: Callable[..., Awaitable[Any]], args: tuple[Any, ...]) -> None:
        try:
            await work(*args)
        except Exception:
            FAILED.labels(_name_of(work)).inc()
            log.exception("task.failed", owner=self.name, task=_name_of(work))

    def cancel(self) -> None:
        """End every task, and the block with them."""
        if self._group is not None:
            self._group.cancel_scope.cancel()


def _name_of(work: Callable[..., Any]) -> str:
    inner = getattr(work, "func", work)  # what a partial calls
    return getattr(inner, "__qualname__", type(inner).__name__)


@contextmanager
def unwrapped() -> Iterator[None]:
    """Raise the first error of a task group as it is. Those that came with it are logged."""
    try:
        yield
    except BaseExceptionGroup as group:
        errors = list(_leaves(group))
        for other in errors[1:]:
            log.error("task.failed_too", error=repr(other))
        raise errors[0] from errors[0].__cause__


def _leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error


async def until(stopping: asyncio.Event, *work: Callable[[], Awaitable[Any]]) -> None:
    """Run `work` until `stopping` is set or one of them returns; the others are ended then.

    An error in one of them is raised as it is.
    """
    with unwrapped():
        async with anyio.create_task_group() as group:

            async def run(one: Callable[[], Awaitable[Any]]) -> None:
                await one()
                group.cancel_scope.cancel()

            for one in (stopping.wait, *work):
                group.start_soon(run, one, name=_name_of(one))


async def together(work: Iterable[Callable[[], Coroutine[Any, Any, Any]]]) -> None:
    """Run all of `work` at once, and wait for all. The first error ends the others and is raised as it is."""
    with unwrapped():
        async with anyio.create_task_group() as group:
            for one in work:
                group.start_soon(one, name=_name_of(one))


@contextmanager
def limit(what: str, seconds: float) -> Iterator[None]:
    """Inside, waiting may take this long. Raises LimitExceeded that says what took too long."""
    with anyio.move_on_after(seconds) as scope:
        yield
    if scope.cancelled_caught:
        raise LimitExceeded(f"{what} took longer than {seconds:g} s")


@asynccontextmanager
async def cleanup(what: str, seconds: float) -> AsyncIterator[None]:
    """Inside, cancellation waits: this must be done. After `seconds` it is given up, and logged."""
    with anyio.move_on_after(seconds, shield=True) as scope:
        yield
    if scope.cancelled_caught:
        log.warning("cleanup.cut_short", what=what, seconds=seconds)

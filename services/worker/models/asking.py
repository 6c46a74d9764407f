"""Questions to runners about models, and what becomes of them: an answer, an error, or the runner's end.

A question waits for its runner while one is being started. Every way out is an exception with a name: nobody
waits for a runner that is gone, and a runner that does not answer is ended, as it holds up everybody in it.

Weights that are to leave the device take its memory until their runner says that they have left, or is gone:
another process must not load in their place before (`leaving_bytes`).
"""

import asyncio
from collections.abc import Callable, Collection
from typing import Protocol

from stoker.services.process.logs import get_logger
from stoker.services.process.tasks import LimitExceeded, limit
from stoker.services.worker.runner.messages import Loaded, LoadFailed, Message, Unload
from stoker.services.worker.runner.process import RunnerAway

log = get_logger("loader")

RUNNER_LIMIT_S = 120.0
"""How long a load waits for a runner: several starts with their pauses."""
LOAD_LIMIT_S = 1800.0
"""The longest that a load may take in the runner: 400 GB from a disk that gives 250 MB/s."""


class LoadError(Exception):
    """A model could not be made hot; the message is for the client.

    is_lost: the runner is gone. was_killed: from outside.
    """

    def __init__(self, message: str, *, is_lost: bool = False, was_killed: bool = False) -> None:
        super().__init__(message)
        self.is_lost = is_lost
        self.was_killed = was_killed


class OutOfMemory(LoadError):
    """The device has less room than was counted on."""


class EngineRunners(Protocol):
    """What loading needs of the worker's runners (runner/runners.py)."""

    def send(self, engine: str, message: Message) -> None: ...

    async def wait_ready(self, engine: str, seconds: float) -> None: ...

    def kill(self, engine: str) -> None: ...


class RunnerAnswers:
    """The questions under way, by the key of their weights; one at a time for each key.

    `freed()` is called when weights have left the device.
    """

    def __init__(self, runners: EngineRunners, freed: Callable[[], None] = lambda: None) -> None:
        self._runners = runners
        self._freed = freed
        self._waiting: dict[str, tuple[str, asyncio.Future[Loaded]]] = {}
        self._leaving: dict[str, tuple[str, int]] = {}
        """Weights that a runner was told to unload: their engine, and the bytes that they take until then."""
        self._when_left: list[Callable[[], None]] = []

    async def wait_ready(self, engine: str) -> None:
        """Return when the engine's runner is there. Raises LoadError."""
        try:
            await self._runners.wait_ready(engine, RUNNER_LIMIT_S)
        except (LimitExceeded, RunnerAway) as error:
            raise LoadError(f"there is no runner: {error}", is_lost=True) from None

    async def ask(self, key: str, engine: str, message: Message) -> Loaded:
        """The runner's answer. Raises LoadError."""
        await self.wait_ready(engine)
        answer: asyncio.Future[Loaded] = asyncio.get_running_loop().create_future()
        self._waiting[key] = (engine, answer)
        try:
            self._runners.send(engine, message)
            with limit(f"the load of {key}", LOAD_LIMIT_S):
                return await answer
        except RunnerAway:
            raise LoadError(f"the runner died before it loaded {key}", is_lost=True) from None
        except LimitExceeded as error:
            log.error("runner.hangs", key=key)
            self._runners.kill(engine)
            raise LoadError(str(error), is_lost=True) from None
        finally:
            del self._waiting[key]

    def take(self, message: Loaded | LoadFailed) -> None:
        """What the runner says of a load; an answer that nobody waits for any more changes nothing."""
        _, answer = self._waiting.get(message.model, ("", None))
        if answer is None or answer.done():
            return
        if isinstance(message, Loaded):
            answer.set_result(message)
        else:
            kind = OutOfMemory if message.is_out_of_memory else LoadError
            answer.set_exception(kind(message.reason))

    def unload(self, key: str, engine: str, memory_bytes: int, *, park: bool) -> None:
        """Tell a runner to take weights out of device memory."""
        try:
            self._runners.send(engine, Unload(key, park))
        except RunnerAway:
            return  # what it had in memory went with it
        self._leaving[key] = (engine, memory_bytes)

    def unloaded(self, key: str) -> None:
        """Weights have left the device."""
        if self._leaving.pop(key, None) is not None:
            self._freed()
            self._tell_who_waits()

    def when_left(self, then: Callable[[], None]) -> None:
        """Call `then` once no weights are on their way out of the device: now, where there are none."""
        self._when_left.append(then)
        self._tell_who_waits()

    def _tell_who_waits(self) -> None:
        if not self._leaving:
            waiting, self._when_left = self._when_left, []
            for then in waiting:
                then()

    @property
    def leaving_bytes(self) -> int:
        """Device memory of the weights that have not left it yet, though they were told to."""
        return sum(memory for _, memory in self._leaving.values())

    def runner_died(self, engines: Collection[str], *, was_killed: bool = False) -> None:
        """Nobody will answer for these engines, and their memory is free."""
        self._leaving = {key: found for key, found in self._leaving.items() if found[0] not in engines}
        for key, (engine, answer) in self._waiting.items():
            if engine in engines and not answer.done():
                message = f"the runner died while it loaded {key}"
                answer.set_exception(LoadError(message, is_lost=True, was_killed=was_killed))
        self._tell_who_waits()

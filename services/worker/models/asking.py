"""Questions to the runner about models, and what becomes of them: an answer, an error, or the runner's end.

A question waits for a runner while one is being started. Every way out is an exception with a name: nobody
waits for a runner that is gone, and a runner that does not answer is ended, as it holds up everybody.
"""

import asyncio
from typing import Protocol

from services.process.logs import get_logger
from services.process.tasks import LimitExceeded, limit
from services.worker.runner.messages import Loaded, LoadFailed, Message
from services.worker.runner.process import RunnerAway

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


class _Runner(Protocol):
    def send(self, message: Message) -> None: ...

    async def wait_ready(self, seconds: float) -> None: ...

    def kill(self) -> None: ...


class RunnerAnswers:
    """The questions under way, by the key of their weights; one at a time for each key."""

    def __init__(self, runner: _Runner) -> None:
        self._runner = runner
        self._waiting: dict[str, asyncio.Future[Loaded]] = {}

    async def wait_ready(self) -> None:
        """Return when a runner is there. Raises LoadError."""
        try:
            await self._runner.wait_ready(RUNNER_LIMIT_S)
        except LimitExceeded as error:
            raise LoadError(f"there is no runner: {error}", is_lost=True) from None

    async def ask(self, key: str, message: Message) -> Loaded:
        """The runner's answer. Raises LoadError."""
        await self.wait_ready()
        answer: asyncio.Future[Loaded] = asyncio.get_running_loop().create_future()
        self._waiting[key] = answer
        try:
            self._runner.send(message)
            with limit(f"the load of {key}", LOAD_LIMIT_S):
                return await answer
        except RunnerAway:
            raise LoadError(f"the runner died before it loaded {key}", is_lost=True) from None
        except LimitExceeded as error:
            log.error("runner.hangs", key=key)
            self._runner.kill()
            raise LoadError(str(error), is_lost=True) from None
        finally:
            del self._waiting[key]

    def take(self, message: Loaded | LoadFailed) -> None:
        """What the runner says of a load; an answer that nobody waits for any more changes nothing."""
        answer = self._waiting.get(message.model)
        if answer is None or answer.done():
            return
        if isinstance(message, Loaded):
            answer.set_result(message)
        else:
            kind = OutOfMemory if message.is_out_of_memory else LoadError
            answer.set_exception(kind(message.reason))

    def runner_died(self, *, was_killed: bool = False) -> None:
        """Nobody will answer."""
        for key, answer in self._waiting.items():
            if not answer.done():
                message = f"the runner died while it loaded {key}"
                answer.set_exception(LoadError(message, is_lost=True, was_killed=was_killed))

"""A runner without a process: for engines that only ask servers, and can neither crash the worker nor hold it
up.

It stands where RunnerProcess does. A message to it, and what it says, is handed over as it is: nothing is
encoded, and no process is woken.
"""

import asyncio
import signal
from collections.abc import Callable
from typing import Any

from stoker.services.process.tasks import TaskOwner, cleanup
from stoker.services.worker.runner.messages import Message
from stoker.services.worker.runner.outbox import Outbox
from stoker.services.worker.runner.process import RunnerAway
from stoker.services.worker.runner.runner import Runner

FAMILIES = frozenset({"remote"})
"""The families of engines that need no process."""
CLOSE_S = 2.0


class InProcessOutbox(Outbox):
    """Hands on what engines say, in the next turn of the loop."""

    def __init__(self, take: Callable[[Any], None], loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self._take = take
        self.is_open = True

    def _send(self, messages: list[Message]) -> None:
        """What one of them meets is no reason to lose the others, which are of other jobs."""
        for message in messages:
            if not self.is_open:
                return
            try:
                self._take(message)
            except Exception as error:  # a bug here: as of a callback, the loop reports it
                self._loop.call_exception_handler({"message": "a runner's message", "exception": error})


class InProcessRunner:
    """`take` gets every message."""

    def __init__(self, take: Callable[[Any], None]) -> None:
        self._take = take
        self._early: list[Message] = []
        self._runner: Runner | None = None
        self._outbox: InProcessOutbox | None = None
        self._ended: asyncio.Event = asyncio.Event()

    @property
    def pid(self) -> int:
        """It has none of its own."""
        return 0

    async def start(self, _: int = 0) -> None:
        """There is nothing to wait for."""

    async def serve(self) -> int:
        """Run what is sent until it is ended; as if a signal had done that."""
        outbox = self._outbox = InProcessOutbox(self._take, asyncio.get_running_loop())
        async with TaskOwner("runner") as tasks:
            runner = self._runner = Runner(outbox, tasks)
            for message in self._early:
                runner.take(message)
            try:
                await self._ended.wait()
            finally:
                self._runner = None
                runner.cancel_runs()
                async with cleanup("ending the connections of engines", CLOSE_S):
                    await runner.close_engines()
        return -signal.SIGKILL

    def send(self, message: Message) -> None:
        """Raises RunnerAway when it takes nothing any more."""
        if self._ended.is_set():
            raise RunnerAway("the runner is gone")
        if self._runner is not None:
            self._runner.take(message)
        else:
            self._early.append(message)

    def kill(self) -> None:
        """End it: nothing that it says from now on is heard, as of a process."""
        self._ended.set()
        if self._outbox is not None:
            self._outbox.is_open = False

    async def reap(self) -> None:
        """Nothing is left of it."""
        self.kill()

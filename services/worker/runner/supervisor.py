"""Keeps a runner running, as a state machine with one task: `run`.

    stopped ──▶ starting ──▶ ready ──▶ ending ──▶ pausing ──▶ starting …      every state ──▶ stopped
                    └──────────▶┴─────────────────▶┘

There is one loop, so there is one process at a time, whenever it dies: before it was ready, while it starts, or
twice in a row. The pause before the next start doubles while runners die young. Leaving `ready` tells whoever
asked (`on_died`); coming to it too (`on_ready`).
"""

import asyncio
import time
from collections.abc import Callable
from typing import Any, Literal

from services.process.logs import get_logger
from services.process.tasks import LimitExceeded, limit
from services.worker.runner.messages import Message
from services.worker.runner.process import RunnerAway, RunnerNotStarted, RunnerProcess

log = get_logger("runner")

FIRST_PAUSE_S, MAX_PAUSE_S = 0.2, 10.0
"""Before a runner that died is started again; doubles while it keeps dying young."""
YOUNG_S = 30.0

State = Literal["stopped", "starting", "ready", "ending", "pausing"]
TRANSITIONS: dict[State, frozenset[State]] = {
    "stopped": frozenset({"starting"}),
    "starting": frozenset({"ready", "ending", "pausing", "stopped"}),
    "ready": frozenset({"ending", "pausing", "stopped"}),
    "ending": frozenset({"pausing", "stopped"}),
    "pausing": frozenset({"starting", "stopped"}),
}


class IllegalMove(Exception):
    """The runner was to go from a state to one that the table does not allow; nothing was changed."""


class RunnerSupervisor:
    """`take` gets what runners say; `on_ready` and `on_died(status)` are called by the supervisor's task."""

    def __init__(
        self,
        take: Callable[[Any], None],
        on_ready: Callable[[], None],
        on_died: Callable[[int], None],
    ) -> None:
        self._take = take
        self._on_ready = on_ready
        self._on_died = on_died
        self.state: State = "stopped"
        self._process: RunnerProcess | None = None
        self._ready = asyncio.Event()
        self._pause_s = FIRST_PAUSE_S / 2
        self.starts = 0

    def _move(self, to: State) -> None:
        if to not in TRANSITIONS[self.state]:
            raise IllegalMove(f"runner: {self.state} -> {to}")
        self.state = to
        if to == "ready":
            self._ready.set()
        else:
            self._ready.clear()

    @property
    def pid(self) -> int:
        """The process id of a runner that is ready; 0 while there is none."""
        return self._process.pid if self._process is not None and self.state == "ready" else 0

    def send(self, message: Message) -> None:
        """Raises RunnerAway when no runner is ready."""
        if self._process is None or self.state != "ready":
            raise RunnerAway("the runner is being started")
        self._process.send(message)

    def kill(self) -> None:
        """End the runner that is there: it takes nothing from now on, and another one is started."""
        if self._process is not None:
            if self.state in ("starting", "ready"):
                self._move("ending")
            self._process.kill()

    async def wait_ready(self, seconds: float) -> None:
        """Return when a runner is ready. Raises LimitExceeded."""
        with limit("waiting for a runner", seconds):
            await self._ready.wait()

    async def run(self) -> None:
        """Keep one running until cancelled; the process that is there is ended then."""
        try:
            while True:
                self._move("starting")
                await self._live(RunnerProcess(self._take))
                self._move("pausing")
                await asyncio.sleep(self._pause_s)
        finally:
            self._move("stopped")

    async def _live(self, process: RunnerProcess) -> None:
        """One life. Nothing is left of the process, however it ends."""
        began = time.monotonic()
        self.starts += 1
        self._process = process
        try:
            await process.start()
            if self.state == "ending":
                raise RunnerNotStarted("it was ended while it started")
            self._move("ready")
            log.info("runner.ready", pid=process.pid)
            self._on_ready()
            status = await process.serve()
            self._process = None
            log.error("runner.died", status=status)
            self._on_died(status)
        except (RunnerNotStarted, LimitExceeded, OSError) as error:
            log.error("runner.not_started", error=str(error))
        finally:
            self._process = None
            await process.reap()
        is_young = time.monotonic() - began < YOUNG_S
        self._pause_s = min(self._pause_s * 2, MAX_PAUSE_S) if is_young else FIRST_PAUSE_S

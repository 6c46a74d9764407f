"""Keeps a runner running, as a state machine with one task: `run`.

    stopped ──▶ starting ──▶ ready ◀──▶ silent ──▶ ending ──▶ pausing ──▶ starting …      every state ──▶
    stopped │          └──────────┴──────────▶┴──────────▶┘ └────────────────────────────────▶┘

There is one loop, so there is one process at a time, whenever it dies: before it was ready, while it starts, or
twice in a row. The pause before the next start doubles while runners die young. Whoever asked is told when one
is ready (`on_ready`), when it has ended (`on_died`), and when it falls silent or speaks again (`on_change`).

A runner is asked every `PULSE_S` whether it is there. One that says nothing for `SILENT_S` is silent: its
worker does not tell its engines meanwhile, so nobody sends it anything new. One that says nothing for `limit_s`
hangs, and is ended: what it ran is tried elsewhere. While weights are being loaded it has `LOADING_LIMIT_S`, as
libraries that are imported, or read files, may hold up everything else in the process.
"""

import asyncio
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Literal

from stoker.services.process.logs import get_logger
from stoker.services.process.tasks import LimitExceeded, TaskOwner, limit
from stoker.services.worker.limits import LIMIT_S
from stoker.services.worker.runner.in_process import FAMILIES, InProcessRunner
from stoker.services.worker.runner.messages import Message, Ping, Pong
from stoker.services.worker.runner.process import RunnerAway, RunnerNotStarted, RunnerProcess, oom_kills

log = get_logger("runner")

FIRST_PAUSE_S, MAX_PAUSE_S = 0.2, 10.0
"""Before a runner that died is started again; doubles while it keeps dying young."""
YOUNG_S = 30.0
MAX_LATE = 16
PULSE_S = 1.0
SILENT_S = 3.0
LOADING_LIMIT_S = 60.0

State = Literal["stopped", "starting", "ready", "silent", "ending", "pausing"]
TRANSITIONS: dict[State, frozenset[State]] = {
    "stopped": frozenset({"starting"}),
    "starting": frozenset({"ready", "ending", "pausing", "stopped"}),
    "ready": frozenset({"silent", "ending", "pausing", "stopped"}),
    "silent": frozenset({"ready", "ending", "pausing", "stopped"}),
    "ending": frozenset({"pausing", "stopped"}),
    "pausing": frozenset({"starting", "stopped"}),
}


class IllegalMove(Exception):
    """The runner was to go from a state to one that the table does not allow; nothing was changed."""


class RunnerSupervisor:
    """`take` gets what runners say; `on_ready`, `on_died(status, was_killed)` and `on_change` are called by its
    task.

    was_killed: somebody else has killed it (kill -9), and not the kernel for want of memory. is_loading:
    whether weights are being loaded. limit_s: how long a runner may be silent; 0 for ever. family: of its
    engines.
    """

    def __init__(
        self,
        take: Callable[[Any], None],
        on_ready: Callable[[], None],
        on_died: Callable[[int, bool], None],
        on_change: Callable[[], None] = lambda: None,
        is_loading: Callable[[], bool] = lambda: False,
        limit_s: float = LIMIT_S,
        family: str = "",
    ) -> None:
        self._family = family
        self._log = log.bind(family=family) if family else log
        self._take_message = take
        self._on_ready = on_ready
        self._on_died = on_died
        self._on_change = on_change
        self._is_loading = is_loading
        self._limit_s = limit_s
        self._heard_at = 0.0
        self._is_ended_by_us = False
        self.state: State = "stopped"
        self._process: RunnerProcess | InProcessRunner | None = None
        self._ready = asyncio.Event()
        self._pause_s = FIRST_PAUSE_S / 2
        self.starts = 0
        self._late = 0
        """Starts in a row that took too long."""

    def _move(self, to: State) -> None:
        if to not in TRANSITIONS[self.state]:
            raise IllegalMove(f"runner: {self.state} -> {to}")
        self.state = to
        if to == "ready":
            self._ready.set()
        else:
            self._ready.clear()

    @property
    def is_ready(self) -> bool:
        return self._process is not None and self.state == "ready"

    @property
    def pid(self) -> int:
        """The process id of a runner that is ready; 0 while there is none."""
        return self._process.pid if self._process is not None and self.is_ready else 0

    def send(self, message: Message) -> None:
        """Raises RunnerAway when no runner is ready."""
        if self._process is None or self.state not in ("ready", "silent"):
            raise RunnerAway("the runner is being started")
        self._process.send(message)

    def kill(self) -> None:
        """End the runner that is there: it takes nothing from now on, and another one is started."""
        if self._process is not None:
            if self.state in ("starting", "ready", "silent"):
                self._move("ending")
            self._is_ended_by_us = True
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
                await self._live(self._made())
                self._move("pausing")
                await asyncio.sleep(self._pause_s)
        finally:
            self._move("stopped")

    def _made(self) -> RunnerProcess | InProcessRunner:
        """A new runner of the family, not started."""
        if self._family in FAMILIES:
            return InProcessRunner(self._take)
        return RunnerProcess(self._take, self._family)

    def _take(self, message: Any) -> None:
        self._heard_at = time.monotonic()
        if self.state == "silent":
            self._turn("ready")
        if not isinstance(message, Pong):
            self._take_message(message)

    def _turn(self, to: State) -> None:
        self._move(to)
        self._log.warning(f"runner.{to}")
        self._on_change()

    async def _watch(self, process: RunnerProcess | InProcessRunner) -> None:
        """Ask a runner that is ready whether it is there, until cancelled; end one that hangs."""
        self._heard_at = woken_at = time.monotonic()
        while self.state in ("ready", "silent"):
            with suppress(RunnerAway):
                process.send(Ping())
            await asyncio.sleep(PULSE_S)
            now = time.monotonic()
            if (
                now - woken_at > 2 * PULSE_S
            ):  # this process was held up itself: what was said lies in the socket
                self._heard_at = max(self._heard_at, now - PULSE_S)
            woken_at = now
            silent_s = now - self._heard_at
            limit_s = max(self._limit_s, LOADING_LIMIT_S) if self._is_loading() else self._limit_s
            if self.state == "ready" and silent_s > SILENT_S:
                self._turn("silent")
            elif self.state == "silent" and self._limit_s and silent_s > limit_s:
                self._log.error("runner.hangs", silent_s=round(silent_s, 1))
                self.kill()

    async def _live(self, process: RunnerProcess | InProcessRunner) -> None:
        """One life. Nothing is left of the process, however it ends."""
        began = time.monotonic()
        self._is_ended_by_us = False
        self.starts += 1
        self._process = process
        try:
            await process.start(self._late)
            if self.state == "ending":
                raise RunnerNotStarted("it was ended while it started")
            self._late = 0
            self._move("ready")
            self._log.info("runner.ready", pid=process.pid)
            oom_kills_before = oom_kills()
            self._on_ready()
            async with TaskOwner("pulse") as tasks:
                tasks.start(self._watch, process)
                status = await process.serve()
            self._process = None
            self._log.error("runner.died", status=status)
            is_foreign = status == -signal.SIGKILL and not self._is_ended_by_us
            self._on_died(status, is_foreign and oom_kills() == oom_kills_before)
        except (RunnerNotStarted, LimitExceeded, OSError) as error:
            self._late = min(self._late + 1, MAX_LATE) if isinstance(error, LimitExceeded) else 0
            self._log.error("runner.not_started", error=str(error))
        finally:
            self._process = None
            await process.reap()
        is_young = time.monotonic() - began < YOUNG_S
        self._pause_s = min(self._pause_s * 2, MAX_PAUSE_S) if is_young else FIRST_PAUSE_S

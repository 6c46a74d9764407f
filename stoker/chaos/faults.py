"""Doing what the plan says: signals to processes, and lines that are down. What is paused or cut is always let
go.
"""

import asyncio
import contextlib
import os
import signal
from collections.abc import Iterable

from stoker.chaos.plan import Fault
from stoker.chaos.system import Installation
from stoker.services.process.tasks import TaskOwner, cleanup

LET_GO_S = 5.0


class Faults:
    """done: those that hit somebody, at the times at which they did. began: of the run, on the loop's clock."""

    def __init__(self, system: Installation, began: float) -> None:
        self.done: list[Fault] = []
        self._system = system
        self._began = began

    async def run(self, faults: Iterable[Fault]) -> None:
        """Each at its time, until all are over."""
        async with TaskOwner("faults") as tasks:
            last = 0.0
            for fault in faults:
                await asyncio.sleep(max(fault.at - self._now(), 0.0))
                tasks.start_contained(self.do, fault)
                last = max(last, fault.until)
            await asyncio.sleep(max(last - self._now(), 0.0))

    def _now(self) -> float:
        return asyncio.get_running_loop().time() - self._began

    async def do(self, fault: Fault) -> None:
        """One fault, to its end; nothing where there is nobody of its role now."""
        if fault.kind == "cut":
            lines = self._system.lines(fault.role)
            if not lines:
                return
            proxies = lines[int(fault.which * len(lines))]
            self._note(fault)
            for proxy in proxies:
                proxy.cut()
            try:
                await asyncio.sleep(fault.seconds)
            finally:
                for proxy in proxies:
                    proxy.heal()
            return
        pids = self._system.pids(fault.role)
        if not pids:
            return
        pid = pids[int(fault.which * len(pids))]
        self._note(fault)
        if fault.kind in ("kill", "stop"):
            self._system.stay_away(pid, fault.seconds)
            _signal(pid, signal.SIGKILL if fault.kind == "kill" else signal.SIGTERM)
            return
        _signal(pid, signal.SIGSTOP)
        try:
            await asyncio.sleep(fault.seconds)
        finally:
            async with cleanup("letting a process go on", LET_GO_S):
                _signal(pid, signal.SIGCONT)

    def _note(self, fault: Fault) -> None:
        self.done.append(Fault(round(self._now(), 3), fault.kind, fault.role, fault.which, fault.seconds))


def _signal(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)

"""Workers as processes of this machine, each in a session of its own, with a log file.

They outlive the autoscaler: a new one finds them by their environment. `interpreter` of a profile starts them
in another Python environment; `inventory` says how many units of the profile this machine has. Each has GPUs
of its own, as many as its profile says.
"""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

from stoker.services.autoscaler.events import Seen
from stoker.services.autoscaler.launchers.base import DEVICES, LaunchError, Order, cards_for, check_inventory
from stoker.services.process.devices import cards

REPLICA, CLUSTER, UNITS, CARDS = "STOKER_REPLICA", "STOKER_CLUSTER", "STOKER_UNITS", "STOKER_CARDS"
"""Variables in a worker's environment: its id, whose it is, `profile:units`, and the GPUs that it was given."""
LOG_TAIL_BYTES = 4096
LOG_TAIL_LINES = 3
MARKING_S = 0.005
END_POLL_S = 0.05


@dataclass(slots=True)
class _Process:
    """child: None for one that an earlier autoscaler has started."""

    process: psutil.Process
    profile: str
    units: int
    cards: tuple[str, ...] = ()
    child: subprocess.Popen[bytes] | None = None

    def ended(self) -> str | None:
        """How it ended; None while it runs."""
        if self.child is not None:
            status = self.child.poll()
            return None if status is None else f"it ended with status {status}"
        if self.process.is_running() and self.process.status() != psutil.STATUS_ZOMBIE:
            return None
        return "it ended"

    def is_marked(self) -> bool:
        """Whether another launcher would find it: Linux shows the environment a moment after the start."""
        with contextlib.suppress(psutil.Error, OSError):
            return REPLICA in self.process.environ()
        return False


class ProcessLauncher:
    """`folder` takes the log files."""

    name = "process"

    def __init__(self, cluster: str, folder: Path) -> None:
        self._cluster = cluster
        self._folder = folder
        self._processes: dict[str, _Process] | None = None

    async def launch(self, order: Order) -> None:
        processes = await self._known()
        present = await asyncio.to_thread(cards) if order.gpus else []
        if order.replica in processes:
            raise LaunchError(f"{order.replica} is there already")
        in_use = sum(
            one.units for one in processes.values() if one.profile == order.profile.name and one.ended() is None
        )
        check_inventory(order, in_use)
        taken = {card for one in processes.values() if one.ended() is None for card in one.cards}
        given = cards_for(order, present, taken)
        interpreter = order.profile.interpreter or sys.executable
        marks = {
            REPLICA: order.replica,
            CLUSTER: self._cluster,
            UNITS: f"{order.profile.name}:{order.units}",
            **({CARDS: ",".join(given), DEVICES: ",".join(given)} if given else {}),
        }
        environment = {**os.environ, "PYTHONUNBUFFERED": "1", **order.env, **marks}
        command = [interpreter, "-P", "-m", "stoker.services.worker", *order.arguments]
        try:
            child = self._spawn(command, environment, self._log(order.replica))
        except OSError as error:
            raise LaunchError(f"{interpreter}: {error.strerror}") from error
        process = _Process(psutil.Process(child.pid), order.profile.name, order.units, given, child)
        processes[order.replica] = process
        while True:  # /proc tells no one when a process has its environment
            if process.ended() is not None or process.is_marked():
                return
            await asyncio.sleep(MARKING_S)

    @staticmethod
    def _spawn(command: list[str], environment: dict[str, str], log: Path) -> subprocess.Popen[bytes]:
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as output:
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env=environment,
            )

    def _log(self, replica: str) -> Path:
        return self._folder / f"{replica}.log"

    async def look(self) -> dict[str, Seen]:
        found: dict[str, Seen] = {}
        for replica, process in (await self._known()).items():
            ended = process.ended()
            found[replica] = Seen("running") if ended is None else Seen("ended", self._why(replica, ended))
        return found

    def _why(self, replica: str, ended: str) -> str:
        tail = self._tail(replica)
        return f"{ended}: {tail}" if tail else ended

    def _tail(self, replica: str) -> str:
        """The last lines that it has logged."""
        with contextlib.suppress(OSError), self._log(replica).open("rb") as log:
            log.seek(0, os.SEEK_END)
            log.seek(max(log.tell() - LOG_TAIL_BYTES, 0))
            lines = log.read().decode(errors="replace").strip().splitlines()
            return " | ".join(line.strip() for line in lines[-LOG_TAIL_LINES:])
        return ""

    async def stop(self, replica: str, grace_s: float) -> None:
        processes = await self._known()
        process = processes.get(replica)
        if process is None:
            return
        if process.ended() is not None:
            processes.pop(replica)
            self._end_group(process)
            return
        with contextlib.suppress(psutil.NoSuchProcess):
            process.process.terminate()
        deadline = time.monotonic() + grace_s
        while process.ended() is None:
            if time.monotonic() >= deadline:
                self._end_group(process)
                return
            await asyncio.sleep(min(END_POLL_S, max(deadline - time.monotonic(), 0.0)))

    @staticmethod
    def _end_group(process: _Process) -> None:
        """End whatever is left of its session: engines' own servers, for instance."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.process.pid, signal.SIGKILL)

    async def close(self) -> None:
        pass

    async def _known(self) -> dict[str, _Process]:
        if self._processes is None:
            found = await asyncio.to_thread(self._find)
            if self._processes is None:  # else another call was first, and may have added some
                self._processes = found
        return self._processes

    def _find(self) -> dict[str, _Process]:
        """Workers of this cluster that an earlier autoscaler has started."""
        found: dict[str, _Process] = {}
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                marks = process.environ()
                is_first = os.getsid(process.pid) == process.pid
                if is_first and marks.get(CLUSTER) == self._cluster and marks.get(REPLICA):
                    profile, _, units = marks.get(UNITS, "").partition(":")
                    given = tuple(filter(None, marks.get(CARDS, "").split(",")))
                    found[marks[REPLICA]] = _Process(process, profile, int(units or 1), given)
        return found

"""One life of a runner, on the agent's side: starts the process, sends it frames, hands on what it says.

No task of its own: who calls `start` and then `serve` reads the frames. However it ends, `reap` leaves no
process.
"""

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec

from stoker.functions.frames import frame
from stoker.services.process.logs import get_logger
from stoker.services.process.machine import Machine
from stoker.services.process.tasks import cleanup, limit
from stoker.services.worker.runner.messages import FromRunner, Message, Ready, messages

log = get_logger("runner")

START_TIMEOUT_S, MAX_START_TIMEOUT_S = 30.0, 480.0
"""Each start that takes too long gives the next twice the time: on a slow disk all would be ended, for ever."""
STOP_TIMEOUT_S = 1.0
REAP_TIMEOUT_S = 5.0


class RunnerAway(Exception):
    """There is no runner that takes messages at this moment; another is on its way."""


class RunnerNotStarted(Exception):
    """The process ended, or did not say that it is ready."""


def oom_kills() -> int:
    """How many processes the kernel has killed for want of memory since the machine started; 0 where it does
    not say.
    """
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/vmstat").read_text().splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    return 0


def environment() -> dict[str, str]:
    """Of runners, and so of engines' servers and functions: the worker's, without how it reaches NATS, and with
    how many threads to compute in where a container has fewer processors than the machine.
    """
    own = {name: value for name, value in os.environ.items() if not name.startswith("STOKER_NATS")}
    return own | Machine().threads()


class RunnerProcess:
    """`take` gets every message but Ready. family: of its engines, for who reads a list of processes."""

    def __init__(self, take: Callable[[Any], None], family: str = "") -> None:
        self._take = take
        self._family = family
        self._writer: asyncio.StreamWriter | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._frames: AsyncIterator[Any] | None = None

    @property
    def pid(self) -> int:
        return self._process.pid if self._process is not None else 0

    async def start(self, longer: int = 0) -> None:
        """Start the process and wait until it is ready. longer: how often the limit is doubled.

        Raises RunnerNotStarted, LimitExceeded, OSError.
        """
        ours, theirs = socket.socketpair()
        try:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-P",
                "-m",
                "stoker.services.worker.runner",
                str(theirs.fileno()),
                *filter(None, [self._family]),
                pass_fds=(theirs.fileno(),),
                stdin=asyncio.subprocess.DEVNULL,
                env=environment(),
            )
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        reader, self._writer = await asyncio.open_connection(sock=ours)
        self._frames = messages(reader, FromRunner)
        with limit("the start of the runner", min(START_TIMEOUT_S * 2**longer, MAX_START_TIMEOUT_S)):
            async for message in self._frames:
                if isinstance(message, Ready):
                    return
        raise RunnerNotStarted("the runner ended before it was ready")

    async def serve(self) -> int:
        """Hand on what the runner says until it ends; its exit status."""
        assert self._frames is not None and self._process is not None
        try:
            async for message in self._frames:
                self._take(message)
        except (ConnectionError, msgspec.DecodeError) as error:
            log.warning("runner.unreadable", error=str(error))
            self.kill()
        return await self._process.wait()

    def send(self, message: Message) -> None:
        """Raises RunnerAway when the process takes nothing."""
        if self._writer is None or self._writer.is_closing():
            raise RunnerAway("the runner is gone")
        self._writer.write(frame(message))

    def kill(self) -> None:
        """End it at once. Not by the process's own method, which may take the exit status of one that has just
        died from who waits for it: whether it was killed from outside would be lost.
        """
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._process.pid, signal.SIGKILL)

    async def reap(self) -> None:
        """End the process, if it has not: it is asked by closing its socket, then killed, and waited for."""
        if self._writer is not None:
            self._writer.close()
        if self._process is None:
            return
        async with cleanup("waiting for the runner to end", STOP_TIMEOUT_S):
            await self._process.wait()
        self.kill()
        async with cleanup("reaping the runner", REAP_TIMEOUT_S):
            await self._process.wait()

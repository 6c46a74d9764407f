"""The agent's side of the runner: starts the process, sends it frames, hands on what it says."""

import asyncio
import contextlib
import socket
import sys
from collections.abc import Callable
from typing import Any

import msgspec

from services.process.logs import get_logger
from services.worker.runner.messages import FromRunner, Message, Ready, messages
from stoker.functions.frames import frame

log = get_logger("runner")

START_TIMEOUT_S = 30.0


class RunnerProcess:
    """One life of a runner. `take` gets every message; `died` is called once, with the exit status."""

    def __init__(self, take: Callable[[Any], None], died: Callable[[int], None]) -> None:
        self._take = take
        self._died = died
        self._writer: asyncio.StreamWriter | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._reading: asyncio.Task[None] | None = None
        self.is_ready = asyncio.Event()

    @property
    def pid(self) -> int:
        return self._process.pid if self._process is not None else 0

    async def start(self) -> None:
        """Start the process and wait until it listens. Raises TimeoutError."""
        ours, theirs = socket.socketpair()
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-P",
            "-m",
            "services.worker.runner",
            str(theirs.fileno()),
            pass_fds=(theirs.fileno(),),
            stdin=asyncio.subprocess.DEVNULL,
        )
        theirs.close()
        reader, self._writer = await asyncio.open_connection(sock=ours)
        self._reading = asyncio.create_task(self._read(reader))
        async with asyncio.timeout(START_TIMEOUT_S):
            await self.is_ready.wait()

    async def _read(self, reader: asyncio.StreamReader) -> None:
        try:
            async for message in messages(reader, FromRunner):
                if isinstance(message, Ready):
                    self.is_ready.set()
                else:
                    self._take(message)
        except (ConnectionError, msgspec.DecodeError) as error:
            log.warning("runner.unreadable", error=str(error))
            self.kill()
        status = await self._process.wait() if self._process is not None else 0
        self._died(status)

    def send(self, message: Message) -> None:
        if self._writer is not None and not self._writer.is_closing():
            self._writer.write(frame(message))

    def kill(self) -> None:
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()

    async def stop(self) -> None:
        """End the process without `died` being told."""
        self._died = lambda _status: None
        if self._writer is not None:
            self._writer.close()
        if self._process is not None:
            try:
                await asyncio.wait_for(self._process.wait(), 1.0)
            except TimeoutError:
                self.kill()
        if self._reading is not None:
            self._reading.cancel()

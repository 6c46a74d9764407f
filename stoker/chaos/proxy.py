"""A TCP proxy on loopback between one service and its NATS server: cutting it cuts the service off.

While it is cut nothing passes, in either direction, and nobody is told: what was sent waits, as on a line that
is down.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Self

from stoker.services.process.tasks import TaskOwner

CHUNK_BYTES = 64 * 1024


class Proxy:
    """Use it inside `running`. port: where it listens. Cut twice, it has to be healed twice."""

    def __init__(self, to_port: int) -> None:
        self.port = 0
        self._to_port = to_port
        self._cuts = 0
        self._passes = asyncio.Event()
        self._passes.set()
        self._tasks = TaskOwner("proxy")

    @property
    def is_cut(self) -> bool:
        return self._cuts > 0

    def cut(self) -> None:
        self._cuts += 1
        self._passes.clear()

    def heal(self) -> None:
        self._cuts -= 1
        if not self._cuts:
            self._passes.set()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Self]:
        async with self._tasks:
            server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
            self.port = server.sockets[0].getsockname()[1]
            try:
                yield self
            finally:
                server.close()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._passes.wait()
        try:
            to_reader, to_writer = await asyncio.open_connection("127.0.0.1", self._to_port)
        except OSError:
            writer.close()
            return
        ways = ((reader, to_writer), (to_reader, writer))
        for source, sink in ways:
            if self._tasks.is_open:
                self._tasks.start_contained(self._copy, source, sink)

    async def _copy(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        try:
            with contextlib.suppress(OSError):
                while chunk := await source.read(CHUNK_BYTES):
                    await self._passes.wait()
                    sink.write(chunk)
                    await sink.drain()
        finally:
            sink.close()

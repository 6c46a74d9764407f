"""A connection that is closed at the worst moment: nothing is raised, and the next one is made.

The services' event loop is uvloop, which raises RuntimeError where a closed connection is written to; so here too.
"""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import nats.errors
import pytest
import uvloop

from stoker.services.bus.connection import Bus, open_bus
from stoker.services.process.embedded import embedded_server
from stoker.services.process.settings import BusSettings
from tests.contract.test_bus import Box

PATIENCE_S = 10.0
RESET = struct.pack("ii", 1, 0)
"""SO_LINGER: whoever closes sends a reset."""


class Front:
    """What stands before the server: it passes all on, or says INFO and resets the connection.

    resets_after: turns of the event loop from the INFO to the reset, of the next connection only.
    """

    def __init__(self, port: int) -> None:
        self.resets_after: int | None = None
        self.resets = 0
        self._port = port
        self._last: asyncio.StreamWriter | None = None

    def cut(self) -> None:
        assert self._last is not None
        self._last.transport.abort()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from_server, to_server = await asyncio.open_connection("127.0.0.1", self._port)
        try:
            if self.resets_after is None:
                self._last = writer
                await asyncio.gather(_pass_on(reader, to_server), _pass_on(from_server, writer))
                return
            writer.write(await from_server.readline())
            for _ in range(self.resets_after):
                await asyncio.sleep(0)
            self.resets_after = None
            self.resets += 1
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            writer.transport.abort()
        finally:
            to_server.close()


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError, RuntimeError):
        while data := await reader.read(65536):
            writer.write(data)
    writer.close()


@asynccontextmanager
async def connected(folder: Path) -> AsyncIterator[tuple[Bus, Front]]:
    async with embedded_server(folder) as url:
        port = urlsplit(url).port
        assert port is not None
        front = Front(port)
        server = await asyncio.start_server(front.serve, "127.0.0.1", 0)
        through = url.replace(f":{port}", f":{server.sockets[0].getsockname()[1]}")
        async with open_bus(BusSettings(nats=through), "test") as bus:
            yield bus, front
        server.close()


def test_a_server_that_resets_its_first_words_is_asked_again(tmp_path: Path) -> None:
    async def run() -> None:
        async with connected(tmp_path) as (bus, front):
            box = Box()
            await bus.listen("a", box.put)
            for turns in range(10):
                back = asyncio.Event()
                bus.on_reconnect.append(back.set)
                front.resets_after = turns
                front.cut()
                await asyncio.wait_for(back.wait(), PATIENCE_S)
                bus.post("a", b"after")
                assert len(await box.got(turns + 1)) == front.resets == turns + 1

    uvloop.run(run())


@pytest.mark.parametrize("turns", range(4))
def test_what_is_asked_of_a_connection_that_has_just_closed_is_asked_of_the_next(
    tmp_path: Path, turns: int
) -> None:
    async def run() -> None:
        async with connected(tmp_path) as (bus, _):
            bus.client._transport._io_writer.transport.abort()
            await bus.client.publish("nobody", b"what is written first")
            for _ in range(turns):
                await asyncio.sleep(0)
            box = Box()
            await bus.listen("a", box.put)
            with suppress(nats.errors.TimeoutError):
                await bus.client.flush(timeout=1)
            bus.post("a", b"heard")
            assert await box.got(1) == [b"heard"]

    uvloop.run(run())

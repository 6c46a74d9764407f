"""The proxy on real sockets: it passes, it holds everything back while it is cut, and it loses nothing."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from stoker.chaos.proxy import Proxy

LIMIT_S = 5.0


@asynccontextmanager
async def echoing() -> AsyncIterator[int]:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while chunk := await reader.read(1000):
            writer.write(chunk)
        writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    yield server.sockets[0].getsockname()[1]
    server.close()


async def read(reader: asyncio.StreamReader, count: int) -> bytes:
    return await asyncio.wait_for(reader.readexactly(count), LIMIT_S)


async def test_what_is_sent_comes_back_and_waits_while_the_line_is_cut() -> None:
    async with echoing() as port:
        proxy = Proxy(port)
        async with proxy.running():
            reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
            writer.write(b"one")
            assert await read(reader, 3) == b"one"
            proxy.cut()
            writer.write(b"two")
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(reader.read(1), 0.3)
            proxy.heal()
            assert await read(reader, 3) == b"two", "nothing is lost"
            writer.close()


async def test_what_was_cut_twice_is_healed_twice() -> None:
    proxy = Proxy(1)
    proxy.cut()
    proxy.cut()
    proxy.heal()
    assert proxy.is_cut
    proxy.heal()
    assert not proxy.is_cut


async def test_a_connection_made_while_it_is_cut_waits_too() -> None:
    async with echoing() as port:
        proxy = Proxy(port)
        async with proxy.running():
            proxy.cut()
            reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
            writer.write(b"one")
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(reader.read(1), 0.3)
            proxy.heal()
            assert await read(reader, 3) == b"one"
            writer.close()


async def test_when_nobody_listens_behind_it_the_connection_ends() -> None:
    async with echoing() as port:
        pass
    proxy = Proxy(port)
    async with proxy.running():
        reader, _ = await asyncio.open_connection("127.0.0.1", proxy.port)
        assert await asyncio.wait_for(reader.read(1), LIMIT_S) == b""


async def test_when_one_side_goes_the_other_is_told() -> None:
    gone = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert await reader.read(1) == b""
        gone.set()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    proxy = Proxy(server.sockets[0].getsockname()[1])
    async with proxy.running():
        _, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        writer.close()
        await asyncio.wait_for(gone.wait(), LIMIT_S)
    server.close()
    assert gone.is_set()

"""A burst of new connections is taken in a few turns of a busy loop."""

import asyncio
import socket

import uvloop

from stoker.services.gateway.edge.connections import ACCEPTS, taken_together

CLIENTS = 200


async def turns(listening: list[socket.socket], address: tuple[str, int]) -> int:
    """In how many turns of the loop all clients are taken in."""
    loop = asyncio.get_running_loop()
    made: list[asyncio.BaseTransport] = []

    class Taken(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            made.append(transport)

    servers = [await loop.create_server(Taken, sock=one, backlog=CLIENTS) for one in listening]
    clients = [socket.create_connection(address) for _ in range(CLIENTS)]
    count = 0
    while len(made) < CLIENTS:
        count += 1
        assert count < 10 * CLIENTS
        await asyncio.sleep(0)
    for client in clients:
        client.close()
    for server in servers:
        server.close()
    return count


def test_many_are_taken_in_a_turn() -> None:
    listener = socket.create_server(("127.0.0.1", 0), backlog=CLIENTS)
    address = listener.getsockname()
    assert uvloop.run(turns(taken_together(listener), address)) < 4 * CLIENTS / ACCEPTS


def test_all_sockets_are_one_address_and_close_together() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    sockets = taken_together(listener)
    assert len(sockets) == ACCEPTS and len({one.getsockname() for one in sockets}) == 1
    address = listener.getsockname()
    for one in sockets:
        one.close()
    with socket.socket() as client:
        assert client.connect_ex(address) != 0

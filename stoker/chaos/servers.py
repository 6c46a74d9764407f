"""Three NATS servers that are one cluster. Each reaches the others through proxies, so that it can be cut off.

The servers are told only of the proxies to their peers, and clients only of the proxies that they are given: a
cluster that advertises addresses would lead both around the proxies.
"""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from stoker.chaos.proxy import Proxy
from stoker.services.process.embedded import MAX_PAYLOAD_BYTES, find_binary, free_port

_CONFIG = """\
server_name: {name}
listen: 127.0.0.1:{port}
max_payload: {max_payload}
jetstream {{ store_dir: "{store}", sync_interval: 1s }}
cluster {{ name: chaos, listen: 127.0.0.1:{route}, no_advertise: true, routes: [{peers}] }}
"""


@dataclass(slots=True)
class Server:
    """One of the cluster. lines: every proxy to it and from it to its peers. who: user and password, as in a
    URL.
    """

    name: str
    port: int
    route: int
    command: list[str] = field(default_factory=list)
    lines: list[Proxy] = field(default_factory=list)
    who: str = ""

    def url(self, port: int = 0) -> str:
        """Its address; through a proxy, the proxy's."""
        return f"nats://{self.who}127.0.0.1:{port or self.port}"


@asynccontextmanager
async def cluster(folder: Path, count: int) -> AsyncIterator[list[Server]]:
    """The servers with their configurations written and the lines between them open; nobody runs them yet."""
    servers = [Server(f"nats-{number}", free_port(), free_port()) for number in range(1, count + 1)]
    async with AsyncExitStack() as stack:
        for server in servers:
            peers = []
            for peer in servers:
                if peer is not server:
                    line = await stack.enter_async_context(Proxy(peer.route).running())
                    server.lines.append(line)
                    peer.lines.append(line)
                    peers.append(f"nats://127.0.0.1:{line.port}")
            server.command = [find_binary(), "--config", str(_write_config(server, peers, folder))]
        yield servers


def _write_config(server: Server, peers: list[str], folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    config = folder / f"{server.name}.conf"
    config.write_text(
        _CONFIG.format(
            name=server.name,
            port=server.port,
            route=server.route,
            max_payload=MAX_PAYLOAD_BYTES,
            store=folder / server.name,
            peers=", ".join(peers),
        )
    )
    return config

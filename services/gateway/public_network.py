"""Connections to the public Internet alone, for addresses that users give.

A name is resolved once, every address is checked, and one that was checked is connected to: what the name
resolves to a moment later does not matter. TLS and the Host header still have the name.

Names are resolved by c-ares, in no thread: the system's own resolver holds one for half a minute for a name
whose servers do not answer, whoever has given up waiting, and the loop has four of them for all names.
"""

import ipaddress
import socket
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from ipaddress import IPv4Address, IPv6Address

import aiodns
import httpcore

from stoker.services.process.tasks import limit

RESOLVE_TIMEOUT_S = 10.0
KEPT_S = 5.0
"""How long a connection is kept for what is next asked of its host."""
SPECIAL = tuple(
    ipaddress.ip_network(network)
    for network in (
        # IANA's registry of special IPv4 addresses, multicast and class E
        "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12",
        "192.0.0.0/24", "192.0.2.0/24", "192.31.196.0/24", "192.52.193.0/24", "192.88.99.0/24",
        "192.168.0.0/16", "192.175.48.0/24", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24",
        "224.0.0.0/4", "240.0.0.0/4",
        # IANA's registry of special IPv6 addresses, multicast, and the old site-local ones
        "::/96", "::ffff:0:0/96", "::ffff:0:0:0/96", "64:ff9b::/96", "64:ff9b:1::/48", "100::/64",
        "100:0:0:1::/64",
        "2001::/23", "2001:db8::/32", "2002::/16", "2620:4f:8000::/48", "3fff::/20", "5f00::/16", "fc00::/7",
        "fe80::/10", "fec0::/10", "ff00::/8",
    )
)  # fmt: skip
PUBLIC_IPV6 = ipaddress.ip_network("2000::/3")
"""The only IPv6 addresses that are given to anybody."""


class NotPublic(httpcore.ConnectError):
    """The host has an address that is not of the public Internet."""


def is_public(address: str) -> bool:
    """Whether an address can only be somebody's on the Internet. Raises ValueError where it is none."""
    found: IPv4Address | IPv6Address = ipaddress.ip_address(address.partition("%")[0])
    if found.version == 6 and found not in PUBLIC_IPV6:
        return False
    return not any(found.version == network.version and found in network for network in SPECIAL)


class PublicNetwork(httpcore.AsyncNetworkBackend):
    """httpcore's network, for public addresses. allow_private: for all."""

    def __init__(self, resolver: aiodns.DNSResolver, *, allow_private: bool) -> None:
        self._resolver = resolver
        self._allow_private = allow_private
        self._inner = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 (httpcore's interface)
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Raises NotPublic, httpcore.ConnectError."""
        found = await self._resolved(host, port)
        for address in found:
            if not self._allow_private and not is_public(address):
                raise NotPublic(f"{host} is {address}, which is not a public address")
        last: Exception = httpcore.ConnectError(f"{host} has no address")
        for address in found:
            try:
                return await self._inner.connect_tcp(address, port, timeout, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                last = error
        raise last

    async def _resolved(self, host: str, port: int) -> list[str]:
        try:
            with limit(f"resolving {host}", RESOLVE_TIMEOUT_S):
                found = await self._resolver.getaddrinfo(host, port=port, type=socket.SOCK_STREAM)
        except aiodns.error.DNSError as error:
            raise httpcore.ConnectError(f"{host} cannot be resolved: {error.args[-1]}") from error
        except (OSError, UnicodeError) as error:  # UnicodeError: it is no host name
            raise httpcore.ConnectError(f"{host} cannot be resolved: {error}") from error
        return list(dict.fromkeys(node.addr[0].decode() for node in found.nodes))

    async def connect_unix_socket(
        self,
        path: str,
        timeout: float | None = None,  # noqa: ASYNC109 (httpcore's interface)
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        raise NotPublic(f"{path} is a socket of this machine")

    async def sleep(self, seconds: float) -> None:
        await self._inner.sleep(seconds)


@asynccontextmanager
async def public_connections(
    *, allow_private: bool, at_once: int
) -> AsyncIterator[httpcore.AsyncConnectionPool]:
    """Connections to addresses that users give, `at_once` at most, until the block ends. Raises, where one is
    asked for: NotPublic, and what httpcore raises.
    """
    async with aiodns.DNSResolver() as resolver:
        network = PublicNetwork(resolver, allow_private=allow_private)
        async with httpcore.AsyncConnectionPool(
            network_backend=network, max_connections=at_once, keepalive_expiry=KEPT_S
        ) as connections:
            yield connections

"""Which URLs of users a gateway connects to: checked by the parser that it connects with. Pure."""

import ipaddress
import re
from dataclasses import dataclass

import httpx

from stoker.services.gateway.public_network import is_public

MAX_URL_CHARS = 2048
MAX_HOST_CHARS = 253
_LABEL = re.compile(r"[A-Za-z0-9_-]{1,63}")
_NUMBER = re.compile(r"[0-9]+|0[xX][0-9a-fA-F]*")
DEFAULT_PORTS = frozenset({80, 443, 8000, 8080, 8443})
SCHEME_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class UrlRules:
    """allow_private: hosts of this machine and its networks, on every port. ports: else; none = every one.
    may_private, may_ports: how an operator allows more.
    """

    allow_private: bool = False
    ports: frozenset[int] = DEFAULT_PORTS
    may_private: str = "`--webhook-private` allows private ones"
    may_ports: str = "`--webhook-ports` says which are"

    def why_not(self, url: str) -> str:
        """Why a URL may not be used, "" where it may."""
        if len(url) > MAX_URL_CHARS:
            return f"a URL has at most {MAX_URL_CHARS} characters"
        try:
            parsed = httpx.URL(url)
            host = parsed.raw_host.decode("ascii")
        except (httpx.InvalidURL, UnicodeError, ValueError, TypeError) as error:
            return f"this is no URL: {error}"
        if parsed.scheme not in SCHEME_PORTS or not host:
            return "it must be an http or https URL"
        if parsed.userinfo:
            return "a URL with a password in it is not kept"
        port = parsed.port if parsed.port is not None else SCHEME_PORTS[parsed.scheme]
        if not 0 < port < 65536:
            return f"{port} is no port"
        return self._why_not_host(host) or self._why_not_port(port)

    def _why_not_host(self, host: str) -> str:
        try:
            address = str(ipaddress.ip_address(host))
        except ValueError:
            return "" if _is_name(host) else f"{host[:80]!r} is no host name"
        if self.allow_private or is_public(address):
            return ""
        return f"{address} is not a public address; {self.may_private}"

    def _why_not_port(self, port: int) -> str:
        if self.allow_private or not self.ports or port in self.ports:
            return ""
        allowed = ", ".join(map(str, sorted(self.ports)))
        return f"port {port} is not allowed; {self.may_ports} ({allowed})"


def _is_name(host: str) -> bool:
    """Whether a host can be looked up. One whose last label is a number is another way to write an address."""
    labels = host.removesuffix(".").split(".")
    if len(host) > MAX_HOST_CHARS or not all(_LABEL.fullmatch(label) for label in labels):
        return False
    return not _NUMBER.fullmatch(labels[-1])

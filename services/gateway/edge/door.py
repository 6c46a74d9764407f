"""Whom the gateway talks to: which names it answers to, and which web pages may ask it.

A page of any site can make a browser send requests to a gateway on the user's machine or network. So:

- the Host has to be a name of this gateway: a page whose own name was made to resolve here (DNS rebinding) is
  not served;
- a request that a browser marks as sent by another site's page (Origin, Sec-Fetch-Site) is refused, unless
  `--cors-origin` names that page's origin; then its preflights are answered too;
- every answer says that it is not to be guessed at, framed, or referred to.

Pure but for the names of this machine.
"""

import ipaddress
import re
import socket
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from stoker.services.gateway.edge.problems import RequestError

ANY = "*"
APPLICATIONS = ("app://", "tauri://", "vscode-webview://", "vscode-file://")
"""Origins of programs on the user's machine: no site can have one."""
HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
)
POLICY_NAME = "content-security-policy"
POLICY = (POLICY_NAME.encode(), b"frame-ancestors 'none'")
"""Where an answer has no stricter one."""
PREFLIGHT_AGE_S = 600
EXPOSED = (
    "retry-after, location, x-request-id, stoker-ignored, x-ratelimit-limit-requests, "
    "x-ratelimit-remaining-requests"
)
FULL_NAME_S = 0.5
_PORT = re.compile(r":\d{1,5}$")


def own_names() -> frozenset[str]:
    """What this machine is called. Its full name may be asked of a name server, which may not answer."""
    found = [socket.gethostname()]
    asking = threading.Thread(target=lambda: found.append(socket.getfqdn()), daemon=True)
    asking.start()
    asking.join(FULL_NAME_S)
    return frozenset(name.lower() for name in found.copy() if name)


@dataclass(frozen=True, slots=True)
class Door:
    """is_local: only this machine can reach the gateway. has_keys: nobody is served without a key, so other
    names do no harm. hosts: further names. origins: pages of other sites that may ask. names: the machine's.
    """

    is_local: bool
    has_keys: bool
    hosts: frozenset[str] = frozenset()
    origins: frozenset[str] = frozenset()
    names: frozenset[str] = frozenset()

    def check_host(self, name: bytes) -> None:
        """Raises RequestError 400, 403."""
        host = name.decode("latin-1")
        if not host:
            raise RequestError(400, "a request needs a Host", field="Host", code="host_missing")
        if not self._answers_to(host):
            message = f"this gateway does not answer to the name {host!r}; see `--allowed-hosts`"
            raise RequestError(403, message, field="Host", code="host_not_allowed")

    def check_origin(self, method: str, headers: Mapping[bytes, bytes]) -> None:
        """Raises RequestError 403."""
        origin = headers.get(b"origin", b"").decode("latin-1")
        if origin:
            if not self._may_ask(origin, headers.get(b"host", b"").decode("latin-1")):
                raise _other_site(origin)
        elif headers.get(b"sec-fetch-site") == b"cross-site" and not _is_visit(method, headers):
            raise _other_site("another site")

    def _answers_to(self, host: str) -> bool:
        name = _name_of(host)
        if ANY in self.hosts or name in self.hosts:
            return True
        if self.has_keys and not self.is_local:
            return not self.hosts or _is_address(name)
        if name == "localhost" or name.endswith(".localhost") or name in self.names:
            return True
        if self.is_local:
            return _is_address(name) and ipaddress.ip_address(name).is_loopback
        return _is_address(name) or "." not in name

    def _may_ask(self, origin: str, host: str) -> bool:
        """Whether a page of this origin may: it is one of ours, or is named, or is none of a site."""
        if origin.lower() in self.origins or ANY in self.origins or origin.startswith(APPLICATIONS):
            return True
        scheme, mark, rest = origin.partition("://")
        return bool(mark) and scheme in ("http", "https") and rest.lower() == host.lower()

    def cors(self, headers: Mapping[bytes, bytes]) -> list[tuple[bytes, bytes]]:
        """What tells the browser that a page of another site may read the answer; none where it may not."""
        origin = headers.get(b"origin", b"").decode("latin-1")
        if not origin or not (origin.lower() in self.origins or ANY in self.origins):
            return []
        return [
            (b"access-control-allow-origin", origin.encode("latin-1")),
            (b"access-control-expose-headers", EXPOSED.encode()),
            (b"vary", b"Origin"),
        ]

    def preflight(self, headers: Mapping[bytes, bytes]) -> list[tuple[bytes, bytes]]:
        """The answer to a browser that asks before it sends; none where it is not that, or may not."""
        if b"access-control-request-method" not in headers or not (allowed := self.cors(headers)):
            return []
        asked = headers.get(b"access-control-request-headers", b"")
        private = headers.get(b"access-control-request-private-network")
        return [
            *allowed,
            (b"access-control-allow-methods", b"GET, POST, PUT, DELETE, OPTIONS"),
            *([(b"access-control-allow-headers", asked)] if asked else []),
            *([(b"access-control-allow-private-network", b"true")] if private else []),
            (b"access-control-max-age", str(PREFLIGHT_AGE_S).encode()),
        ]


def listed(text: str) -> frozenset[str]:
    """The parts of a setting that is separated by commas."""
    return frozenset(part.strip().lower().rstrip("/") for part in text.split(",") if part.strip())


def _name_of(host: str) -> str:
    """The name or the address in a Host header."""
    name = _PORT.sub("", host.strip().lower())
    return name.removeprefix("[").removesuffix("]").rstrip(".")


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _is_visit(method: str, headers: Mapping[bytes, bytes]) -> bool:
    """Whether somebody has followed a link: the other page sees nothing of the answer."""
    return method in ("GET", "HEAD") and headers.get(b"sec-fetch-mode") == b"navigate"


def _other_site(who: str) -> RequestError:
    return RequestError(
        403,
        f"a page of {who} may not ask this gateway; `--cors-origin` names the pages that may",
        field="Origin",
        code="origin_not_allowed",
    )


def with_headers(given: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """An answer's headers, and what every answer says where it does not yet."""
    headers = list(given)
    names = {name for name, _ in headers}
    return [*headers, *((name, value) for name, value in (*HEADERS, POLICY) if name not in names)]

"""The one place where HTTP clients are made.

A proxy that the environment names (HTTP_PROXY, ALL_PROXY, …) is for the world outside: what runs on this
machine is always asked directly. NO_PROXY is honoured for all else.
"""

import ipaddress
from typing import Any
from urllib.parse import urlsplit

import httpx

KEPT = 20
"""Connections to a server that are kept while nothing is asked."""


def is_loopback(url: str) -> bool:
    """Whether a URL is of this machine."""
    host = (urlsplit(url).hostname or "").rstrip(".")
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def client(url: str, **options: Any) -> httpx.Client:
    """A client of the server at a URL; options: of httpx.Client."""
    return httpx.Client(base_url=url, **(_usual(url) | options))


def async_client(url: str, **options: Any) -> httpx.AsyncClient:
    """The same for asyncio."""
    return httpx.AsyncClient(base_url=url, **(_usual(url) | options))


def _usual(url: str) -> dict[str, Any]:
    """Reading certificates takes 20 to 100 ms of CPU, and what is not encrypted needs none. How much is asked
    at a time is for who asks to say: httpx has what is beyond a hundred requests wait without a word.
    """
    is_near = is_loopback(url)
    unread = {"verify": False} if is_near and url.startswith("http://") else {}
    return {"trust_env": not is_near, "limits": httpx.Limits(max_keepalive_connections=KEPT), **unread}

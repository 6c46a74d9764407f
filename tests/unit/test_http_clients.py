"""A proxy of the environment is for the world outside: this machine is asked directly."""

import asyncio
import ssl
from typing import Any

import httpx
import pytest

from stoker.services.process.http_clients import async_client, client, is_loopback

URLS = ("http://127.0.0.1:8000", "https://127.0.0.1:8000", "http://example.com", "https://example.com")


@pytest.mark.parametrize(
    ("url", "is_here"),
    [
        ("http://127.0.0.1:8000", True),
        ("http://127.5.0.1", True),
        ("http://localhost:11434/api", True),
        ("http://api.localhost", True),
        ("http://[::1]:80", True),
        ("http://10.0.0.1", False),
        ("https://example.com", False),
        ("http://localhost.example.com", False),
        ("", False),
    ],
)
def test_what_is_of_this_machine(url: str, is_here: bool) -> None:
    assert is_loopback(url) == is_here


def test_loopback_is_not_sent_through_a_proxy_and_others_are(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    for make in (client, async_client):
        assert not make("http://127.0.0.1:8000")._mounts
        assert make("http://example.com")._mounts


@pytest.mark.parametrize("make", [client, async_client])
def test_certificates_are_read_where_there_may_be_some(make: Any) -> None:
    """Reading them took most of a scrape of /metrics, in the gateway's loop."""
    mode = {url: make(url)._transport._pool._ssl_context.verify_mode for url in URLS}
    assert mode == dict.fromkeys(URLS, ssl.CERT_REQUIRED) | {URLS[0]: ssl.CERT_NONE}
    assert make(URLS[0], verify=True)._transport._pool._ssl_context.verify_mode == ssl.CERT_REQUIRED


def test_options_go_to_the_client() -> None:
    with client("http://127.0.0.1:1", timeout=3.0, headers={"X-A": "b"}) as made:
        assert made.headers["x-a"] == "b"
        with pytest.raises(httpx.ConnectError):
            made.get("/")


async def test_more_than_a_hundred_requests_of_a_client_are_under_way_at_a_time() -> None:
    """Those beyond a hundred waited in the client, without a word."""
    many, open_ones = 150, list[asyncio.StreamWriter]()

    async def hold(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        open_ones.append(writer)
        if len(open_ones) == many:  # until then nobody has an answer
            for one in open_ones:
                one.write(b"HTTP/1.1 204 X\r\nconnection: close\r\n\r\n")
                one.close()

    async with await asyncio.start_server(hold, "127.0.0.1", 0, backlog=many) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with async_client(url, timeout=30) as client:
            answers = await asyncio.gather(*(client.get("/") for _ in range(many)))
    assert {answer.status_code for answer in answers} == {204}

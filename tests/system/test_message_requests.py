"""Requests by message on a running system, with the bare protocol: a socket, and lines of text."""

import json
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, BinaryIO
from urllib.parse import urlsplit

import pytest

from tests.conftest import System

CRLF = b"\r\n"


class Bare:
    """A NATS client that knows PUB, HPUB, SUB and MSG."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._lines: BinaryIO = connection.makefile("rb")
        self.info = json.loads(self._lines.readline().removeprefix(b"INFO "))

    def greet(self, user: str | None, password: str | None) -> None:
        said: dict[str, Any] = {"verbose": False, "pedantic": False, "headers": True, "lang": "bare"}
        if password:
            said |= {"user": user, "pass": password}
        elif user:
            said |= {"auth_token": user}
        self.write(b"CONNECT " + json.dumps(said).encode())
        self.write(b"PING")
        assert self._lines.readline() == b"PONG" + CRLF

    def write(self, line: bytes) -> None:
        self._connection.sendall(line + CRLF)

    def request(self, subject: str, message: Any, inbox: str) -> Any:
        payload = json.dumps(message).encode()
        self.write(f"SUB {inbox} 1".encode())
        self.write(f"PUB {subject} {inbox} {len(payload)}".encode() + CRLF + payload)
        return json.loads(self._message())

    def _message(self) -> bytes:
        """The payload of the next message."""
        while True:
            verb, *rest = self._lines.readline().split()
            if verb == b"PING":
                self.write(b"PONG")
            elif verb == b"MSG":
                return self._lines.read(int(rest[-1]) + 2).removesuffix(CRLF)
            elif verb == b"HMSG":
                head, size = int(rest[-2]), int(rest[-1])
                return self._lines.read(size + 2).removesuffix(CRLF)[head:]
            else:
                pytest.fail(f"{verb!r} {rest!r}")


@contextmanager
def bare(system: System) -> Iterator[Bare]:
    url = urlsplit(system.nats)
    with socket.create_connection((url.hostname or "", url.port or 4222), timeout=30) as connection:
        client = Bare(connection)
        client.greet(url.username, url.password)
        yield client


def completion(prompt: str, **more: Any) -> dict[str, Any]:
    return {"path": "/v1/completions", "body": {"model": "echo", "prompt": prompt, **more}}


def test_a_socket_asks_and_is_answered_as_by_http(synthetic: System) -> None:
    with bare(synthetic) as client:
        message = completion("x") | {"metadata": {"some-id": 123}}
        answer = client.request("stoker.requests", message, "_INBOX.bare.1")
    http = synthetic.post("/v1/completions", message["body"])
    assert (answer["status_code"], answer["metadata"]) == (200, {"some-id": 123})
    assert answer["body"]["choices"] == http.json()["choices"]
    assert answer["body"]["usage"] == http.json()["usage"]


def test_mistakes_are_answered_in_the_form_of_http(synthetic: System) -> None:
    with bare(synthetic) as client:
        streamed = client.request("stoker.requests", completion("x", stream=True), "_INBOX.bare.1")
        assert (streamed["status_code"], streamed["body"]["error"]["code"]) == (400, "no_streams_by_message")
        client.write(b"UNSUB 1")
        unknown = {"path": "/v1/completions", "body": {"model": "none", "prompt": "x"}}
        missing = client.request("stoker.requests", unknown, "_INBOX.bare.2")
        assert missing["status_code"] == 404
        assert missing["body"] == synthetic.post("/v1/completions", unknown["body"]).json()


def test_many_at_once_are_each_answered_to_their_own_inbox(synthetic: System) -> None:

    def ask(number: int) -> Any:
        with bare(synthetic) as client:
            return client.request(
                "stoker.requests", completion("x") | {"metadata": {"n": number}}, f"_INBOX.bare.{number}"
            )

    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(ask, range(32)))
    assert [(one["status_code"], one["metadata"]["n"]) for one in answers] == [(200, n) for n in range(32)]


def test_a_job_is_left_by_message_and_found_by_http(synthetic: System) -> None:
    with bare(synthetic) as client:
        asked = {"path": "/v1/jobs", "body": {"model": "echo", "input": {"prompt": "x"}}}
        answer = client.request("stoker.requests", asked, "_INBOX.bare.1")
    assert answer["status_code"] == 202
    assert synthetic.ended(answer["body"]["id"])["status"] == "completed"

"""Streams to clients that read late, ask for the next one early, or know no chunks: nothing is lost, doubled, or in
another's place.
"""

import json
import re
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.conftest import System

ENDS = b"\r\n0\r\n\r\n"
"""Of a chunked body."""
TOKENS = 30_000
SMALL_BUFFER = 4096


MODELS = """models:
  quick: {engine: synthetic, options: {token_interval_s: 0.00001}}
  calm: {engine: synthetic, options: {token_interval_s: 0.01}}
workers: [{engines: [synthetic]}]
"""


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    running = System(tmp_path_factory.mktemp("streams"), MODELS)
    try:
        running.wait_ready()
        yield running
    finally:
        running.stop()


def request(model: str, tokens: int) -> bytes:
    body = json.dumps({"model": model, "prompt": "x", "stream": True, "max_tokens": tokens}).encode()
    head = "POST /v1/completions HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
    return f"{head}content-length: {len(body)}\r\n\r\n".encode() + body


@contextmanager
def connected(system: System) -> Iterator[socket.socket]:
    """A client whose system takes little of what it does not read."""
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_BUFFER)
        client.settimeout(60)
        client.connect(("127.0.0.1", system.port))
        yield client


def read(client: socket.socket, answers: int, pause_s: float = 0.0) -> list[bytes]:
    """The answers' heads and bodies, read in pieces with pauses between the first of them."""
    got, pauses = b"", 20
    while got.count(ENDS) < answers:
        part = client.recv(65536)
        assert part, "the connection was closed in the middle"
        got += part
        if pauses and pause_s:
            pauses -= 1
            time.sleep(pause_s)
    return [one + ENDS for one in got.split(ENDS)[:answers]]


def words(answer: bytes) -> list[str]:
    """The words of a streamed answer, in their order."""
    assert answer.startswith(b"HTTP/1.1 200"), answer[:200]
    found = [json.loads(line) for line in re.findall(rb"data: (\{.*\})", answer)]
    assert b"data: [DONE]" in answer
    return "".join(one["choices"][0]["text"] for one in found).split()


def expected(tokens: int) -> list[str]:
    return [f"t{index}" for index in range(tokens)]


def test_a_client_that_reads_late_has_everything_in_order(system: System) -> None:
    with connected(system) as client:
        client.sendall(request("quick", TOKENS))
        time.sleep(1.0)  # the client is late: nothing that it could wait for says so
        [answer] = read(client, 1, pause_s=0.02)
    assert words(answer) == expected(TOKENS)


def test_a_second_request_sent_early_waits_for_the_first_ones_end(system: System) -> None:
    with connected(system) as client:
        client.sendall(request("calm", 40) + request("calm", 20))
        first, second = read(client, 2)
    assert words(first) == expected(40)
    assert words(second) == expected(20)


@pytest.mark.parametrize("streamed", [True, False])
def test_a_client_of_http_1_0_gets_no_chunks_and_the_end_of_the_connection(
    system: System, *, streamed: bool
) -> None:
    asked = request("calm", 40).replace(b"HTTP/1.1", b"HTTP/1.0")
    if not streamed:
        asked = asked.replace(b'"stream": true', b'"stream":false')
    with connected(system) as client:
        client.sendall(asked)
        answer = b""
        while part := client.recv(65536):
            answer += part
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"transfer-encoding" not in head and b"connection: close" in head
    if streamed:
        assert body.startswith(b"data: {") and body.endswith(b"data: [DONE]\n\n"), body
        assert words(answer) == expected(40)
    else:
        assert json.loads(body)["choices"][0]["text"].split() == expected(40)

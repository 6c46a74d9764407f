"""What one client may take before it has shown a key. Before, nothing of this had a bound."""

import contextlib
import http.client
import json
import resource
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from tests.conftest import SYNTHETIC, System, wait_for

PATIENCE_S = 1.0
MB = 1024 * 1024


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """With short limits, given as an operator gives them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STOKER_HEAD_TIMEOUT_S", str(PATIENCE_S))
        patch.setenv("STOKER_BODY_TIMEOUT_S", str(PATIENCE_S))
        patch.setenv("STOKER_MAX_CONNECTIONS", "50")
        found = System(tmp_path_factory.mktemp("bounds"), SYNTHETIC)
    try:
        found.wait_ready()
        yield found
    finally:
        found.stop()


@contextlib.contextmanager
def connected(system: System) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", system.port), timeout=20) as client:
        yield client


def answer_to(client: socket.socket) -> bytes:
    """Everything until the gateway closes the connection."""
    said = b""
    with contextlib.suppress(ConnectionError):
        while part := client.recv(65536):
            said += part
    return said


def status_of_next_answer(client: socket.socket) -> int:
    """All of it is read, however many pieces it comes in."""
    answer = http.client.HTTPResponse(client)
    answer.begin()
    answer.read()
    return answer.status


def test_a_head_that_does_not_end_is_cut_off_and_takes_no_memory(system: System) -> None:
    gateway = psutil.Process(system.pid("gateway"))
    before = gateway.memory_info().rss
    for start in (b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nX-Long: ", b"GET /", b"X"):
        with connected(system) as client:
            client.sendall(start)
            sent = 0
            with contextlib.suppress(ConnectionError):
                while sent < 250 * MB:
                    client.sendall(b"a" * MB)
                    sent += MB
            assert sent < 20 * MB, start
    assert gateway.memory_info().rss - before < 20 * MB
    assert httpx.get(system.url + "/v1/models").status_code == 200


def test_too_large_a_head_is_answered_with_the_bound(system: System) -> None:
    with connected(system) as client:
        client.sendall(b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nX-Long: " + b"a" * 70_000)
        said = answer_to(client)
    assert said.startswith(b"HTTP/1.1 431 ") and b"65536 bytes" in said


@pytest.mark.parametrize("start", [b"", b"GET /v1/mod", b"GET /v1/models HTTP/1.1\r\nHost: local"])
def test_a_head_that_does_not_come_ends_the_connection(system: System, start: bytes) -> None:
    with connected(system) as client:
        began = time.monotonic()
        client.sendall(start)
        assert answer_to(client).startswith(b"HTTP/1.1 408 ")
        assert time.monotonic() - began < 10 * PATIENCE_S


def test_a_head_that_comes_byte_by_byte_ends_it_too(system: System) -> None:
    with connected(system) as client, pytest.raises(ConnectionError):
        for _ in range(200):  # ten seconds, ten times as long as it may last
            client.sendall(b"G")
            time.sleep(0.05)


def test_a_body_that_stops_coming_ends_the_connection_and_nobody_elses(system: System) -> None:
    head = b"POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n"
    with connected(system) as client:
        client.sendall(head + b'{"model":')
        assert httpx.get(system.url + "/v1/models").status_code == 200
        assert answer_to(client) == b""


def request(model: str, max_tokens: int, **fields: object) -> bytes:
    body = json.dumps({"model": model, "prompt": "x", "max_tokens": max_tokens, **fields}).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


@pytest.mark.parametrize(
    ("rest", "status"),
    [
        (b"{} and more", b"400"),
        (b"GET / HTTP/1.1\r\nNo colon\r\n\r\n", b"400"),
        (b"G", b"408"),
        (b"GET /v1/models HTTP/1.1\r\nX-Long: " + b"a" * 70_000, b"431"),
        (request("echo", 2) + b"{} and more", b"400"),
    ],
)
@pytest.mark.parametrize("is_streamed", [True, False])
def test_what_follows_a_request_and_is_none_takes_nothing_of_its_answer(
    system: System, rest: bytes, status: bytes, *, is_streamed: bool
) -> None:
    tokens = 50 if status == b"408" else 4  # longer than a head may take to come
    with connected(system) as client:
        client.sendall(request("slow", tokens, stream=is_streamed) + rest)
        said = answer_to(client)
    good, _, refused = said.rpartition(b"HTTP/1.1 ")
    assert good.startswith(b"HTTP/1.1 200 ") and b"t%d " % (tokens - 1) in good, said
    assert good.endswith((b"0\r\n\r\n", b"}")), said
    assert refused.startswith(status)
    assert good.count(b"HTTP/1.1 200 ") == (2 if rest.startswith(b"POST") else 1)


def test_a_request_whose_body_waits_for_the_answer_before_is_served(system: System) -> None:
    second = request("echo", 2, user="x" * 300_000)
    with connected(system) as client:
        client.sendall(request("slow", 50) + second[:150])
        assert status_of_next_answer(client) == 200
        client.sendall(second[150:])
        assert status_of_next_answer(client) == 200


@pytest.mark.slow
def test_a_connection_that_is_idle_between_requests_is_kept_and_an_answer_may_take_its_time(
    system: System,
) -> None:
    with httpx.Client(base_url=system.url, timeout=30) as client:
        for _ in range(2):
            body = {"model": "slow", "prompt": "x", "max_tokens": 60}  # three seconds
            assert client.post("/v1/completions", json=body).status_code == 200
            time.sleep(2.5 * PATIENCE_S)
        with client.stream("POST", "/v1/completions", json=body | {"stream": True}) as answer:
            assert sum(line.startswith("data:") for line in answer.iter_lines()) > 30


def test_one_address_has_so_many_connections_and_no_more(system: System) -> None:
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(connected(system)) for _ in range(70)]
        refused = sum(answer_to(client).startswith(b"HTTP/1.1 503 ") for client in clients)
        assert 15 <= refused <= 21
    wait_for(lambda: httpx.get(system.url + "/v1/models").status_code == 200, 10, "room again")


def is_established(client: socket.socket) -> bool:
    """Whether neither side has ended the connection, as Linux says (1: TCP_ESTABLISHED)."""
    return client.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1) == b"\x01"


def test_a_client_that_is_still_sending_reads_why_it_is_refused(system: System) -> None:
    """Its connection was reset, and with it the answer: that is what closing does where something was not read."""
    with contextlib.ExitStack() as stack:
        for _ in range(50):
            stack.enter_context(connected(system))
        late = stack.enter_context(connected(system))
        late.sendall(request("echo", 2))
        wait_for(lambda: not is_established(late), what="the refusal")
        late.sendall(b"more")
        assert answer_to(late).startswith(b"HTTP/1.1 503 ")


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """A system whose processes may have few files open, and fewer by default."""

    def before() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (128, 600))

    found = System(tmp_path_factory.mktemp("narrow"), SYNTHETIC, before=before)
    try:
        found.wait_ready()
        yield found
    finally:
        found.stop()


def test_more_connections_than_files_may_be_open_harm_none_that_are_there(narrow: System) -> None:
    """At 1,024, which is what systems give, they were closed without a word, and no file could be read."""
    with connected(narrow) as first, contextlib.ExitStack() as stack:
        first.sendall(request("slow", 40, stream=True))
        clients = [stack.enter_context(connected(narrow)) for _ in range(700)]
        told = sum(answer_to(client).startswith(b"HTTP/1.1 503 ") for client in clients[-300:])
        assert told > 290
        assert status_of_next_answer(first) == 200
        clients[0].sendall(b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert status_of_next_answer(clients[0]) == 200
        gateway = psutil.Process(narrow.pid("gateway"))
        assert 300 <= gateway.num_fds() < 500
    assert "Too many open files" not in narrow.log.read_text()
    wait_for(lambda: httpx.get(narrow.url + "/v1/models").status_code == 200, 10, "room again")


def test_a_bound_of_nothing_is_refused_by_its_name(tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STOKER_HEAD_TIMEOUT_S", "0")
        system = System(tmp_path, SYNTHETIC)
    try:
        assert wait_for(
            lambda: "--head-timeout-s (STOKER_HEAD_TIMEOUT_S) must be" in system.log.read_text(),
            20,
            "the setting in the log",
        )
    finally:
        system.stop()

"""What one client may take before it has shown a key. Before, nothing of this had a bound."""

import contextlib
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

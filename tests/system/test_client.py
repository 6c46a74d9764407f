"""The Python client against a real system: results, streams, broken connections, errors with names."""

import asyncio
import threading
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import MappingProxyType
from typing import ClassVar

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.client import AsyncClient, CallFailed, Client
from stoker.sse import ENDS, Event, EventReader
from tests.conftest import System
from tests.fixtures.lost_answers import losing

EMPTY: Mapping[str, str] = MappingProxyType({})


class Cutting(ThreadingHTTPServer):
    """A job whose event stream breaks after every event; it goes on after the id that the client names.

    refusals: how many requests are answered 503 before each that is served, with these headers.
    """

    EVENTS: ClassVar[list[tuple[str, str]]] = [
        ("queued", '{"position": 0}'),
        ("delta", '{"text": "1\\n2\\n"}'),
        ("delta", '{"text": "3"}'),
        ("delta", '{"text": "\\n"}'),
        ("completed", '{"status": "completed", "result": [1, 2, 3, 4]}'),
    ]

    def __init__(self) -> None:
        self.resumed: list[str] = []
        self.refusals, self.refused_with, self._refused = 0, {"retry-after": "1"}, 0
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers.get("content-length", 0)))
                if server.refuses():
                    self._answer(503, b'{"detail": "nobody leads"}', server.refused_with)
                    return
                self._answer(202, b'{"id": "j"}')

            def do_GET(self) -> None:
                if server.refuses():
                    self._answer(503, b'{"detail": "nobody leads"}', server.refused_with)
                    return
                last = self.headers.get("last-event-id", "")
                server.resumed.append(last)
                number = int(last) + 1 if last else 0
                name, data = server.EVENTS[number]
                text = f"id: {number}\nevent: {name}\ndata: {data}\n\nid: {number + 1}\nevent: del"
                self.send_response(200)
                self.send_header("content-type", "text/event-stream")
                self.send_header("content-length", str(len(text) + 100))  # and then it breaks
                self.end_headers()
                self.wfile.write(text.encode())

            def _answer(self, status: int, body: bytes, headers: Mapping[str, str] = EMPTY) -> None:
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        super().__init__(("127.0.0.1", 0), Handler)

    def refuses(self) -> bool:
        """Whether this request is."""
        self._refused = self._refused + 1 if self._refused < self.refusals else 0
        return self._refused > 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


@pytest.fixture
def cutting() -> Iterator[Cutting]:
    server = Cutting()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def test_a_stream_that_breaks_after_each_event_is_taken_up_where_it_broke(cutting: Cutting) -> None:
    with Client(cutting.url) as client:
        assert list(client.stream("write", prompt="x")) == [1, 2, 3, 4]
    assert cutting.resumed == ["", "0", "1", "2", "3"]


async def test_the_asynchronous_client_does_the_same(cutting: Cutting) -> None:
    async with AsyncClient(cutting.url) as client:
        async with asyncio.timeout(30):
            assert [item async for item in client.stream("write", prompt="x")] == [1, 2, 3, 4]
    assert cutting.resumed == ["", "0", "1", "2", "3"]


async def test_what_cannot_be_answered_at_the_moment_is_asked_again(cutting: Cutting) -> None:
    cutting.refusals = 1
    with Client(cutting.url) as client:
        assert list(client.stream("write", prompt="x")) == [1, 2, 3, 4]
    async with AsyncClient(cutting.url) as other, asyncio.timeout(60):
        assert [item async for item in other.stream("write", prompt="x")] == [1, 2, 3, 4]
    assert cutting.resumed == ["", "0", "1", "2", "3"] * 2


@pytest.mark.parametrize("headers", [{"retry-after": "1"}, {}])
async def test_what_is_refused_for_long_or_without_a_time_is_an_error(
    cutting: Cutting, monkeypatch: pytest.MonkeyPatch, headers: dict[str, str]
) -> None:
    monkeypatch.setattr("stoker.client.PATIENCE_S", 0.5 if headers else 60.0)
    cutting.refusals, cutting.refused_with = 1000, headers
    with Client(cutting.url) as client:
        for call in (lambda: client.submit("write"), lambda: client.job("j").result()):
            with pytest.raises(CallFailed, match="nobody leads") as failed:
                call()
            assert failed.value.status == 503
    async with AsyncClient(cutting.url) as other, asyncio.timeout(60):
        with pytest.raises(CallFailed, match="nobody leads"):
            await other.submit("write")
        with pytest.raises(CallFailed, match="nobody leads"):
            await other.job("j").result()


async def test_a_connection_may_break_more_often_the_more_has_come(
    cutting: Cutting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stoker.client.ATTEMPTS", 3)
    with Client(cutting.url) as client:
        assert list(client.stream("write", prompt="x")) == [1, 2, 3, 4]
    async with AsyncClient(cutting.url) as other, asyncio.timeout(60):
        assert [item async for item in other.stream("write", prompt="x")] == [1, 2, 3, 4]


def test_events_of_a_job_end_with_its_end_and_cancelling_it_then_is_refused(synthetic: System) -> None:
    with Client(synthetic.url) as client:
        job = client.job(synthetic.submit("echo"))
        names = [event.name for event in job.events()]
        assert names[0] == "queued" and names[-1] == "completed"
        assert sum(name in ENDS for name in names) == 1
        assert job.result()["text"].startswith("t0 t1")
        with pytest.raises(CallFailed) as refused:
            job.cancel()
        assert (refused.value.status, refused.value.kind) == (409, "already_ended")


def test_a_submission_whose_answer_was_lost_is_one_job(synthetic: System) -> None:
    with losing(synthetic.port, "closed") as relay, Client(relay.url) as client:
        before = {one["id"] for one in synthetic.get("/v1/jobs?model=echo")["jobs"]}
        job = client.submit_job("echo", {"prompt": "hello"})
        assert relay.lost.is_set() and job.result()["text"].startswith("t0 t1")
        assert {one["id"] for one in synthetic.get("/v1/jobs?model=echo")["jobs"]} - before == {job.id}


def test_a_cancelled_job_raises_what_happened(synthetic: System) -> None:
    with Client(synthetic.url) as client:
        job = client.job(synthetic.submit("slow"))
        job.cancel()
        with pytest.raises(CallFailed) as failed:
            job.result()
        assert (failed.value.kind, failed.value.status) == ("cancelled", 0)


def test_what_is_not_there_is_said_with_its_status(synthetic: System) -> None:
    with Client(synthetic.url) as client:
        for call in (lambda: client.run("none"), lambda: client.job("none").result()):
            with pytest.raises(CallFailed) as failed:
                call()
            assert failed.value.status == 404


def test_a_gateway_that_is_not_there_is_an_error_of_the_connection() -> None:
    with Client("http://127.0.0.1:9") as client, pytest.raises(httpx.ConnectError):
        client.functions()


def connection(lines: list[str]) -> httpx.Response:
    """The answer of a connection that ends after these lines."""
    content = "".join(f"{line}\n" for line in lines).encode()
    return httpx.Response(200, headers={"content-type": "text/event-stream"}, content=content)


@given(
    events=st.lists(st.tuples(st.sampled_from(["delta", "progress", *ENDS]), st.integers(0, 99)), max_size=8),
    cut=st.integers(0, 40),
)
def test_half_an_event_is_forgotten_and_a_whole_one_is_read_once(
    events: list[tuple[str, int]], cut: int
) -> None:
    lines = [
        line
        for number, (name, value) in enumerate(events)
        for line in (f"id: {number}", f"event: {name}", f'data: {{"value": {value}}}', "")
    ]
    reader, found = EventReader(), list[Event]()
    found += reader.read(connection(lines[:cut]))
    whole = min(cut // 4, len(events))
    assert [(event.name, event.data["value"]) for event in found] == events[:whole]
    assert reader.resume() == ({"Last-Event-ID": str(whole - 1)} if whole else {})
    found += reader.read(connection(lines[whole * 4 :]))
    assert [(event.name, event.data["value"]) for event in found] == events
    ends = [value for name, value in events if name in ENDS]
    assert reader.end == ({"value": ends[-1]} if ends else None)

"""Webhooks on a real NATS server and a real receiver: every failure is that webhook's own."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from schemas import wire
from schemas.job_events import Completed, TextOutput
from schemas.openai import Usage
from schemas.subjects import WEBHOOKS_STREAM
from services.bus.connection import Bus
from services.bus.streams import declare
from services.gateway import webhooks as module
from services.gateway.webhooks import MAX_RETRY_S, Webhooks, is_public, pause_s, signature
from services.process.tasks import TaskOwner
from tests.contract.conftest import Connect
from tests.fixtures.gateway_app import soon


class Receiver:
    """An HTTP server that answers as it is told, path by path. holds: paths that are never answered."""

    def __init__(self) -> None:
        self.posts: list[tuple[str, float, dict[str, str], bytes]] = []
        self.statuses: dict[str, list[int]] = {}
        self.holds: set[str] = set()
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in head[1:] if line)
        body = await reader.readexactly(int(headers["content-length"]))
        path = head[0].split(" ")[1]
        self.posts.append((path, time.monotonic(), headers, body))
        if path in self.holds:
            await reader.read()
        else:
            answers = self.statuses.get(path, [204])
            status = answers.pop(0) if len(answers) > 1 else answers[0]
            writer.write(f"HTTP/1.1 {status} x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode())
        writer.close()

    def paths(self) -> list[str]:
        return [path for path, *_ in self.posts]


@asynccontextmanager
async def delivering(bus: Bus, *, allow_private: bool = True) -> AsyncIterator[Receiver]:
    await declare(bus)
    receiver = Receiver()
    server = await asyncio.start_server(receiver.serve, "127.0.0.1", 0)
    receiver.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server, TaskOwner("test") as tasks:
        tasks.start(Webhooks(bus, "secret", allow_private=allow_private).deliver)
        yield receiver


async def order(bus: Bus, job: str, url: str) -> None:
    event = Completed(
        job=job, model="m", created_at=1.0, finished_at=2.0, webhook=url,
        output=TextOutput("hi", "stop", Usage(1, 1, 2)),
    )  # fmt: skip
    await bus.publish_stored(bus.subjects.webhook(job), wire.encode(event), message_id=job)


async def undelivered(bus: Bus) -> int:
    return int((await bus.jetstream.stream_info(WEBHOOKS_STREAM)).state.messages)


async def test_a_webhook_is_posted_signed_and_then_forgotten(connected: Connect) -> None:
    async with connected() as bus, delivering(bus) as receiver:
        await order(bus, "j", f"{receiver.url}/hook")
        await soon(lambda: receiver.posts)
        path, _, headers, body = receiver.posts[0]
        timestamp = int(headers["stoker-signature"].removeprefix("t=").partition(",")[0])
        assert path == "/hook"
        assert headers["stoker-job"] == "j"
        assert headers["stoker-signature"] == signature("secret", timestamp, body)
        await eventually_none(bus)


async def eventually_none(bus: Bus) -> None:
    async def is_empty() -> bool:
        return await undelivered(bus) == 0

    await soon(is_empty, "no webhook left")


async def test_one_that_fails_is_repeated_with_growing_pauses(
    connected: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "FIRST_RETRY_S", 0.2)
    async with connected() as bus, delivering(bus) as receiver:
        receiver.statuses["/bad"] = [500, 503, 204]
        await order(bus, "j", f"{receiver.url}/bad")
        await soon(lambda: len(receiver.posts) == 3)
        first, second, third = (at for _, at, *_ in receiver.posts)
        assert 0.15 < second - first < third - second
        await eventually_none(bus)


async def test_a_receiver_that_does_not_answer_holds_up_no_other(connected: Connect) -> None:
    async with connected() as bus, delivering(bus) as receiver:
        receiver.holds.add("/slow")
        await order(bus, "slow", f"{receiver.url}/slow")
        await soon(lambda: receiver.posts)
        for number in range(20):
            await order(bus, f"j{number}", f"{receiver.url}/{number}")
        await asyncio.wait_for(soon(lambda: len(receiver.posts) == 21), 5)
        assert set(receiver.paths()) >= {f"/{number}" for number in range(20)}


@pytest.mark.parametrize(
    "url",
    ["http://[", "http://a b/", "http://127.0.0.1:9/", "http://xn--a.example.invalid/", "http://" + "a" * 300],
)
async def test_whatever_is_wrong_with_one_the_next_is_delivered(connected: Connect, url: str) -> None:
    async with connected() as bus, delivering(bus) as receiver:
        await bus.publish_stored(bus.subjects.webhook("unreadable"), b"{", message_id="unreadable")
        await order(bus, "wrong", url)
        await order(bus, "right", f"{receiver.url}/right")
        await soon(lambda: receiver.paths())
        assert receiver.paths() == ["/right"]


async def test_a_private_address_is_refused_for_good(connected: Connect) -> None:
    async with connected() as bus, delivering(bus, allow_private=False) as receiver:
        await order(bus, "j", f"{receiver.url}/hook")
        await eventually_none(bus)
        assert receiver.posts == []


def test_pauses_double_up_to_a_limit() -> None:
    pauses = [pause_s(tries) for tries in range(1, 20)]
    assert pauses[:4] == [1.0, 2.0, 4.0, 8.0]
    assert pauses == sorted(pauses)
    assert pauses[-1] == MAX_RETRY_S


@pytest.mark.parametrize(
    ("address", "expected"),
    [("8.8.8.8", True), ("10.0.0.1", False), ("169.254.169.254", False), ("::1", False), ("fe80::1", False)],
)
def test_addresses_are_public_or_not(address: str, expected: bool) -> None:
    assert is_public(address) is expected

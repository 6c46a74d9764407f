"""Webhooks on a real NATS server and a real receiver: every failure is that webhook's own."""

import asyncio
import base64
import contextlib
import hashlib
import hmac
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import aiodns
import msgspec
import pycares
import pytest
import standardwebhooks

from stoker.schemas import wire
from stoker.schemas.job_events import Completed, Output, TextOutput, ValueOutput
from stoker.schemas.openai import Usage
from stoker.schemas.subjects import WEBHOOKS_STREAM
from stoker.services.bus.connection import Bus
from stoker.services.bus.seals import SealKey, Seals
from stoker.services.bus.streams import declare
from stoker.services.gateway import webhooks as module
from stoker.services.gateway.jobs.webhook_urls import WebhookRules
from stoker.services.gateway.webhook_receivers import EACH
from stoker.services.gateway.webhooks import MAX_RETRY_S, Webhooks, pause_s, signature, standard_signature
from stoker.services.process.tasks import TaskOwner
from stoker.services.records.blobs import write_blob
from stoker.services.records.outputs import apart
from tests.contract.conftest import Connect
from tests.fixtures.gateway_app import soon
from tests.waiting import eventually

SECRET = "whsec_" + base64.b64encode(b"k" * 32).decode()


class Receiver:
    """An HTTP server that answers as it is told, path by path. holds: paths that are never answered."""

    def __init__(self) -> None:
        self.posts: list[tuple[str, float, dict[str, str], bytes]] = []
        self.statuses: dict[str, list[int]] = {}
        self.holds: set[str] = set()
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        lines = [line.split(": ", 1) for line in head[1:] if line]
        headers = {name.lower(): value for name, value in lines}
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
async def delivering(bus: Bus, *, allow_private: bool = True, secret: str = SECRET) -> AsyncIterator[Receiver]:
    await declare(bus)
    receiver = Receiver()
    server = await asyncio.start_server(receiver.serve, "127.0.0.1", 0)
    receiver.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server, TaskOwner("test") as tasks:
        rules = WebhookRules(allow_private, frozenset())
        tasks.start(Webhooks(bus, secret, rules).deliver)
        yield receiver


HI = TextOutput("hi", "stop", Usage(1, 1, 2))


async def order(bus: Bus, job: str, url: str, output: Output = HI) -> None:
    event = Completed(job=job, model="m", created_at=1.0, finished_at=2.0, webhook=url, output=output)
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
        assert headers["stoker-signature"] == signature(SECRET, timestamp, body)
        assert headers["webhook-id"] == "j"
        assert headers["webhook-timestamp"] == str(timestamp)
        assert headers["webhook-signature"] == standard_signature(SECRET, "j", timestamp, body)
        assert headers["content-type"] == "application/json"
        await eventually_none(bus)


async def test_the_standards_own_library_accepts_what_is_posted_with_the_key_that_is_printed(
    connected: Connect,
) -> None:
    async with connected() as bus:
        seals = Seals(SealKey(b"s" * 32))
        printed = seals.webhook_secret()  # what `stoker webhook-secret` prints
        assert printed.startswith("whsec_")
        async with delivering(bus, secret=printed) as receiver:
            await order(bus, "job-1", f"{receiver.url}/hook")
            await soon(lambda: receiver.posts)
            _, _, headers, body = receiver.posts[0]
        receiving = standardwebhooks.Webhook(printed)
        assert receiving.verify(body, headers)["id"] == "job-1"
        for changed in (body.replace(b"job-1", b"job-2"), body + b" "):
            with pytest.raises(standardwebhooks.WebhookVerificationError):
                receiving.verify(changed, headers)
        with pytest.raises(standardwebhooks.WebhookVerificationError):
            receiving.verify(body, headers | {"webhook-id": "job-2"})
        with pytest.raises(standardwebhooks.WebhookVerificationError):
            receiving.verify(body, headers | {"webhook-timestamp": "1614265330"})


async def eventually_none(bus: Bus) -> None:
    async def is_empty() -> bool:
        return await undelivered(bus) == 0

    await soon(is_empty, "no webhook left")


async def test_a_result_that_lies_as_a_blob_is_posted_whole_and_one_that_is_gone_is_put_aside(
    connected: Connect,
) -> None:
    async with connected() as bus, delivering(bus) as receiver:
        value = ValueOutput(blob=await write_blob(bus, "v", b'{"a":1}', is_sealed=True))
        whole = Completed(job="t", model="m", created_at=1.0, finished_at=2.0, output=HI)
        text = await apart(bus, whole)
        assert text is not None
        for job, output in (
            ("t", text.output),
            ("v", value),
            ("gone", TextOutput("", "stop", HI.usage, blob="blob:x")),
        ):
            await order(bus, job, f"{receiver.url}/{job}", output)
        await soon(lambda: len(receiver.posts) == 2)
        posted = {path: msgspec.json.decode(body)["result"] for path, _, _, body in receiver.posts}
        assert (posted["/t"]["text"], posted["/v"]) == ("hi", {"a": 1})
        await eventually_none(bus)


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


async def test_many_receivers_posts_that_hang_hold_up_no_other(
    connected: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sixteen posts that hang were enough for all to wait."""
    async with connected() as bus, delivering(bus) as silent, delivering(bus) as receiver:
        silent.holds = {f"/{number}" for number in range(100)}
        for number in range(100):
            await order(bus, f"silent-{number}", f"{silent.url}/{number}")
        await soon(lambda: len(silent.posts) >= 10)
        for number in range(40):
            await order(bus, f"j{number}", f"{receiver.url}/{number}")
        await asyncio.wait_for(soon(lambda: len(receiver.posts) == 40), 5)
        assert len(silent.posts) <= 2 * EACH, "each of the two that deliver has so many for a receiver"


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


def test_a_signature_is_what_the_standard_webhooks_say() -> None:
    """By hand: base64 of HMAC-SHA256 over "id.timestamp.body", with the key behind the prefix."""
    expected = base64.b64encode(
        hmac.new(b"k" * 32, b'msg_1.1614265330.{"a":1}', hashlib.sha256).digest()
    ).decode()
    assert standard_signature(SECRET, "msg_1", 1614265330, b'{"a":1}') == f"v1,{expected}"
    for odd in ("plain", "whsec_not base64!"):
        assert standard_signature(odd, "msg_1", 1, b"").startswith("v1,"), "any text may be the key"


def resolved(address: bytes) -> pycares.AddrInfoResult:
    node = pycares.AddrInfoNode(60, 0, socket.AF_INET, socket.SOCK_STREAM, 6, (address, 0))
    return pycares.AddrInfoResult([], [node])


def asked_of(silent: socket.socket, names: set[bytes]) -> int:
    """How many names it was asked for so far, and did not tell."""
    with contextlib.suppress(BlockingIOError):
        while True:
            names.add(silent.recv(512)[12:])
    return len(names)


async def test_names_whose_servers_do_not_answer_hold_up_no_other(
    connected: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A dozen of them, which anybody may name, and the gateway resolved nothing for a minute."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        silent.setblocking(False)
        names: set[bytes] = set()
        asking = partial(aiodns.DNSResolver, ["127.0.0.1"], udp_port=silent.getsockname()[1])
        monkeypatch.setattr(aiodns, "DNSResolver", asking)
        monkeypatch.setattr(module, "POST_TIMEOUT_S", 30.0)
        async with connected() as bus, delivering(bus) as receiver:
            for number in range(12):
                await order(bus, f"silent-{number}", f"http://h{number}.example.com/hook")
            await eventually(lambda: asked_of(silent, names) >= 12, 20, "all of them to be asked for")
            await order(bus, "j", f"http://localhost:{receiver.url.rpartition(':')[2]}/hook")
            await soon(lambda: receiver.posts)


async def test_a_name_is_looked_up_once_and_what_was_checked_is_connected_to(
    connected: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name that is public when it is checked and this machine's when it is connected to reaches nothing."""
    looks: list[str] = []

    async def rebinding(_: object, host: str, **more: object) -> pycares.AddrInfoResult:
        looks.append(host)
        return resolved(b"127.0.0.1" if len(looks) > 1 else b"192.88.98.1")

    monkeypatch.setattr(aiodns.DNSResolver, "getaddrinfo", rebinding)
    monkeypatch.setattr(module, "POST_TIMEOUT_S", 0.3)
    async with connected() as bus, delivering(bus, allow_private=False) as receiver:
        await order(bus, "j", f"http://rebinding.example:{receiver.url.rpartition(':')[2]}/hook")
        await soon(lambda: len(looks) == 2)
        await eventually_none(bus)
        assert receiver.posts == [], "the second look was refused, the first connected elsewhere"


async def test_the_name_is_still_what_the_receiver_is_asked_for(
    connected: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def resolve(*_: object, **more: object) -> pycares.AddrInfoResult:
        return resolved(b"127.0.0.1")

    async with connected() as bus, delivering(bus) as receiver:
        monkeypatch.setattr(aiodns.DNSResolver, "getaddrinfo", resolve)
        port = receiver.url.rpartition(":")[2]
        await order(bus, "j", f"http://hooks.example:{port}/a?b=c")
        await soon(lambda: receiver.posts)
        path, _, headers, _ = receiver.posts[0]
        assert (path, headers["host"]) == ("/a?b=c", f"hooks.example:{port}")


async def test_a_receiver_that_is_gone_is_not_asked_again_and_a_redirect_is_not_followed(
    connected: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "FIRST_RETRY_S", 0.1)
    async with connected() as bus, delivering(bus) as receiver:
        receiver.statuses = {"/gone": [410], "/moved": [302, 204]}
        await order(bus, "a", f"{receiver.url}/gone")
        await order(bus, "b", f"{receiver.url}/moved")
        await eventually_none(bus)
        assert sorted(receiver.paths()) == ["/gone", "/moved", "/moved"]

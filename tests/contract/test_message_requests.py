"""Requests by message at a gateway: the answers of HTTP, with its keys and limits; and what messages cannot ask."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import Any

import nats
import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg

from stoker.schemas.keys import ApiKey
from stoker.services.bus.connection import Bus
from stoker.services.gateway.app import ROUTES, dialect_at
from stoker.services.gateway.edge.access import Access
from stoker.services.gateway.edge.access_middleware import with_access
from stoker.services.gateway.edge.problems import RequestError
from stoker.services.gateway.message_requests import MessageRequests, check_path, why_no_inbox
from stoker.services.process.tasks import TaskOwner
from stoker.services.records.keys import digest
from tests.contract.conftest import Connect
from tests.fixtures.gateway_app import PATIENCE_S, Served, served, soon

CHAT = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
SECRET = "sk-stoker-test"


class Stand:
    """A served gateway that takes messages, and a client with a connection of its own."""

    def __init__(self, served: Served, client: Client, stopping: asyncio.Event) -> None:
        self.served = served
        self.client = client
        self.stopping = stopping

    async def send(self, message: Any, **headers: str) -> Msg:
        payload = message if isinstance(message, bytes) else json.dumps(message).encode()
        return await self.client.request(
            "stoker.requests", payload, timeout=PATIENCE_S, headers=headers or None
        )

    async def ask(self, path: str, body: Any, metadata: Any = None, **headers: str) -> Any:
        told = {} if metadata is None else {"metadata": metadata}
        return json.loads((await self.send({"path": path, "body": body, **told}, **headers)).data)

    async def jobs_complete(self) -> None:
        self.served.backend.on_job = self.served.backend.complete


def listeners(bus: Bus) -> int:
    """Subscriptions of this connection that take requests."""
    handlers = bus.client._direct.values()
    return sum(getattr(one, "__qualname__", "") == "MessageRequests._take" for one in handlers)


async def listening(bus: Bus) -> None:
    await soon(lambda: listeners(bus))
    await bus.client.flush()


Start = Callable[..., AbstractAsyncContextManager[Stand]]


@pytest.fixture
def start(connected: Connect, server: str) -> Start:
    @asynccontextmanager
    async def starting(most: int = 8, access: Access | None = None) -> AsyncIterator[Stand]:
        async with connected("gateway") as bus, connected("backend") as other, served(bus, other) as found:
            app = found.app
            if access is not None:
                app = with_access(app, access, found.gateway.limits.request, dialect_at)
            stopping = asyncio.Event()
            async with TaskOwner("test") as tasks:
                tasks.start(partial(MessageRequests(bus, app, most, "gw:1").run, stopping))
                client = await nats.connect(server)
                stand = Stand(found, client, stopping)
                await listening(bus)
                try:
                    yield stand
                finally:
                    await client.close()

    return starting


async def test_the_answer_is_that_of_http_with_the_metadata_of_the_request(start: Start) -> None:
    async with start() as stand:
        await stand.jobs_complete()
        sent = {"path": "/v1/chat/completions", "body": CHAT, "metadata": {"id": 123, "deep": {"a": [1]}}}
        message = await stand.send(sent, **{"X-Request-Id": "mine"})
        answer = json.loads(message.data)
        assert set(answer) == {"status_code", "body", "metadata"}
        assert (answer["status_code"], answer["metadata"]) == (200, sent["metadata"])
        assert answer["body"]["choices"][0]["message"]["content"] == "hello"
        assert message.headers["x-request-id"] == "mine"
        assert message.headers["x-job-id"] == (await stand.served.backend.job()).id
        http = await stand.served.ask("POST", "/v1/chat/completions", CHAT, content_type="application/json")
        assert set(http.json()) == set(answer["body"])


async def test_path_and_slash_may_be_left_out_as_at_kubeai(start: Start) -> None:
    async with start() as stand:
        await stand.jobs_complete()
        bare = json.loads((await stand.send({"body": {"model": "m", "prompt": "x"}})).data)
        assert (bare["status_code"], bare["body"]["object"], bare["metadata"]) == (200, "text_completion", {})
        assert (await stand.ask("v1/chat/completions", CHAT))["body"]["object"] == "chat.completion"


WRONG: list[tuple[Any, int, str]] = [
    (b"", 400, "a message is"),
    (b"no json", 400, "a message is"),
    (b"[1]", 400, "a message is"),
    (b"\xff", 400, "a message is"),
    (b"[" * 100_000, 400, "a message is"),
    ({"path": 3}, 400, "path"),
    ({"pth": "/v1/completions"}, 400, "pth"),
    ({"metadata": [1]}, 400, "metadata"),
    ({"body": {"model": "none", "prompt": "x"}}, 404, "none"),
    ({"body": {"prompt": "x"}}, 400, "model"),
    ({"body": "text"}, 400, "object"),
    ({"path": "/v1/nothing", "body": {}}, 404, ""),
    ({"path": "/v1/models", "body": {}}, 400, "asked by HTTP only"),
    ({"path": "/v1/audio/transcriptions", "body": {}}, 400, "asked by HTTP only"),
    ({"path": "/generate", "body": {}}, 400, "asked by HTTP only"),
    ({"path": "/v1/chat/completions", "body": {**CHAT, "stream": True}}, 400, "one message"),
    ({"path": "/api/chat", "body": CHAT}, 400, "one message"),
]


async def test_what_is_wrong_is_said(start: Start) -> None:
    async with start() as stand:
        for message, status, says in WRONG:
            answer = json.loads((await stand.send(message)).data)
            assert answer["status_code"] == status and says in json.dumps(answer["body"]), (message, answer)
        await soon(lambda: stand.served.gateway.admission.generations == 0)


async def test_ollamas_routes_answer_when_they_are_asked_not_to_stream(start: Start) -> None:
    async with start() as stand:
        await stand.jobs_complete()
        answer = await stand.ask("/api/chat", {**CHAT, "stream": False})
        assert (answer["status_code"], answer["body"]["message"]["content"]) == (200, "hello")


async def test_a_key_is_needed_where_http_needs_one_and_its_limits_count(start: Start) -> None:
    access = Access(is_required=True)
    access.changed("k", ApiKey("k", "test", digest(SECRET), time.time(), requests_per_minute=2))
    async with start(access=access) as stand:
        await stand.jobs_complete()
        none = await stand.ask("/v1/chat/completions", CHAT)
        assert (none["status_code"], none["body"]["error"]["code"]) == (401, "invalid_api_key")
        wrong = await stand.ask("/v1/chat/completions", CHAT, Authorization="Bearer wrong")
        assert wrong["status_code"] == 401
        with_header = await stand.ask("/v1/chat/completions", CHAT, Authorization=f"Bearer {SECRET}")
        assert with_header["status_code"] == 200
        told = {"authorization": f"Bearer {SECRET}", "n": 1}
        with_metadata = await stand.ask("/v1/chat/completions", CHAT, told)
        assert (with_metadata["status_code"], with_metadata["metadata"]) == (200, {"n": 1}), "no key comes back"
        assert [job.tenant for job in stand.served.backend.jobs] == ["k", "k"]
        third = await stand.send(
            {"path": "/v1/chat/completions", "body": CHAT}, Authorization=f"Bearer {SECRET}"
        )
        assert json.loads(third.data)["status_code"] == 429 and int(third.headers["retry-after"]) > 0


async def test_what_asks_for_no_answer_or_for_one_elsewhere_is_not_run(start: Start) -> None:
    async with start() as stand:
        await stand.jobs_complete()
        heard: list[Msg] = []

        async def hear(message: Msg) -> None:
            heard.append(message)

        await stand.client.subscribe("stoker.cancel.*", cb=hear)
        payload = json.dumps({"path": "/v1/chat/completions", "body": CHAT}).encode()
        await stand.client.publish("stoker.requests", payload)
        await stand.client.publish("stoker.requests", payload, reply="stoker.cancel.j")
        assert (await stand.ask("/v1/chat/completions", CHAT))["status_code"] == 200
        assert len(stand.served.backend.jobs) == 1 and heard == []


async def test_more_than_fit_are_told_to_come_again(start: Start) -> None:
    async with start(most=2) as stand:
        waiting = [asyncio.create_task(stand.ask("/v1/chat/completions", CHAT)) for _ in range(2)]
        await soon(lambda: len(stand.served.backend.jobs) == 2)
        refused = await stand.send({"path": "/v1/chat/completions", "body": CHAT, "metadata": {"n": 3}})
        answer = json.loads(refused.data)
        assert (answer["status_code"], answer["body"]["error"]["code"]) == (503, "busy")
        assert refused.headers["retry-after"] == "1"
        for job in stand.served.backend.jobs:
            await stand.served.backend.complete(job)
        assert [one["status_code"] for one in await asyncio.gather(*waiting)] == [200, 200]
        await stand.jobs_complete()
        assert (await stand.ask("/v1/chat/completions", CHAT))["status_code"] == 200


async def test_an_answer_that_no_message_holds_is_an_error(start: Start) -> None:
    async with start() as stand:
        most = stand.served.gateway.bus.max_payload
        stand.served.backend.on_job = lambda job: stand.served.backend.complete(job, "x" * (most - 2000))
        metadata = {"large": "y" * 3000}
        answer = await stand.ask("/v1/chat/completions", CHAT, metadata)
        assert (answer["status_code"], answer["metadata"]) == (413, {})
        assert answer["body"]["error"]["code"] == "answer_too_large"


async def test_a_gateway_that_stops_takes_no_more_and_answers_those_under_way(start: Start) -> None:
    async with start() as stand:
        waiting = asyncio.create_task(stand.ask("/v1/chat/completions", CHAT))
        job = await stand.served.backend.job()
        stand.stopping.set()
        await soon(lambda: not listeners(stand.served.gateway.bus))
        with pytest.raises(nats.errors.NoRespondersError):
            await stand.ask("/v1/chat/completions", CHAT)
        await stand.served.backend.complete(job)
        assert (await waiting)["status_code"] == 200


async def test_those_whose_time_is_up_are_told_to_ask_again(start: Start, connected: Connect) -> None:
    async with start() as stand, connected("second") as bus:
        async with TaskOwner("second gateway") as tasks:
            stand.stopping.set()
            await soon(lambda: not listeners(stand.served.gateway.bus))
            tasks.start(partial(MessageRequests(bus, stand.served.app, 8, "gw:2").run, asyncio.Event()))
            await listening(bus)
            waiting = asyncio.create_task(stand.ask("/v1/chat/completions", CHAT, {"n": 1}))
            await stand.served.backend.job()
        answer = await waiting
        assert (answer["status_code"], answer["body"]["error"]["code"]) == (503, "stopping")


async def test_one_of_two_gateways_takes_a_message(start: Start, connected: Connect) -> None:
    async with start() as stand, connected("second") as bus, TaskOwner("test") as tasks:
        await stand.jobs_complete()
        second = MessageRequests(bus, stand.served.app, 8, "gw:2")
        tasks.start(partial(second.run, asyncio.Event()))
        await listening(bus)
        answers = await asyncio.gather(*(stand.ask("/v1/chat/completions", CHAT, {"n": n}) for n in range(8)))
        assert [one["metadata"]["n"] for one in answers] == list(range(8))
        assert len(stand.served.backend.jobs) == 8, "each once"


# Rules --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reply", "says"),
    [
        ("_INBOX.abc.1", ""), ("_INBOX.client.abc", ""), ("_INBOX.workers", ""),
        ("stoker.jobs.m", "no inbox"), ("$KV.stoker_keys.k", "no inbox"), ("_INBOX", "no inbox"), ("_INBOXES.a", "no inbox"),
        ("_INBOX.", "no inbox"), ("_INBOX.*", "no inbox"), ("_INBOX.a.>", "no inbox"), ("_INBOX.a b", "no inbox"),
        ("_INBOX.gateway.x", "of the service gateway"), ("_INBOX.worker.w1.x", "of the service worker"),
        ("_INBOX.scheduler.x", "of the service scheduler"),
    ],
)  # fmt: skip
def test_answers_go_to_inboxes_of_clients_only(reply: str, says: str) -> None:
    assert (says in why_no_inbox(reply)) if says else why_no_inbox(reply) == ""


def test_nothing_that_operates_the_fleet_is_asked_by_message() -> None:
    paths = {path for route in ROUTES if route.role != "use" for path in route.paths}
    assert len(paths) > 5
    for path in paths:
        with pytest.raises(RequestError):
            check_path(path.replace("{", "").replace(":path}", "").replace(":int}", "").replace("}", ""))
    for path in ("/v1/chat/completions", "/v1/embeddings", "/v1/messages", "/v1/jobs", "/v1/rerank"):
        check_path(path)

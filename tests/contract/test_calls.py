"""The door for calls of calls, on a real NATS server: whose job a call becomes, and who may ask."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from msgspec import Raw

from stoker.schemas.children import (
    MAX_CHILDREN,
    MAX_DEPTH,
    CallAnswer,
    CallAsked,
    CallLeft,
    NotReturned,
    Returned,
    UnderWay,
    child_id,
)
from stoker.schemas.keys import ApiKey
from stoker.services.bus.seals import SealKey, Seals
from stoker.services.gateway import calls
from stoker.services.gateway.calls import Calls
from stoker.services.process.tasks import TaskOwner
from stoker.services.records.keys import put_key
from tests.contract.conftest import Connect
from tests.fixtures.batches import gateway, published
from tests.fixtures.gateway_app import Served, soon, view

PAYLOAD = b'{"prompt":"hi"}'
CHILD = child_id("p", "m", PAYLOAD, 0)


@asynccontextmanager
async def answering(connected: Connect) -> AsyncIterator[Served]:
    async with gateway(connected) as stand, TaskOwner("test") as tasks:
        stopping = asyncio.Event()
        tasks.start(Calls(stand.gateway).run, stopping)
        yield stand
        tasks.cancel()


async def ask(stand: Served, payload: bytes = PAYLOAD, **fields: Any) -> CallAnswer:
    given = {"parent": "p", "name": "m", "payload": Raw(payload)} | fields
    bus = stand.backend.bus

    async def try_to() -> Any:
        try:
            return await bus.ask(bus.subjects.calls(), CallAsked(**given), CallAnswer, 15.0)
        except Exception as error:  # nobody listens yet
            if "responders" not in str(error) and type(error).__name__ != "NobodyThere":
                raise
            return None

    return await soon(try_to)


async def test_a_call_is_a_job_of_its_parents_tenant_priority_and_depth(connected: Connect) -> None:
    async with answering(connected) as stand:
        await put_key(stand.gateway.bus, ApiKey("k1", "one", "x" * 64, 1.0, priority=2, concurrency=1))
        stand.backend.views["p"] = view("p", tenant="k1", priority=5, depth=3)
        stand.backend.on_job = stand.backend.complete
        answer = await ask(stand)
        assert isinstance(answer, Returned)
        assert (answer.job, b"hello" in bytes(answer.result)) == (CHILD, True)
        job = await stand.backend.job()
        assert (job.id, job.parent, job.depth, job.tenant, job.priority) == (CHILD, "p", 4, "k1", 5)
        again = await ask(stand)  # as a parent does that is run again
        assert again == answer
        other = await ask(stand, nth=1)
        assert isinstance(other, Returned) and other.job != CHILD
        assert max(published(stand).values()) == 1


async def test_only_who_has_the_job_that_asks_can_ask_for_it(connected: Connect) -> None:
    async with answering(connected) as stand:
        stand.backend.views["p"] = view("p")
        await ask(stand, b"{}", name="nobody")  # the door is open
        stand.gateway.bus.seals = Seals(SealKey(b"k" * 32))
        for seal in ("", "forged", stand.gateway.bus.seals.of("another")):
            answer = await ask(stand, seal=seal)
            assert isinstance(answer, NotReturned)
            assert (answer.kind, answer.job, answer.may_pass) == ("auth", "", False)
        assert not published(stand)
        for job in (CHILD, "somebody-elses"):
            left = CallLeft("p", job, stand.gateway.bus.seals.of("p"))
            stand.backend.bus.tell(stand.backend.bus.subjects.calls(), left)
        await soon(lambda: stand.backend.cancelled)
        assert stand.backend.cancelled == [CHILD]


async def test_what_cannot_be_is_said_and_what_may_pass_is_marked(connected: Connect) -> None:
    async with answering(connected) as stand:
        stand.backend.views |= {
            "p": view("p"),
            "deep": view("deep", depth=MAX_DEPTH),
            "many": view("many", child_count=MAX_CHILDREN),
            "over": view("over", status="completed"),
            "late": view("late", deadline_s=1.0),
            "revoked": view("revoked", tenant="gone"),
        }
        wrong: list[tuple[dict[str, Any], str, str]] = [
            ({"name": "nobody"}, "validation", "nobody"),
            ({"payload": b"[1]"}, "validation", "object"),
            ({"payload": b'{"prompt":3}'}, "validation", "array"),
            ({"parent": "deep"}, "validation", "8 deep"),
            ({"parent": "many"}, "validation", "1000 calls"),
            ({"parent": "over"}, "validation", "has ended"),
            ({"parent": "never"}, "validation", "has ended"),
            ({"parent": "late"}, "timeout", "deadline"),
            ({"parent": "revoked"}, "auth", "no longer valid"),
        ]
        for change, kind, said in wrong:
            answer = await ask(stand, **change)
            assert isinstance(answer, NotReturned), change
            assert (answer.kind, answer.may_pass) == (kind, False), answer
            assert said in answer.message, answer
        stand.backend.leads = False
        answer = await ask(stand)
        assert isinstance(answer, NotReturned) and answer.may_pass
        assert not published(stand)


async def test_a_call_that_takes_long_is_said_to_be_under_way(
    connected: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calls, "ANSWER_WITHIN_S", 0.1)
    async with answering(connected) as stand:
        stand.backend.views["p"] = view("p")
        assert await ask(stand) == UnderWay(CHILD)
        job = await stand.backend.job()
        stand.backend.views[job.id] = view(job.id)
        assert await ask(stand) == UnderWay(CHILD)
        await stand.backend.complete(job)
        answer = await ask(stand)
        assert isinstance(answer, Returned)
        assert len(stand.backend.jobs) == 1

"""Engines that only ask servers run in the worker itself: the same answers and ends as from a process of their own."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest

from stoker.schemas.catalog import Spec
from stoker.schemas.job_events import Completed, TextOutput
from stoker.schemas.jobs import ChatInput
from stoker.schemas.openai import ChatMessage
from stoker.schemas.workers import JobCommand
from stoker.services.worker.engines.registry import CAPABILITIES
from stoker.services.worker.runner import supervisor
from tests.contract.conftest import Connect
from tests.contract.worker.agents import WorkerUnderTest, working
from tests.fixtures.openai_server import OpenAIStub
from tests.fixtures.serving import serving
from tests.waiting import eventually

ONLY = {"openai": CAPABILITIES["openai"]}


@pytest.fixture
def stub() -> Iterator[tuple[OpenAIStub, Spec]]:
    found = OpenAIStub()
    with serving(found.app()) as url:
        yield found, Spec("default", "openai", f"{url}/v1", options={"model": "big"})


@asynccontextmanager
async def asking(connected: Connect, spec: Spec) -> AsyncIterator[WorkerUnderTest]:
    async with connected() as bus, working(bus, models={"m": spec}, engines=ONLY) as worker:
        yield worker


def chat(text: str) -> ChatInput:
    return ChatInput((ChatMessage("user", text),))


async def test_jobs_run_in_the_worker_without_a_process(
    connected: Connect, stub: tuple[OpenAIStub, Spec]
) -> None:
    async with asking(connected, stub[1]) as worker:
        for number in range(20):
            worker.assign(f"j{number}", stub[1], job_input=chat("one two three"), wants_events=number % 2 == 0)
        for number in range(20):
            event = await worker.ended(f"j{number}")
            assert isinstance(event, Completed) and isinstance(event.output, TextOutput)
            assert event.output.text == "one two three "
        assert worker.agent.runners.of("openai").pid == 0
        assert "openai" in worker.beat.engines
        worker.check_nothing_is_held()


async def test_a_cancelled_job_ends_and_breaks_its_request_off(
    connected: Connect, stub: tuple[OpenAIStub, Spec]
) -> None:
    async with asking(connected, stub[1]) as worker:
        worker.assign("j", stub[1], job_input=chat("word " * 500), wants_events=True)
        await worker.runs("j")
        await eventually(lambda: stub[0].bodies)
        assert worker.agent.cancel(JobCommand("j"))
        assert (await worker.outcome("j")).outcome == "cancelled"
        await eventually(lambda: stub[0].broken_off == 1)
        worker.check_nothing_is_held()


async def test_a_server_that_is_not_there_fails_the_load_only(connected: Connect) -> None:
    spec = Spec("default", "openai", "http://127.0.0.1:9/v1", options={"model": "big"})
    async with asking(connected, spec) as worker:
        worker.assign("j", spec, job_input=chat("x"))
        ended = await worker.outcome("j")
        assert ended.outcome != "completed"
        worker.check_nothing_is_held()


async def test_one_that_is_ended_loses_its_jobs_and_another_takes_its_place(
    connected: Connect, stub: tuple[OpenAIStub, Spec], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "FIRST_PAUSE_S", 0.05)
    async with asking(connected, stub[1]) as worker:
        worker.assign("j", stub[1], job_input=chat("word " * 500), wants_events=True)
        await worker.runs("j")
        worker.agent.runners.of("openai").kill()
        assert (await worker.outcome("j")).outcome == "lost"
        await asyncio.wait_for(worker.agent.runners.of("openai").wait_ready(20), 20)
        worker.assign("k", stub[1], job_input=chat("one"))
        assert isinstance(await worker.ended("k"), Completed)
        worker.check_nothing_is_held()

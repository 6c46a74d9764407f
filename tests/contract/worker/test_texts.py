"""How text leaves a worker: together where one gateway takes it, joined where it asks for that, and in order."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from nats.aio.msg import Msg

from stoker.schemas import wire
from stoker.schemas.job_events import (
    Alternative,
    CallPart,
    Completed,
    Delta,
    LiveEvent,
    TextBatch,
    TextOfJob,
    TextOutput,
    TextPace,
    TokenChance,
)
from stoker.schemas.subjects import ANY, BATCH, last_name
from stoker.schemas.workers import JobCommand, ReplayRequest
from stoker.services.worker import heartbeats
from stoker.services.worker.jobs.texts import MAX_CHARS
from stoker.services.worker.runner.messages import Text
from tests.contract.conftest import Connect
from tests.contract.worker.agents import WorkerUnderTest, spec_of, working
from tests.waiting import eventually

SPEC = spec_of(tokens=40, token_interval_s=0.01, slots=32)
TOGETHER: dict[str, Any] = {"wants_events": True, "batches_text": True}


class Gateway:
    """What the jobs' gateway would hear."""

    def __init__(self) -> None:
        self.batches: list[TextBatch] = []
        self.alone: list[tuple[str, LiveEvent]] = []
        self.sizes: list[int] = []

    def hear(self, message: Msg) -> None:
        self.sizes.append(len(message.data))
        if message.subject.endswith(f".{BATCH}"):
            self.batches.append(wire.decode(TextBatch, message.data))
        else:
            self.alone.append((last_name(message.subject), wire.decode(LiveEvent, message.data)))

    def texts(self) -> list[TextOfJob]:
        return [text for batch in self.batches for text in batch.texts]

    def deltas(self, job: str) -> list[Delta]:
        return [text.delta for text in self.texts() if text.job == job]

    def text(self, job: str) -> str:
        """Fails unless the pieces follow each other."""
        whole = ""
        for delta in self.deltas(job):
            assert delta.at == len(whole)
            whole += delta.text
        return whole


@asynccontextmanager
async def heard(connected: Connect) -> AsyncIterator[tuple[WorkerUnderTest, Gateway]]:
    gateway = Gateway()
    async with (
        connected() as bus,
        working(bus, models={"m": SPEC}) as worker,
        bus.listening((bus.subjects.every("out", "gw", ANY), gateway.hear)),
    ):
        yield worker, gateway


def output_of(event: Any) -> TextOutput:
    assert isinstance(event, Completed) and isinstance(event.output, TextOutput)
    return event.output


async def test_text_of_many_jobs_travels_in_few_messages_and_each_is_whole(connected: Connect) -> None:
    jobs = [f"j{number}" for number in range(20)]
    async with heard(connected) as (worker, gateway):
        for job in jobs:
            worker.assign(job, SPEC, **TOGETHER)
        ends = {job: output_of(await worker.ended(job)) for job in jobs}
        for job, output in ends.items():
            assert gateway.text(job) == output.text
            assert sum(delta.tokens for delta in gateway.deltas(job)) == output.usage.completion_tokens
        made = sum(output.usage.completion_tokens for output in ends.values())
        assert len(gateway.batches) < made / 4, "a message for each token, or nearly so"
        assert not [event for _, event in gateway.alone if isinstance(event, Delta)]


async def test_a_heartbeat_says_of_which_runs_something_has_come_lately(
    connected: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heartbeats, "GOES_ON_S", 0.4)
    slow = spec_of(tokens=4, token_interval_s=1.5, prefill_s=1.0, slots=1)
    async with heard(connected) as (worker, gateway):
        worker.assign("j", slow, **TOGETHER)
        await worker.runs("j")
        assert [one.goes_on for one in worker.beat.running] == [False], "nothing has come yet"
        await eventually(lambda: gateway.deltas("j"))
        assert [one.goes_on for one in worker.beat.running] == [True]
        await eventually(lambda: [one.goes_on for one in worker.beat.running] == [False])
        worker.agent.cancel(JobCommand("j"))
        await worker.outcome("j")


async def test_numbers_of_events_have_no_gap_and_the_end_comes_after_the_text(connected: Connect) -> None:
    async with heard(connected) as (worker, gateway):
        worker.agent.reports.pace(TextPace("gw", 1.0))
        worker.assign("j", SPEC, **TOGETHER)
        end = await worker.ended("j")
        assert end is not None
        small = [event.seq for job, event in gateway.alone if job == "j" and not isinstance(event, Delta)]
        assert sorted([*small, *(delta.seq for delta in gateway.deltas("j"))]) == list(range(1, end.seq))
        assert gateway.text("j") == output_of(end).text, "what waits is sent before the end"


async def test_what_waits_for_a_gateway_that_lags_is_joined(connected: Connect) -> None:
    async with heard(connected) as (worker, gateway):
        worker.assign("quick", SPEC, **TOGETHER)
        await worker.outcome("quick")
        worker.agent.reports.pace(TextPace("gw", 0.2))
        worker.assign("slow", SPEC, **TOGETHER)
        output = output_of(await worker.ended("slow"))
        assert gateway.text("slow") == output.text
        assert len(gateway.deltas("slow")) < len(gateway.deltas("quick")) / 2
        worker.agent.reports.pace(TextPace("gw", 0.0))
        worker.assign("again", SPEC, **TOGETHER)
        await worker.outcome("again")
        assert len(gateway.deltas("again")) > len(gateway.deltas("slow"))


async def test_a_job_that_another_gateway_watches_has_messages_of_its_own(connected: Connect) -> None:
    async with heard(connected) as (worker, gateway):
        worker.assign("j", SPEC, **TOGETHER)
        await eventually(lambda: gateway.deltas("j"))
        missed = worker.agent.replay(ReplayRequest("j"))
        chars = sum(len(event.text) for event in missed.events if isinstance(event, Delta))
        output = output_of(await worker.ended("j"))
        later = [event for job, event in gateway.alone if job == "j" and isinstance(event, Delta)]
        assert later and later[0].at == chars
        assert output.text == gateway.text("j")[:chars] + "".join(delta.text for delta in later)


async def test_jobs_of_a_gateway_of_before_have_messages_of_their_own(connected: Connect) -> None:
    async with heard(connected) as (worker, gateway):
        worker.assign("j", SPEC, wants_events=True)
        output = output_of(await worker.ended("j"))
        assert "".join(event.text for _, event in gateway.alone if isinstance(event, Delta)) == output.text
        assert not gateway.batches


async def test_nothing_is_sent_of_what_nobody_watches_and_a_replay_has_it(connected: Connect) -> None:
    async with heard(connected) as (worker, gateway):
        worker.assign("j", SPEC)
        await worker.runs("j")
        attempt = worker.agent.core.current("j")
        assert attempt is not None
        await asyncio.sleep(0)
        worker.agent.reports.text(attempt, Text(attempt.key, "unwatched", 1))
        assert not gateway.batches and not gateway.alone
        [event] = [one for one in worker.agent.replay(ReplayRequest("j")).events if isinstance(one, Delta)]
        assert event.text.endswith("unwatched")
        await worker.outcome("j")


async def test_reasoning_and_answer_stay_apart_and_long_text_is_cut(connected: Connect) -> None:
    async with heard(connected) as (worker, gateway):
        worker.agent.reports.pace(TextPace("gw", 1.0))
        worker.assign("j", SPEC, **TOGETHER)
        await worker.runs("j")
        attempt = worker.agent.core.current("j")
        assert attempt is not None
        for text, is_reasoning in (("think", True), ("ing", True), ("answer", False), ("x" * MAX_CHARS, False)):
            worker.agent.reports.text(attempt, Text(attempt.key, text, 1, is_reasoning))
        worker.agent.reports.text(attempt, Text(attempt.key, "y" * (2 * MAX_CHARS + 1), 3))
        worker.agent.reports.flush(attempt)
        await eventually(lambda: "y" in gateway.text("j")[-1:])
        assert max(len(delta.text) for delta in gateway.deltas("j")) <= MAX_CHARS
        whole = gateway.text("j")
        assert "thinkinganswer" in whole and whole.endswith("y" * (2 * MAX_CHARS + 1))
        await worker.outcome("j")


async def test_long_text_and_the_end_at_once_are_in_order_where_nothing_waits(connected: Connect) -> None:
    async with heard(connected) as (worker, gateway):
        worker.assign("j", SPEC, **TOGETHER)
        await worker.runs("j")
        attempt = worker.agent.core.current("j")
        assert attempt is not None
        said = "".join(letter * MAX_CHARS for letter in "xyz")
        worker.agent.reports.text(attempt, Text(attempt.key, said, 3))
        worker.agent.reports.flush(attempt)
        await eventually(lambda: "z" in gateway.text("j"))
        assert said in gateway.text("j")
        await worker.outcome("j")


async def test_probabilities_and_calls_count_to_the_size_of_a_message(connected: Connect) -> None:
    top = tuple(Alternative(f"word{number}", -1.5, tuple(b"word")) for number in range(20))
    chances = tuple(TokenChance("w", -0.5, (119,), top) for _ in range(60))
    calls = (CallPart(0, "call", "look", "a" * 40_000),)
    async with heard(connected) as (worker, gateway):
        jobs = [f"j{number}" for number in range(20)]
        for job in jobs:
            worker.assign(job, SPEC, **TOGETHER)
        for job in jobs:
            await worker.runs(job)
        attempts = [worker.agent.core.current(job) for job in jobs]
        for attempt in filter(None, attempts):
            worker.agent.reports.text(attempt, Text(attempt.key, "w" * 60, 60, logprobs=chances))
            worker.agent.reports.text(attempt, Text(attempt.key, "", 1, calls=calls))
        for job in jobs:
            await worker.outcome(job)
        assert max(gateway.sizes) < 1_000_000, "more than a server takes where nothing else is said"
        assert all(len(one.calls) == 1 for job in jobs for one in gateway.deltas(job) if one.calls)

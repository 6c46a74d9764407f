"""Runners that cannot hurt each other: a process for each family of engines, with which only that family dies."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest

from stoker.schemas.catalog import Spec
from stoker.schemas.jobs import CallInput, ImageInput
from stoker.schemas.workers import EngineCapability, JobCommand, Resources
from stoker.services.process.tasks import TaskOwner
from stoker.services.worker.agent import Limits
from stoker.services.worker.engines.registry import CAPABILITIES, HANDLERS_VARIABLE
from stoker.services.worker.runner import supervisor
from stoker.services.worker.runner.messages import Message, Prepare, Run, RunFailed, Usage
from stoker.services.worker.runner.process import RunnerAway
from stoker.services.worker.runner.runners import Engines, Listener, Runners
from tests.contract.conftest import Connect
from tests.contract.worker.agents import DEFAULT_LIMITS, MB, WorkerUnderTest, spec_of, working
from tests.waiting import eventually

BOTH = {name: CAPABILITIES[name] for name in ("synthetic", "custom")}
SLEEP = Spec("default", "custom", "", memory_bytes=10 * MB)
TEXT = spec_of(tokens=60, token_interval_s=0.03)
MODELS = {"m": TEXT, "time:sleep": SLEEP}


@pytest.fixture(autouse=True)
def _handlers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(HANDLERS_VARIABLE, "time:sleep")
    monkeypatch.setattr(supervisor, "FIRST_PAUSE_S", 0.05)


@asynccontextmanager
async def mixed(
    connected: Connect,
    limits: Limits = DEFAULT_LIMITS,
    engines: dict[str, EngineCapability] = BOTH,
    models: dict[str, Spec] = MODELS,
    memory_mb: int = 100,
) -> AsyncIterator[WorkerUnderTest]:
    """A worker with two families, both runners ready."""
    async with (
        connected() as bus,
        working(bus, memory_mb=memory_mb, models=models, limits=limits, engines=engines) as worker,
    ):
        await eventually(lambda: worker.agent.runners.pids().keys() == {"synthetic", "functions"}, 30)
        yield worker


def sleep(worker: WorkerUnderTest, job: str, seconds: float, **fields: Any) -> None:
    worker.assign(job, SLEEP, model="time:sleep", job_input=CallInput((seconds,)), **fields)


def custom_pid(worker: WorkerUnderTest) -> int:
    return worker.agent.runners.pids().get("functions", 0)


async def test_the_end_of_one_family_is_none_of_the_others(connected: Connect) -> None:
    async with mixed(connected) as worker:
        worker.assign("text", TEXT)
        sleep(worker, "sleeps", 30.0)
        await worker.runs("text")
        await worker.runs("sleeps")
        first = worker.runner.pid
        os.kill(custom_pid(worker), signal.SIGKILL)
        told = await worker.outcome("sleeps")
        assert (told.outcome, told.was_killed) == ("lost", True)
        assert (worker.phase("text"), worker.runner.pid) == ("running", first)
        loader = worker.agent.loader
        assert loader.is_hot("m", TEXT) and not loader.is_hot("time:sleep", SLEEP)
        assert (worker.beat.engines.keys(), worker.beat.coming.keys()) == ({"synthetic"}, {"custom"})
        sleep(worker, "again", 0.0, attempt=2)
        assert (await worker.outcome("again")).outcome == "completed"
        assert (worker.beat.engines, worker.beat.coming) == (BOTH, {})
        text = await worker.outcome("text")
        assert (text.outcome, text.attempt, worker.runner.starts) == ("completed", 1, 1)
        worker.check_nothing_is_held()


async def test_a_load_of_one_family_does_not_fail_with_the_runner_of_another(connected: Connect) -> None:
    slow = spec_of(load_s=1.0)
    async with mixed(connected, models={**MODELS, "slow": slow}) as worker:
        worker.assign("a", slow, model="slow")
        await eventually(lambda: worker.agent.loader.cache.tier("slow") == "loading")
        os.kill(custom_pid(worker), signal.SIGKILL)
        assert (await worker.outcome("a")).outcome == "completed"
        assert worker.agent.loader.failures.counts == {}


async def test_only_the_engines_of_a_silent_runner_are_not_told(
    connected: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "PULSE_S", 0.1)
    monkeypatch.setattr(supervisor, "SILENT_S", 0.4)
    async with mixed(connected, Limits(runner_silent_s=1.5)) as worker:
        worker.assign("text", TEXT)
        first = custom_pid(worker)
        os.kill(first, signal.SIGSTOP)
        await eventually(lambda: worker.beat.coming.keys() == {"custom"}, what="it to be silent")
        assert worker.beat.engines.keys() == {"synthetic"}
        await eventually(lambda: custom_pid(worker) not in (0, first), 30, "another runner")
        assert (await worker.outcome("text")).outcome == "completed"
        assert worker.runner.starts == 1


async def test_a_slot_of_a_lane_that_dies_with_one_family_goes_to_another(connected: Connect) -> None:
    lane = {name: msgspec.structs.replace(one, slots=1, lane="device") for name, one in BOTH.items()}
    async with mixed(connected, engines=lane) as worker:
        worker.assign("text", spec_of(tokens=1000, token_interval_s=0.05))
        await worker.runs("text")
        worker.assign("behind", TEXT)
        sleep(worker, "sleeps", 0.0)
        await eventually(lambda: (worker.phase("sleeps"), worker.phase("behind")) == ("ready", "ready"))
        os.kill(worker.runner.pid, signal.SIGKILL)
        assert (await worker.outcome("sleeps")).outcome == "completed"
        for job in ("text", "behind"):
            told = await worker.outcome(job)
            assert (told.outcome, told.was_killed) == ("lost", True)
        worker.check_nothing_is_held()


async def test_an_engine_that_does_not_stop_is_ended_though_another_family_lives(connected: Connect) -> None:
    async with mixed(connected, Limits(stop_grace_s=0.2)) as worker:
        worker.assign("text", TEXT)
        sleep(worker, "sleeps", 30.0)
        await worker.runs("text")
        await worker.runs("sleeps")
        first = custom_pid(worker)
        worker.agent.cancel(JobCommand("sleeps"))
        assert (await worker.outcome("sleeps")).outcome == "cancelled"
        await eventually(lambda: custom_pid(worker) not in (0, first), 30)
        assert (await worker.outcome("text")).outcome == "completed"
        assert worker.runner.starts == 1


async def test_an_engine_has_as_long_to_stop_as_its_steps_take(connected: Connect) -> None:
    stubborn = spec_of(stubborn_s=0.6)
    models = {"m": stubborn}
    async with connected() as bus, working(bus, models=models, limits=Limits(stop_grace_s=0.1)) as worker:
        worker.assign("first", stubborn, job_input=ImageInput("x"))
        assert (await worker.outcome("first")).outcome == "completed"
        worker.assign("left", stubborn, job_input=ImageInput("x"))
        await worker.runs("left")
        worker.agent.cancel(JobCommand("left"))
        assert (await worker.outcome("left")).outcome == "cancelled"
        assert worker.runner.starts == 1
        worker.assign("hangs", spec_of(stubborn_s=30.0), model="other", job_input=ImageInput("x"))
        worker.agent.loader.unload("m")
        await worker.runs("hangs")
        worker.agent.cancel(JobCommand("hangs"))
        assert (await worker.outcome("hangs")).outcome == "cancelled", "no step of these weights was seen"
        await eventually(lambda: worker.runner.starts == 2, 30)


async def test_steps_give_no_more_time_than_the_run_may_take(connected: Connect) -> None:
    stubborn = spec_of(stubborn_s=1.0)
    limits = Limits(stop_grace_s=0.1)
    async with connected() as bus, working(bus, models={"m": stubborn}, limits=limits) as worker:
        worker.assign("first", stubborn, job_input=ImageInput("x"))
        await worker.outcome("first")
        worker.assign("slow", stubborn, job_input=ImageInput("x"), run_timeout_s=0.2)
        assert (await worker.outcome("slow")).outcome == "failed"
        await eventually(lambda: worker.runner.starts == 2, 30)


@pytest.mark.parametrize("how_it_goes_on", [signal.SIGCONT, signal.SIGKILL])
async def test_a_load_waits_until_another_process_has_given_the_memory_back(
    connected: Connect, how_it_goes_on: signal.Signals
) -> None:
    big, asleep = spec_of(80), msgspec.structs.replace(SLEEP, memory_bytes=60 * MB)
    async with mixed(connected, models={"m": big, "time:sleep": asleep}) as worker:
        loader = worker.agent.loader
        worker.agent.load("m", big)
        await eventually(lambda: loader.is_hot("m", big))
        pid = worker.runner.pid
        os.kill(pid, signal.SIGSTOP)  # it holds the memory, and does not hear that it should not
        worker.assign("a", asleep, model="time:sleep", job_input=CallInput((0,)))
        await eventually(lambda: loader.answers.leaving_bytes == 80 * MB)
        assert loader.cache.tier("time:sleep") == "loading"
        await asyncio.sleep(0.3)  # longer than that load takes
        assert worker.phase("a") == "preparing"
        os.kill(pid, how_it_goes_on)
        assert (await worker.outcome("a")).outcome == "completed"
        assert loader.answers.leaving_bytes == 0
        worker.check_nothing_is_held()


async def test_twenty_that_leave_in_the_middle_cost_another_family_nothing(connected: Connect) -> None:
    async with mixed(connected, Limits(stop_grace_s=0.1)) as worker:
        worker.assign("text", TEXT)
        await worker.runs("text")
        for number in range(20):
            sleep(worker, f"left{number}", 0.05)
        await worker.runs("left0")
        for number in range(20):
            worker.agent.cancel(JobCommand(f"left{number}"))
        for number in range(20):
            assert (await worker.outcome(f"left{number}")).outcome in ("cancelled", "completed")
        told = await worker.outcome("text")
        assert (told.outcome, told.attempt, worker.runner.starts) == ("completed", 1, 1)
        worker.check_nothing_is_held()


@pytest.mark.parametrize("is_cancelled", [False, True])
async def test_a_run_that_found_no_memory_waits_until_there_is_some(
    connected: Connect, monkeypatch: pytest.MonkeyPatch, is_cancelled: bool
) -> None:
    async with mixed(connected) as worker:
        loader, runners = worker.agent.loader, worker.agent.runners
        worker.agent.load("time:sleep", SLEEP)
        await eventually(lambda: loader.is_hot("time:sleep", SLEEP))
        loader.cache.entries["time:sleep"].memory_bytes = 10 * MB  # of the engine's own, it has none
        worker.assign("text", TEXT)
        await worker.runs("text")
        attempt = worker.agent.core.current("text")
        assert attempt is not None
        again: list[str] = []
        send = runners.send

        def note(engine: str, message: Message) -> None:
            if isinstance(message, Run):
                again.append(message.job)
            send(engine, message)

        monkeypatch.setattr(runners, "send", note)
        os.kill(custom_pid(worker), signal.SIGSTOP)  # it holds memory, and does not hear that it should not
        worker.agent.runs.take(RunFailed(attempt.key, "resource", "out of memory"))
        assert (attempt.runs, again, loader.answers.leaving_bytes) == (2, [], 10 * MB)
        if is_cancelled:
            os.kill(worker.runner.pid, signal.SIGSTOP)  # no engine answers
            worker.agent.cancel(JobCommand("text"))
        os.kill(custom_pid(worker), signal.SIGCONT)
        told = await worker.outcome("text")
        os.kill(worker.runner.pid, signal.SIGCONT)
        expected = ("cancelled", []) if is_cancelled else ("completed", [attempt.key])
        assert (told.outcome, again) == expected
        worker.check_nothing_is_held()


# Without an agent ---------------------------------------------------------------------------------


class Heard:
    """What runners tell."""

    def __init__(self) -> None:
        self.events: list[tuple[str, Engines]] = []

    def listener(self) -> Listener:
        return Listener(
            lambda message: None,
            lambda engines: self.events.append(("ready", engines)),
            lambda engines, status, was_killed: self.events.append(("died", engines)),
            lambda: None,
            lambda engines: False,
        )


async def test_one_family_is_started_at_once_and_of_several_each_at_its_first_message() -> None:
    heard = Heard()
    async with TaskOwner("test") as tasks:
        alone = Runners(["synthetic"], tasks, heard.listener())
        alone.start()
        assert alone.away() == {"synthetic"}
        several = Runners(["synthetic", "custom", "function"], tasks, heard.listener())
        several.start()
        assert (several.away(), several.pids()) == (set(), {})
        with pytest.raises(RunnerAway):
            several.send("custom", Prepare("custom"))
        assert several.away() == {"custom", "function"}
        await several.wait_ready("function", 30)
        await alone.wait_ready("synthetic", 30)
        assert (several.away(), several.pids().keys()) == (set(), {"functions"})
        several.kill("synthetic")  # there is none
        several.send("custom", Prepare("custom"))
        several.kill("function")
        both = frozenset({"function", "custom"})
        await eventually(lambda: ("died", both) in heard.events, 30)
    assert ("ready", both) in heard.events
    assert ("died", frozenset({"synthetic"})) not in heard.events
    with pytest.raises(RunnerAway, match="stops"):
        Runners(["synthetic"], tasks, heard.listener()).of("synthetic")


async def test_what_they_take_adds_up_and_goes_with_them() -> None:
    heard = Heard()
    async with TaskOwner("test") as tasks:
        runners = Runners(["synthetic", "custom"], tasks, heard.listener())
        for engine in ("synthetic", "custom"):
            await runners.wait_ready(engine, 30)
            runners._take("functions" if engine == "custom" else engine, Usage(Resources(rss_bytes=5)))
        assert runners.resources.rss_bytes == 10
        runners.kill("custom")
        await eventually(lambda: runners.resources.rss_bytes == 5)

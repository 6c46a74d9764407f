"""A worker in this process on a real NATS server, with a real runner process and the synthetic engine."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from nats.aio.msg import Msg

from stoker.schemas import wire
from stoker.schemas.catalog import Model, Spec
from stoker.schemas.job_events import Terminal
from stoker.schemas.jobs import CompletionInput, Job, JobInput
from stoker.schemas.workers import Accepted, Assignment, EngineCapability, Finished, Heartbeat
from stoker.services.bus.connection import Bus
from stoker.services.bus.streams import declare
from stoker.services.process.tasks import TaskOwner
from stoker.services.records.results import Stored, find_result
from stoker.services.worker.agent import Agent, Limits
from stoker.services.worker.engines.registry import CAPABILITIES
from stoker.services.worker.heartbeats import Identity
from stoker.services.worker.models.cache import ModelCache
from stoker.services.worker.runner.supervisor import RunnerSupervisor
from tests.waiting import eventually

MB = 10**6
DEFAULT_LIMITS = Limits()
SYNTHETIC_ONLY = {"synthetic": CAPABILITIES["synthetic"]}


def spec_of(memory_mb: int = 10, slots: int = 0, **options: Any) -> Spec:
    options.setdefault("memory_bytes", memory_mb * MB)
    return Spec("default", "synthetic", "", options=options, memory_bytes=memory_mb * MB, slots=slots)


def model_of(name: str, spec: Spec) -> Model:
    return Model(name, ("TextGeneration",), (spec,))


class WorkerUnderTest:
    """An agent, what it has said is finished, and short ways to give it work."""

    def __init__(self, bus: Bus, agent: Agent) -> None:
        self.bus = bus
        self.agent = agent
        self.finished: dict[str, Finished] = {}

    def on_finished(self, message: Msg) -> None:
        told = wire.decode(Finished, message.data)
        self.finished[told.job] = told

    def assignment(
        self,
        job: str,
        spec: Spec,
        model: str = "m",
        attempt: int = 1,
        term: int = 1,
        job_input: JobInput | None = None,
        fence: int | None = 0,
        **fields: Any,
    ) -> Assignment:
        given: dict[str, Any] = {"has_one_result": True, **fields}
        made = Job(job, model, job_input or CompletionInput("x"), "gw", time.time(), **given)
        return Assignment(made, attempt, term, spec, fence=fence or 0)

    def assign(self, job: str, spec: Spec, **fields: Any) -> None:
        answer = self.agent.assign(self.assignment(job, spec, **fields))
        assert isinstance(answer, Accepted), answer

    @property
    def runner(self) -> RunnerSupervisor:
        """The runner of the synthetic engine."""
        return self.agent.runners.of("synthetic")

    @property
    def beat(self) -> Heartbeat:
        """What a heartbeat says now."""
        return self.agent.heartbeats._heartbeat(is_leaving=False)

    def phase(self, job: str) -> str:
        attempt = self.agent.core.current(job)
        return attempt.phase if attempt is not None else "gone"

    async def runs(self, job: str) -> None:
        await eventually(lambda: self.phase(job) == "running", what=f"{job} to run")

    async def outcome(self, job: str, seconds: float = 15.0) -> Finished:
        found: Finished = await eventually(lambda: self.finished.get(job), seconds, f"the end of {job}")
        return found

    async def end_of(self, job: str) -> Terminal | None:
        """The stored terminal event; None: there is none."""
        found = await find_result(self.bus, job)
        return found.result.event if isinstance(found, Stored) else None

    async def ended(self, job: str) -> Terminal | None:
        """The stored terminal event, once the worker has said that there is one."""
        await self.outcome(job)
        return await self.end_of(job)

    def check_nothing_is_held(self) -> None:
        assert self.agent.core.is_idle
        self.check_pins_are_gone()

    def check_pins_are_gone(self) -> None:
        self.agent.core.validate()
        self.agent.loader.cache.validate()
        pins = {key: entry.pins for key, entry in self.agent.loader.cache.entries.items() if entry.pins}
        assert pins == {}


@asynccontextmanager
async def working(
    bus: Bus,
    memory_mb: int = 100,
    ram_mb: int = 0,
    name: str = "w1",
    models: dict[str, Spec] | None = None,
    limits: Limits = DEFAULT_LIMITS,
    engines: dict[str, EngineCapability] = SYNTHETIC_ONLY,
) -> AsyncIterator[WorkerUnderTest]:
    """A worker whose runner of the synthetic engine is ready."""
    await declare(bus)
    cache = ModelCache(memory_mb * MB, ram_mb * MB)
    identity = Identity(name, "cpu", "", "cpu")
    async with TaskOwner("worker") as tasks:
        agent = Agent(bus, identity, cache, engines, tasks, limits)
        found = WorkerUnderTest(bus, agent)
        async with bus.listening((bus.subjects.finished(name), found.on_finished)):
            agent.start()
            for model, spec in (models or {}).items():
                agent.model_changed(model, model_of(model, spec))
            await eventually(lambda: found.runner.state == "ready", 30)
            yield found

"""Books, workers and a dispatcher, and no world around them: for tests of single placements."""

from typing import Any

from schemas.catalog import Model, Spec
from schemas.fleet import Explanation
from schemas.jobs import CompletionInput, Job
from schemas.workers import EngineCapability, Heartbeat, ResidentModel, Tier
from services.scheduler.fleet.estimates import Estimates
from services.scheduler.fleet.workers import Fleet, Worker
from services.scheduler.jobs.ledger import Ledger
from services.scheduler.jobs.record import Record
from services.scheduler.placing.dispatch import Dispatcher
from services.scheduler.protocol import commands

MB = 10**6
NOW = 1000.0
TERM = 7


def spec(name: str = "default", **fields: Any) -> Spec:
    return Spec(name, "text", "file:///x", **{"memory_bytes": 100 * MB, **fields})


def model(name: str = "a", *specs: Spec) -> Model:
    return Model(name, ("TextGeneration",), specs or (spec(),))


def resident(name: str = "a", tier: Tier = "hot", of: str = "default") -> ResidentModel:
    return ResidentModel(name, of, "text", tier, 100 * MB)


class Place:
    """Books, workers and a dispatcher that knows models a and b."""

    def __init__(self, *models: Model) -> None:
        self.fleet = Fleet()
        self.ledger = Ledger(self.fleet)
        self.estimates = Estimates()
        self.dispatcher = Dispatcher(self.ledger, self.fleet, self.estimates, TERM)
        self.dispatcher.models = {one.name: one for one in models or (model("a"), model("b"))}
        self.seq = 0

    def worker(self, name: str = "w", *models: ResidentModel, slots: int = 2, **facts: Any) -> Worker:
        """slots: 0 for one whose runner is starting: it has not told its engines."""
        self.seq += 1
        given: dict[str, Any] = {
            "device": "cpu",
            "memory_total_bytes": 250 * MB,
            "memory_used_bytes": sum(one.memory_bytes for one in models if one.tier == "hot"),
            **facts,
        }
        engines = {"text": EngineCapability(slots, 0, ("TextGeneration",))} if slots else {}
        beat = Heartbeat(name, 3.0, self.seq, "", "", host="h", engines=engines, models=models, **given)
        found = self.fleet.update(beat, NOW)
        assert found is not None
        return found

    def job(self, name: str = "j", of: str = "a", **fields: Any) -> Record:
        job = Job(name, of, CompletionInput("x"), "gw", fields.pop("created_at", NOW), **fields)
        return self.ledger.add(job, f"h-{name}", 1, NOW, f"trace-{name}")

    def dispatch(self, name: str = "a", now: float = NOW) -> list[commands.Command]:
        found = self.dispatcher.dispatch(name, now)
        self.ledger.validate()
        return found

    def given(self, name: str = "a", now: float = NOW) -> list[tuple[str, str]]:
        """The jobs that are placed, and where."""
        return [
            (c.assignment.job.id, c.worker) for c in self.dispatch(name, now) if isinstance(c, commands.Assign)
        ]

    def explained(self, job: str) -> Explanation:
        found = self.ledger.history.explanation(job)
        assert found is not None
        return found

"""Books, workers and a dispatcher, and no world around them: for tests of single placements."""

from typing import Any

from stoker.schemas.catalog import Model, Spec
from stoker.schemas.fleet import Explanation
from stoker.schemas.jobs import CompletionInput, Job
from stoker.schemas.workers import EngineCapability, Heartbeat, ResidentModel, Tier
from stoker.services.scheduler.fleet.estimates import Estimates
from stoker.services.scheduler.fleet.lane import Held
from stoker.services.scheduler.fleet.worker import Worker
from stoker.services.scheduler.fleet.workers import Fleet
from stoker.services.scheduler.jobs.ledger import Ledger
from stoker.services.scheduler.jobs.record import Record
from stoker.services.scheduler.placing.dispatch import Dispatcher
from stoker.services.scheduler.protocol import commands

MB = 10**6
NOW = 1000.0
TERM = 7


def spec(name: str = "default", **fields: Any) -> Spec:
    return Spec(name, "text", "file:///x", **{"memory_bytes": 100 * MB, **fields})


def model(name: str = "a", *specs: Spec) -> Model:
    return Model(name, ("TextGeneration",), specs or (spec(),))


def resident(
    name: str = "a", tier: Tier = "hot", of: str = "default", size_mb: int = 100, weights: str = ""
) -> ResidentModel:
    return ResidentModel(name, of, "text", tier, size_mb * MB, weights=weights)


class Place:
    """Books, workers and a dispatcher that knows models a and b."""

    def __init__(self, *models: Model) -> None:
        self.fleet = Fleet()
        self.estimates = Estimates()
        self.ledger = Ledger(self.fleet, self.estimates)
        self.dispatcher = Dispatcher(self.ledger, self.fleet, self.estimates, TERM)
        for one in models or (model("a"), model("b")):
            self.dispatcher.set(one.name, one)
        self.seq = 0

    def worker(
        self,
        name: str = "w",
        *models: ResidentModel,
        slots: int = 2,
        prefetch: int = 0,
        lane: str = "",
        now: float = NOW,
        **facts: Any,
    ) -> Worker:
        """slots: 0 for one whose runner is starting: it has not told its engines."""
        self.seq += 1
        given: dict[str, Any] = {
            "device": "cpu",
            "memory_total_bytes": 250 * MB,
            "memory_used_bytes": sum(one.memory_bytes for one in models if one.tier == "hot"),
            **facts,
        }
        engines = {"text": EngineCapability(slots, prefetch, ("TextGeneration",), lane=lane)} if slots else {}
        beat = Heartbeat(name, 3.0, self.seq, "", "", host="h", engines=engines, models=models, **given)
        found = self.fleet.update(beat, now)
        assert found is not None
        return found

    def job(self, name: str = "j", of: str = "a", **fields: Any) -> Record:
        asked = fields.pop("input", CompletionInput("x"))
        job = Job(name, of, asked, "gw", fields.pop("created_at", NOW), **fields)
        return self.ledger.add(job, f"h-{name}", 1, NOW, f"trace-{name}")

    def job_but_not_on(self, worker: str, name: str = "j", why: str = "lost", **fields: Any) -> Record:
        """A job that was lost on a worker, or that it refused just now."""
        record = self.job(name, **fields)
        if why == "lost":
            record.lost_on.append(worker)
        else:
            record.refused_at[worker] = NOW
        self.ledger.queue(record.job.model).particular[record.id] = None
        return record

    def run(self, worker: str, name: str, run_s: float, of: str = "a") -> None:
        """A worker runs a job, for so long."""
        found = self.fleet.workers[worker]
        held = Held(name, of, "default", found.lane(of, "text"), 1, NOW, run_s)
        self.ledger.offer(self.job(name, of), found, held, TERM, NOW)

    def dispatch(self, name: str = "a", now: float = NOW) -> list[commands.Command]:
        return self.checked(self.dispatcher.dispatch(name, now))

    def fill(self, worker: Worker, now: float = NOW) -> list[commands.Command]:
        return self.checked(self.dispatcher.fill(worker, now))

    def tick(self, now: float = NOW) -> list[commands.Command]:
        return self.checked(self.dispatcher.tick(now))

    def checked(self, found: list[commands.Command]) -> list[commands.Command]:
        """The same commands; the books agree, and nothing goes where its model is not hot."""
        self.ledger.validate()
        self.dispatcher.plan.validate()
        for command in found:
            if isinstance(command, commands.Assign):
                resident = self.fleet.workers[command.worker].residents[command.assignment.job.model]
                assert resident.tier == "hot"
        return found

    def meant(self) -> dict[str, dict[str, int]]:
        """Jobs that are meant for each worker, by model."""
        plan = self.dispatcher.plan
        return {
            name: {lot.model: lot.jobs for lot in plan.on(name).lots.values()}
            for name in sorted(plan.workers())
        }

    def loads(self, found: list[commands.Command]) -> list[tuple[str, str, tuple[str, ...]]]:
        """Loads that were ordered: model, worker, what goes for it."""
        return [(c.model, c.worker, c.evict) for c in found if isinstance(c, commands.LoadOnWorker)]

    def given(self, name: str = "a", now: float = NOW) -> list[tuple[str, str]]:
        """The jobs that are placed, and where."""
        return [
            (c.assignment.job.id, c.worker) for c in self.dispatch(name, now) if isinstance(c, commands.Assign)
        ]

    def explained(self, job: str) -> Explanation:
        found = self.ledger.history.explanation(job)
        assert found is not None
        return found

"""The core and a few workers, one event at a time, with no world around them."""

from typing import Any

import msgspec

from stoker.schemas.fleet import PlatformEvent
from stoker.schemas.jobs import CompletionInput, Job
from stoker.schemas.workers import Accepted
from stoker.services.scheduler.core import Scheduler
from stoker.services.scheduler.jobs.record import Record
from stoker.services.scheduler.protocol import commands, events
from tests.unit.scheduler.making import make_model
from tests.unit.scheduler.workers import SimWorker

NOW = 1000.0
TERM = 7


class Core:
    """A scheduler that knows model a, and workers on which it is hot."""

    def __init__(self, *names: str, is_settled: bool = True) -> None:
        self.scheduler = Scheduler(TERM, NOW)
        self.now = NOW
        self.sims = {name: SimWorker(name) for name in names}
        self.feed(events.ModelChanged("a", make_model("a", adapters=("style",))))
        for name, sim in self.sims.items():
            sim.make_hot("a", make_model("a").specs[0])
            self.beat(name)
        if is_settled:
            self.feed(events.Settled())

    def feed(self, event: events.Event) -> list[commands.Command]:
        found = self.scheduler.handle(event, self.now)
        self.scheduler.validate()
        return found

    def beat(self, name: str, **changed: Any) -> list[commands.Command]:
        return self.feed(events.HeartbeatSeen(msgspec.structs.replace(self.sims[name].heartbeat(), **changed)))

    def arrive(self, name: str = "j", sequence: int = 1, **fields: Any) -> list[commands.Command]:
        job = Job(name, fields.pop("model", "a"), CompletionInput("x"), "gw", self.now, **fields)
        return self.feed(events.JobArrived(job, f"h{sequence}", sequence, "trace"))

    def record(self, name: str = "j") -> Record:
        return self.scheduler.ledger.records[name]

    def accept(self, name: str = "j") -> list[commands.Command]:
        record = self.record(name)
        return self.feed(events.AssignmentAnswered(name, record.attempt, record.worker, Accepted()))

    def running(self, name: str = "j") -> Record:
        self.arrive(name)
        self.accept(name)
        assert self.record(name).phase == "running"
        return self.record(name)


def kinds(found: list[commands.Command]) -> list[str]:
    return [type(command).__name__ for command in found]


def kept(found: list[commands.Command]) -> list[PlatformEvent]:
    return [command.event for command in found if isinstance(command, commands.Record)]

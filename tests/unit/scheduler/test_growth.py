"""What one event costs the scheduler does not grow with what runs, waits or is there: counted, not timed.

Each case builds a world of a size and gives the event that is looked at. With four times as much of one thing the
event may do a little more, as trees get deeper; what has to look at each job or worker is said to be linear.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from stoker.schemas.catalog import Model
from stoker.schemas.jobs import CompletionInput, Job
from stoker.schemas.workers import Accepted, Finished, RunningJob
from stoker.services.scheduler.core import Scheduler
from stoker.services.scheduler.protocol import events
from tests.fixtures.work_counted import instructions
from tests.unit.scheduler.making import make_model
from tests.unit.scheduler.workers import SimWorker

SMALL, LARGE = 40, 160
STEP_S = 1e-5
"""Little time passes between two events, so that no worker is silent."""


@dataclass
class World:
    """A scheduler with `workers`, each with one of the models hot. slots: of each, and what runs in them is alike."""

    workers: int = 2
    slots: int = 2
    models: int = 1
    memory_mb: int = 100
    now: float = 1000.0
    jobs: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.scheduler = Scheduler(7, self.now)
        self.catalog: list[Model] = [make_model(f"m{one}", slots=self.slots) for one in range(self.models)]
        for model in self.catalog:
            self.feed(events.ModelChanged(model.name, model))
        self.sims = {f"w{one}": SimWorker(f"w{one}", self.memory_mb) for one in range(self.workers)}
        for number, sim in enumerate(self.sims.values()):
            model = self.catalog[number % self.models]
            sim.make_hot(model.name, model.specs[0])
            self.beat(sim.name)
        self.feed(events.Settled())

    def feed(self, event: events.Event) -> None:
        self.now += STEP_S
        self.scheduler.handle(event, self.now)

    def beat(self, worker: str = "w0") -> None:
        self.feed(events.HeartbeatSeen(self.sims[worker].heartbeat()))

    def arrive(self, model: str = "m0", tenant: str = "") -> None:
        name = f"j{len(self.jobs)}"
        self.jobs.append(name)
        job = Job(name, model, CompletionInput("x"), "gw", self.now, tenant=tenant)
        self.feed(events.JobArrived(job, f"h {name}", len(self.jobs), ""))

    def run(self, jobs: int) -> "World":
        """So many come, and are accepted by their workers."""
        for _ in range(jobs):
            self.arrive()
            record = self.scheduler.ledger.records[self.jobs[-1]]
            self.feed(events.AssignmentAnswered(record.id, record.attempt, record.worker, Accepted()))
            running = RunningJob(record.id, "m0", "default", record.attempt, 7)
            self.sims[record.worker].running[record.id] = running
        return self

    def wait(self, jobs: int, *, tenants: bool = False, models: bool = False) -> "World":
        """So many come, each of a tenant or for a model of its own where it is said."""
        for number in range(jobs):
            self.arrive(f"m{number % self.models}" if models else "m0", f"t{number}" if tenants else "")
        return self

    def finish(self) -> None:
        """The first job ends."""
        record = self.scheduler.ledger.records[self.jobs[0]]
        finished = Finished(record.id, record.attempt, record.job.model, "completed", run_s=0.5, units=1.0)
        self.feed(events.JobFinished(record.worker, finished))

    def tick(self) -> None:
        self.feed(events.Ticked())

    def cancel(self) -> None:
        """A job in the middle."""
        self.feed(events.CancelRequested(self.jobs[len(self.jobs) // 2]))


def all_free(size: int) -> World:
    return World(slots=size).run(size)


def all_full(size: int) -> World:
    return World(slots=size).run(2 * size).wait(20)


def many_wait(size: int) -> World:
    return World().wait(size)


def many_tenants(size: int) -> World:
    return World().wait(size, tenants=True)


def many_workers(size: int) -> World:
    return World(workers=size).wait(size)


def many_full_workers(size: int) -> World:
    return World(workers=size).wait(4 * size + 5)


def many_models(size: int) -> World:
    return World(workers=size, models=size).wait(size, models=True)


def many_wait_for_others(size: int) -> World:
    return World(workers=4, models=size).wait(size, models=True)


def costs(world: Callable[[int], World], event: Callable[[World], None]) -> tuple[int, int]:
    """Instructions of an event in a small and in a large world."""
    small, large = world(SMALL), world(LARGE)
    return instructions(lambda: event(small)), instructions(lambda: event(large))


@pytest.mark.parametrize("event", [World.arrive, World.finish, World.cancel])
@pytest.mark.parametrize(
    "world",
    [all_free, all_full, many_wait, many_tenants, many_workers, many_full_workers, many_models],
)
def test_an_event_costs_as_much_in_a_large_world(
    world: Callable[[int], World], event: Callable[[World], None]
) -> None:
    small, large = costs(world, event)
    assert large < 1.2 * small + 200


@pytest.mark.parametrize("event", [World.arrive, World.finish, World.cancel, World.beat])
def test_models_that_wait_for_few_workers_cost_some_instructions_each(event: Callable[[World], None]) -> None:
    """Which is loaded next is chosen among all that wait for a worker."""
    small, large = costs(many_wait_for_others, event)
    assert (large - small) / (LARGE - SMALL) < 600


@pytest.mark.parametrize(
    ("world", "event", "most"),
    [
        (all_free, World.beat, 140),
        (all_free, World.tick, 60),
        (all_full, World.beat, 140),
        (all_full, World.tick, 100),
        (many_wait, World.tick, 5),
        (many_tenants, World.tick, 100),
        (many_full_workers, World.tick, 100),
        (many_wait_for_others, World.tick, 3500),
    ],
)
def test_what_looks_at_each_costs_some_instructions_each(
    world: Callable[[int], World], event: Callable[[World], None], most: int
) -> None:
    """A heartbeat names all jobs of a worker, and a tick looks at what is overdue and tells who waits."""
    small, large = costs(world, event)
    assert (large - small) / (LARGE - SMALL) < most

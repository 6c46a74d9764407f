"""Jobs that call jobs, in the scheduler: slots of those that wait, what ends with whom, and how many may wait."""

from collections import Counter
from typing import Any

import msgspec

from stoker.schemas.fleet import JobView
from stoker.schemas.jobs import FunctionInput, Job
from stoker.schemas.workers import Accepted, EngineCapability, Finished, Heartbeat, ResidentModel, RunningJob
from stoker.services.scheduler.core import Scheduler
from stoker.services.scheduler.placing.calling import MOST_WAITING
from stoker.services.scheduler.protocol import commands, events
from tests.unit.scheduler.making import make_model


class OneSlot:
    """A scheduler with one worker, on which every model is hot and has one slot. The test is the worker."""

    def __init__(self, *models: str) -> None:
        self.core = Scheduler(1, 0.0)
        self.now = 0.0
        self.seq = 0
        self.sequence = 0
        self.running: dict[str, RunningJob] = {}
        self.said: list[commands.Command] = []
        for name in models:
            self.tell(events.ModelChanged(name, make_model(name, slots=1)))
        self.models = models
        self.beat()
        self.tell(events.Settled())

    def tell(self, event: events.Event) -> None:
        self.now += 0.01
        for command in self.core.handle(event, self.now):
            self.said.append(command)
            if isinstance(command, commands.Assign):
                job, attempt = command.assignment.job, command.assignment.attempt
                self.running[job.id] = RunningJob(job.id, job.model, "default", attempt, 1)
                self.tell(events.AssignmentAnswered("w1", job.id, attempt, Accepted(1)))
        self.core.validate()

    def beat(self) -> None:
        self.seq += 1
        residents = tuple(ResidentModel(name, "default", "text", "hot", 1) for name in self.models)
        self.tell(
            events.HeartbeatSeen(
                Heartbeat(
                    worker="w1", started_at=1.0, seq=self.seq, spec="", profile="", device="cpu", host="h",
                    engines={"text": EngineCapability(1, 0, ("TextGeneration",))}, memory_total_bytes=10**12,
                    memory_used_bytes=0, models=residents, running=tuple(self.running.values()),
                )
            )
        )  # fmt: skip

    def submit(self, name: str, model: str, parent: str = "", depth: int = 0, **fields: Any) -> None:
        self.sequence += 1
        job = Job(
            name, model, FunctionInput(model, {}), "gw", self.now, parent=parent, depth=depth,
            admission_timeout_s=1e6, **fields,
        )  # fmt: skip
        self.tell(events.JobArrived(job, f"h{self.sequence}", self.sequence))

    def wait(self, job: str, *, waits: bool = True) -> None:
        """A job begins, or ends, to wait for calls of its own."""
        self.running[job] = msgspec.structs.replace(self.running[job], waits=waits)
        self.beat()

    def finish(self, job: str, outcome: Any = "completed") -> None:
        one = self.running.pop(job)
        self.tell(events.JobFinished("w1", Finished(job, one.model, one.attempt, outcome, term=1)))

    def view(self, job: str) -> JobView:
        found = self.core.ledger.view(job)
        assert found is not None
        return found

    @property
    def ended(self) -> dict[str, str]:
        return {one.job.id: type(one.event).__name__ for one in self.said if isinstance(one, commands.EndJob)}

    @property
    def cancelled(self) -> list[str]:
        return [one.job for one in self.said if isinstance(one, commands.Cancel)]


def test_who_waits_for_a_call_gives_its_slot_to_it() -> None:
    world = OneSlot("f")
    world.submit("p", "f")
    world.submit("c", "f", "p", 1)
    assert list(world.running) == ["p"]
    world.wait("p")
    assert list(world.running) == ["p", "c"]
    assert (world.view("p").waits, world.view("c").parent) == (True, "p")
    world.beat()
    assert [(one.id, one.status) for one in world.view("p").children] == [("c", "running")]
    world.finish("c")
    world.wait("p", waits=False)
    world.submit("other", "f")
    assert "other" not in world.running
    assert [(one.id, one.status) for one in world.view("p").children] == [("c", "completed")]
    world.finish("p")
    assert "other" in world.running
    assert world.view("p").child_count == 1


def test_the_calls_of_a_job_end_with_it_however_deep() -> None:
    for outcome in ("completed", "failed", "cancelled"):
        world = OneSlot("f")
        world.submit("p", "f")
        world.submit("c", "f", "p", 1)
        world.submit("waits", "f", "p", 1)
        world.wait("p")
        world.submit("g", "f", "c", 2)
        world.wait("c")
        world.finish("p", outcome)
        assert world.ended == {"waits": "Cancelled"}
        assert world.cancelled == ["c"]
        world.finish("c", "cancelled")
        assert world.cancelled == ["c", "g"]
        world.submit("late", "f", "p", 1)
        assert world.ended["late"] == "Cancelled"


def test_a_job_that_is_lost_keeps_its_calls_for_its_next_attempt() -> None:
    world = OneSlot("f")
    world.submit("p", "f")
    world.submit("c", "f", "p", 1)
    world.wait("p")
    world.finish("p", "lost")
    assert not world.cancelled and not world.ended
    assert [one.id for one in world.view("p").children] == ["c"]
    assert world.view("p").status == "queued"


def test_what_is_deeper_goes_first_of_one_tenants_jobs_and_no_further_than_that() -> None:
    world = OneSlot("f", "g")
    world.submit("p", "f")
    world.submit("older", "f")
    world.submit("urgent", "f", priority=1)
    world.submit("c", "f", "p", 1)
    world.wait("p")
    assert "urgent" in world.running
    world.finish("urgent")
    assert "c" in world.running
    assert "older" not in world.running


def test_no_more_jobs_of_a_depth_begin_than_may_wait_but_deeper_ones_do() -> None:
    world = OneSlot("f")
    count = MOST_WAITING + 20
    for number in range(count):
        world.submit(f"p{number}", "f")
    for _ in range(3 * count):
        for job in [one for one in list(world.running) if not world.running[one].waits]:
            world.wait(job)
    assert len(world.running) == MOST_WAITING
    world.submit("c", "f", "p0", 1)
    assert "c" in world.running
    world.finish("c")
    world.wait("p0", waits=False)
    world.finish("p0")
    assert len(world.running) == MOST_WAITING


def test_every_tree_ends_whatever_waits_for_whom() -> None:
    """Many roots that call the same function, three deep, with one slot."""
    world = OneSlot("f")
    roots = 50
    for number in range(roots):
        world.submit(f"r{number}", "f", tenant=f"t{number % 3}")
    open_calls: Counter[str] = Counter()
    parents: dict[str, str] = {}
    begun: set[str] = set()
    for _ in range(20_000):
        job = next((one for one in world.running if not world.running[one].waits), None)
        if job is None:
            break
        depth = job.count(".")
        if depth < 2 and job not in begun:
            begun.add(job)
            for number in range(3):
                child = f"{job}.{number}"
                parents[child] = job
                open_calls[job] += 1
                tenant = world.core.ledger.records[job].job.tenant
                world.submit(child, "f", job, depth + 1, tenant=tenant)
            world.wait(job)
            continue
        world.finish(job)
        parent = parents.get(job)
        if parent is not None:
            open_calls[parent] -= 1
            if not open_calls[parent]:
                world.wait(parent, waits=False)
    assert not world.core.ledger.records
    assert len(begun) == roots * 4


def test_a_new_leader_learns_of_calls_and_of_who_waits() -> None:
    world = OneSlot("f")
    world.submit("p", "f")
    world.submit("c", "f", "p", 1)
    world.wait("p")
    parent, child = (world.core.ledger.records[one].job for one in ("p", "c"))
    later = Scheduler(2, world.now)
    later.handle(events.ModelChanged("f", make_model("f", slots=1)), world.now)
    ended = JobView(id="before", model="f", status="completed", created_at=1.0, parent="p")
    for number, job in enumerate((parent, child)):
        later.handle(events.JobArrived(job, f"n{number}", number + 1, may_have_run=True), world.now)
    later.handle(events.EndingsListed((ended,)), world.now)
    world.core = later
    world.beat()
    later.validate()
    assert {one.id: one.status for one in world.view("p").children} == {"c": "running", "before": "completed"}
    assert world.view("p").waits

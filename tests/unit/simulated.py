"""A simulated fleet around the real scheduler core: seeded, in virtual time, with faults.

`Simulation.step` advances time, delivers what is due and carries out commands; after each event it checks the
invariants that the core's opening promises. Nothing here sleeps or reads a clock.
"""

import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass, field

from schemas.catalog import Model, Spec
from schemas.jobs import CompletionInput, Job
from schemas.workers import (
    Accepted,
    EngineCapability,
    Finished,
    Heartbeat,
    Refused,
    ResidentModel,
    RunningJob,
)
from services.scheduler.core import Scheduler
from services.scheduler.protocol import commands, events

ENGINES = {
    "text": EngineCapability(4, 2, ("TextGeneration",)),
    "image": EngineCapability(1, 1, ("ImageGeneration",), lane="device"),
}
MB = 10**6
TICK_S = 0.05


def make_model(name: str, engine: str = "text", memory_mb: int = 100, slots: int = 0) -> Model:
    spec = Spec(name="default", engine=engine, url="file:///x", memory_bytes=memory_mb * MB, slots=slots)
    return Model(name=name, features=("TextGeneration",), specs=(spec,))


def make_job(name: str, model: str, now: float, priority: int = 0, admission_timeout_s: float = 1e9) -> Job:
    return Job(
        id=name,
        model=model,
        input=CompletionInput("x"),
        gateway="gw",
        created_at=now,
        priority=priority,
        admission_timeout_s=admission_timeout_s,
    )


@dataclass
class SimWorker:
    """A worker that keeps models in `memory_mb` of memory and runs what it is given."""

    name: str
    memory_mb: int = 250
    load_s: float = 0.5
    run_s: float = 0.1
    started_at: float = 0.0
    seq: int = 0
    models: dict[str, ResidentModel] = field(default_factory=dict)
    running: dict[str, RunningJob] = field(default_factory=dict)
    loads: int = 0
    is_alive: bool = True

    def heartbeat(self) -> Heartbeat:
        self.seq += 1
        used = sum(m.memory_bytes for m in self.models.values() if m.tier in ("hot", "loading"))
        return Heartbeat(
            worker=self.name,
            started_at=self.started_at,
            seq=self.seq,
            spec="",
            profile="cpu",
            device="cpu",
            host="h",
            engines=ENGINES,
            memory_total_bytes=self.memory_mb * MB,
            memory_used_bytes=used,
            models=tuple(self.models.values()),
            running=tuple(self.running.values()),
        )

    def make_hot(self, model: str, spec: Spec) -> bool:
        """Whether a load was needed; evicts idle models, the oldest first."""
        known = self.models.get(model)
        if known is not None and known.tier == "hot":
            return False
        in_use = {job.model for job in self.running.values()}

        def used() -> int:
            return sum(m.memory_bytes for m in self.models.values() if m.tier == "hot")

        for name in [n for n, m in self.models.items() if m.tier == "hot" and n not in in_use]:
            if used() + spec.memory_bytes <= self.memory_mb * MB:
                break
            old = self.models[name]
            self.models[name] = ResidentModel(name, old.spec, old.engine, "warm", old.memory_bytes)
        self.models.pop(model, None)
        self.models[model] = ResidentModel(model, spec.name, spec.engine, "hot", spec.memory_bytes)
        self.loads += 1
        return True


class Simulation:
    """The core, its workers, and everything that is under way between them."""

    def __init__(self, seed: int, workers: list[SimWorker], models: list[Model]) -> None:
        self.random = random.Random(seed)
        self.now = 1000.0
        self.core = Scheduler(term=1, now=self.now)
        self.workers = {worker.name: worker for worker in workers}
        self.ended: dict[str, str] = {}
        self.acked: list[str] = []
        self.attempts: dict[str, list[tuple[int, str]]] = {}
        self.submitted = 0
        self.lose_messages = 0.0
        self.commands: list[commands.Command] = []
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0
        for model in models:
            self.feed(events.ModelChanged(model.name, model))
        for worker in workers:
            self.feed(events.HeartbeatSeen(worker.heartbeat()))
            self._beat(worker)
        self.feed(events.Settled())
        self._tick()

    def after(self, delay_s: float, action: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._due, (self.now + delay_s, self._count, action))

    def feed(self, event: events.Event) -> None:
        for command in self.core.handle(event, self.now):
            self.commands.append(command)
            self._carry_out(command)
        self.check()

    def run_for(self, seconds: float) -> None:
        """Advance virtual time."""
        until = self.now + seconds
        while self._due and self._due[0][0] <= until:
            self.now, _, action = heapq.heappop(self._due)
            action()
        self.now = until

    def submit(self, model: str, priority: int = 0, admission_timeout_s: float = 1e9) -> str:
        self.submitted += 1
        job = make_job(f"j{self.submitted}", model, self.now, priority, admission_timeout_s)
        self.feed(events.JobArrived(job, f"h{self.submitted}", self.submitted))
        return job.id

    def kill(self, name: str, restart_after_s: float | None = None) -> None:
        """kill -9: what it ran is gone; it may come back as a new life."""
        worker = self.workers[name]
        worker.is_alive = False
        worker.running.clear()
        if restart_after_s is not None:
            self.after(restart_after_s, lambda: self._revive(worker))

    def _revive(self, worker: SimWorker) -> None:
        worker.models = {
            name: ResidentModel(name, m.spec, m.engine, "warm", m.memory_bytes)
            for name, m in worker.models.items()
        }
        worker.started_at, worker.seq, worker.is_alive = self.now, 0, True
        self.feed(events.HeartbeatSeen(worker.heartbeat()))

    def _beat(self, worker: SimWorker) -> None:
        if worker.is_alive:
            self.feed(events.HeartbeatSeen(worker.heartbeat()))
        self.after(1.0, lambda: self._beat(worker))

    def _tick(self) -> None:
        self.feed(events.Ticked())
        self.after(TICK_S, self._tick)

    def _carry_out(self, command: commands.Command) -> None:
        match command:
            case commands.Assign():
                self._assign(command)
            case commands.EndJob():
                self.ended.setdefault(command.job.id, type(command.event).__name__.lower())
                self.acked.append(command.handle)
            case commands.Acknowledge():
                self.acked.append(command.handle)
            case commands.Probe() if not self.workers[command.worker].is_alive:
                self.after(0.01, lambda: self.feed(events.WorkerGone(command.worker)))
            case commands.LoadOnWorker():
                self._load(command)
            case commands.CancelOnWorker():
                self._cancel(command)
            case commands.CheckResult():
                stored = command.job in self.ended
                self.after(0.01, lambda: self.feed(events.ResultChecked(command.job, command.attempt, stored)))
            case _:
                pass

    def _assign(self, command: commands.Assign) -> None:
        job, attempt = command.assignment.job, command.assignment.attempt
        self.attempts.setdefault(job.id, []).append((attempt, command.worker))
        worker = self.workers[command.worker]
        life = worker.started_at

        def arrive() -> None:
            if not worker.is_alive:
                self.feed(events.AssignmentFailed(job.id, attempt, worker.name, is_gone=True))
                return
            if self.random.random() < self.lose_messages:
                self.feed(events.AssignmentFailed(job.id, attempt, worker.name, is_gone=False))
                return
            if job.id in worker.running:
                refused = Refused("here already")
                self.feed(events.AssignmentAnswered(job.id, attempt, worker.name, refused))
                return
            worker.running[job.id] = RunningJob(job.id, job.model, "default", attempt)
            needed_load = worker.make_hot(job.model, command.assignment.spec)
            self.feed(events.AssignmentAnswered(job.id, attempt, worker.name, Accepted()))
            delay = worker.run_s + (worker.load_s if needed_load else 0.0)
            self.after(delay, lambda: self._finish(worker, life, job, attempt))

        self.after(0.001, arrive)

    def _finish(self, worker: SimWorker, life: float, job: Job, attempt: int) -> None:
        running = worker.running.get(job.id)
        if not worker.is_alive or worker.started_at != life or running is None or running.attempt != attempt:
            return
        del worker.running[job.id]
        self.ended.setdefault(job.id, "completed")
        if self.random.random() < self.lose_messages:
            return
        finished = Finished(job.id, job.model, attempt, "completed", run_s=worker.run_s, units=256.0)
        self.feed(events.JobFinished(worker.name, finished))

    def _load(self, command: commands.LoadOnWorker) -> None:
        worker = self.workers[command.worker]

        def done() -> None:
            if worker.is_alive:
                worker.make_hot(command.model, command.spec)
                self.feed(events.HeartbeatSeen(worker.heartbeat()))

        self.after(worker.load_s, done)

    def _cancel(self, command: commands.CancelOnWorker) -> None:
        worker = self.workers[command.worker]
        running = worker.running.get(command.job)
        if running is None or running.attempt != command.attempt:
            return
        del worker.running[command.job]
        self.ended.setdefault(command.job, "cancelled")
        finished = Finished(command.job, running.model, command.attempt, "cancelled")
        self.after(0.001, lambda: self.feed(events.JobFinished(worker.name, finished)))

    def check(self) -> None:
        """What must hold after every event."""
        ledger = self.core.ledger
        waiting = [job for queue in ledger.queues.values() for job in queue.waiting.first(10**6)]
        assert len(waiting) == len(set(waiting))
        for job, record in ledger.records.items():
            assert (record.status == "queued") == (job in ledger.queues[record.job.model].waiting)
        assert len(self.acked) == len(set(self.acked)), "a job was acknowledged twice"
        for attempts in self.attempts.values():
            numbers = [number for number, _ in attempts]
            assert numbers == sorted(set(numbers)), "attempts only grow"
        for worker in self.core.fleet.workers.values():
            for lane in worker.lanes:
                count = sum(held.lane == lane for held in worker.held.values())
                assert worker.lanes[lane] == count
                assert count <= 6 if lane[:7] != "engine:" else count <= 2
        for queue in ledger.queues.values():
            running = sum(
                record.job.model == queue.name and record.status != "queued"
                for record in ledger.records.values()
            )
            assert queue.running == running

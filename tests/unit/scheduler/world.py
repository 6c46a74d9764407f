"""A simulated world around the real scheduler core: seeded, in virtual time, and unkind.

Every way that a message takes may lose it, delay it, double it or let another overtake it (`Unkindness`). Workers
are killed, paused, cut off and come back, say goodbye, lose their runner; leaders change, and one that was replaced may
wake up and act again; lookups and writes of fences fail. After each event the core validates its books, and the world
checks its promises: one terminal event for each job, by its newest attempt or its newest leader; attempts that only grow;
`cancelled` only for who asked. Nothing here sleeps or reads a clock; the same seed makes the same story.
"""

import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from msgspec.structs import replace

from stoker.schemas.catalog import Model, Spec
from stoker.schemas.jobs import Job
from stoker.schemas.workers import AssignmentAnswer, Finished, Outcome, RunningJob
from stoker.services.scheduler.core import Scheduler
from stoker.services.scheduler.protocol import commands, events
from tests.unit.scheduler.making import make_job
from tests.unit.scheduler.misfortunes import Misfortunes
from tests.unit.scheduler.store import Results
from tests.unit.scheduler.workers import SimWorker

TICK_S = 0.05
BEAT_S = 1.0
ANSWER_TIMEOUT_S = 2.0
SETTLE_S = 0.25


@dataclass
class Unkindness:
    """Probabilities for each message, and the longest extra delay, seconds. All 0: a kind world."""

    lose: float = 0.0
    double: float = 0.0
    delay_s: float = 0.0
    lookups_fail: float = 0.0


class World(Misfortunes):
    """The core, its workers, and everything that is under way between them."""

    def __init__(self, seed: int, workers: list[SimWorker], models: list[Model]) -> None:
        self.random = random.Random(seed)
        self.unkind = Unkindness()
        self.now = 1000.0
        self.core = Scheduler(term=1, now=self.now)
        self.workers = {worker.name: worker for worker in workers}
        self.models = {model.name: model for model in models}
        self.stream: dict[str, Job] = {}
        """Jobs that are stored and not acknowledged, by handle."""
        self.results = Results(term=1)
        self.ended = self.results.ended
        self.cancelled: set[str] = set()
        self.deaths: dict[str, int] = {}
        """How often a process died while it ran the job."""
        self.attempts: dict[str, list[tuple[int, str]]] = {}
        self._order: dict[str, tuple[int, int]] = {}
        self.commands: list[commands.Command] = []
        self.possible: dict[str, Model | None] = {}
        """Which models leaders have noted to be possible, as they were then."""
        self.submitted = 0
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0
        for model in models:
            self.feed(events.ModelChanged(model.name, model))
        for worker in workers:
            self.feed(events.HeartbeatSeen(worker.heartbeat()))
            self._beat(worker)
        self.feed(events.EarlierJobsArrived())
        self.feed(events.Settled())
        self._tick()

    # Time and messages ----------------------------------------------------------------------------

    def after(self, delay_s: float, action: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._due, (self.now + delay_s, self._count, action))

    def run_for(self, seconds: float) -> None:
        """Advance virtual time."""
        until = self.now + seconds
        while self._due and self._due[0][0] <= until:
            self.now, _, action = heapq.heappop(self._due)
            action()
        self.now = until

    def send(self, action: Callable[[], None], *, may_be_lost: bool = True) -> None:
        """A message: delivered a moment later, or late, twice, or never."""
        if may_be_lost and self.random.random() < self.unkind.lose:
            return
        copies = 2 if self.random.random() < self.unkind.double else 1
        for _ in range(copies):
            self.after(0.001 + self.random.random() * self.unkind.delay_s, action)

    def tell(self, event: events.Event, *, may_be_lost: bool = True) -> None:
        """A message to the leader of this moment."""
        leader = self.core
        self.send(lambda: self.feed(event) if self.core is leader else None, may_be_lost=may_be_lost)

    def feed(self, event: events.Event) -> None:
        """Hand an event to the core now, and carry out what it says."""
        core = self.core
        for command in self.decide(event):
            self.commands.append(command)
            self._carry_out(command, core.term)
        core.validate()

    def decide(self, event: events.Event) -> list[commands.Command]:
        return self.core.handle(event, self.now)

    def _tick(self) -> None:
        self.feed(events.Ticked())
        self.after(TICK_S, self._tick)

    def _beat(self, worker: SimWorker) -> None:
        self.beat_now(worker)
        self.after(BEAT_S, partial(self._beat, worker))

    def beat_now(self, worker: SimWorker) -> None:
        if worker.listens and not worker.is_paused:
            self.tell(events.HeartbeatSeen(worker.heartbeat()))

    # What people do -------------------------------------------------------------------------------

    def submit(self, model: str, priority: int = 0, admission_timeout_s: float = 1e9, adapter: str = "") -> str:
        self.submitted += 1
        job = make_job(f"j{self.submitted}", model, self.now, priority, admission_timeout_s, adapter)
        self.stream[f"h{self.submitted}"] = job
        self.feed(events.JobArrived(job, f"h{self.submitted}", self.submitted))
        return job.id

    def cancel(self, job: str) -> None:
        self.cancelled.add(job)
        self.feed(events.CancelRequested(job))

    # Leaders --------------------------------------------------------------------------------------

    def change_leader(self) -> None:
        """The leader is gone; the next one knows the stream, and what workers say."""
        self.possible |= self.core.forecast.possibility.take_notes()
        self.core = Scheduler(self.core.term + 1, self.now)
        assert self.results.admit(self.core.term)
        for model in self.models.values():
            self.feed(events.ModelChanged(model.name, model))
        for name, noted in self.possible.items():
            if noted is not None:
                self.feed(events.PossibleNoted(name, noted))
        for worker in self.workers.values():
            self.beat_now(worker)
        for handle, job in list(self.stream.items()):
            if handle in self.stream:
                self.feed(events.JobArrived(job, handle, int(handle[1:]), may_have_run=True))
        self.feed(events.EarlierJobsArrived())
        leader = self.core
        self.after(SETTLE_S, lambda: self.feed(events.Settled()) if self.core is leader else None)

    def pause_leader(self, seconds: float) -> None:
        """SIGSTOP: another leads meanwhile; at SIGCONT the old one acts once more, before it sees its lease."""
        paused = self.core
        self.change_leader()

        def resume() -> None:
            for event in (events.Ticked(), events.Settled()):
                for command in paused.handle(event, self.now):
                    self._carry_out(command, paused.term)

        self.after(seconds, resume)

    # Commands -------------------------------------------------------------------------------------

    def _carry_out(self, command: commands.Command, term: int) -> None:
        match command:
            case commands.Assign(must_fence=True):
                self._fence(command)
            case commands.Assign():
                self._assign(command)
            case commands.EndJob():
                end = type(command.event).__name__.lower()
                self._may_end(command.job.id, end)
                if self.results.decide(command.job.id, end, term) is not None:
                    self._acknowledge(command.handle, term)
            case commands.Acknowledge() | commands.AcknowledgeEnded():
                self._acknowledge(command.handle, term)
            case commands.Probe():
                worker = self.workers[command.worker]
                if not worker.listens:
                    self.tell(events.WorkerGone(command.worker))
            case commands.LoadOnWorker():
                self._load(command)
            case commands.Cancel():
                self.send(partial(self._cancel, command))
            case commands.Revoke():
                self.send(partial(self._revoke, command))
            case commands.CheckResult():
                self._look_up(command)
            case _:
                pass

    def _may_end(self, job: str, end: str) -> None:
        assert end != "cancelled" or job in self.cancelled, f"{job} was cancelled and nobody asked for it"

    def _acknowledge(self, handle: str, term: int) -> None:
        if term != self.core.term:
            return  # its consumer is gone
        job = self.stream.pop(handle, None)
        assert job is not None, f"{handle} was acknowledged twice"
        assert job.id in self.ended, f"{job.id} was acknowledged before its end was stored"

    def _look_up(self, command: commands.CheckResult) -> None:
        found: events.Stored = "stored" if command.job in self.ended else "not_stored"
        if self.random.random() < self.unkind.lookups_fail:
            found = "unknown"
        self.tell(events.ResultChecked(command.job, command.attempt, found), may_be_lost=False)

    def _fence(self, command: commands.Assign) -> None:
        """Assign once the server has noted who has the job; it may fail to, or answer late."""
        given = command.assignment
        job, attempt, leader = given.job.id, given.attempt, self.core

        def write() -> None:
            fence: int | None = 0
            try:
                fence = self.results.supersede(job, given.term, attempt)
            except ValueError:
                is_known = False
            else:
                is_known = self.random.random() >= self.unkind.lookups_fail  # else the answer was lost
            if self.core is not leader:
                return
            if not is_known:
                self.feed(events.AssignmentFailed(job, attempt, command.worker, is_gone=False))
            elif fence is None:
                self.feed(events.ResultChecked(job, attempt, "stored"))
            else:
                self.feed(events.Fenced(job, attempt, fence))
                self._assign(replace(command, assignment=replace(given, fence=fence)))

        self.after(0.001 + self.random.random() * self.unkind.delay_s, write)

    def _assign(self, command: commands.Assign) -> None:
        assignment = command.assignment
        job, attempt = assignment.job, assignment.attempt
        order = (assignment.term, attempt)
        if assignment.term == self.core.term:
            assert order > self._order.get(job.id, (0, 0)), f"{job.id}: attempts only grow"
            self._order[job.id] = order
        self.attempts.setdefault(job.id, []).append((attempt, command.worker))
        worker = self.workers[command.worker]
        answered = False

        def answer(found: AssignmentAnswer) -> None:
            nonlocal answered
            if not answered:
                answered = True
                self.feed(events.AssignmentAnswered(job.id, attempt, worker.name, found))

        def fail(is_gone: bool) -> None:
            nonlocal answered
            if not answered:
                answered = True
                self.feed(events.AssignmentFailed(job.id, attempt, worker.name, is_gone))

        leader = self.core

        def arrive() -> None:
            if not worker.listens:
                self.send(lambda: fail(True) if self.core is leader else None)
                return
            if worker.is_paused:
                self.after(0.1, arrive)  # it lies in the socket until the process goes on
                return
            known = worker.running.get(job.id)
            found = worker.assign(assignment)
            if found is None:
                return
            if worker.running.get(job.id) is not known:
                self._run(worker, assignment.spec, worker.running[job.id], assignment.fence)
            self.send(lambda: answer(found) if self.core is leader else None)

        self.send(arrive)
        self.after(ANSWER_TIMEOUT_S, lambda: fail(False) if self.core is leader else None)

    # Workers at work ------------------------------------------------------------------------------

    def _run(self, worker: SimWorker, spec: Spec, running: RunningJob, fence: int) -> None:
        worker.fences[running] = fence
        needed_load = worker.make_hot(running.model, spec)
        life = worker.life

        def done() -> None:
            if worker.life != life or worker.running.get(running.job) is not running:
                return
            if worker.is_paused or worker.is_hung:
                self.after(0.05, done)
                return
            del worker.running[running.job]
            self._end(worker, running, "completed")

        self.after(worker.run_s + (worker.load_s if needed_load else 0.0), done)

    def _end(self, worker: SimWorker, running: RunningJob, outcome: Outcome) -> None:
        """Store the terminal event, as soon as the network is there; then say so."""
        if worker.is_cut_off:
            self.after(0.1, partial(self._end, worker, running, outcome))
            return
        self._may_end(running.job, outcome)
        if self.results.end(running.job, outcome, worker.fences[running]) != "superseded":
            self._finished(worker, running, outcome)

    def _finished(self, worker: SimWorker, running: RunningJob, outcome: Outcome) -> None:
        finished = Finished(
            running.job,
            running.model,
            running.attempt,
            outcome,
            run_s=worker.run_s,
            units=256.0,
            term=running.term,
        )
        self.tell(events.JobFinished(worker.name, finished))

    def _load(self, command: commands.LoadOnWorker) -> None:
        worker = self.workers[command.worker]

        def done() -> None:
            if worker.listens and worker.has_runner:
                worker.make_hot(command.model, command.spec)
                self.beat_now(worker)

        self.after(worker.load_s, done)

    def _cancel(self, command: commands.Cancel) -> None:
        worker = self.workers[command.worker]
        running = worker.running.get(command.job)
        if worker.listens and running is not None and running.attempt == command.attempt:
            del worker.running[command.job]
            self._end(worker, running, "cancelled")

    def _revoke(self, command: commands.Revoke) -> None:
        worker = self.workers[command.worker]
        running = worker.running.get(command.job)
        if running is None or not worker.listens:
            return
        if (running.term, running.attempt) == (command.term, command.attempt):
            del worker.running[command.job]

"""The books against a plain model of them: any order of arrivals, offers, moves and ends, and workers that go."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from stoker.schemas.fleet import JobsQuery
from stoker.schemas.jobs import CompletionInput, Job
from stoker.schemas.workers import RunningJob
from stoker.services.scheduler.fleet.lane import Held
from stoker.services.scheduler.fleet.workers import Fleet
from stoker.services.scheduler.jobs.ledger import Ledger
from stoker.services.scheduler.jobs.record import HOLDS_SLOT, TRANSITIONS, IllegalMove, Phase
from tests.unit.scheduler.workers import SimWorker

JOBS = st.integers(0, 3).map("j{}".format)
WORKERS = st.sampled_from(["w1", "w2"])
MODELS = st.sampled_from(["a", "b"])
PHASES: list[Phase] = list(TRANSITIONS)


class LedgerMachine(RuleBasedStateMachine):
    """`phases` and `places` are what the books must say of each live job; `waits_until` is its deadline."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0
        self.fleet = Fleet()
        self.ledger = Ledger(self.fleet)
        self.sims = {name: SimWorker(name) for name in ("w1", "w2")}
        self.phases: dict[str, Phase] = {}
        self.places: dict[str, str] = {}
        self.waits_until: dict[str, float] = {}
        self.returned: set[str] = set()
        self.ended: set[str] = set()
        self.told: set[str] = set()

    @rule(name=WORKERS)
    def speak(self, name: str) -> None:
        self.fleet.update(self.sims[name].heartbeat(), self.now)

    @rule(job=JOBS, model=MODELS, patience_s=st.sampled_from([1.0, 5.0, 100.0]), tenant=st.sampled_from("xy"))
    def arrive(self, job: str, model: str, patience_s: float, tenant: str) -> None:
        if job in self.ledger.records:
            return
        arrived = Job(
            job, model, CompletionInput("x"), "gw", self.now, tenant=tenant, admission_timeout_s=patience_s
        )
        self.ledger.add(arrived, f"h-{job}", 1, self.now)
        self.phases[job] = "waiting"
        self.waits_until[job] = self.now + patience_s
        self.ended.discard(job)
        self.told.discard(job)

    @rule(job=JOBS, name=WORKERS, is_adopted=st.booleans())
    def give(self, job: str, name: str, is_adopted: bool) -> None:
        record, worker = self.ledger.records.get(job), self.fleet.workers.get(name)
        if record is None or worker is None:
            return
        model, attempt = record.job.model, record.attempt + 1

        def take() -> None:
            if is_adopted:
                self.ledger.adopt(record, worker, RunningJob(job, model, "default", attempt, 3), self.now)
            else:
                held = Held(job, model, "default", model, attempt, self.now)
                self.ledger.offer(record, worker, held, 3, self.now)

        to: Phase = "running" if is_adopted else "offered"
        if self.phases[job] != "waiting":
            if to not in TRANSITIONS[self.phases[job]]:
                with pytest.raises(IllegalMove):
                    take()
            return
        take()
        self.phases[job], self.places[job] = to, name
        assert record.attempt == attempt

    @rule(job=JOBS, to=st.sampled_from(PHASES))
    def move(self, job: str, to: Phase) -> None:
        record = self.ledger.records.get(job)
        if record is None or to == "ended":
            return
        phase = self.phases[job]
        if to not in TRANSITIONS[phase]:
            with pytest.raises(IllegalMove):
                self.ledger.move(record, to, self.now)
            return
        if phase == "waiting":
            return  # a worker is needed: `give`
        self.ledger.move(record, to, self.now)
        self.phases[job] = to
        if to == "waiting":
            del self.places[job]
            self.returned.add(record.job.model)
            self.told.discard(job)

    @rule(job=JOBS)
    def end(self, job: str) -> None:
        record = self.ledger.records.get(job)
        if record is not None:
            self.ledger.end(record, "completed", self.now)
            del self.phases[job]
            self.places.pop(job, None)
            self.ended.add(job)

    @rule(name=WORKERS)
    def lose_worker(self, name: str) -> None:
        """As `Leaving` does it: the worker is removed, then its jobs go back or end."""
        self.fleet.remove(name)
        for job in [job for job, place in self.places.items() if place == name]:
            if self.phases[job] == "cancelling":
                self.end(job)
            else:
                self.move(job, "waiting")

    @rule(seconds=st.sampled_from([0.5, 2.0, 50.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        found = {record.id for record in self.ledger.overdue(self.now)}
        late = {
            job
            for job, phase in self.phases.items()
            if phase == "waiting" and self.waits_until[job] <= self.now
        }
        assert found == late - self.told, "each is told once, and again when it comes back"
        self.told |= found

    @rule()
    def look_who_came_back(self) -> None:
        assert self.ledger.take_returned() == sorted(self.returned)
        self.returned.clear()

    @invariant()
    def the_books_hold(self) -> None:
        self.ledger.validate()
        assert {job: record.phase for job, record in self.ledger.records.items()} == self.phases

    @invariant()
    def slots_are_held_by_those_who_are_somewhere(self) -> None:
        held = {job: name for name, worker in self.fleet.workers.items() for job in worker.held}
        assert held == self.places
        assert set(held) == {job for job, phase in self.phases.items() if phase in HOLDS_SLOT}

    @invariant()
    def queues_count_right(self) -> None:
        for name in "ab":
            mine = {job for job, record in self.ledger.records.items() if record.job.model == name}
            waiting = {job for job in mine if self.phases[job] == "waiting"}
            assert {record.id for record in self.ledger.waiting(name)} == waiting
            assert self.ledger.has_waiting(name) == bool(waiting)
            if name in self.ledger.queues:
                assert self.ledger.queues[name].running == len(mine - waiting)

    @invariant()
    def everybody_can_be_asked_for(self) -> None:
        shown = {view.id for view in self.ledger.page(JobsQuery(limit=100)).jobs}
        assert shown == set(self.phases) | self.ended


LedgerMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestLedgerMachine = LedgerMachine.TestCase

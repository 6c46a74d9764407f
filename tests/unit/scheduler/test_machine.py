"""The scheduler's core as hypothesis drives it: any order of any events, and it shrinks what goes wrong."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from stoker.schemas.workers import Accepted, Finished, Outcome, Refused, RunningJob
from stoker.services.scheduler.core import Scheduler
from stoker.services.scheduler.jobs.record import HOLDS_SLOT, TRANSITIONS
from stoker.services.scheduler.protocol import commands, events
from tests.unit.scheduler.making import make_job, make_model
from tests.unit.scheduler.workers import SimWorker

WORKERS = ("w1", "w2")
MODELS = ("a", "b", "i")
JOBS = st.integers(1, 12).map("j{}".format)
NAMES = st.sampled_from(WORKERS)
ATTEMPTS = st.integers(0, 4)
LIVES = st.integers(0, 2)


class SchedulerMachine(RuleBasedStateMachine):
    """Events that need not fit together: the books must hold all the same, and no handle be acknowledged twice."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0
        self.core = Scheduler(2, self.now)
        self.workers = {name: SimWorker(name) for name in WORKERS}
        self.sequence = 0
        self.taken: list[str] = []
        self.orders: dict[str, list[tuple[int, int]]] = {}
        self.phases: dict[str, str] = {}

    @initialize()
    def begin(self) -> None:
        for name in MODELS:
            model = make_model(name, "image" if name == "i" else "text", adapters=("style",))
            self.feed(events.ModelChanged(name, model))

    def feed(self, event: events.Event) -> None:
        for command in self.core.handle(event, self.now):
            match command:
                case commands.Acknowledge(handle=handle) | commands.EndJob(handle=handle):
                    self.taken.append(handle)
                case commands.Assign(assignment=given):
                    self.orders.setdefault(given.job.id, []).append((given.term, given.attempt))
                case _:
                    pass

    @rule()
    def settle(self) -> None:
        self.feed(events.Settled())

    @rule(seconds=st.sampled_from([0.05, 1.0, 2.0, 7.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.feed(events.Ticked())

    @rule(job=JOBS, model=st.sampled_from([*MODELS, "none"]), adapter=st.sampled_from(["", "style", "lost"]))
    def arrive(self, job: str, model: str, adapter: str) -> None:
        self.sequence += 1
        arrived = make_job(job, model, self.now, admission_timeout_s=5.0, adapter=adapter)
        self.feed(events.JobArrived(arrived, f"h{self.sequence}", self.sequence))

    @rule(name=NAMES, life=LIVES, has_runner=st.booleans(), has=st.lists(st.tuples(JOBS, ATTEMPTS), max_size=4))
    def beat(self, name: str, life: int, has_runner: bool, has: list[tuple[str, int]]) -> None:
        worker = self.workers[name]
        worker.life, worker.has_runner = float(life), has_runner
        worker.running = {job: RunningJob(job, "a", "default", number, number % 3) for job, number in has}
        self.feed(events.HeartbeatSeen(worker.heartbeat()))

    @rule(name=NAMES, life=LIVES)
    def say_goodbye(self, name: str, life: int) -> None:
        self.workers[name].life = float(life)
        self.feed(events.HeartbeatSeen(self.workers[name].heartbeat(is_leaving=True)))

    @rule(name=NAMES)
    def nobody_listens(self, name: str) -> None:
        self.feed(events.WorkerGone(name))

    @rule(job=JOBS, attempt=ATTEMPTS, name=NAMES, is_accepted=st.booleans())
    def answer(self, job: str, attempt: int, name: str, is_accepted: bool) -> None:
        found = Accepted() if is_accepted else Refused("no")
        self.feed(events.AssignmentAnswered(job, attempt, name, found))

    @rule(name=NAMES)
    def accept_everything(self, name: str) -> None:
        for record in list(self.core.ledger.records.values()):
            if record.worker == name:
                self.feed(events.AssignmentAnswered(record.id, record.attempt, name, Accepted()))

    @rule(job=JOBS, attempt=ATTEMPTS, name=NAMES, is_gone=st.booleans())
    def do_not_answer(self, job: str, attempt: int, name: str, is_gone: bool) -> None:
        self.feed(events.AssignmentFailed(job, attempt, name, is_gone))

    @rule(
        job=JOBS,
        attempt=ATTEMPTS,
        name=NAMES,
        outcome=st.sampled_from(["completed", "failed", "cancelled", "lost"]),
    )
    def finish(self, job: str, attempt: int, name: str, outcome: Outcome) -> None:
        self.feed(events.JobFinished(name, Finished(job, "a", attempt, outcome)))

    @rule(job=JOBS)
    def cancel(self, job: str) -> None:
        self.feed(events.CancelRequested(job))

    @rule(job=JOBS, attempt=ATTEMPTS, found=st.sampled_from(["stored", "not_stored", "unknown"]))
    def look_up(self, job: str, attempt: int, found: events.Stored) -> None:
        self.feed(events.ResultChecked(job, attempt, found))

    @rule(name=st.sampled_from(MODELS), is_there=st.booleans(), has_adapter=st.booleans())
    def change_model(self, name: str, is_there: bool, has_adapter: bool) -> None:
        model = make_model(name, adapters=("style",) if has_adapter else ())
        self.feed(events.ModelChanged(name, model if is_there else None))

    @invariant()
    def the_books_hold(self) -> None:
        self.core.validate()

    @invariant()
    def no_handle_is_acknowledged_twice(self) -> None:
        assert len(self.taken) == len(set(self.taken))

    @invariant()
    def attempts_only_grow(self) -> None:
        for job, orders in self.orders.items():
            live = self.core.ledger.records.get(job)
            assert all(order[0] == 2 for order in orders)
            if live is not None and live.term == 2:
                assert live.attempt <= max(number for _, number in orders)

    @invariant()
    def a_job_is_offered_or_running_only_where_a_worker_has_it(self) -> None:
        for record in self.core.ledger.records.values():
            assert record.phase in TRANSITIONS
            assert (record.phase in HOLDS_SLOT) == (record.worker in self.core.fleet.workers)


SchedulerMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestSchedulerMachine = SchedulerMachine.TestCase

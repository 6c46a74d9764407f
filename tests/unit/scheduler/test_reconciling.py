"""Heartbeats against the books: every row of the table in reconciling.py, and its times to the edge."""

from typing import Any

import pytest

from stoker.schemas.job_events import Cancelled
from stoker.schemas.jobs import CompletionInput, Job
from stoker.schemas.workers import RunningJob
from stoker.services.scheduler.fleet.lane import Held
from stoker.services.scheduler.fleet.workers import Fleet
from stoker.services.scheduler.jobs.ledger import Ledger
from stoker.services.scheduler.jobs.record import Phase, Record
from stoker.services.scheduler.leaving import Leaving
from stoker.services.scheduler.protocol.commands import CheckResult, Command, EndJob, Revoke
from stoker.services.scheduler.protocol.endings import Endings
from stoker.services.scheduler.reconciling import CLAIM_LIMIT_S, FORGOTTEN_S, REVOKE_AGAIN_S, Reconciler
from tests.unit.scheduler.workers import SimWorker

NOW = 1000.0
TERM, LEADER = 7, 9
"""The term in which jobs were given out, and that of the leader who compares."""
WAY: dict[str, list[Phase]] = {
    "offered": [],
    "running": ["running"],
    "checking": ["running", "checking"],
    "cancelling": ["cancelling"],
}


class Books:
    """A ledger with workers, and the reconciler between them."""

    def __init__(self, *names: str) -> None:
        self.fleet = Fleet()
        self.ledger = Ledger(self.fleet)
        leaving = Leaving(self.ledger, self.fleet, Endings(self.ledger, LEADER))
        self.reconciler = Reconciler(self.ledger, self.fleet, leaving, LEADER)
        self.reconciler.jobs_are_complete(NOW)
        self.sims = {name: SimWorker(name) for name in names}
        for sim in self.sims.values():
            self.fleet.update(sim.heartbeat(), NOW)

    def arrive(self, job: str = "j") -> Record:
        return self.ledger.add(Job(job, "a", CompletionInput("x"), "gw", NOW), f"h-{job}", 1, NOW)

    def give(self, job: str, worker: str, phase: str = "running", attempt: int = 1, term: int = TERM) -> Record:
        record = self.ledger.records.get(job) or self.arrive(job)
        held = Held(job, "a", "default", "a", attempt, NOW)
        self.ledger.offer(record, self.fleet.workers[worker], held, term, NOW)
        for step in WAY[phase]:
            self.ledger.move(record, step, NOW)
        return record

    def beat(self, worker: str, now: float, *has: tuple[str, int, int]) -> list[Command]:
        """A heartbeat with these attempts: job, term, attempt."""
        sim = self.sims[worker]
        sim.running = {job: RunningJob(job, "a", "default", attempt, term) for job, term, attempt in has}
        heartbeat = sim.heartbeat()
        found = self.fleet.update(heartbeat, now)
        assert found is not None
        commands = self.reconciler.heartbeat(found, heartbeat, now)
        self.ledger.validate()
        return commands


# The same attempt on both sides -------------------------------------------------------------------


@pytest.mark.parametrize("phase", ["offered", "checking"])
def test_an_attempt_that_its_worker_mentions_runs_whatever_answer_was_lost(phase: str) -> None:
    books = Books("w")
    record = books.give("j", "w", phase)
    assert books.beat("w", NOW + 1, ("j", TERM, 1)) == []
    assert (record.phase, record.mentioned_at) == ("running", NOW + 1)


def test_an_attempt_that_runs_is_noted_each_time() -> None:
    books = Books("w")
    record = books.give("j", "w")
    assert books.beat("w", NOW + 1, ("j", TERM, 1)) == []
    assert (record.phase, record.mentioned_at) == ("running", NOW + 1)
    assert books.beat("w", NOW + 2, ("j", TERM, 1)) == []
    assert record.mentioned_at == NOW + 2


def test_an_attempt_that_is_being_cancelled_stays_so_though_it_is_mentioned() -> None:
    books = Books("w")
    record = books.give("j", "w", "cancelling")
    assert books.beat("w", NOW + 1, ("j", TERM, 1)) == []
    assert (record.phase, record.mentioned_at) == ("cancelling", NOW)


# Nothing on the worker's side ---------------------------------------------------------------------


def test_a_job_that_its_worker_no_longer_mentions_is_looked_up_after_a_while() -> None:
    books = Books("w")
    record = books.give("j", "w")
    assert books.beat("w", NOW + FORGOTTEN_S) == []
    assert record.phase == "running"
    assert books.beat("w", NOW + FORGOTTEN_S + 0.01) == [CheckResult("j", 1)]
    assert (record.phase, record.mentioned_at) == ("checking", NOW + FORGOTTEN_S + 0.01)
    assert books.beat("w", NOW + 2 * FORGOTTEN_S + 1) == [], "it was asked for already"


def test_another_attempt_than_ours_is_no_mention_of_ours() -> None:
    books = Books("w")
    books.give("j", "w", attempt=2)
    assert books.beat("w", NOW + FORGOTTEN_S + 1, ("j", TERM, 1)) == [
        Revoke("w", "j", TERM, 1),
        CheckResult("j", 2),
    ]


def test_an_assignment_on_its_way_is_not_missed() -> None:
    books = Books("w")
    record = books.give("j", "w", "offered")
    assert books.beat("w", NOW + FORGOTTEN_S + 5) == []
    assert record.phase == "offered"


def test_a_cancelled_job_that_is_no_longer_mentioned_ends_as_cancelled() -> None:
    books = Books("w")
    books.give("j", "w", "cancelling")
    assert books.beat("w", NOW + FORGOTTEN_S) == []
    [end] = books.beat("w", NOW + FORGOTTEN_S + 0.01)
    assert isinstance(end, EndJob) and isinstance(end.event, Cancelled)
    assert books.ledger.records == {}


# Attempts that the books do not know --------------------------------------------------------------


@pytest.mark.parametrize(("term", "attempt"), [(TERM, 1), (TERM, 2), (TERM + 1, 0)])
def test_the_newest_attempt_of_a_waiting_job_is_adopted(term: int, attempt: int) -> None:
    books = Books("w")
    record = books.give("j", "w")
    books.ledger.move(record, "waiting", NOW)
    assert books.beat("w", NOW + 1, ("j", term, attempt)) == []
    assert (record.phase, record.worker, record.term, record.attempt) == ("running", "w", term, attempt)


@pytest.mark.parametrize(("term", "attempt"), [(TERM, 1), (TERM - 1, 9)])
def test_an_older_attempt_of_a_waiting_job_is_revoked(term: int, attempt: int) -> None:
    books = Books("w")
    record = books.give("j", "w", attempt=2)
    books.ledger.move(record, "waiting", NOW)
    assert books.beat("w", NOW + 1, ("j", term, attempt)) == [Revoke("w", "j", term, attempt)]
    assert record.phase == "waiting"


def test_a_newer_attempt_elsewhere_is_adopted_and_ours_is_revoked() -> None:
    books = Books("w", "x")
    record = books.give("j", "w")
    assert books.beat("x", NOW + 1, ("j", TERM, 2)) == [Revoke("w", "j", TERM, 1)]
    assert (record.phase, record.worker, record.attempt, record.term) == ("running", "x", 2, TERM)
    assert books.fleet.workers["w"].held == {}


@pytest.mark.parametrize("attempt", [1, 2])
def test_an_attempt_elsewhere_that_is_not_newer_is_revoked(attempt: int) -> None:
    books = Books("w", "x")
    record = books.give("j", "w", attempt=2)
    assert books.beat("x", NOW + 1, ("j", TERM, attempt)) == [Revoke("x", "j", TERM, attempt)]
    assert (record.worker, record.attempt) == ("w", 2)


def test_a_newer_attempt_of_a_job_that_is_being_cancelled_is_revoked() -> None:
    books = Books("w", "x")
    record = books.give("j", "w", "cancelling")
    assert books.beat("x", NOW + 1, ("j", TERM, 5)) == [Revoke("x", "j", TERM, 5)]
    assert record.phase == "cancelling"


@pytest.mark.parametrize("phase", ["waiting", "running"])
def test_an_attempt_that_this_leader_never_ordered_is_revoked(phase: str) -> None:
    books = Books("w", "x")
    record = books.give("j", "w", term=LEADER)
    if phase == "waiting":
        books.ledger.move(record, "waiting", NOW)
    assert books.beat("x", NOW + 1, ("j", LEADER, 2)) == [Revoke("x", "j", LEADER, 2)]
    assert (record.phase, record.attempt) == (phase, 1)


def test_an_attempt_that_this_leader_ordered_is_adopted_where_the_job_waits_again() -> None:
    books = Books("w")
    record = books.give("j", "w", term=LEADER)
    books.ledger.move(record, "waiting", NOW)
    assert books.beat("w", NOW + 1, ("j", LEADER, 1)) == []
    assert (record.phase, record.worker, record.attempt) == ("running", "w", 1)


def test_a_job_of_an_earlier_leader_may_have_an_attempt_of_this_one() -> None:
    books = Books("w", "x")
    record = books.give("j", "w")
    assert books.beat("x", NOW + 1, ("j", LEADER, 2)) == [Revoke("w", "j", TERM, 1)]
    assert (record.worker, record.term, record.attempt) == ("x", LEADER, 2)


def test_an_attempt_of_a_job_that_has_ended_is_revoked() -> None:
    books = Books("w")
    books.ledger.end(books.give("j", "w"), "completed", NOW)
    assert books.beat("w", NOW + 1, ("j", TERM, 1)) == [Revoke("w", "j", TERM, 1)]


# Revocations --------------------------------------------------------------------------------------


def test_a_revocation_is_given_again_while_the_worker_goes_on_to_mention_the_attempt() -> None:
    books = Books("w")
    books.ledger.end(books.give("j", "w"), "completed", NOW)
    told = [bool(books.beat("w", NOW + after, ("j", TERM, 1))) for after in (0.0, REVOKE_AGAIN_S - 0.01)]
    assert told == [True, False]
    assert books.beat("w", NOW + REVOKE_AGAIN_S, ("j", TERM, 1)) == [Revoke("w", "j", TERM, 1)]
    assert books.fleet.workers["w"].revoked == {("j", 1): NOW + REVOKE_AGAIN_S}


def test_a_revocation_is_forgotten_once_the_attempt_is_no_longer_mentioned() -> None:
    books = Books("w")
    for job in "jk":
        books.ledger.end(books.give(job, "w"), "completed", NOW)
    books.beat("w", NOW, ("j", TERM, 1), ("k", TERM, 1))
    books.beat("w", NOW + 0.5, ("k", TERM, 1))
    assert books.fleet.workers["w"].revoked == {("k", 1): NOW}


def test_a_revoked_attempt_is_never_adopted() -> None:
    books = Books("w")
    record = books.give("j", "w")
    books.reconciler.revoke_current(record, NOW)
    books.ledger.move(record, "waiting", NOW)
    assert books.beat("w", NOW + 0.5, ("j", TERM, 1)) == []
    assert record.phase == "waiting"


def test_what_a_worker_that_is_gone_had_needs_no_revocation() -> None:
    books = Books("w")
    record = books.give("j", "w")
    assert books.reconciler.revoke_current(record, NOW) == [Revoke("w", "j", TERM, 1)]
    books.fleet.remove("w")
    assert books.reconciler.revoke_current(record, NOW + 9) == []


# Claims -------------------------------------------------------------------------------------------


def claim(books: Books, job: str = "j") -> tuple[str, int, int] | None:
    found = books.reconciler.claim_of(job)
    return None if found is None else (found[0].id, found[1].term, found[1].attempt)


def test_an_attempt_of_a_job_that_has_not_arrived_is_kept_and_given_out_once() -> None:
    books = Books("w")
    assert books.beat("w", NOW, ("j", 3, 4)) == []
    assert claim(books, "other") is None
    assert claim(books) == ("w", 3, 4)
    assert claim(books) is None


@pytest.mark.parametrize(
    ("later", "kept"),
    [((3, 5), ("x", 3, 5)), ((4, 1), ("x", 4, 1)), ((3, 4), ("w", 3, 4)), ((2, 9), ("w", 3, 4))],
)
def test_of_two_claims_the_newer_attempt_stands(later: tuple[int, int], kept: tuple[str, int, int]) -> None:
    books = Books("w", "x")
    books.beat("w", NOW, ("j", 3, 4))
    books.beat("x", NOW, ("j", *later))
    assert claim(books) == kept


def test_a_claim_goes_with_its_worker_its_mention_and_its_job() -> None:
    books = Books("w", "x")
    books.beat("w", NOW, ("j", 3, 4), ("k", 3, 4), ("l", 3, 4))
    books.beat("x", NOW, ("m", 3, 4))
    books.beat("w", NOW + 1, ("k", 3, 4), ("l", 3, 4))
    assert claim(books, "j") is None
    books.reconciler.forget_claim("k")
    books.reconciler.forget_claim("never there")
    assert claim(books, "k") is None
    books.fleet.remove("w")
    assert claim(books, "l") is None
    assert claim(books, "m") == ("x", 3, 4)


def test_a_claim_that_nobody_accepts_is_revoked_in_the_end_and_again() -> None:
    books = Books("w")
    books.beat("w", NOW, ("j", 3, 4))
    books.beat("w", NOW + 5, ("j", 3, 4))
    assert books.reconciler.tick(NOW + CLAIM_LIMIT_S) == []
    assert books.reconciler.tick(NOW + CLAIM_LIMIT_S + 0.01) == [Revoke("w", "j", 3, 4)]
    assert books.reconciler.tick(NOW + CLAIM_LIMIT_S + 0.5) == []
    assert books.reconciler.tick(NOW + CLAIM_LIMIT_S + 0.01 + REVOKE_AGAIN_S) == [Revoke("w", "j", 3, 4)]


def test_claims_of_workers_that_are_gone_are_let_go_and_the_others_stay() -> None:
    books = Books("w", "x")
    books.beat("w", NOW, ("j", 3, 4))
    books.beat("x", NOW, ("k", 3, 4))
    books.fleet.remove("w")
    assert books.reconciler.tick(NOW + CLAIM_LIMIT_S + 1) == [Revoke("x", "k", 3, 4)]
    assert books.reconciler._claims.keys() == {"k"}


def test_everything_in_one_heartbeat_is_put_right_at_once() -> None:
    books = Books("w", "x")
    same, forgotten = books.give("same", "w", "offered"), books.give("forgotten", "w")
    books.ledger.end(books.give("over", "x"), "failed", NOW)
    waits = books.arrive("waits")
    has: list[Any] = [("same", TERM, 1), ("over", TERM, 1), ("unknown", TERM, 1), ("waits", TERM, 1)]
    assert books.beat("w", NOW + FORGOTTEN_S + 1, *has) == [
        Revoke("w", "over", TERM, 1),
        CheckResult("forgotten", 1),
    ]
    assert [one.phase for one in (same, forgotten, waits)] == ["running", "checking", "running"]
    assert claim(books, "unknown") == ("w", TERM, 1)


def test_every_claim_that_nobody_accepts_is_revoked_at_the_same_tick() -> None:
    books = Books("w")
    books.beat("w", NOW, ("j", 3, 4), ("k", 3, 1))
    assert books.reconciler.tick(NOW + CLAIM_LIMIT_S + 1) == [Revoke("w", "j", 3, 4), Revoke("w", "k", 3, 1)]

"""Left, gone, away: each worker by itself, on the books and without a world around it."""

from typing import Any

import pytest

from stoker.schemas.fleet import PlatformEvent
from stoker.schemas.job_events import Cancelled, Failed
from stoker.schemas.jobs import CompletionInput, Job
from stoker.services.scheduler.fleet.lane import Held
from stoker.services.scheduler.fleet.worker import Worker
from stoker.services.scheduler.fleet.workers import Fleet
from stoker.services.scheduler.jobs.ledger import Ledger
from stoker.services.scheduler.jobs.record import Phase, Record
from stoker.services.scheduler.leaving import (
    AWAY_LIMIT_S,
    GONE_S,
    MAX_CRASHES,
    MAX_LOST,
    SILENT_S,
    Leaving,
    about_worker,
)
from stoker.services.scheduler.protocol import commands
from stoker.services.scheduler.protocol.endings import Endings
from tests.unit.scheduler.workers import SimWorker

NOW = 1000.0
WAY: dict[str, list[Phase]] = {
    "offered": [],
    "running": ["running"],
    "checking": ["running", "checking"],
    "cancelling": ["cancelling"],
}


class Books:
    """A ledger with workers, and what `Leaving` makes of them."""

    def __init__(self, *names: str, **facts: Any) -> None:
        self.fleet = Fleet()
        self.ledger = Ledger(self.fleet)
        self.leaving = Leaving(self.ledger, self.fleet, Endings(self.ledger, 7))
        for name in names:
            self.come(name, **facts)

    def come(self, name: str, now: float = NOW, **facts: Any) -> Worker:
        sim = SimWorker(name, **facts)
        worker = self.fleet.update(sim.heartbeat(), now)
        assert worker is not None
        return worker

    def give(self, job: str, worker: str, phase: str = "running") -> Record:
        """A job that a worker has."""
        record = self.ledger.records.get(job)
        if record is None:
            record = self.ledger.add(Job(job, "a", CompletionInput("x"), "gw", NOW), f"h-{job}", 1, NOW)
        held = Held(job, "a", "default", "a", record.attempt + 1, NOW)
        self.ledger.offer(record, self.fleet.workers[worker], held, 7, NOW)
        for step in WAY[phase]:
            self.ledger.move(record, step, NOW)
        return record


def told(found: list[commands.Command]) -> list[tuple[str, str, str]]:
    """Kind, subject and reason of the events among commands."""
    kept = [command.event for command in found if isinstance(command, commands.Record)]
    return [(event.kind, event.subject, event.reason) for event in kept]


# Goodbyes -----------------------------------------------------------------------------------------


def test_a_worker_without_jobs_that_says_goodbye_is_drained() -> None:
    books = Books("w")
    assert told(books.leaving.left("w", NOW)) == [("drained", "w", "it has stopped")]
    assert books.fleet.workers == {}


@pytest.mark.parametrize("phase", ["offered", "running", "checking"])
def test_jobs_of_a_worker_that_says_goodbye_wait_again_and_nobody_is_blamed(phase: str) -> None:
    books = Books("w", "x")
    record = books.give("j", "w", phase)
    other = books.give("k", "x")
    assert told(books.leaving.left("w", NOW + 1)) == [("lost", "w", "it has stopped, 1 jobs unfinished")]
    assert (record.phase, record.lost_on, record.worker) == ("waiting", [], "")
    assert (record.mentioned_at, other.phase) == (NOW + 1, "running")
    assert books.ledger.take_returned() == ["a"]
    books.ledger.validate()


def test_a_worker_that_is_not_in_the_books_can_neither_leave_nor_be_gone_nor_away() -> None:
    books = Books("w")
    assert books.leaving.left("nobody", NOW) == []
    assert books.leaving.gone("nobody", "silent", NOW) == []
    assert books.leaving.away("nobody", NOW) == []
    assert books.fleet.workers["w"].presence == "present"


# Deaths -------------------------------------------------------------------------------------------


def test_a_worker_that_is_gone_is_told_about_with_the_reason() -> None:
    books = Books("w")
    [command] = books.leaving.gone("w", "silent for 6.1 s", NOW + 7)
    assert command == commands.Record(
        PlatformEvent(kind="lost", subject="w", at=NOW + 7, reason="silent for 6.1 s", worker="w")
    )
    assert books.fleet.workers == {}


@pytest.mark.parametrize(
    ("is_draining", "has_job", "kind"),
    [(True, False, "drained"), (True, True, "lost"), (False, False, "lost"), (False, True, "lost")],
)
def test_a_worker_that_was_draining_and_is_gone_was_drained_where_it_had_nothing(
    is_draining: bool, has_job: bool, kind: str
) -> None:
    books = Books("w", is_draining=is_draining)
    if has_job:
        books.give("j", "w")
    assert told(books.leaving.gone("w", "gone", NOW))[0] == (kind, "w", "gone")


@pytest.mark.parametrize("phase", ["running", "checking"])
def test_a_job_whose_worker_died_waits_again_and_remembers_where(phase: str) -> None:
    books = Books("w")
    record = books.give("j", "w", phase)
    books.leaving.gone("w", "gone", NOW + 1)
    assert (record.phase, record.lost_on, record.mentioned_at) == ("waiting", ["w"], NOW + 1)
    books.ledger.validate()


def test_a_worker_that_was_only_asked_has_not_lost_the_job() -> None:
    books = Books("w")
    record = books.give("j", "w", "offered")
    assert books.leaving.lost(record, "w", NOW + 1, may_end=False) == []
    assert (record.phase, record.lost_on, record.mentioned_at) == ("waiting", [], NOW + 1)


def test_a_job_that_is_lost_again_and_again_without_a_crash_is_tried_for_longer() -> None:
    books = Books("w1", "w2")
    record = books.give("j", "w1")
    for _ in range(1, MAX_LOST):
        assert books.leaving.lost(record, "w1", NOW, may_end=False) == []
        books.give("j", "w1")
    end, _ = books.leaving.lost(record, "w1", NOW, may_end=False)
    assert isinstance(end, commands.EndJob) and isinstance(end.event, Failed)
    assert end.event.message.startswith(f"{MAX_LOST} workers died")


def test_a_job_under_which_runners_crashed_twice_ends_and_says_so() -> None:
    books = Books("w1", "w2")
    record = books.give("j", "w1")
    assert books.leaving.lost(record, "w1", NOW, may_end=False, is_crash=True) == []
    books.give("j", "w2")
    end, kept = books.leaving.lost(record, "w2", NOW + 5, may_end=False, is_crash=True)
    assert isinstance(end, commands.EndJob) and isinstance(end.event, Failed)
    assert (end.handle, end.event.kind, end.event.finished_at) == ("h-j", "worker_lost", NOW + 5)
    assert (end.event.term, end.event.attempt, end.event.job, end.event.model) == (7, 2, "j", "a")
    assert end.event.message.startswith(f"{MAX_CRASHES} workers died")
    assert isinstance(kept, commands.Record)
    assert kept.event == PlatformEvent(
        kind="failed", subject="j", at=NOW + 5, reason=end.event.message, model="a", worker="w2"
    )
    assert books.ledger.records == {}
    books.ledger.validate()


def test_a_cancelled_job_whose_worker_died_ends_as_cancelled_and_is_not_blamed_on_it() -> None:
    books = Books("w")
    record = books.give("j", "w", "cancelling")
    record.lost_on = ["earlier"]
    [end] = books.leaving.lost(record, "w", NOW + 2, may_end=False)
    assert isinstance(end, commands.EndJob) and isinstance(end.event, Cancelled)
    assert (end.event.finished_at, end.handle, books.ledger.records) == (NOW + 2, "h-j", {})


def test_taking_a_job_back_returns_it_to_its_place_or_ends_it_as_cancelled() -> None:
    books = Books("w")
    record, cancelled = books.give("j", "w"), books.give("k", "w", "cancelling")
    assert books.leaving.take_back(record, NOW + 1, may_end=False) == []
    assert record.phase == "waiting"
    [end] = books.leaving.take_back(cancelled, NOW + 1, may_end=False)
    assert isinstance(end, commands.EndJob) and isinstance(end.event, Cancelled)


def test_a_worker_that_comes_back_as_the_same_process_did_not_die() -> None:
    books = Books("w", life=3.0)
    record = books.give("j", "w")
    books.leaving.gone("w", "silent", NOW)
    record.lost_on.append("x")
    books.leaving.returned("w", 3.0)
    assert record.lost_on == ["x"]


def test_a_worker_that_comes_back_as_another_process_died() -> None:
    books = Books("w", life=3.0)
    record = books.give("j", "w")
    books.leaving.gone("w", "silent", NOW)
    books.leaving.returned("w", 4.0)
    assert record.lost_on == ["w"]
    books.leaving.returned("w", 3.0)
    assert record.lost_on == ["w"], "the earlier process is over once a newer one was seen"


def test_a_new_worker_takes_no_blame_from_anybody() -> None:
    books = Books("w")
    record = books.give("j", "w")
    record.lost_on.append("v")
    books.leaving.returned("v", 0.0)
    assert record.lost_on == ["v"], "v was never gone in this term"


# Silence ------------------------------------------------------------------------------------------


def test_a_worker_that_speaks_is_left_alone() -> None:
    books = Books("w")
    assert books.leaving.tick(NOW + SILENT_S) == []
    assert books.fleet.workers["w"].presence == "present"


def test_a_silent_worker_is_asked_once() -> None:
    books = Books("w")
    assert books.leaving.tick(NOW + SILENT_S + 0.01) == [commands.Probe("w")]
    worker = books.fleet.workers["w"]
    assert (worker.presence, worker.since) == ("silent", NOW + SILENT_S + 0.01)
    assert books.leaving.tick(NOW + SILENT_S + 1) == []


def test_a_worker_that_stays_silent_is_gone_and_the_reason_says_how_long() -> None:
    books = Books("w")
    books.leaving.tick(NOW + 2)
    assert books.leaving.tick(NOW + GONE_S) == []
    assert told(books.leaving.tick(NOW + GONE_S + 0.5)) == [("lost", "w", "silent for 6.5 s")]
    assert books.fleet.workers == {}


def test_a_worker_at_which_nobody_listens_is_gone_sooner() -> None:
    books = Books("w")
    assert books.leaving.away("w", NOW + 0.2) == []
    worker = books.fleet.workers["w"]
    assert (worker.presence, worker.since) == ("away", NOW + 0.2)
    assert books.leaving.tick(NOW + 0.2 + AWAY_LIMIT_S) == []
    assert told(books.leaving.tick(NOW + 0.3 + AWAY_LIMIT_S)) == [("lost", "w", "it no longer listens")]


def test_being_told_again_that_nobody_listens_does_not_prolong_its_time() -> None:
    books = Books("w")
    books.leaving.away("w", NOW)
    books.leaving.away("w", NOW + 0.9)
    assert told(books.leaving.tick(NOW + AWAY_LIMIT_S + 0.01)) == [("lost", "w", "it no longer listens")]


def test_a_worker_that_is_away_is_not_asked() -> None:
    books = Books("w")
    books.leaving.away("w", NOW + SILENT_S)
    assert books.leaving.tick(NOW + SILENT_S + 0.5) == []
    assert books.fleet.workers["w"].presence == "away"


def test_jobs_of_a_worker_that_is_away_stay_until_it_is_gone() -> None:
    books = Books("w")
    record = books.give("j", "w")
    books.leaving.away("w", NOW)
    books.leaving.tick(NOW + AWAY_LIMIT_S)
    assert (record.phase, record.worker) == ("running", "w")
    books.leaving.tick(NOW + AWAY_LIMIT_S + 0.1)
    assert (record.phase, record.lost_on) == ("waiting", ["w"])


def test_every_silent_worker_is_looked_at_though_others_go_meanwhile() -> None:
    books = Books("w1", "w2", "w3")
    books.leaving.away("w2", NOW)
    found = books.leaving.tick(NOW + 2)
    assert told(found) == [("lost", "w2", "it no longer listens")]
    assert [c for c in found if isinstance(c, commands.Probe)] == [commands.Probe("w1"), commands.Probe("w3")]


def test_workers_that_fall_silent_together_are_all_given_up() -> None:
    books = Books("w1", "w2")
    books.give("j1", "w1")
    books.give("j2", "w2")
    found = books.leaving.tick(NOW + GONE_S + 0.5)
    assert told(found) == [("lost", "w1", "silent for 6.5 s"), ("lost", "w2", "silent for 6.5 s")]
    assert {name: books.ledger.records[name].phase for name in ("j1", "j2")} == {
        "j1": "waiting",
        "j2": "waiting",
    }


def test_news_of_a_worker_names_it_twice_and_when() -> None:
    assert about_worker("joined", "w", "cpu on h", NOW) == commands.Record(
        PlatformEvent(kind="joined", subject="w", at=NOW, reason="cpu on h", worker="w")
    )

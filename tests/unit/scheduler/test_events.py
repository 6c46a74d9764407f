"""The core, one event at a time: arrivals, cancels, and the answers of workers."""

import pytest

from stoker.schemas.job_events import Cancelled, Failed, Queued
from stoker.schemas.workers import Accepted, Finished, Refused, RunningJob
from stoker.services.scheduler import core as core_module
from stoker.services.scheduler.protocol import commands, events
from tests.unit.scheduler.single import NOW, TERM, Core, kinds

# Arrivals -----------------------------------------------------------------------------------------


def test_an_arrived_job_is_placed_at_once_with_its_trace() -> None:
    core = Core("w")
    [assign] = core.arrive()
    assert isinstance(assign, commands.Assign)
    assert (assign.worker, assign.trace, assign.assignment.term) == ("w", "trace", TERM)
    assert (core.record().handle, core.record().sequence, core.record().trace) == ("h1", 1, "trace")


def test_a_job_that_is_delivered_again_is_acknowledged_by_its_newer_handle() -> None:
    core = Core("w")
    core.running()
    job = core.record().job
    assert core.feed(events.JobArrived(job, "newer", 1)) == []
    assert core.record().handle == "newer"
    assert core.feed(events.JobArrived(job, "twin", 2)) == [commands.Acknowledge("twin")]
    assert core.record().handle == "newer"


def test_a_watched_job_that_waits_is_told_its_place_and_another_is_not() -> None:
    core = Core()
    assert core.arrive("first") == []
    core.arrive("second", 2)
    [notify] = core.arrive("third", 3, wants_events=True)
    assert isinstance(notify, commands.Notify) and isinstance(notify.event, Queued)
    assert (notify.job.id, notify.event.position) == ("third", 2)


def test_a_watched_job_that_is_placed_is_told_nothing_of_the_queue() -> None:
    assert kinds(Core("w").arrive(wants_events=True)) == ["Assign"]


def test_a_job_that_can_never_run_ends_at_once_with_the_reason() -> None:
    core = Core("w")
    [end] = core.arrive(adapter="none")
    assert isinstance(end, commands.EndJob) and isinstance(end.event, Failed)
    assert (end.handle, end.event.kind, end.event.finished_at) == ("h1", "impossible", NOW)
    assert "'none'" in end.event.message
    assert core.scheduler.ledger.records == {}


def test_while_settling_jobs_are_only_taken_in() -> None:
    core = Core("w", is_settled=False)
    assert core.arrive("j1", 1) == []
    assert core.arrive("bad", 2, adapter="none") == []
    assert core.feed(events.Ticked()) == []
    found = core.feed(events.Settled())
    assert kinds(found) == ["EndJob", "Assign"]
    assert not core.scheduler.is_settling


def test_a_job_whose_attempt_a_worker_has_is_adopted_and_not_placed() -> None:
    core = Core("w", "x")
    core.sims["x"].running["j"] = RunningJob("j", "a", "default", 3, 5)
    core.beat("x")
    assert core.arrive() == []
    record = core.record()
    assert (record.phase, record.worker, record.attempt, record.term) == ("running", "x", 3, 5)
    assert core.scheduler.reconciler.claim_of("j") is None


# Cancels ------------------------------------------------------------------------------------------


def test_a_waiting_job_that_is_cancelled_ends_at_once() -> None:
    core = Core()
    core.arrive()
    [end] = core.feed(events.CancelRequested("j"))
    assert isinstance(end, commands.EndJob) and isinstance(end.event, Cancelled)
    assert (end.event.finished_at, core.scheduler.ledger.records) == (NOW, {})


def test_a_job_that_a_worker_has_is_cancelled_there_and_again_when_asked_again() -> None:
    core = Core("w")
    core.running()
    core.now += 1
    assert core.feed(events.CancelRequested("j")) == [commands.Cancel("w", "j", 1)]
    assert (core.record().phase, core.record().mentioned_at) == ("cancelling", NOW + 1)
    core.now += 1
    assert core.feed(events.CancelRequested("j")) == [commands.Cancel("w", "j", 1)]
    assert core.record().mentioned_at == NOW + 1


def test_a_cancel_that_overtook_its_job_ends_it_on_arrival_and_only_once() -> None:
    core = Core("w")
    assert core.feed(events.CancelRequested("j")) == []
    assert kinds(core.arrive()) == ["EndJob"]
    core.now += 1
    assert kinds(core.arrive(sequence=2)) == ["Assign"], "an id that is used again is another job"


def test_a_cancel_that_overtook_a_job_which_a_worker_has_reaches_the_worker() -> None:
    core = Core("w")
    core.sims["w"].running["j"] = RunningJob("j", "a", "default", 3, 5)
    core.beat("w")
    core.feed(events.CancelRequested("j"))
    assert core.arrive() == [commands.Cancel("w", "j", 3)]
    assert core.record().phase == "cancelling"


def test_a_cancel_of_a_job_that_has_ended_is_not_remembered() -> None:
    core = Core("w")
    core.running()
    core.feed(events.JobFinished("w", Finished("j", "a", 1, "completed")))
    assert core.feed(events.CancelRequested("j")) == []
    core.now += 1
    assert kinds(core.arrive(sequence=2)) == ["Assign"]


def test_only_the_last_early_cancels_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core_module, "EARLY_CANCELS", 2)
    core = Core("w")
    for name in ("j1", "j2", "j3"):
        core.feed(events.CancelRequested(name))
    assert [kinds(core.arrive(name, n)) for n, name in enumerate(("j1", "j2", "j3"))] == [
        ["Assign"], ["EndJob"], ["EndJob"],
    ]  # fmt: skip


# Answers ------------------------------------------------------------------------------------------


def test_an_accepted_job_runs_from_then_on() -> None:
    core = Core("w")
    core.arrive()
    core.now += 2
    assert core.accept() == []
    assert (core.record().phase, core.record().mentioned_at) == ("running", NOW + 2)
    core.now += 2
    assert core.accept() == []
    assert core.record().mentioned_at == NOW + 2, "the same answer again says nothing new"


def test_a_job_that_is_accepted_while_it_is_cancelled_is_cancelled_there_again() -> None:
    core = Core("w")
    core.arrive()
    core.feed(events.CancelRequested("j"))
    assert core.accept() == [commands.Cancel("w", "j", 1)]


def test_a_refused_job_goes_to_another_worker_and_remembers_who_refused() -> None:
    core = Core("w", "x")
    core.arrive()
    first = core.record().worker
    core.now += 0.5
    [assign] = core.feed(events.AssignmentAnswered("j", 1, first, Refused("full")))
    assert isinstance(assign, commands.Assign)
    assert (assign.worker != first, assign.assignment.attempt) == (True, 2)
    assert core.record().refused_at == {first: NOW + 0.5}


def test_a_refused_job_without_another_worker_waits_since_then() -> None:
    core = Core("w")
    core.arrive()
    core.now += 0.5
    assert core.feed(events.AssignmentAnswered("j", 1, "w", Refused("full"))) == []
    assert (core.record().phase, core.record().mentioned_at) == ("waiting", NOW + 0.5)


def test_an_attempt_that_is_accepted_though_nobody_wants_it_any_more_is_revoked() -> None:
    core = Core("w")
    assert core.feed(events.AssignmentAnswered("gone", 3, "w", Accepted())) == [
        commands.Revoke("w", "gone", TERM, 3)
    ]
    assert core.feed(events.AssignmentAnswered("gone", 4, "w", Refused("no"))) == []
    assert core.feed(events.AssignmentAnswered("gone", 3, "nobody", Accepted())) == []
    core.running()
    assert core.feed(events.AssignmentAnswered("j", 9, "w", Refused("old"))) == []
    assert core.record().phase == "running"


def test_an_assignment_without_an_answer_is_revoked_and_given_elsewhere() -> None:
    core = Core("w", "x")
    core.arrive()
    first = core.record().worker
    core.now += 2
    found = core.feed(events.AssignmentFailed("j", 1, first, is_gone=False))
    assert found[0] == commands.Revoke(first, "j", TERM, 1)
    assert kinds(found) == ["Revoke", "Assign"]
    assert core.record().refused_at == {first: NOW + 2}
    assert core.scheduler.fleet.workers[first].presence == "present"


def test_an_assignment_that_nobody_heard_needs_no_revocation_and_its_worker_is_away() -> None:
    core = Core("w", "x")
    core.arrive()
    first = core.record().worker
    core.now += 2
    assert kinds(core.feed(events.AssignmentFailed("j", 1, first, is_gone=True))) == ["Assign"]
    worker = core.scheduler.fleet.workers[first]
    assert (worker.presence, worker.since) == ("away", NOW + 2)


@pytest.mark.parametrize("is_gone", [False, True])
def test_no_answer_for_a_job_that_runs_is_no_news(is_gone: bool) -> None:
    core = Core("w", "x")
    record = core.running()
    assert core.feed(events.AssignmentFailed("j", 1, record.worker, is_gone)) == []
    assert (record.phase, record.refused_at, record.attempt) == ("running", {}, 1)


def test_no_answer_for_another_attempt_is_no_news_either() -> None:
    core = Core("w")
    core.arrive()
    assert core.feed(events.AssignmentFailed("j", 9, "w", is_gone=False)) == []
    assert core.feed(events.AssignmentFailed("unknown", 1, "w", is_gone=False)) == []
    assert core.record().phase == "offered"

"""Failures that another worker may not have: where the job goes next, and when nobody is left to try it."""

import msgspec

from stoker.schemas.job_events import Failed, FailureKind
from stoker.schemas.workers import Finished
from stoker.services.scheduler.jobs.record import FAILURE_REMEMBERED_S
from stoker.services.scheduler.protocol import commands, events
from tests.unit.scheduler.making import make_model
from tests.unit.scheduler.single import Core, kinds


def fail(
    core: Core, name: str = "j", kind: FailureKind = "load_failed", reason: str = "bad disk"
) -> list[commands.Command]:
    """The worker that has the job says that it failed there."""
    record = core.record(name)
    told = Finished(name, "a", record.attempt, "lost", term=record.term, kind=kind, reason=reason)
    return core.feed(events.JobFinished(record.worker, told))


def tick(core: Core, seconds: float) -> list[commands.Command]:
    core.now += seconds
    return core.feed(events.Ticked())


def test_a_job_that_failed_on_one_worker_goes_to_another_at_once_and_is_fenced_from_nobody() -> None:
    core = Core("w1", "w2")
    first = core.running().worker
    [given] = [one for one in fail(core) if isinstance(one, commands.Assign)]
    assert given.worker != first
    assert not given.must_fence, "the worker has said that it dropped it"
    assert core.record().lost_on == [], "no worker has died"


def test_a_job_that_failed_on_every_worker_ends_with_the_reason_of_each() -> None:
    core = Core("w1", "w2")
    first = core.running().worker
    fail(core, reason="bad disk")
    second = core.record().worker
    [end] = fail(core, reason="no memory")
    assert isinstance(end, commands.EndJob) and isinstance(end.event, Failed)
    assert end.event.kind == "load_failed"
    assert end.event.message == f"on {first}: bad disk; on {second}: no memory"
    assert core.scheduler.ledger.records == {}


def test_the_only_worker_is_believed_and_the_error_is_its_own() -> None:
    core = Core("w")
    core.running()
    [end] = fail(core, kind="resource", reason="out of memory")
    assert isinstance(end, commands.EndJob) and isinstance(end.event, Failed)
    assert (end.event.kind, end.event.message) == ("resource", "out of memory")
    assert (end.event.worker, end.event.spec, end.event.attempt) == ("w", "default", 1)


def test_a_cancelled_job_that_fails_ends_as_cancelled() -> None:
    core = Core("w1", "w2")
    core.running()
    core.feed(events.CancelRequested("j"))
    assert kinds(fail(core)) == ["EndJob"]


def test_all_who_wait_for_a_bad_load_go_elsewhere() -> None:
    core = Core("w1", "w2")
    for number in range(6):
        core.arrive(f"j{number}", number)
        core.accept(f"j{number}")
    bad = core.record("j0").worker
    there = [name for name in core.scheduler.ledger.records if core.record(name).worker == bad]
    for name in there:
        fail(core, name)
    assert all(core.record(name).worker != bad for name in there)
    assert len(core.scheduler.ledger.records) == 6


def test_a_worker_that_cannot_run_the_model_at_all_is_nobody_to_wait_for() -> None:
    core = Core("w1", "w2")
    core.sims["w2"].memory_mb = 10
    core.beat("w2")
    core.arrive()
    core.accept()
    core.record().failed_on.clear()
    assert core.record().worker == "w1"
    assert kinds(fail(core)) == ["EndJob"]


def test_where_the_other_worker_is_gone_too_the_job_is_tried_here_again_after_a_while() -> None:
    core = Core("w1", "w2")
    first = core.running().worker
    [other] = {"w1", "w2"} - {first}
    assert kinds(fail(core)) == ["Assign"]
    core.feed(events.HeartbeatSeen(core.sims[other].heartbeat(is_leaving=True)))
    assert core.record().phase == "waiting"
    for _ in range(int(FAILURE_REMEMBERED_S) - 1):
        core.now += 1.0
        core.beat(first)
        assert core.record().phase == "waiting"
    core.now += 1.0
    core.beat(first)
    tick(core, 0.2)
    assert core.record().worker == first, "failures fade"


def test_an_adapter_that_the_other_spec_lacks_makes_it_nobody_to_wait_for() -> None:
    core = Core("w1")
    model = make_model("a", adapters=("style",))
    plain = msgspec.structs.replace(model.specs[0], name="plain", adapters=())
    core.feed(events.ModelChanged("a", msgspec.structs.replace(model, specs=(*model.specs, plain))))
    core.arrive(adapter="style")
    core.accept()
    assert kinds(fail(core)) == ["EndJob"]


def test_an_attempt_of_before_that_may_be_alive_is_fenced_and_one_that_is_not_is_not() -> None:
    core = Core("w1", "w2")
    first = core.running().worker
    core.now += 10
    [other] = {"w1", "w2"} - {first}
    core.beat(other)
    given = [one for one in tick(core, 0.1) if isinstance(one, commands.Assign)]
    assert [one.must_fence for one in given] == [True], "its worker is silent, and may be alive"
    core.feed(events.Fenced("j", core.record().attempt, 41))
    assert (core.record().fence, core.record().must_fence) == (41, False)
    core.accept()
    core.now += 0.1
    core.sims[first].life = core.now
    core.beat(first)
    [again] = [one for one in fail(core) if isinstance(one, commands.Assign)]
    assert (again.assignment.fence, again.must_fence) == (41, False)


def test_a_fence_of_an_earlier_attempt_is_known_and_does_not_stand_for_a_later_one() -> None:
    core = Core("w1")
    core.arrive()
    record = core.record()
    record.must_fence = True
    core.feed(events.Fenced("j", record.attempt - 1, 5))
    assert (record.fence, record.must_fence) == (5, True)
    assert core.feed(events.Fenced("nobody", 1, 5)) == []


def test_a_job_that_ends_its_runner_before_it_is_said_to_be_accepted_counts_as_a_crash_too() -> None:
    """A worker says nothing of the acceptance of what is over within 20 ms."""
    core = Core("w1", "w2")
    core.arrive("j")
    for attempt in (1, 2):
        record = core.record("j")
        assert (record.phase, record.attempt) == ("offered", attempt)
        told = Finished("j", "a", attempt, "lost", term=record.term, reason="the runner died")
        found = core.feed(events.JobFinished(record.worker, told))
    assert "EndJob" in kinds(found)
    assert "j" not in core.scheduler.ledger.records

"""Runs that do not go on: when a worker is suspected, what that changes, and which jobs are tried beside."""

from typing import Any

import msgspec

from stoker.schemas.jobs import CallInput, EmbeddingInput, Job, StoredInput, is_repeatable
from stoker.schemas.workers import Finished, RunningJob
from stoker.services.scheduler.fleet.estimates import LEARNT_RUNS, Estimates
from stoker.services.scheduler.placing.suspicion import LOOK_EVERY_S, MIN_SLOW_S, SUSPECTED_S
from stoker.services.scheduler.protocol import commands, events
from tests.unit.scheduler.making import make_job
from tests.unit.scheduler.single import Core, kept, kinds
from tests.unit.scheduler.workers import ENGINES

RUN_S = 2.0


def learnt(*names: str) -> Core:
    """A core that has seen enough runs of 2 s."""
    core = Core(*names)
    for _ in range(LEARNT_RUNS):
        core.scheduler.estimates.learn_run("a", "default", 256.0, RUN_S)
    return core


def pass_by(core: Core, seconds: float, *, goes_on: bool = False, **told: Any) -> list[commands.Command]:
    """Time passes in which the workers speak, and say what they run, and whether something comes of it."""
    found: list[commands.Command] = []
    while seconds > 0:
        step = min(seconds, 0.5)
        core.now, seconds = core.now + step, seconds - step
        for name, sim in core.sims.items():
            sim.running = {
                record.id: RunningJob(record.id, "a", "default", record.attempt, record.term, goes_on=goes_on)
                for record in core.scheduler.ledger.records.values()
                if record.worker == name
            } | {
                job: RunningJob(job, "a", "default", number, 7)
                for job, record in core.scheduler.ledger.records.items()
                for worker, number in record.beside
                if worker == name
            }
            found += core.beat(name, **told)
        found += core.feed(events.Ticked())
    return found


def assigned(found: list[commands.Command]) -> list[tuple[str, int, str]]:
    return [
        (one.assignment.job.id, one.assignment.attempt, one.worker)
        for one in found
        if isinstance(one, commands.Assign)
    ]


def finish(core: Core, worker: str, attempt: int, job: str = "j", **fields: Any) -> list[commands.Command]:
    told = Finished(
        job, "a", attempt, fields.pop("outcome", "completed"), term=7, run_s=RUN_S, units=256.0, **fields
    )
    return core.feed(events.JobFinished(worker, told))


def test_a_run_that_takes_much_longer_than_any_is_given_to_another_worker_too() -> None:
    core = learnt("w1", "w2")
    first = core.running().worker
    assert assigned(pass_by(core, 2 * RUN_S)) == []
    found = pass_by(core, 1.0)
    [(_, attempt, second)] = assigned(found)
    assert (attempt, second) == (2, ({"w1", "w2"} - {first}).pop())
    assert [one for one in kinds(found) if one in ("Revoke", "Cancel")] == [], "the first goes on"
    [given] = [one for one in found if isinstance(one, commands.Assign)]
    assert (given.must_fence, given.assignment.fence) == (False, 0), "both may end it"
    [told] = [event for event in kept(found) if event.kind == "suspected"]
    assert (told.subject, told.worker, told.model) == (first, first, "a")
    assert told.reason.startswith("job j has run for over ")
    core.accept()
    assert kinds(pass_by(core, 1.0)).count("Revoke") == 0
    found = finish(core, first, 1)
    assert [one for one in kinds(found) if one in ("Revoke", "Acknowledge")] == ["Revoke", "Acknowledge"]
    assert core.scheduler.ledger.records == {}


def test_an_answer_that_goes_on_is_no_run_that_hangs_however_long_it_is() -> None:
    core = learnt("w1", "w2")
    core.running()
    found = pass_by(core, 10 * RUN_S, goes_on=True)
    assert assigned(found) == [] and kept(found) == []
    assert not core.record().beside
    found = pass_by(core, 1.0)
    assert len(assigned(found)) == 1 and [event.kind for event in kept(found)] == ["suspected"]


def test_a_slow_server_elsewhere_is_no_workers_fault_and_asked_once() -> None:
    """What a client has of its answer cannot be gone on with by another worker, which asks the same server."""
    core = learnt("w1", "w2")
    core.running()
    elsewhere = {"text": msgspec.structs.replace(ENGINES["text"], is_elsewhere=True)}
    found = pass_by(core, 10 * RUN_S, engines=elsewhere)
    assert assigned(found) == [] and kept(found) == []
    assert not any(worker.suspected for worker in core.scheduler.fleet.workers.values())


def test_when_the_one_beside_is_first_the_slow_one_is_revoked() -> None:
    core = learnt("w1", "w2")
    first = core.running().worker
    pass_by(core, 2 * RUN_S + 1.0)
    core.accept()
    second = core.record().worker
    finish(core, second, 2)
    core.sims[first].running = {"j": RunningJob("j", "a", "default", 1, 7)}
    [revoke] = [one for one in core.beat(first) if isinstance(one, commands.Revoke)]
    assert (revoke.worker, revoke.attempt) == (first, 1)


def test_nothing_new_goes_to_a_suspected_worker_while_another_has_room() -> None:
    core = learnt("w1", "w2")
    first = core.running().worker
    pass_by(core, 2 * RUN_S + 1.0)
    places = {
        worker for number in range(4) for _, _, worker in assigned(core.arrive(f"n{number}", 10 + number))
    }
    assert places == {"w1", "w2"} - {first}


def test_a_suspected_worker_is_used_where_it_is_the_only_one() -> None:
    core = learnt("w")
    core.running()
    pass_by(core, 2 * RUN_S + 1.0)
    assert core.scheduler.fleet.workers["w"].suspected.keys() == {"a"}
    assert [worker for _, _, worker in assigned(core.arrive("n", 9))] == ["w"]
    assert core.record().beside == [], "there is nobody to give it to"


def test_suspicion_ends_with_a_good_run_with_another_runner_and_with_time() -> None:
    for how in ("run", "runner", "time"):
        core = learnt("w")
        core.running()
        pass_by(core, 2 * RUN_S + 1.0)
        worker = core.scheduler.fleet.workers["w"]
        assert worker.suspected
        if how == "run":
            finish(core, "w", 1)
        elif how == "runner":
            core.beat("w", engines={})
        else:
            finish(core, "w", 1, outcome="failed")
            assert worker.suspected
            pass_by(core, SUSPECTED_S + 2 * LOOK_EVERY_S)
        assert not worker.suspected, how


def test_nothing_is_slow_before_enough_was_seen_or_a_moment_has_passed() -> None:
    core = Core("w1", "w2")
    core.running()
    assert assigned(pass_by(core, 30.0)) == []
    quick = Core("w1", "w2")
    for _ in range(LEARNT_RUNS):
        quick.scheduler.estimates.learn_run("a", "default", 256.0, 0.01)
    quick.running()
    assert assigned(pass_by(quick, MIN_SLOW_S)) == []
    assert len(assigned(pass_by(quick, 1.0))) == 1


def test_a_job_is_given_beside_once_and_not_while_others_wait() -> None:
    core = learnt("w1", "w2", "w3")
    core.running()
    assert len(assigned(pass_by(core, 2 * RUN_S + 1.0))) == 1
    core.accept()
    assert assigned(pass_by(core, 10 * RUN_S)) == []
    busy = learnt("w1", "w2")
    for number in range(30):
        busy.arrive(f"j{number}", number + 1)
        record = busy.scheduler.ledger.records.get(f"j{number}")
        if record is not None and record.phase == "offered":
            busy.accept(record.id)
    before = {name: record.attempt for name, record in busy.scheduler.ledger.records.items()}
    pass_by(busy, 2 * RUN_S + 1.0)
    assert {name: record.attempt for name, record in busy.scheduler.ledger.records.items()} == before


def test_a_job_is_not_given_beside_to_a_worker_where_runs_hang_too() -> None:
    core = learnt("w1", "w2")
    first = core.running().worker
    [other] = {"w1", "w2"} - {first}
    core.scheduler.fleet.workers[other].suspected["a"] = core.now + 2 * RUN_S
    assert assigned(pass_by(core, 2 * RUN_S + 1.0)) == []
    assert core.record().worker == first


def test_a_job_whose_earlier_attempt_must_be_fenced_is_not_given_beside() -> None:
    core = learnt("w1", "w2")
    core.running().must_fence = True
    assert assigned(pass_by(core, 2 * RUN_S + 2.0)) == []


def test_when_the_one_beside_is_lost_no_earlier_attempt_may_end_the_job() -> None:
    core = learnt("w1", "w2", "w3")
    core.running()
    pass_by(core, 2 * RUN_S + 1.0)
    core.accept()
    second = core.record().worker
    core.sims[second].life = core.now
    core.sims[second].running.clear()
    given = [one for one in core.beat(second) if isinstance(one, commands.Assign)]
    assert [one.must_fence for one in given] == [True]


def test_what_runs_code_of_users_is_not_repeated() -> None:
    assert not is_repeatable(CallInput())
    assert is_repeatable(EmbeddingInput(("x",)))
    assert is_repeatable(StoredInput("b", is_repeatable=True)) and not is_repeatable(StoredInput("b"))
    assert is_repeatable(make_job("j", "a", 1.0).input)
    core = learnt("w1", "w2")
    job = Job("call", "a", CallInput(), "gw", core.now)
    core.feed(events.JobArrived(job, "h", 1))
    core.accept("call")
    found = pass_by(core, 2 * RUN_S + 2.0)
    assert assigned(found) == []


def test_the_slowest_of_the_last_runs_counts_as_it_was_and_by_its_units() -> None:
    estimates = Estimates()
    for _ in range(LEARNT_RUNS - 1):
        estimates.learn_run("a", "s", 10.0, 1.0)
    assert estimates.slowest_s("a", "s", 10.0) is None
    estimates.learn_run("a", "s", 1.0, 0.5)
    assert estimates.slowest_s("a", "s", 10.0) == 5.0
    assert estimates.slowest_s("a", "s", 1.0) == 1.0
    for _ in range(64):
        estimates.learn_run("a", "s", 10.0, 0.1)
    assert estimates.slowest_s("a", "s", 10.0) == 0.1, "what is long ago is forgotten"
    estimates.forget("a")
    assert estimates.slowest_s("a", "s", 10.0) is None

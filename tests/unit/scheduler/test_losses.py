"""What happens to a job when its worker goes silent, away, for good, or says goodbye; and to the jobs behind it."""

import msgspec
import pytest

from stoker.schemas.job_events import Expired, Failed
from stoker.schemas.workers import Finished, RunningJob
from stoker.services.scheduler.leaving import AWAY_LIMIT_S, GONE_S
from stoker.services.scheduler.protocol import commands, events
from stoker.services.scheduler.reconciling import CLAIM_LIMIT_S, FORGOTTEN_S
from tests.unit.scheduler.making import make_job, make_model
from tests.unit.scheduler.workers import SimWorker
from tests.unit.scheduler.world import World


def world_of(*names: str, run_s: float = 50.0) -> World:
    """Workers on which model a is hot; b is not."""
    workers = [SimWorker(name, run_s=run_s) for name in names]
    model = make_model("a", adapters=("style",))
    for worker in workers:
        worker.make_hot("a", model.specs[0])
    return World(0, workers, [model, make_model("b")])


def attempts(world: World, job: str) -> list[int]:
    return [number for number, _ in world.attempts[job]]


def revoked(world: World) -> list[tuple[str, str, int]]:
    return [(c.worker, c.job, c.attempt) for c in world.commands if isinstance(c, commands.Revoke)]


def ends(world: World) -> list[commands.EndJob]:
    return [c for c in world.commands if isinstance(c, commands.EndJob)]


def test_a_job_that_lost_its_runner_stops_nobody_and_runs_again_on_the_only_worker() -> None:
    world = world_of("w1", run_s=5.0)
    victim = world.submit("a")
    world.run_for(1)
    world.kill_runner("w1", restart_after_s=0.5)
    later = [world.submit("a"), world.submit("a")]
    world.run_for(12)
    assert {job: world.ended.get(job) for job in (victim, *later)} == dict.fromkeys(
        (victim, *later), "completed"
    )
    assert len(attempts(world, victim)) > 1


def test_a_job_that_lost_its_runner_goes_elsewhere_where_there_is_another_worker() -> None:
    world = world_of("w1", "w2", run_s=5.0)
    job = world.submit("a")
    world.run_for(1)
    first = world.attempts[job][0][1]
    world.kill_runner(first)
    world.run_for(10)
    assert world.ended[job] == "completed"
    assert world.attempts[job][1][1] != first


def test_an_attempt_that_was_never_ordered_is_revoked_and_the_job_stays_where_it_is() -> None:
    """A worker that is confused, or lies, cannot take a job over by counting on."""
    world = world_of("w1", "w2")
    job = world.submit("a")
    world.run_for(1)
    [(number, holder)] = world.attempts[job]
    other = next(worker for name, worker in world.workers.items() if name != holder)
    other.running[job] = RunningJob(job, "a", "default", number + 1, world.core.term)
    decided = world.decide(events.HeartbeatSeen(other.heartbeat()))
    record = world.core.ledger.records[job]
    assert (record.worker, record.attempt, record.phase) == (holder, number, "running")
    assert commands.Revoke(other.name, job, world.core.term, number + 1) in decided


def test_jobs_behind_one_that_no_worker_may_take_go_on() -> None:
    """The first job may go to no worker for now: those behind it are not particular, and pass."""
    world = world_of("w1", run_s=5.0)
    first = world.submit("a")
    world.run_for(1.2)
    world.core.ledger.records[first].refused_at["w1"] = world.now + 100  # it may not take it for now
    world.kill_runner("w1")
    world.run_for(0.1)
    behind = world.submit("a")
    world.run_for(10)
    assert world.ended == {behind: "completed"}


def test_a_model_whose_adapter_leaves_the_catalog_ends_the_jobs_that_need_it_and_no_others() -> None:
    world = world_of("w1", run_s=1.0)
    for _ in range(6):
        world.submit("a")
    styled, plain = world.submit("a", adapter="style"), world.submit("a")
    world.feed(events.ModelChanged("a", make_model("a")))
    world.run_for(30)
    assert world.ended[plain] == "completed"
    [end] = [end.event for end in ends(world) if end.job.id == styled]
    assert isinstance(end, Failed)
    assert (end.kind, "style" in end.message) == ("impossible", True)
    late = world.submit("a", adapter="style")
    assert world.ended[late] == "failed"


@pytest.mark.parametrize("adapter", ["", "style"])
def test_a_job_that_comes_back_into_the_queue_when_its_model_has_gone_is_told_so(adapter: str) -> None:
    world = world_of("w1", run_s=5.0)
    job = world.submit("a", adapter=adapter)
    world.run_for(1)
    world.feed(events.ModelChanged("a", make_model("a") if adapter else None))
    world.run_for(1)
    assert job not in world.ended, "it runs"
    world.kill("w1")
    world.run_for(10)
    [end] = [end.event for end in ends(world)]
    assert isinstance(end, Failed) and end.kind == "impossible"
    assert ("no adapter 'style'" if adapter else "removed from the catalog while the job waited") in end.message


def test_a_job_that_can_run_nowhere_for_two_reasons_ends_once() -> None:
    world = world_of("w1", "w2", run_s=5.0)
    job = world.submit("a", adapter="style")
    world.run_for(1)
    world.feed(events.ModelChanged("a", make_model("a", engine="nobody's")))
    world.kill(world.attempts[job][0][1])
    world.run_for(30)
    [end] = ends(world)
    assert (end.job.id, world.ended[job]) == (job, "failed")


def test_a_job_that_comes_back_into_the_queue_has_its_deadline_still() -> None:
    world = world_of("w1")
    job = world.submit("a", admission_timeout_s=3.0)
    world.run_for(5)
    assert job not in world.ended, "it runs: its waiting time is over, and no matter"
    world.kill("w1")
    world.run_for(10)
    [end] = ends(world)
    assert isinstance(end.event, Expired)


def test_a_short_disconnection_costs_nothing() -> None:
    world = world_of("w1", "w2", run_s=5.0)
    jobs = [world.submit("a") for _ in range(3)]
    world.run_for(1)
    name = world.attempts[jobs[0]][0][1]
    world.feed(events.WorkerGone(name))
    world.cut_off(name, 0.3)
    world.run_for(20)
    assert [attempts(world, job) for job in jobs] == [[1]] * 3
    assert set(world.ended.values()) == {"completed"}


def test_a_worker_that_is_away_gets_nothing_new() -> None:
    world = world_of("w1", "w2", run_s=5.0)
    world.submit("a")
    world.run_for(2)
    away = world.attempts["j1"][0][1]
    world.cut_off(away, 0.5)
    world.feed(events.WorkerGone(away))
    job = world.submit("a")
    assert world.attempts[job][0][1] != away


def test_a_worker_that_stays_away_is_gone_and_its_jobs_move() -> None:
    world = world_of("w1", "w2")
    job = world.submit("a")
    world.run_for(1.2)
    first = world.attempts[job][0][1]
    world.cut_off(first, 60)
    world.feed(events.WorkerGone(first))
    world.run_for(AWAY_LIMIT_S / 2)
    assert attempts(world, job) == [1]
    world.run_for(AWAY_LIMIT_S)
    assert [worker for _, worker in world.attempts[job]] == [first, ({"w1", "w2"} - {first}).pop()]


def test_a_worker_that_was_gone_and_is_back_in_the_same_life_keeps_what_it_runs() -> None:
    world = world_of("w1", run_s=20.0)
    job = world.submit("a")
    world.run_for(1)
    world.pause("w1", GONE_S + 2)
    world.run_for(GONE_S + 1)
    assert "w1" not in world.core.fleet.workers
    world.run_for(30)
    assert attempts(world, job) == [1]
    assert world.ended[job] == "completed"


def test_a_paused_worker_whose_job_has_moved_is_told_to_drop_it_and_the_job_is_not_cancelled() -> None:
    world = world_of("w1", "w2", run_s=12.0)
    job = world.submit("a")
    world.run_for(1)
    first = world.attempts[job][0][1]
    world.pause(first, GONE_S + 2)
    world.run_for(GONE_S + 4)
    assert (first, job, 1) in revoked(world)
    assert job not in world.workers[first].running
    world.run_for(30)
    assert world.ended[job] == "completed"


def test_workers_that_say_goodbye_are_no_deaths() -> None:
    world = world_of("w1", run_s=5.0)
    job = world.submit("a")
    for _ in range(4):
        world.run_for(2)
        world.say_goodbye("w1", restart_after_s=0.5)
    world.run_for(20)
    assert world.ended[job] == "completed"
    assert attempts(world, job) == [1, 2, 3, 4, 5]


def test_an_earlier_process_under_the_same_name_loses_nothing_for_the_newer() -> None:
    world = world_of("w1", run_s=5.0)
    old = world.workers["w1"].heartbeat()
    world.start_again("w1")
    world.run_for(0.1)
    job = world.submit("a")
    world.run_for(0.5)
    for number in range(10):
        world.feed(events.HeartbeatSeen(msgspec.structs.replace(old, seq=100 + number)))
        world.run_for(0.5)
    world.feed(events.HeartbeatSeen(msgspec.structs.replace(old, seq=200, is_leaving=True)))
    world.run_for(5)
    assert attempts(world, job) == [1]
    lost = [c for c in world.commands if isinstance(c, commands.Record) and c.event.kind == "lost"]
    assert len(lost) <= 1


def test_an_assignment_names_the_process_that_is_meant() -> None:
    world = world_of("w1")
    world.start_again("w1")
    world.run_for(0.1)
    world.submit("a")
    world.run_for(2)
    [assign] = [c for c in world.commands if isinstance(c, commands.Assign)]
    assert assign.assignment.life == world.workers["w1"].life


def forgotten(world: World) -> str:
    """A job that its worker no longer mentions, as its end was stored and the word of it lost."""
    job = world.submit("a")
    world.run_for(1)
    worker = world.workers[world.attempts[job][0][1]]
    del worker.running[job]
    world.run_for(FORGOTTEN_S + 2 * 1.0)
    return job


def test_a_lookup_that_fails_is_not_taken_for_an_answer() -> None:
    world = world_of("w1", "w2")
    world.unkind.lookups_fail = 1.0
    job = forgotten(world)
    world.run_for(10)
    assert attempts(world, job) == [1], "nobody knows whether it has ended: it is not run again"
    checks = [c for c in world.commands if isinstance(c, commands.CheckResult)]
    assert len(checks) > 1, "but asked again"
    world.unkind.lookups_fail = 0.0
    world.run_for(10)
    assert attempts(world, job) == [1, 2], "now it is certain that it has not ended"


def test_a_job_whose_end_is_stored_is_acknowledged_though_nobody_said_so() -> None:
    world = world_of("w1")
    world.ended["j1"] = "completed"
    assert forgotten(world) == "j1"
    assert not world.stream
    assert world.core.ledger.view("j1") is not None


def test_an_attempt_that_ends_late_takes_the_newer_one_with_it() -> None:
    world = world_of("w1", "w2")
    job = world.submit("a")
    world.run_for(1)
    first = world.attempts[job][0][1]
    world.kill(first)
    world.run_for(5)
    second = world.attempts[job][1][1]
    world.ended[job] = "completed"  # its word was on the way when it died
    world.feed(events.JobFinished(first, Finished(job, "a", 1, "completed", term=1)))
    assert (second, job, 2) in revoked(world)
    world.run_for(1)
    assert not world.workers[second].running
    assert not world.core.fleet.workers[second].held


def test_a_worker_without_engines_is_given_nothing_and_breaks_nothing() -> None:
    """Between two runners a worker names no engine, while its models are in the books still."""
    world = world_of("w1", run_s=1.0)
    world.submit("a")
    world.run_for(3)
    worker = world.workers["w1"]
    bare = msgspec.structs.replace(worker.heartbeat(), engines={})
    world.feed(events.HeartbeatSeen(bare))
    world.feed(events.ModelChanged("b", make_model("b")))
    before = len(world.commands)
    jobs = [world.submit("a"), world.submit("b")]
    assert not [c for c in world.commands[before:] if isinstance(c, commands.Assign)]
    world.run_for(10)
    assert all(world.ended[job] == "completed" for job in jobs)


@pytest.mark.parametrize("strategy", ["LeastLoad", "PrefixHash"])
def test_a_balanced_model_survives_a_worker_without_engines(strategy: str) -> None:
    model = make_model("a")
    balancing = msgspec.structs.replace(model.load_balancing, strategy=strategy)
    specs = (*model.specs, msgspec.structs.replace(model.specs[0], name="other"))
    world = World(0, [SimWorker("w1", run_s=1.0)], [])
    world.feed(events.ModelChanged("a", msgspec.structs.replace(model, load_balancing=balancing, specs=specs)))
    world.submit("a")
    world.run_for(3)
    world.feed(events.HeartbeatSeen(msgspec.structs.replace(world.workers["w1"].heartbeat(), engines={})))
    job = world.submit("a")
    world.run_for(5)
    assert world.ended[job] == "completed"


def test_an_attempt_of_nobodys_job_is_revoked_in_the_end() -> None:
    world = world_of("w1")
    world.workers["w1"].running["ghost"] = RunningJob("ghost", "a", "default", 1, 1)
    world.run_for(CLAIM_LIMIT_S - 1)
    assert revoked(world) == []
    world.run_for(4)
    assert ("w1", "ghost", 1) in revoked(world)
    assert "ghost" not in world.workers["w1"].running


def test_an_attempt_of_a_job_that_has_ended_is_revoked_at_once() -> None:
    world = world_of("w1", run_s=0.1)
    job = world.submit("a")
    world.run_for(3)
    assert world.ended[job] == "completed"
    world.workers["w1"].running[job] = RunningJob(job, "a", "default", 1, 1)
    world.run_for(1.5)
    assert ("w1", job, 1) in revoked(world)


def test_of_two_workers_with_one_job_the_newer_attempt_stays() -> None:
    """A new leader finds two attempts: the older one was paused when the job moved."""
    world = world_of("w1", "w2")
    world.core.term = 1
    job = world.submit("a")
    world.run_for(1)
    first = world.attempts[job][0][1]
    world.pause(first, 20)
    world.run_for(GONE_S + 3)
    second = world.attempts[job][1][1]
    world.workers[first].is_paused = False
    world.change_leader()
    world.run_for(3)
    record = world.core.ledger.records[job]
    assert (record.worker, record.attempt) == (second, 2)
    assert (first, job, 1) in revoked(world)
    assert world.ended == {}


def test_a_cancel_reaches_a_job_in_every_state() -> None:
    world = world_of("w1")
    waiting = [world.submit("a") for _ in range(8)][-1]
    offered = "j1"
    assert world.core.ledger.records[offered].phase == "offered"
    world.cancel(waiting)
    world.cancel(offered)
    world.run_for(1)
    running = "j2"
    assert world.core.ledger.records[running].phase == "running"
    world.cancel(running)
    world.run_for(1)
    assert world.ended == dict.fromkeys((waiting, offered, running), "cancelled")
    assert not {waiting, offered, running} & world.core.ledger.records.keys()


def test_a_cancelled_job_whose_worker_dies_ends_and_is_not_tried_again() -> None:
    world = world_of("w1", "w2")
    job = world.submit("a")
    world.run_for(1)
    worker = world.attempts[job][0][1]
    world.kill(worker)
    world.cancel(job)
    world.run_for(10)
    assert world.ended[job] == "cancelled"
    assert attempts(world, job) == [1]


def test_books_shrink_when_models_and_workers_go() -> None:
    world = world_of("w1", run_s=0.1)
    for number in range(20):
        name = f"m{number}"
        world.feed(events.ModelChanged(name, make_model(name, memory_mb=1)))
        world.submit(name)
    world.run_for(30)
    for number in range(20):
        world.feed(events.ModelChanged(f"m{number}", None))
    world.kill("w1")
    world.run_for(10)
    core = world.core
    assert set(core.ledger.queues) <= {"a", "b"}
    assert not core.fleet.workers
    assert not core.fleet._replicas
    assert not [key for key in (*core.estimates._loads, *core.estimates._runs) if key[0].startswith("m")]


def test_a_job_id_that_comes_twice_is_acknowledged_once_more_and_runs_once() -> None:
    world = world_of("w1")
    job = make_job("x", "a", world.now)
    world.stream = {"h1": job, "h2": job}
    world.feed(events.JobArrived(job, "h1", 1))
    world.ended["x"] = "completed"
    world.feed(events.JobArrived(job, "h2", 2))
    assert list(world.stream) == ["h1"]
    assert attempts(world, "x") == [1]

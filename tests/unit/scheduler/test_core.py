"""The scheduler's core: placement, cancels, losses, takeovers; examples and a seeded world."""

from stoker.schemas.job_events import Failed
from stoker.schemas.workers import Finished, RunningJob
from stoker.services.scheduler.core import Scheduler
from stoker.services.scheduler.protocol import commands, events
from tests.unit.scheduler.making import make_job, make_model
from tests.unit.scheduler.workers import SimWorker
from tests.unit.scheduler.world import World


def assigned(world: World) -> list[str]:
    return [c.worker for c in world.commands if isinstance(c, commands.Assign)]


def test_a_job_goes_where_its_model_is_hot() -> None:
    world = World(0, [SimWorker("w1"), SimWorker("w2")], [make_model("a"), make_model("b")])
    world.submit("a")
    world.run_for(2)
    first = assigned(world)[0]
    for _ in range(20):
        world.submit("a")
        world.run_for(0.5)
    assert set(assigned(world)) == {first}
    assert sum(worker.loads for worker in world.workers.values()) == 1


def test_a_worker_with_free_memory_is_preferred_to_one_that_must_evict() -> None:
    models = [make_model("a", memory_mb=200), make_model("b", memory_mb=200)]
    world = World(0, [SimWorker("w1"), SimWorker("w2")], models)
    for name in "abab":
        world.submit(name)
        world.run_for(2)
    assert len(set(assigned(world)[:2])) == 2
    for worker in world.workers.values():
        assert worker.loads == 1


def test_a_long_queue_makes_another_worker_load_the_model_and_a_short_one_does_not() -> None:
    slow = [SimWorker("w1", run_s=2.0), SimWorker("w2", run_s=2.0)]
    world = World(0, slow, [make_model("a")])
    for _ in range(6):
        world.submit("a")
        world.run_for(0.01)
    world.run_for(20)
    for _ in range(60):
        world.submit("a")
    world.run_for(60)
    assert set(assigned(world)) == {"w1", "w2"}
    quick = World(0, [SimWorker("w1", run_s=0.01), SimWorker("w2", run_s=0.01)], [make_model("a")])
    quick.core.estimates.learn_run("a", "default", 256.0, 0.01)
    for _ in range(100):
        quick.submit("a")
        quick.run_for(0.02)
    assert len(set(assigned(quick))) == 1


def test_the_least_loaded_replica_is_chosen() -> None:
    workers = [SimWorker("w1", run_s=100), SimWorker("w2", run_s=100)]
    for worker in workers:
        worker.make_hot("a", make_model("a").specs[0])
    world = World(0, workers, [make_model("a")])
    for _ in range(8):
        world.submit("a")
    assert sorted(assigned(world)) == ["w1"] * 4 + ["w2"] * 4


def test_a_model_that_finds_no_place_gets_a_worker_of_its_own_in_the_end() -> None:
    models = [make_model("greedy", memory_mb=200), make_model("starved", memory_mb=200)]
    world = World(0, [SimWorker("w1", run_s=0.3)], models)
    for _ in range(12):
        world.submit("greedy")
    job = world.submit("starved")
    for _ in range(400):
        world.submit("greedy")
        world.run_for(0.06)
        if job in world.ended:
            break
    assert world.ended[job] == "completed"


def test_a_cancel_before_arrival_is_remembered() -> None:
    world = World(0, [SimWorker("w1")], [make_model("a")])
    world.cancel("j1")
    world.submit("a")
    assert world.ended == {"j1": "cancelled"}
    assert not assigned(world)


def test_a_refusal_tries_the_next_worker() -> None:
    world = World(0, [SimWorker("w1"), SimWorker("w2")], [make_model("a")])
    for worker in world.workers.values():
        worker.make_hot("a", make_model("a").specs[0])
        world.beat_now(worker)
    world.run_for(0.1)
    job = world.submit("a")
    first = assigned(world)[0]
    world.workers[first].is_draining = True
    world.run_for(2)
    assert world.ended[job] == "completed"
    assert len(set(assigned(world))) == 2


def test_a_job_whose_runners_crash_twice_is_never_given_to_a_third() -> None:
    workers = [SimWorker(f"w{i}", run_s=50) for i in range(3)]
    world = World(0, workers, [make_model("a")])
    job = world.submit("a")
    for _ in range(3):
        world.run_for(1)
        world.kill_runner(world.attempts[job][-1][1])
        world.run_for(10)
    assert world.ended[job] == "failed"
    assert [number for number, _ in world.attempts[job]] == [1, 2]
    [end] = [c for c in world.commands if isinstance(c, commands.EndJob)]
    assert isinstance(end.event, Failed)
    assert end.event.kind == "worker_lost"


def test_a_new_leader_adopts_running_jobs_and_places_the_rest_after_settling() -> None:
    now = 50.0
    core = Scheduler(term=9, now=now)
    core.handle(events.ModelChanged("a", make_model("a")), now)
    worker = SimWorker("w1")
    worker.make_hot("a", make_model("a").specs[0])
    worker.running["old"] = RunningJob("old", "a", "default", 3)
    core.handle(events.HeartbeatSeen(worker.heartbeat()), now)
    assert core.handle(events.JobArrived(make_job("old", "a", 1.0), "h1", 1), now) == []
    assert core.handle(events.JobArrived(make_job("new", "a", 2.0), "h2", 2), now) == []
    placed = [c for c in core.handle(events.Settled(), now) if isinstance(c, commands.Assign)]
    assert [(c.assignment.job.id, c.assignment.attempt, c.assignment.term) for c in placed] == [("new", 1, 9)]
    view = core.ledger.view("old")
    assert view is not None and (view.status, view.attempt, view.worker) == ("running", 3, "w1")
    done = core.handle(events.JobFinished("w1", Finished("old", "a", 3, "completed")), now)
    assert commands.Acknowledge("h1") in done


def test_the_same_message_again_only_renews_its_handle() -> None:
    world = World(0, [SimWorker("w1")], [make_model("a")])
    job = make_job("x", "a", 1000.0)
    world.stream = {"h7": job, "h8": job}
    world.feed(events.JobArrived(job, "h7", 7))
    world.feed(events.JobArrived(job, "h8", 7))
    world.run_for(3)
    assert list(world.stream) == ["h7"]


def test_a_job_that_can_never_run_is_told_why() -> None:
    world = World(0, [SimWorker("w1", memory_mb=50)], [make_model("big", memory_mb=100)])
    world.run_for(1)
    depths = [c.depth for c in world.commands if isinstance(c, commands.PublishDepth)]
    assert "100 MB" in depths[-1].impossible and "50 MB" in depths[-1].impossible
    job = world.submit("big")
    world.run_for(15)
    assert world.ended[job] == "failed"


def test_a_job_expires_when_it_waited_too_long() -> None:
    world = World(0, [SimWorker("w1", run_s=100)], [make_model("a")])
    for _ in range(6):
        world.submit("a")
    job = world.submit("a", admission_timeout_s=2.0)
    world.run_for(3)
    assert world.ended[job] == "expired"

"""The scheduler's core: placement, cancels, losses, takeovers; examples and a seeded simulation."""

import pytest

from schemas.job_events import Failed
from schemas.workers import Finished, RunningJob
from services.scheduler.core import Scheduler
from services.scheduler.protocol import commands, events
from tests.unit.simulated import Simulation, SimWorker, make_job, make_model


def assigned(simulation: Simulation) -> list[str]:
    return [c.worker for c in simulation.commands if isinstance(c, commands.Assign)]


def test_a_job_goes_where_its_model_is_hot() -> None:
    simulation = Simulation(0, [SimWorker("w1"), SimWorker("w2")], [make_model("a"), make_model("b")])
    simulation.submit("a")
    simulation.run_for(2)
    first = assigned(simulation)[0]
    for _ in range(20):
        simulation.submit("a")
        simulation.run_for(0.5)
    assert set(assigned(simulation)) == {first}
    assert sum(worker.loads for worker in simulation.workers.values()) == 1


def test_a_worker_with_free_memory_is_preferred_to_one_that_must_evict() -> None:
    models = [make_model("a", memory_mb=200), make_model("b", memory_mb=200)]
    simulation = Simulation(0, [SimWorker("w1"), SimWorker("w2")], models)
    for name in "abab":
        simulation.submit(name)
        simulation.run_for(2)
    assert len(set(assigned(simulation)[:2])) == 2
    for worker in simulation.workers.values():
        assert worker.loads == 1


def test_a_long_queue_makes_another_worker_load_the_model_and_a_short_one_does_not() -> None:
    slow = [SimWorker("w1", run_s=2.0), SimWorker("w2", run_s=2.0)]
    simulation = Simulation(0, slow, [make_model("a")])
    for _ in range(6):
        simulation.submit("a")
        simulation.run_for(0.01)
    simulation.run_for(20)
    for _ in range(60):
        simulation.submit("a")
    simulation.run_for(60)
    assert set(assigned(simulation)) == {"w1", "w2"}
    quick = Simulation(0, [SimWorker("w1", run_s=0.01), SimWorker("w2", run_s=0.01)], [make_model("a")])
    for _ in range(100):
        quick.submit("a")
        quick.run_for(0.02)
    assert len(set(assigned(quick))) == 1


def test_the_least_loaded_replica_is_chosen() -> None:
    workers = [SimWorker("w1", run_s=100), SimWorker("w2", run_s=100)]
    for worker in workers:
        worker.make_hot("a", make_model("a").specs[0])
    simulation = Simulation(0, workers, [make_model("a")])
    for _ in range(8):
        simulation.submit("a")
    assert sorted(assigned(simulation)) == ["w1"] * 4 + ["w2"] * 4


def test_a_model_that_waits_in_vain_gets_a_worker_of_its_own_in_the_end() -> None:
    models = [make_model("greedy", memory_mb=200), make_model("starved", memory_mb=200)]
    simulation = Simulation(0, [SimWorker("w1", run_s=0.3)], models)
    for _ in range(12):
        simulation.submit("greedy")
    job = simulation.submit("starved")
    for _ in range(400):
        simulation.submit("greedy")
        simulation.run_for(0.06)
        if job in simulation.ended:
            break
    assert simulation.ended[job] == "completed"


def test_a_cancel_before_arrival_is_remembered() -> None:
    simulation = Simulation(0, [SimWorker("w1")], [make_model("a")])
    simulation.feed(events.CancelRequested("j1"))
    simulation.submit("a")
    assert simulation.ended == {"j1": "cancelled"}
    assert not assigned(simulation)


def test_a_refusal_tries_the_next_worker() -> None:
    simulation = Simulation(0, [SimWorker("w1"), SimWorker("w2")], [make_model("a")])
    job = simulation.submit("a")
    first = assigned(simulation)[0]
    simulation.workers[first].running[job] = RunningJob(job, "a", "default", 0)
    simulation.run_for(2)
    assert simulation.ended[job] == "completed"
    assert len(set(assigned(simulation))) == 2


def test_a_job_whose_workers_die_twice_is_never_given_to_a_third() -> None:
    workers = [SimWorker(f"w{i}", run_s=50) for i in range(3)]
    simulation = Simulation(0, workers, [make_model("a")])
    job = simulation.submit("a")
    for _ in range(3):
        simulation.run_for(1)
        simulation.kill(simulation.attempts[job][-1][1])
        simulation.run_for(10)
    assert simulation.ended[job] == "failed"
    assert [number for number, _ in simulation.attempts[job]] == [1, 2]
    [end] = [c for c in simulation.commands if isinstance(c, commands.EndJob)]
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
    simulation = Simulation(0, [SimWorker("w1")], [make_model("a")])
    job = make_job("x", "a", 1000.0)
    simulation.feed(events.JobArrived(job, "old", 7))
    simulation.feed(events.JobArrived(job, "new", 7))
    simulation.run_for(3)
    assert simulation.acked == ["new"]


def test_a_job_that_can_never_run_is_told_why() -> None:
    simulation = Simulation(0, [SimWorker("w1", memory_mb=50)], [make_model("big", memory_mb=100)])
    simulation.run_for(1)
    depths = [c.depth for c in simulation.commands if isinstance(c, commands.PublishDepth)]
    assert "100 MB" in depths[-1].impossible and "50 MB" in depths[-1].impossible
    job = simulation.submit("big")
    simulation.run_for(15)
    assert simulation.ended[job] == "failed"


def test_a_job_expires_when_it_waited_too_long() -> None:
    simulation = Simulation(0, [SimWorker("w1", run_s=100)], [make_model("a")])
    for _ in range(6):
        simulation.submit("a")
    job = simulation.submit("a", admission_timeout_s=2.0)
    simulation.run_for(3)
    assert simulation.ended[job] == "expired"


@pytest.mark.parametrize("seed", range(60))
def test_in_simulation_every_job_ends_once_and_demand_is_met_after_the_faults(seed: int) -> None:
    """Random loads, crashes, restarts, lost messages, cancels; then a calm phase in which all must end."""
    workers = [SimWorker(f"w{i}") for i in range(4)]
    models = [make_model(name, memory_mb=90) for name in "abcd"] + [make_model("i", "image", 120)]
    simulation = Simulation(seed, workers, models)
    simulation.lose_messages = 0.05
    chance = simulation.random
    for _ in range(300):
        kind = chance.random()
        if kind < 0.75:
            simulation.submit(chance.choice("aaabbcdi"), priority=chance.randint(-1, 1))
        elif kind < 0.80:
            simulation.kill(f"w{chance.randrange(4)}", restart_after_s=chance.uniform(0.1, 8))
        elif kind < 0.85 and simulation.submitted:
            simulation.feed(events.CancelRequested(f"j{chance.randint(1, simulation.submitted)}"))
        simulation.run_for(chance.expovariate(10))
    simulation.lose_messages = 0.0
    simulation.run_for(120)
    assert len(simulation.ended) == simulation.submitted, f"seed {seed}: jobs without an end"
    assert len(simulation.acked) == simulation.submitted, f"seed {seed}: jobs left in the stream"
    assert not simulation.core.ledger.records
    lost = [job for job, end in simulation.ended.items() if end == "failed"]
    assert all(len(simulation.attempts[job]) >= 2 for job in lost)

"""Each published policy does what its documents say, on a few workers and requests that are made by hand."""

import pytest

from stoker.simulation.making import Plan, SimJob, SimModel, plan
from stoker.simulation.policies import (
    POLICIES,
    RAY_AT_ONCE,
    SWARM_AT_ONCE,
    SWARM_GATHER_S,
    BoundedHash,
    LeastLoaded,
    RayMultiplex,
    RoundRobin,
    StartupAware,
    SwarmPressure,
)
from stoker.simulation.scenario import Arrivals, NamedModel, Scenario, Workers
from stoker.simulation.worker import LORA_S
from stoker.simulation.world import BEGAN_AT, Policy, World

SMALL, LARGE = NamedModel("small", size_gb=4), NamedModel("large", size_gb=30)


class Stage:
    """Workers that do nothing yet, and a policy that is asked by hand."""

    def __init__(
        self,
        policy: Policy,
        *models: NamedModel,
        workers: tuple[Workers, ...] = (Workers(3),),
        on_disk: float = 1.0,
    ) -> None:
        kinds = tuple(Workers(one.count, one.profile, one.memory_gb, one.ram_gb, on_disk) for one in workers)
        made: Plan = plan(Scenario("s", kinds, models or (SMALL,), Arrivals(1, rate=1.0)), 1, [])
        self.world = World(made, policy)
        self.policy = policy
        self.count = 0

    def ask(self, model: str = "small", units: int = 20) -> SimJob:
        found = self.world.models[model]
        job = SimJob(self.count, self.world.now, found, units, found.unit_s * units)
        self.count += 1
        self.world.jobs[job.id] = job
        self.world.left += 1
        self.policy.arrived(job)
        return job

    def held(self) -> list[int]:
        return [len(worker.core.listed()) for worker in self.world.workers.values()]

    def where(self, job: SimJob) -> str:
        return next((name for name, one in self.world.workers.items() if one.core.current(job.id)), "")

    def run(self, seconds: float) -> None:
        self.world.run(limit_s=seconds)
        self.world.now = max(self.world.now, BEGAN_AT)

    def make_hot(self, worker: str, model: str) -> None:
        one, found = self.world.workers[worker], self.world.models[model]
        one.want(found)
        while not one.is_hot(found):
            self.world.left += 1  # nothing has been asked yet: time goes on all the same
            self.run(0.5)
            self.world.left -= 1


def test_round_robin_takes_the_next_that_is_large_enough() -> None:
    stage = Stage(RoundRobin(), SMALL, LARGE, workers=(Workers(2), Workers(1, memory_gb=40)))
    for _ in range(6):
        stage.ask()
    assert stage.held() == [2, 2, 2]
    for _ in range(2):
        stage.ask("large")
    assert stage.held() == [2, 2, 4]


def test_the_least_loaded_has_the_fewest_requests() -> None:
    stage = Stage(LeastLoaded())
    for _ in range(7):
        stage.ask()
    assert sorted(stage.held()) == [2, 2, 3]


def test_the_hash_keeps_a_model_together_until_its_worker_has_more_than_its_share() -> None:
    stage = Stage(BoundedHash(), SMALL, NamedModel("other"), workers=(Workers(4),))
    first = stage.where(stage.ask())
    stage.run(30)
    assert stage.where(stage.ask()) == first
    for _ in range(31):
        stage.ask()
    assert max(stage.held()) <= 1.25 * 32 / 4 + 1


def test_multiplexing_goes_where_the_model_is_and_waits_for_room_there() -> None:
    stage = Stage(RayMultiplex(), SMALL, NamedModel("other"))
    stage.make_hot("w001", "small")
    jobs = [stage.ask() for _ in range(RAY_AT_ONCE + 2)]
    assert [stage.where(job) for job in jobs[:RAY_AT_ONCE]] == ["w001"] * RAY_AT_ONCE
    assert [stage.where(job) for job in jobs[RAY_AT_ONCE:]] == ["", ""]
    stage.run(1.2)
    stage.policy.tick()
    assert all(stage.where(job) for job in jobs[RAY_AT_ONCE:] if job.ended_at != job.ended_at)


def test_multiplexing_puts_a_new_model_where_the_fewest_are() -> None:
    stage = Stage(RayMultiplex(), SMALL, NamedModel("other"), workers=(Workers(2),))
    stage.make_hot("w000", "small")
    assert stage.where(stage.ask("other")) == "w001"


def test_startup_awareness_weighs_a_queue_against_a_load() -> None:
    stage = Stage(StartupAware())
    stage.make_hot("w002", "small")
    assert stage.where(stage.ask(units=20)) == "w002"
    assert stage.where(stage.ask(units=400)) == "w002", "a second of queue is less than a load of 3.3 s"
    assert stage.where(stage.ask()) == "w000", "twenty seconds of queue are more"


def test_startup_awareness_prefers_weights_that_are_on_the_disk() -> None:
    stage = Stage(StartupAware(), on_disk=0.0)
    worker = stage.world.workers["w001"]
    worker.cache.note("small", "diffusers", "warm", worker.world.models["small"].size_bytes)
    assert stage.where(stage.ask()) == "w001"


def test_pressure_gathers_requests_of_a_model_before_it_takes_a_worker() -> None:
    stage = Stage(SwarmPressure(), SMALL, NamedModel("other"), workers=(Workers(1),))
    first = stage.ask()
    assert stage.where(first) == "w000", "nothing else is wanted"
    waiting = [stage.ask("other") for _ in range(4)]
    assert not any(stage.where(job) for job in waiting)
    stage.run(SWARM_GATHER_S + 30)
    assert not stage.world.left
    assert first.ended_at < min(job.started_at for job in waiting)


def test_pressure_sends_no_more_than_so_many_to_a_worker() -> None:
    stage = Stage(SwarmPressure(), workers=(Workers(2),))
    stage.make_hot("w000", "small")
    for _ in range(9):
        stage.ask()
    assert stage.held()[0] == SWARM_AT_ONCE


@pytest.mark.parametrize("policy", [name for name in POLICIES if name != "stoker"])
def test_what_is_larger_than_a_worker_never_goes_there(policy: str) -> None:
    stage = Stage(POLICIES[policy](), SMALL, LARGE, workers=(Workers(2), Workers(1, memory_gb=40)))
    jobs = [stage.ask("large") for _ in range(6)]
    stage.run(200)
    assert not stage.world.left
    if policy != "bound":
        assert stage.world.workers["w000"].loads.total() == stage.world.workers["w001"].loads.total() == 0
    assert all(job.ended_at > job.started_at for job in jobs)


# The world ----------------------------------------------------------------------------------------


def loads(stage: Stage, worker: str) -> dict[str, int]:
    return dict(stage.world.workers[worker].loads)


def test_a_load_takes_as_long_as_its_way_is() -> None:
    stage = Stage(RoundRobin(), SMALL, NamedModel("styled", base="small"), on_disk=0.0)
    worker, model = stage.world.workers["w000"], stage.world.models["small"]
    assert worker.load_time_s(model, "parked") == pytest.approx(0.1 + 4 / 8)
    assert worker.load_time_s(model, "warm") == pytest.approx(0.6 + 4 / 1.5)
    assert worker.load_time_s(model, "cold") == pytest.approx(0.6 + 4 / 1.5 + 1.0 + 4 / 0.25)
    styled = stage.world.models["styled"]
    assert worker.load_time_s(styled, "base") == LORA_S
    assert worker.load_time_s(styled, "warm") == pytest.approx(0.6 + 4 / 1.5 + LORA_S)


def test_a_worker_loads_one_model_after_another_and_loras_on_hot_weights() -> None:
    stage = Stage(
        RoundRobin(), SMALL, NamedModel("styled", base="small"), NamedModel("other"), workers=(Workers(1),)
    )
    for name in ("small", "other", "styled"):
        stage.ask(name)
    worker = stage.world.workers["w000"]
    assert (worker.loading, list(worker.wanted)) == ("small", ["small", "other", "styled"])
    stage.run(30)
    assert loads(stage, "w000") == {"warm": 2, "lora": 1}
    assert worker.tier(stage.world.models["styled"]) == "hot"


def test_what_is_downloaded_is_on_the_disk_afterwards() -> None:
    stage = Stage(RoundRobin(), workers=(Workers(1, ram_gb=0),), on_disk=0.0)
    stage.ask()
    stage.run(60)
    assert loads(stage, "w000") == {"cold": 1}
    worker = stage.world.workers["w000"]
    worker.cache.evict_idle()
    assert worker.tier(stage.world.models["small"]) == "warm"


def test_evicted_weights_come_back_from_ram() -> None:
    stage = Stage(
        RoundRobin(), NamedModel("one", size_gb=20), NamedModel("two", size_gb=20), workers=(Workers(1),)
    )
    for name in ("one", "two", "one"):
        stage.ask(name)
        stage.run(60)
    assert loads(stage, "w000") == {"warm": 2, "parked": 1}


def test_a_heartbeat_says_what_a_worker_has() -> None:
    stage = Stage(RoundRobin(), SMALL, NamedModel("other"), workers=(Workers(1, profile="gpu", memory_gb=10),))
    stage.make_hot("w000", "small")
    job = stage.ask("small", units=1000)
    beat = stage.world.workers["w000"].heartbeat()
    tiers = {one.model: one.tier for one in beat.models}
    assert (tiers, beat.memory_used_bytes, beat.memory_total_bytes) == (
        {"small": "hot", "other": "warm"},
        4 * 10**9,
        10 * 10**9,
    )
    assert [one.job for one in beat.running] == [job.id]
    assert beat.seq + 1 == stage.world.workers["w000"].heartbeat().seq


def test_an_attempt_that_is_taken_back_frees_its_slot_for_the_next() -> None:
    stage = Stage(RoundRobin(), workers=(Workers(1),))
    stage.make_hot("w000", "small")
    first, second = stage.ask(units=1000), stage.ask(units=20)
    worker = stage.world.workers["w000"]
    worker.drop(first.id, 1)
    worker.core.validate()
    assert [attempt.job for attempt in worker.core.listed()] == [second.id]
    assert second.started_at == stage.world.now


def test_a_model_is_as_the_catalog_has_it() -> None:
    model = SimModel("m", "llamacpp", 7 * 10**9, 0.01, "weights")
    found = model.as_model()
    assert (found.name, found.features, found.specs[0].memory_bytes) == ("m", ("TextGeneration",), 7 * 10**9)
    assert found.specs[0].url == "file:///weights"

"""Random worlds, all the unkind ones: whatever happens, every accepted job ends once, and nothing is left behind.

Each seed is one story: loads, crashes, pauses, partitions, goodbyes, new leaders, lost and doubled messages; then calm, in
which everything must end. A failure prints the seed, and the story is the same every time.
"""

from typing import Any

import pytest

from tests.unit.scheduler.making import make_model
from tests.unit.scheduler.workers import SimWorker
from tests.unit.scheduler.world import Unkindness, World

STEPS = 250
CALM_S = 200.0
"""In which everything must have ended, seconds of the world."""
AFTER_S = 40.0
"""How long a world goes on when all has ended: longer than the longest pause, and than what is under way in it."""
QUICK = 8
"""How many stories of each kind are quick; `make test-all` has the others."""


def stories(count: int) -> list[Any]:
    """Their seeds."""
    return [pytest.param(seed, marks=[pytest.mark.slow] if seed >= QUICK else []) for seed in range(count)]


def befall(world: World) -> None:
    """One thing that happens to somebody."""
    chance = world.random
    name = chance.choice(sorted(world.workers))
    match chance.choice(
        [
            "kill",
            "runner",
            "family",
            "pause",
            "hang",
            "cut off",
            "goodbye",
            "leader",
            "leader wakes",
            "model",
            "cancel",
        ]
    ):
        case "kill":
            world.kill(name, restart_after_s=chance.uniform(0.1, 8))
        case "runner":
            world.kill_runner(name, chance.uniform(0.2, 3))
        case "family":
            world.kill_runner_of(name, chance.choice(["text", "image"]), chance.uniform(0.2, 3))
        case "pause":
            world.pause(name, chance.choice([0.5, 3.0, 10.0]))
        case "hang":
            world.hang(name, chance.choice([1.0, 10.0, 30.0]))
        case "cut off":
            world.cut_off(name, chance.choice([0.3, 2.0, 9.0]))
        case "goodbye":
            world.say_goodbye(name, restart_after_s=chance.uniform(0.1, 5))
        case "leader":
            world.change_leader()
        case "leader wakes":
            world.pause_leader(chance.choice([0.5, 3.0, 10.0]))
        case "model":
            world.forget_model("d", chance.uniform(0.1, 3))
        case "cancel" if world.submitted:
            world.cancel(f"j{chance.randint(1, world.submitted)}")


def live(world: World, steps: int) -> None:
    chance = world.random
    for _ in range(steps):
        if chance.random() < 0.8:
            adapter = "style" if chance.random() < 0.1 else ""
            patience_s = chance.choice([1e9, 1e9, 2.0])
            model = "a" if adapter else chance.choice("aaabbcdi")
            world.submit(model, chance.randint(-1, 1), patience_s, adapter)
        else:
            befall(world)
        world.run_for(chance.expovariate(10))


def calm_down(world: World) -> None:
    """Nothing befalls anybody any more: every job ends in time, and nothing comes after that."""
    world.unkind = Unkindness()
    until = world.now + CALM_S
    while world.now < until and (
        len(world.ended) < world.submitted or world.stream or world.core.ledger.records
    ):
        world.run_for(1.0)
    world.run_for(AFTER_S)


def check_all_ended(world: World) -> None:
    assert len(world.ended) == world.submitted, "jobs without an end"
    assert not world.stream, "jobs left in the stream"
    assert not world.core.ledger.records
    for worker in world.core.fleet.workers.values():
        assert not worker.held and not worker.lanes
    for queue in world.core.ledger.queues.values():
        assert queue.is_idle and not queue.by_spec


def unkind_world(seed: int, count: int, kind: type[World] = World) -> World:
    workers = [SimWorker(f"w{number}") for number in range(count)]
    models = [make_model("a", memory_mb=90, adapters=("style",))]
    models += [make_model(name, memory_mb=90) for name in "bcd"] + [make_model("i", "image", 120)]
    world = kind(seed, workers, models)
    chance = world.random
    world.unkind = Unkindness(
        lose=chance.choice([0.0, 0.05]),
        double=chance.choice([0.0, 0.1]),
        delay_s=chance.choice([0.0, 0.05, 0.5]),
        lookups_fail=chance.choice([0.0, 0.3]),
    )
    return world


@pytest.mark.parametrize("count", [1, 4], ids=["a single worker", "four workers"])
@pytest.mark.parametrize("seed", stories(40))
def test_every_job_ends_once_and_nothing_is_left(seed: int, count: int) -> None:
    world = unkind_world(seed, count)
    live(world, STEPS)
    calm_down(world)
    check_all_ended(world)


@pytest.mark.parametrize("seed", stories(20))
def test_no_job_fails_for_want_of_a_worker_where_no_process_died_under_it(seed: int) -> None:
    """Rolling updates, short disconnections, pauses, new leaders: none of them is the fault of a job."""
    world = unkind_world(seed, 3)
    chance = world.random
    for _ in range(STEPS):
        name = chance.choice(sorted(world.workers))
        match chance.random():
            case luck if luck < 0.85:
                world.submit(chance.choice("aabbcd"))
            case luck if luck < 0.90:
                world.say_goodbye(name, restart_after_s=1.0)
            case luck if luck < 0.95:
                world.cut_off(name, 0.3)
            case luck if luck < 0.98:
                world.pause(name, 3.0)
            case _:
                world.change_leader()
        world.run_for(chance.expovariate(10))
    calm_down(world)
    check_all_ended(world)
    assert set(world.ended.values()) == {"completed"}

"""The autoscaler's core in thousands of random worlds, and under whatever hypothesis thinks of."""

import math
import random

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.simulated_hardware import Hardware, HardwareSimulation, make_model, make_spec, simulate


def random_world(seed: int) -> HardwareSimulation:
    """Two to four specs, some in a group, perhaps a standby; at least one of them can always start."""
    rng = random.Random(seed)
    names = "abcd"[: rng.randint(2, 4)]
    specs = [
        make_spec(
            name,
            target_requests=rng.choice([1, 5, 20]),
            max_replicas=rng.choice([0, 0, 30, 50]),
            scale_group=rng.choice(["", "g"]),
            scale_down_delay_s=rng.choice([5.0, 10.0, 20.0]),
        )
        for name in names
    ]
    if rng.random() < 0.3:
        specs.append(make_spec("standby", target_requests=0, min_replicas=1, scale_down_delay_s=3.0))
    hardware = {
        spec.name: Hardware(
            start_s=rng.uniform(0.2, 6.0),
            stock=rng.choice([0, 1, 1000]),
            refuses=rng.choice([0.0, 0.3, 1.0]),
            fails_to_load=rng.choice([0.0, 0.0, 0.5]),
            crash_after_s=rng.choice([math.inf, math.inf, 20.0]),
        )
        for spec in specs
    }
    hardware[rng.choice(names)] = Hardware(start_s=rng.uniform(0.2, 6.0))
    if "standby" in hardware:
        hardware["standby"] = Hardware(start_s=4.0)
    return HardwareSimulation(make_model(*specs), hardware, seed)


def had_no_turn(world: HardwareSimulation, demand: int) -> list[str]:
    """Specs that were not tried although another was tried a third time in a row without success."""
    tries: dict[str, int] = {}
    for event in world.story:
        spec = event.subject.partition("/")[2]
        if event.kind == "ready":
            return []
        if event.kind == "launched" and spec != "standby":
            tries[spec] = tries.get(spec, 0) + 1
    needed = {spec.name: -(-demand // max(spec.target_requests, 1)) for spec in world.model.specs}
    serving = [spec.name for spec in world.model.specs if spec.target_requests]
    if any(tries.get(name, 0) > 2 * needed[name] for name in serving):
        return [name for name in serving if not tries.get(name, 0)]
    return []


def wrong_in(seed: int) -> list[str]:
    """What goes wrong in a random world: asked for something, then for nothing."""
    world = random_world(seed)
    rng = random.Random(seed + 1)
    world.run_for(rng.uniform(0, 3))
    demand = rng.randint(1, 30)
    world.ask(demand)
    has_standby = any(spec.is_standby for spec in world.model.specs)
    steady = all(one.crash_after_s == math.inf for one in world.hardware.values())
    world.run_for(120.0)
    wrong = [f"seed {seed}: {name} had no turn" for name in had_no_turn(world, demand)]
    if steady:
        if world.capacity() < demand:
            wrong.append(f"seed {seed}: {world.capacity()} of {demand} after 120 s")
        before = len(world.launches)
        world.run_for(20.0)
        for _, spec in world.launches[before:]:
            if world.hardware[spec].stock == 1000 and not world.hardware[spec].refuses:
                wrong.append(f"seed {seed}: it goes on launching {spec}")
    if rng.random() < 0.3:
        world.start_autoscaler()
    world.ask(0)
    for _ in range(160):
        world.run_for(0.5)
        is_watched = has_standby and steady and world.now > 1125.0
        if is_watched and not any(world.ready(spec.name) for spec in world.model.specs):
            wrong.append(f"seed {seed}: nothing is ready at {world.now} although there is a standby")
    left = [one.spec for one in world.replicas.values() if one.spec != "standby"]
    return [*wrong, *(f"seed {seed}: {spec} still runs though nothing is asked for" for spec in left)]


@pytest.mark.parametrize("block", range(2))
def test_random_worlds(block: int) -> None:
    seeds = range(block * 10, block * 10 + 10)
    assert [wrong for seed in seeds for wrong in wrong_in(seed)] == []


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("ask"), st.integers(0, 60)),
            st.tuples(st.just("wait"), st.floats(0.1, 20.0)),
            st.tuples(st.just("crash"), st.integers(0, 5)),
            st.tuples(st.just("stock"), st.integers(0, 3)),
            st.tuples(st.just("restart"), st.just(0)),
            st.tuples(st.just("settings"), st.integers(0, 3)),
        ),
        max_size=12,
    )
)
@settings(max_examples=60, deadline=None)
def test_whatever_happens_limits_hold_and_idle_goes_to_zero(actions: list[tuple[str, float]]) -> None:
    specs = [make_spec("a", max_replicas=3, target_requests=5, scale_group="g", scale_down_delay_s=5.0)]
    specs += [make_spec("b", max_replicas=2, target_requests=20, scale_group="g", scale_down_delay_s=5.0)]
    world = simulate(*specs)  # every event checks the maximum
    for action, value in actions:
        match action:
            case "ask":
                world.ask(int(value))
            case "wait":
                world.run_for(value)
            case "crash":
                for replica in list(world.replicas)[: int(value)]:
                    world.crash(replica)
            case "stock":
                world.hardware["a"].stock = int(value)
            case "restart":
                world.start_autoscaler()
            case "settings":
                env = {"X": str(value)}
                world.reconfigure(*(msgspec.structs.replace(spec, env=env) for spec in specs))
    world.ask(0)
    world.run_for(60.0)
    assert world.replicas == {}


@pytest.mark.slow
@pytest.mark.parametrize("thousand", range(10))
def test_ten_thousand_random_worlds(thousand: int) -> None:
    seeds = range(thousand * 1000, thousand * 1000 + 1000)
    assert [wrong for seed in seeds for wrong in wrong_in(seed)] == []

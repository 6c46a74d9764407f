"""Launches beside a standby as investments: whatever a start takes, and however seldom requests come, a spec is
not launched again and again without serving.
"""

import itertools

import pytest

from tests.unit.simulated_hardware import Hardware, HardwareSimulation, make_spec, simulate

REQUESTS = 15
RUN_S = 1.0
STANDBY = {"target_requests": 0, "min_replicas": 1}
STARTS_S = (5.0, 20.0, 60.0, 300.0)
INTERVALS_S = (5.0, 20.0, 60.0, 300.0, 900.0)
DELAYS_S = (2.0, 30.0, 300.0)
FEW = [(5.0, 5.0, 2.0), (8.0, 20.0, 6.0), (20.0, 60.0, 2.0), (20.0, 300.0, 30.0), (60.0, 20.0, 2.0)]


def played(start_s: float, every_s: float, delay_s: float, requests: int = REQUESTS) -> HardwareSimulation:
    """A real spec beside a standby, and requests that come one by one."""
    world = simulate(
        make_spec("gpu", target_requests=4, scale_down_delay_s=delay_s),
        make_spec("standby", scale_down_delay_s=delay_s, **STANDBY),
        hardware={"gpu": Hardware(start_s=start_s)},
    )
    world.start_timeout_s = 4 * start_s + 30
    world.start_autoscaler()
    world.run_for(10)
    for _ in range(requests):
        world.served.append(world.serve(RUN_S))
        world.run_for(every_s - RUN_S)
    return world


def in_vain(world: HardwareSimulation) -> int:
    """The most launches in a row that served nothing."""
    runs = [0]
    for replica in world.launched_of("gpu"):
        runs.append(0 if replica in world.serving else runs[-1] + 1)
    return max(runs)


def check(start_s: float, every_s: float, delay_s: float) -> None:
    world = played(start_s, every_s, delay_s)
    assert "" not in world.served, "the standby answers"
    launched = world.launched_of("gpu")
    assert in_vain(world) <= 2, f"{len(launched)} launches, {len(world.serving)} replicas served"


@pytest.mark.parametrize(("start_s", "every_s", "delay_s"), FEW)
def test_a_spec_is_not_launched_more_than_twice_without_serving(
    start_s: float, every_s: float, delay_s: float
) -> None:
    check(start_s, every_s, delay_s)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("start_s", STARTS_S)
def test_the_whole_table(start_s: float) -> None:
    for every_s, delay_s in itertools.product(INTERVALS_S, DELAYS_S):
        check(start_s, every_s, delay_s)


def test_one_request_each_20_s_launches_the_real_spec_once_and_it_stays() -> None:
    world = played(8.0, 20.0, 6.0)
    assert len(world.launched_of("gpu")) == 1
    assert world.served[:1] == ["standby"] and set(world.served[1:]) == {"gpu"}


def test_after_seldom_requests_frequent_ones_launch_it_again() -> None:
    world = played(60.0, 900.0, 2.0, requests=4)
    assert set(world.served) == {"standby"} and len(world.launched_of("gpu")) == 2
    for _ in range(12):
        world.served.append(world.serve(RUN_S))
        world.run_for(20.0 - RUN_S)
    assert world.served[-1] == "gpu"


def test_a_request_that_runs_longer_than_a_start_launches_it_again() -> None:
    world = played(60.0, 900.0, 2.0, requests=4)
    world.serve(100.0)
    assert len(world.launched_of("gpu")) == 3

"""The autoscaler's decisions: examples for every rule, then thousands of random worlds."""

import itertools
import math

import msgspec

from stoker.services.autoscaler.backoff import PROBE_S, pause_s
from stoker.services.autoscaler.core import MAX_LAUNCHING
from stoker.services.autoscaler.demand import Demand
from stoker.services.autoscaler.events import ModelChanged
from stoker.services.autoscaler.plan import SETTLE_S
from tests.unit.simulated_hardware import (
    Hardware,
    HardwareSimulation,
    SimReplica,
    make_spec,
    simulate,
)


def test_nothing_runs_while_nothing_is_asked_for() -> None:
    world = simulate(make_spec("a"))
    world.run_for(20)
    assert world.launches == []


def test_a_replica_is_launched_at_once_and_goes_after_the_delay() -> None:
    world = simulate(make_spec("a", target_requests=10, scale_down_delay_s=30.0))
    world.run_for(1)
    world.ask(25)
    assert [spec for _, spec in world.launches] == ["a"] * 3
    world.run_for(5)
    assert len(world.ready("a")) == 3
    world.ask(5)
    world.run_for(29)
    assert len(world.ready("a")) == 3
    world.run_for(5)
    assert len(world.ready("a")) == 1
    world.ask(0)
    world.run_for(35)
    assert world.running("a") == []


def test_the_race_keeps_the_first_and_drains_the_surplus() -> None:
    """A is out of stock, B and C come up at different times: the story is told in order."""
    specs = [make_spec(name, scale_group="g") for name in "abc"]
    hardware = {"a": Hardware(stock=0), "b": Hardware(start_s=2.0), "c": Hardware(start_s=2.6)}
    world = simulate(*specs, hardware=hardware)
    world.ask(50)
    assert [spec for _, spec in world.launches] == ["a", "b", "c"]
    world.run_for(10)
    assert [len(world.running(name)) for name in "abc"] == [0, 1, 0]
    assert world.told()[:10] == [
        ("launched", "a"), ("launched", "b"), ("launched", "c"),
        ("failed", "a"), ("backoff", "a"),
        ("ready", "b"), ("ready", "c"),
        ("downscaled", "c"), ("kept", "b"), ("drained", "c"),
    ]  # fmt: skip
    condition = world.records["m"].specs[0].condition
    assert condition is not None
    assert (condition.reason, condition.failures) == ("OutOfStock", 1)


def test_of_two_that_come_up_together_the_first_in_spec_order_stays() -> None:
    specs = [make_spec(name, scale_group="g") for name in "bc"]
    world = simulate(*specs, hardware={"b": Hardware(start_s=3.0), "c": Hardware(start_s=2.0)})
    world.ask(50)
    world.run_for(10)
    assert (len(world.ready("b")), len(world.ready("c"))) == (1, 0)


def test_what_still_starts_when_another_is_ready_is_stopped() -> None:
    specs = [make_spec(name, scale_group="g") for name in "bc"]
    world = simulate(*specs, hardware={"b": Hardware(start_s=25.0), "c": Hardware(start_s=2.0)})
    world.ask(50)
    world.run_for(3 + 2 * SETTLE_S)
    assert (len(world.running("b")), len(world.ready("c"))) == (0, 1)
    world.run_for(60)
    assert len(world.launches) == 2


def test_without_a_group_specs_are_tried_one_after_another() -> None:
    specs = [make_spec(name) for name in "abc"]
    world = simulate(*specs, hardware={"a": Hardware(stock=0), "b": Hardware(fails_to_load=1.0)})
    world.ask(50)
    world.run_for(20)
    assert [spec for _, spec in world.launches][:3] == ["a", "b", "c"]
    assert len(world.ready("c")) == 1


def test_every_spec_has_its_turn_before_the_first_is_tried_again() -> None:
    slow = Hardware(start_s=10.0, fails_to_load=1.0)
    specs = [make_spec(name) for name in "abc"]
    world = simulate(*specs, hardware={"a": Hardware(stock=0), "b": slow})
    world.ask(50)
    world.run_for(20)
    assert [spec for _, spec in world.launches] == ["a", "b", "c"]


def test_back_off_grows_with_failures_and_specs() -> None:
    assert [pause_s(n, 1) for n in (1, 2, 3)] == [2.0, 4.0, 8.0]
    assert pause_s(1, 3) == 6.0
    assert pause_s(1000, 1) == 300.0
    world = simulate(make_spec("a"), hardware={"a": Hardware(fails_to_load=1.0)})
    world.ask(1)
    world.run_for(90)
    pauses = [b - a for (a, _), (b, _) in itertools.pairwise(world.launches)]
    assert len(pauses) >= 3
    assert all(later > earlier for earlier, later in itertools.pairwise(pauses))


def test_what_is_out_of_stock_is_asked_for_again_every_ten_seconds_and_at_once_when_it_is_back() -> None:
    """Eight replicas are missing: the first batch is refused, then one at a time is tried."""
    world = simulate(make_spec("a", target_requests=1), hardware={"a": Hardware(stock=0)})
    world.ask(8)
    world.run_for(35)
    times = [round(at - world.launches[0][0], 1) for at, _ in world.launches]
    assert times[:8] == [0.0] * 8
    assert [round(later - earlier) for earlier, later in itertools.pairwise(times[7:])] == [10, 10, 10]
    world.hardware["a"].stock = 8
    back = world.now
    world.run_for(14)
    assert len(world.ready("a")) == 8
    assert min(at for at, _ in world.launches if at >= back) <= back + PROBE_S + 0.5


def test_a_replica_that_does_not_come_up_is_stopped_and_counts_as_a_failure() -> None:
    world = simulate(make_spec("a"), hardware={"a": Hardware(start_s=1e9)})
    world.ask(1)
    world.run_for(33)
    assert ("failed", "a") in world.told()
    condition = world.records["m"].specs[0].condition
    assert condition is not None
    assert condition.reason == "NotReadyInTime"
    assert "30 s" in condition.message


def test_a_crash_is_replaced_after_a_pause_and_forgiven_once_it_is_stable() -> None:
    world = simulate(make_spec("a", target_requests=1))
    world.ask(1)
    world.run_for(5)
    [first] = world.ready("a")
    world.crash(first.id)
    world.run_for(10)
    [second] = world.ready("a")
    assert second.id != first.id
    assert world.records["m"].specs[0].condition is not None
    world.run_for(40)
    assert world.records["m"].specs[0].condition is None


def test_minimum_and_maximum() -> None:
    world = simulate(make_spec("a", min_replicas=2, max_replicas=3, target_requests=1))
    world.run_for(5)
    assert len(world.ready("a")) == 2
    world.ask(100)
    world.run_for(10)
    assert len(world.ready("a")) == 3


def test_launches_in_flight_are_bounded() -> None:
    world = simulate(make_spec("a", target_requests=1))
    world.ask(100)
    assert len(world.launches) == MAX_LAUNCHING


def test_the_standby_serves_alone_goes_for_others_and_is_back_before_the_last_goes() -> None:
    gpu = make_spec("gpu", scale_down_delay_s=20.0)
    cpu = make_spec("cpu", min_replicas=1, target_requests=0, scale_down_delay_s=3.0)
    world = simulate(gpu, cpu, hardware={"gpu": Hardware(start_s=8.0), "cpu": Hardware(start_s=5.0)})
    world.run_for(7)
    assert len(world.ready("cpu")) == 1
    world.ask(10)
    world.run_for(7)
    assert (len(world.ready("cpu")), len(world.ready("gpu"))) == (1, 0)
    world.run_for(10)
    assert (len(world.running("cpu")), len(world.ready("gpu"))) == (0, 1)
    world.ask(0)
    for _ in range(120):
        world.run_for(0.5)
        assert world.ready("cpu") or world.ready("gpu"), "nobody is there"
    assert (len(world.ready("cpu")), len(world.running("gpu"))) == (1, 0)


def test_replicas_that_somebody_else_started_count() -> None:
    world = simulate(make_spec("a", target_requests=10))
    world.beat(SimReplica("theirs", "a", 0.0, is_hot=True))
    world.ask(10)
    assert world.launches == []
    world.ask(11)
    assert len(world.launches) == 1


def test_a_restarted_autoscaler_adopts_what_runs_and_shrinks_nothing_for_a_full_window() -> None:
    world = simulate(make_spec("a", target_requests=10, scale_down_delay_s=30.0))
    world.ask(30)
    world.run_for(5)
    names = {one.id for one in world.ready("a")}
    world.demand = 0
    world.start_autoscaler()
    world.run_for(29)
    assert {one.id for one in world.ready("a")} == names
    world.run_for(10)
    assert world.running("a") == []


def test_what_nobody_has_recorded_is_stopped() -> None:
    world = simulate(make_spec("a"))
    world.replicas["stray"] = SimReplica("stray", "a", 0.0)
    world.run_for(2)
    assert world.replicas == {}


def test_a_model_that_is_removed_takes_its_replicas_along() -> None:
    world = simulate(make_spec("a", min_replicas=1))
    world.run_for(5)
    assert world.ready("a")
    world.feed(ModelChanged("m", None))
    world.run_for(3)
    assert world.replicas == {}
    assert "m" not in world.records


def test_demand_remembers_its_peak_within_the_window() -> None:
    demand = Demand()
    demand.note(5, 100.0)
    demand.note(50, 100.1)
    demand.note(2, 101.0)
    demand.note(1, 110.0)
    assert (demand.peak(5, 110.0), demand.peak(30, 110.0)) == (2, 50)
    restarted = Demand(known_since=100.0)
    restarted.note(1, 105.0)
    assert restarted.peak(30, 110.0) == math.inf
    assert restarted.recent(30, 110.0) == 1
    assert restarted.peak(30, 131.0) == 1


# Other settings -----------------------------------------------------------------------------------------


def ready_at_least(world: HardwareSimulation, spec: str, count: int, seconds: float) -> bool:
    """Run on; whether so many replicas were ready all the time."""
    enough = True
    for _ in range(int(seconds * 10)):
        world.run_for(0.1)
        enough = enough and len(world.ready(spec)) >= count
    return enough


def test_other_settings_replace_replicas_one_by_one_and_enough_stay_ready() -> None:
    world = simulate(make_spec("a", target_requests=10))
    world.ask(20)
    world.run_for(10)
    before = set(world.replicas)
    world.reconfigure(make_spec("a", target_requests=10, env={"VLLM_X": "1"}))
    assert ready_at_least(world, "a", 2, 40)
    assert len(world.running("a")) == 2
    assert not before & {one.id for one in world.running("a")}
    assert len(world.launches) == 4
    world.run_for(60)
    assert len(world.launches) == 4


def test_at_the_maximum_the_old_replica_goes_first() -> None:
    world = simulate(make_spec("a", max_replicas=1))
    world.ask(5)
    world.run_for(10)
    world.reconfigure(make_spec("a", max_replicas=1, env={"X": "1"}))  # every event checks the maximum
    world.run_for(20)
    assert (len(world.ready("a")), len(world.launches)) == (1, 2)


def test_settings_that_do_not_work_leave_the_old_replicas_alone() -> None:
    world = simulate(make_spec("a", target_requests=10))
    world.ask(20)
    world.run_for(10)
    world.hardware["a"] = Hardware(fails_to_load=1.0)
    world.reconfigure(make_spec("a", target_requests=10, env={"X": "broken"}))
    assert ready_at_least(world, "a", 2, 60)
    assert world.records["m"].specs[0].condition is not None


def test_a_standby_is_replaced_too() -> None:
    standby = {"target_requests": 0, "min_replicas": 1, "scale_down_delay_s": 3.0}
    world = simulate(make_spec("a"), make_spec("standby", **standby))
    world.run_for(10)
    [before] = world.ready("standby")
    world.reconfigure(make_spec("a"), make_spec("standby", env={"X": "1"}, **standby))
    assert ready_at_least(world, "standby", 1, 20)
    assert [one.id for one in world.running("standby")] != [before.id]
    assert len(world.running("standby")) == 1


# Another name, or another list of specs ----------------------------------------------------------------


def test_a_renamed_spec_has_its_new_replica_before_the_old_one_goes() -> None:
    world = simulate(make_spec("a", target_requests=10))
    world.ask(20)
    world.run_for(10)
    before = {one.id for one in world.running("a")}
    world.reconfigure(make_spec("b", target_requests=10))
    for _ in range(400):
        world.run_for(0.1)
        assert len(world.ready("a")) + len(world.ready("b")) >= 2
    assert (len(world.running("a")), len(world.running("b"))) == (0, 2)
    assert before and len(world.launches) == 4


def test_under_light_traffic_a_renamed_spec_is_replaced_too() -> None:
    world = simulate(make_spec("a", scale_down_delay_s=300.0))
    world.ask(1)
    world.run_for(10)
    world.ask(0)
    world.run_for(5)
    world.reconfigure(make_spec("b", scale_down_delay_s=300.0))
    for _ in range(300):
        world.run_for(0.1)
        assert world.ready("a") or world.ready("b")
    assert (len(world.running("a")), len(world.running("b")), len(world.launches)) == (0, 1, 2)


def test_a_name_whose_replicas_do_not_come_up_leaves_the_old_ones_alone() -> None:
    world = simulate(make_spec("a"))
    world.ask(1)
    world.run_for(10)
    world.hardware["b"] = Hardware(fails_to_load=1.0)
    world.reconfigure(make_spec("b"))
    assert ready_at_least(world, "a", 1, 60)
    world.ask(0)
    world.run_for(200)
    assert world.running("a") == world.running("b") == []


def test_where_the_old_replica_has_the_only_hardware_it_makes_room() -> None:
    world = simulate(make_spec("a"))
    world.ask(1)
    world.run_for(10)
    world.hardware["b"] = Hardware(stock=0)
    world.reconfigure(msgspec.structs.replace(make_spec("b"), profile="a"))
    world.run_for(3)
    assert world.running("a") == []


def test_what_starts_for_a_spec_that_is_gone_serves_until_another_does_and_not_without_demand() -> None:
    world = simulate(make_spec("a"))
    world.ask(1)
    world.run_for(1.5)
    assert world.running("a") and not world.ready("a")
    world.reconfigure(make_spec("b"))
    world.run_for(1)
    assert world.ready("a")
    world.run_for(10)
    assert (world.running("a"), len(world.ready("b"))) == ([], 1)


def test_a_restarted_autoscaler_finds_the_replica_of_before_serving_and_replaces_it() -> None:
    world = simulate(make_spec("a"))
    world.ask(1)
    world.run_for(10)
    world.reconfigure(make_spec("b"))
    world.start_autoscaler()
    for _ in range(600):  # what was asked for before it came is not known for a whole delay
        world.run_for(0.1)
        assert world.ready("a") or world.ready("b")
    assert (len(world.running("a")), len(world.running("b"))) == (0, 1)

"""Replicas as investments: what starts is judged when it can be used, and what has a price by what it saves."""

import msgspec

from stoker.schemas.catalog import ResourceProfile
from stoker.services.autoscaler.state import launch_key
from tests.unit.simulated_hardware import LAUNCHER, Hardware, HardwareSimulation, make_spec, simulate


def ask_now_and_then(world: HardwareSimulation, seconds: float, every_s: float, for_s: float = 1.0) -> None:
    until = world.now + seconds
    while world.now < until:
        world.ask(1)
        world.run_for(for_s)
        world.ask(0)
        world.run_for(every_s - for_s)


def test_a_start_longer_than_the_delay_comes_up_though_a_standby_answers_meanwhile() -> None:
    """Before: six launches, none ready; each was taken back when the standby had answered."""
    real = make_spec("real", target_requests=4, scale_down_delay_s=6.0)
    standby = make_spec("standby", target_requests=0, min_replicas=1)
    world = simulate(real, standby, hardware={"real": Hardware(start_s=12.0)})
    world.run_for(5)
    ask_now_and_then(world, 180.0, 20.0)
    assert len(world.ready("real")) == 1
    assert sum(spec == "real" for _, spec in world.launches) == 1
    assert ("downscaled", "real") not in world.told()


def test_a_start_is_taken_back_once_others_are_ready_and_the_reason_says_so() -> None:
    specs = [make_spec(name, scale_group="g", target_requests=5) for name in "ab"]
    world = simulate(*specs, hardware={"a": Hardware(start_s=2.0), "b": Hardware(start_s=20.0)})
    world.ask(3)
    world.run_for(10)
    [why] = [event.reason for event in world.story if event.kind == "downscaled"]
    assert why == "others were ready first"
    assert (len(world.ready("a")), world.running("b")) == (1, [])


def test_what_nobody_asks_for_any_more_goes_when_it_was_ready_for_twice_its_start() -> None:
    """Without a price a second of a replica counts as much as one of waiting; where waiting is worth nothing, the
    delay alone.
    """
    for waiting_cost, there_s, gone_s in ((10.0, 28.0, 36.0), (0.0, 19.0, 26.0)):
        world = simulate(make_spec("a", scale_down_delay_s=5.0), hardware={"a": Hardware(start_s=15.0)})
        world.model = msgspec.structs.replace(world.model, waiting_cost_per_hour=waiting_cost)
        world.start_autoscaler()
        world.ask(1)
        world.run_for(1)
        world.ask(0)
        world.run_for(there_s - 1)
        assert len(world.ready("a")) == 1
        world.run_for(gone_s - there_s)
        assert world.running("a") == []


def test_of_the_surplus_the_dearest_goes_whatever_the_order_of_the_specs() -> None:
    specs = [make_spec(name, scale_group="g", target_requests=5) for name in ("dear", "cheap")]
    hardware = {
        "dear": Hardware(start_s=2.0, price_per_hour=4.0),
        "cheap": Hardware(start_s=2.5, price_per_hour=1.0),
    }
    world = simulate(*specs, hardware=hardware)
    world.reconfigure(*specs)
    world.ask(3)
    world.run_for(12)
    assert (len(world.ready("cheap")), world.running("dear")) == (1, [])


def test_a_dear_one_that_was_ready_first_serves_until_the_cheap_one_is() -> None:
    specs = [make_spec(name, scale_group="g", target_requests=5) for name in ("dear", "cheap")]
    hardware = {
        "dear": Hardware(start_s=2.0, price_per_hour=4.0),
        "cheap": Hardware(start_s=20.0, price_per_hour=1.0),
    }
    world = simulate(*specs, hardware=hardware)
    world.model = msgspec.structs.replace(world.model, waiting_cost_per_hour=1000.0)
    world.start_autoscaler()
    world.ask(5)
    world.run_for(8)
    assert (len(world.ready("dear")), len(world.running("cheap"))) == (1, 1)
    world.run_for(25)
    assert (world.running("dear"), len(world.ready("cheap"))) == ([], 1)


def test_where_waiting_is_cheap_only_the_cheap_one_is_launched() -> None:
    specs = [make_spec(name, scale_group="g", target_requests=5) for name in ("dear", "cheap")]
    hardware = {"dear": Hardware(price_per_hour=40.0), "cheap": Hardware(price_per_hour=1.0)}
    world = simulate(*specs, hardware=hardware)
    world.ask(1)
    assert [spec for _, spec in world.launches] == ["cheap"]


def test_the_last_replica_with_a_price_is_kept_as_long_as_starting_it_again_would_cost() -> None:
    """Starts of 10 s, 10 an hour for waiting, 1 for the replica: 10 + 100 s instead of the delay of 5."""
    spec = make_spec("a", target_requests=1, scale_down_delay_s=5.0)
    world = simulate(spec, hardware={"a": Hardware(start_s=10.0, price_per_hour=1.0)})
    world.ask(3)
    world.run_for(14)
    assert len(world.ready("a")) == 3
    world.ask(0)
    world.run_for(30)
    assert len(world.ready("a")) == 1, "those beyond the last one keep to their delay"
    world.run_for(60)
    assert len(world.ready("a")) == 1
    world.run_for(40)
    assert world.running("a") == []


def test_work_that_would_be_late_brings_more_replicas_than_the_target_asks_for() -> None:
    spec = make_spec("a", target_requests=100, scale_down_delay_s=5.0)
    free = simulate(spec, hardware={"a": Hardware(start_s=5.0)})
    priced = simulate(spec, hardware={"a": Hardware(start_s=5.0, price_per_hour=1.0)})
    for world in (free, priced):
        world.ask(60, work_s=1800.0)
        world.run_for(8)
    assert len(free.ready("a")) == 1
    assert len(priced.running("a")) >= 16
    assert "1800 s of work wait" in {event.reason for event in priced.story if event.kind == "launched"}
    priced.ask(1, work_s=2.0)
    priced.run_for(15)
    assert len(priced.ready("a")) == 1


def test_a_maximum_holds_however_late_work_is() -> None:
    spec = make_spec("a", target_requests=100, max_replicas=3)
    world = simulate(spec, hardware={"a": Hardware(price_per_hour=1.0)})
    world.ask(500, work_s=100_000.0)
    world.run_for(10)
    assert len(world.running("a")) == 3


def test_what_was_learned_is_recorded_and_survives_a_restart() -> None:
    spec = make_spec("a", target_requests=5)
    world = simulate(spec, hardware={"a": Hardware(start_s=4.0, price_per_hour=2.0)})
    world.ask(1)
    world.run_for(10)
    [recorded] = world.records["m"].specs
    assert recorded.start_s is not None and 3.0 < recorded.start_s < 6.0
    assert (recorded.stock, recorded.price_per_hour) == (0.92, 2.0)
    world.start_autoscaler()
    learned = world.core.models["m"].learned_of("a")
    assert (learned.start_s(0.5), learned.stock) == (recorded.start_s, recorded.stock)


def test_another_price_replaces_no_replica() -> None:
    spec = make_spec("a")
    prices = [launch_key(spec, ResourceProfile("a", LAUNCHER, price_per_hour=price)) for price in (0.0, 3.0)]
    assert prices[0] == prices[1]

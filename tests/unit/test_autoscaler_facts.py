"""What the autoscaler remembers: demand over windows, failures and their pauses, and the facts of replicas."""

import math
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.schemas.catalog import Model, ResourceProfile, Spec
from stoker.schemas.fleet import Condition, QueueDepth, Replica
from stoker.services.autoscaler.backoff import (
    FIRST_PAUSE_S,
    LONGEST_DOUBLING,
    MAX_PAUSE_S,
    PROBE_S,
    Health,
    pause_s,
)
from stoker.services.autoscaler.demand import BUCKET_S, MEMORY_S, Demand
from stoker.services.autoscaler.state import IllegalMove, ModelState, launch_key

NOW = 1000.0


# Demand -------------------------------------------------------------------------------------------


def test_a_peak_counts_until_the_window_has_passed_it() -> None:
    demand = Demand()
    demand.note(9, NOW)
    demand.note(1, NOW + 1)
    assert demand.recent(5.0, NOW + 5.9) == 9.0
    assert demand.recent(5.0, NOW + 6.0) == 1.0


def test_what_held_when_the_window_began_counts() -> None:
    demand = Demand()
    demand.note(4, NOW)
    demand.note(7, NOW + 10)
    demand.note(0, NOW + 11)
    assert demand.recent(100.0, NOW + 20) == 7.0
    assert demand.recent(9.5, NOW + 20) == 7.0
    assert demand.recent(8.0, NOW + 20) == 0.0


def test_what_was_before_it_is_known_counts_as_unlimited() -> None:
    demand = Demand(known_since=NOW)
    demand.note(3, NOW)
    assert demand.peak(10.0, NOW + 9.9) == math.inf
    assert demand.peak(10.0, NOW + 10.0) == 3.0
    assert Demand().peak(10.0, NOW) == 0.0


def test_samples_close_together_are_kept_as_their_maximum() -> None:
    demand = Demand()
    for number, requests in enumerate((1, 8, 2)):
        demand.note(requests, NOW + number * BUCKET_S / 4)
    assert list(demand._buckets) == [(NOW, 8)]
    assert demand.now_requests == 2
    demand.note(3, NOW + BUCKET_S)
    assert list(demand._buckets) == [(NOW, 8), (NOW + BUCKET_S, 3)]


def test_a_job_that_came_and_ended_between_two_depths_was_asked_for() -> None:
    state = ModelState("m")
    state.note_depth(QueueDepth("m", 0, 0, peak=1), NOW)
    assert (state.demand.now_requests, state.demand.recent(2.0, NOW + 1)) == (0, 1.0)
    state.note_depth(QueueDepth("m", 0, 0), NOW + 1)
    assert state.demand.recent(0.5, NOW + 2) == 0.0


def test_the_same_number_again_takes_no_memory() -> None:
    demand = Demand()
    for second in range(50):
        demand.note(5, NOW + second)
    assert list(demand._buckets) == [(NOW, 5)]
    assert demand.recent(1.0, NOW + 50) == 5.0


def test_memory_is_bounded_and_the_last_sample_stays() -> None:
    demand = Demand()
    for number in range(20):
        demand.note(number, NOW + number * MEMORY_S / 10)
    assert all(began >= NOW + 19 * MEMORY_S / 10 - MEMORY_S for began, _ in demand._buckets)
    assert demand.recent(MEMORY_S, NOW + 9 * MEMORY_S) == 19.0


@given(
    st.lists(st.tuples(st.floats(BUCKET_S, 20), st.integers(0, 9)), min_size=1, max_size=40),
    st.floats(0.1, 100),
)
def test_the_peak_is_that_of_a_plain_list(steps: list[tuple[float, int]], window_s: float) -> None:
    demand, samples, now = Demand(), list[tuple[float, int]](), NOW
    for wait_s, requests in steps:
        now += wait_s
        demand.note(requests, now)
        samples.append((now, requests))
    start = now - window_s
    within = [requests for at, requests in samples if at > start]
    before = [requests for at, requests in samples if at <= start]
    assert demand.recent(window_s, now) == max([*within, *before[-1:]])


# Pauses -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("failures", "specs", "seconds"),
    [
        (1, 1, 2.0),
        (2, 1, 4.0),
        (3, 1, 8.0),
        (1, 3, 6.0),
        (3, 3, 24.0),
        (8, 1, 256.0),
        (9, 1, 300.0),
        (99, 2, 600.0),
    ],
)
def test_a_pause_doubles_with_failures_and_grows_with_specs(failures: int, specs: int, seconds: float) -> None:
    assert pause_s(failures, specs) == seconds


@given(st.integers(1, 10**6), st.integers(0, 20))
def test_pauses_are_bounded_and_never_shrink(failures: int, specs: int) -> None:
    assert pause_s(failures, specs) <= MAX_PAUSE_S * max(specs, 1)
    assert pause_s(failures, specs) <= pause_s(failures + 1, specs)
    assert pause_s(min(failures, LONGEST_DOUBLING), specs) >= FIRST_PAUSE_S * min(specs, 1)


def test_a_spec_rests_after_a_failure_until_its_time_has_come() -> None:
    health = Health()
    assert (health.failures, health.is_resting(NOW)) == (0, False)
    assert health.failed("Crash", "exit 1", 1, NOW - 9, NOW) == Condition("Crash", "exit 1", NOW, 1, NOW + 2.0)
    assert (health.is_resting(NOW + 1.99), health.is_resting(NOW + 2.0)) == (True, False)
    again = health.failed("Crash", "exit 2", 1, NOW + 3, NOW + 5)
    assert again == Condition("Crash", "exit 2", NOW + 5, 2, NOW + 9.0)


def test_what_was_launched_before_a_failure_was_seen_belongs_to_it() -> None:
    health = Health()
    first = health.failed("OutOfStock", "none left", 2, NOW - 1, NOW)
    for number in range(7):
        last = health.failed("OutOfStock", f"none left, {number}", 2, NOW - 1, NOW + number)
    assert (last.failures, last.at, last.retry_at) == (1, first.at, first.retry_at)
    assert last.message == "none left, 6"


def test_what_is_out_of_stock_is_asked_again_at_a_steady_pace() -> None:
    health, at = Health(), NOW
    for number in range(1, 6):
        found = health.failed("OutOfStock", "none left", 3, at, at)
        assert (found.failures, found.retry_at) == (number, at + PROBE_S)
        at += PROBE_S


def test_after_a_failure_one_at_a_time_is_tried() -> None:
    health = Health()
    assert health.may_launch([NOW, NOW], NOW)
    health.failed("Crash", "exit 1", 1, NOW - 1, NOW)
    assert not health.may_launch([], NOW + 1.9)
    assert health.may_launch([NOW - 1], NOW + 2), "what was launched before is no try"
    assert not health.may_launch([NOW + 2], NOW + 3)


def test_only_a_replica_of_after_the_failure_forgives_it() -> None:
    health = Health()
    health.failed("Crash", "exit 1", 1, NOW - 1, NOW)
    health.proved(NOW - 50)
    assert health.failures == 1, "it was ready before"
    health.taken(NOW + 2)
    assert health.failures == 1, "an order that is taken says nothing of a crash"
    health.proved(NOW + 3)
    assert health.failures == 0


def test_an_order_that_is_taken_says_that_stock_is_back() -> None:
    health = Health()
    health.failed("OutOfStock", "none left", 1, NOW - 1, NOW)
    health.taken(NOW - 1)
    assert health.failures == 1, "one of the batch that was refused"
    health.taken(NOW + 10)
    assert health.failures == 0


# Replicas -----------------------------------------------------------------------------------------

PROFILE = ResourceProfile("l4", "docker", image="stoker")
SPEC = Spec("gpu", "text", "file:///x", launcher="docker", profile="l4")


def replica(
    name: str = "r1", phase: Any = "launching", of: str = "gpu", at: float = NOW, **fields: Any
) -> Replica:
    return Replica(name, of, "l4", "docker", phase, at, **fields)


def state(*specs: Spec) -> ModelState:
    found = ModelState("m", Model("m", ("TextGeneration",), specs or (SPEC,)))
    found.take({"l4": PROFILE})
    return found


@pytest.mark.parametrize(
    "change",
    [{"min_replicas": 3}, {"max_replicas": 9}, {"target_requests": 7}, {"scale_down_delay_s": 1.0},
     {"scale_group": "g"}, {"size_bytes": 5}],
)  # fmt: skip
def test_how_many_there_are_to_be_makes_no_other_replica(change: dict[str, Any]) -> None:
    assert launch_key(msgspec.structs.replace(SPEC, **change), PROFILE) == launch_key(SPEC, PROFILE)


@pytest.mark.parametrize(
    "change", [{"url": "file:///y"}, {"args": ("-v",)}, {"env": {"A": "1"}}, {"memory_bytes": 1}, {"slots": 2}]
)
def test_what_a_replica_is_makes_another_replica(change: dict[str, Any]) -> None:
    assert launch_key(msgspec.structs.replace(SPEC, **change), PROFILE) != launch_key(SPEC, PROFILE)


def test_hardware_counts_and_how_much_of_it_there_is_does_not() -> None:
    other = msgspec.structs.replace(PROFILE, image="stoker:2")
    more = msgspec.structs.replace(PROFILE, inventory=9, start_timeout_s=5.0)
    assert launch_key(SPEC, other) != launch_key(SPEC, PROFILE)
    assert launch_key(SPEC, more) == launch_key(SPEC, PROFILE)


def test_only_what_somebody_launches_on_hardware_that_is_known_has_a_key() -> None:
    found = state(
        SPEC, Spec("static", "text", "", profile="l4"), Spec("lost", "text", "", launcher="x", profile="?")
    )
    assert found.launch_keys == {"gpu": launch_key(SPEC, PROFILE)}


def test_a_replica_is_outdated_where_it_is_known_to_be_of_other_settings() -> None:
    found = state()
    key = found.launch_keys["gpu"]
    assert not found.is_outdated(replica(launched_as=key))
    assert not found.is_outdated(replica(launched_as="")), "launched by one that did not note it"
    assert found.is_outdated(replica(launched_as="older"))
    assert not found.is_outdated(replica(of="gone", launched_as="older"))


def test_replicas_of_a_spec_are_counted_and_found_by_phase_the_oldest_first() -> None:
    found = state()
    for one in (
        replica("c", "ready", at=NOW, ready_at=NOW + 9),
        replica("b", "ready", at=NOW + 5, ready_at=NOW + 6),
        replica("a", "starting", at=NOW + 6),
        replica("d", "draining"),
        replica("e", "ready", of="cpu"),
    ):
        found.add(one)
    assert [one.id for one in found.in_phase("gpu", "ready", "starting")] == ["a", "b", "c"]
    assert [one.id for one in found.in_phase("gpu", "draining")] == ["d"]
    assert (found.count("gpu"), found.count("cpu"), found.count("none")) == (4, 1, 0)
    with pytest.raises(IllegalMove, match="a is there already, starting"):
        found.add(replica("a"))


def test_a_replica_that_is_forgotten_leaves_nothing_behind() -> None:
    found = state()
    for name in ("r1", "r2"):
        found.add(replica(name))
        found.acknowledged_at[name] = found.surplus_since[name] = NOW
        found.kept.add(name)
        found.restored.add(name)
    found.forget("r1")
    found.forget("never there")
    for books in (found.replicas, found.acknowledged_at, found.surplus_since, found.kept, found.restored):
        assert set(books) == {"r2"}


def test_a_move_notes_what_changed_and_one_that_is_not_allowed_says_why() -> None:
    found = state()
    found.add(replica())
    moved = found.move("r1", "ready", ready_at=NOW + 3)
    assert (moved, found.replicas["r1"].ready_at) == (found.replicas["r1"], NOW + 3)
    with pytest.raises(IllegalMove, match="r1 of m is ready and cannot become launching"):
        found.move("r1", "launching")
    with pytest.raises(IllegalMove, match="nobody of m is gone and cannot become ready"):
        found.move("nobody", "ready")


def test_specs_that_are_gone_are_forgotten_once_their_last_replica_is() -> None:
    found = state(SPEC, Spec("cpu", "text", "", launcher="docker", profile="l4"))
    found.add(replica(of="cpu"))
    for name in ("gpu", "cpu", "old"):
        found.health_of(name).failed("Crash", "m", 1, NOW - 1, NOW)
        found.learned_of(name).started(3.0)
        found.outside[name] = 3
    found.model = Model("m", ("TextGeneration",), (SPEC,))
    found.take({"l4": PROFILE})
    assert set(found.health) == set(found.learned) == set(found.outside) == {"gpu", "cpu"}
    found.forget("r1")
    found.take({})
    assert (set(found.health), found.launch_keys) == ({"gpu"}, {})
    found.model = None
    found.take({"l4": PROFILE})
    assert (found.specs, found.health, found.learned, found.outside) == ((), {}, {}, {})


def test_the_health_of_a_spec_is_one_and_the_same() -> None:
    found = state()
    assert found.health_of("gpu") is found.health_of("gpu")
    assert found.health_of("gpu") is not found.health_of("cpu")

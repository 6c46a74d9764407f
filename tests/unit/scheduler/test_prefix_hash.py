"""The ring: the placements of contracts.md, bounded loads, and few keys moving."""

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.services.scheduler.placing.prefix_hash import HashRing


def ring_of(*names: str, replication: int = 256) -> HashRing:
    ring = HashRing(replication)
    for name in names:
        ring.add(name)
    return ring


FOUR = ring_of("w-a", "w-b", "w-c", "w-d")


@pytest.mark.parametrize(
    ("key", "replica"),
    [("hello", "w-b"), ("You are a helpful assistant.", "w-a"), ("llama-3.1", "w-a"), ("", "w-c")],
)
def test_the_placements_of_the_contract(key: str, replica: str) -> None:
    assert FOUR.pick(key, {}) == replica


def test_an_overloaded_replica_is_passed_over_and_a_mean_load_is_not_overload() -> None:
    assert FOUR.pick("hello", {"w-b": 10}) == "w-c"
    assert FOUR.pick("hello", {"w-a": 3, "w-b": 4, "w-c": 3, "w-d": 3}) == "w-b"
    assert FOUR.pick("hello", {"w-b": 2}) == "w-c"
    assert FOUR.pick("hello", {"w-b": 2}, floor=3) == "w-b"


def test_where_all_are_overloaded_the_first_that_can_serve_is_taken() -> None:
    ring = ring_of("a", "b")
    chosen = ring.pick("x", {"a": 100, "b": 100}, can_serve=lambda name: name == "b")
    assert chosen == "b"
    assert ring.pick("x", {}, can_serve=lambda _: False) is None
    assert HashRing().pick("x", {}) is None


def test_names_that_begin_alike_share_no_points() -> None:
    assert len({point for point, _ in ring_of("a1", "a11")._points}) == 512


def test_adding_twice_and_removing_leave_the_ring_as_it_was() -> None:
    ring = ring_of("w-a", "w-b", "w-c", "w-d")
    before = list(ring._points)
    ring.add("w-b")
    ring.add("w-e")
    ring.remove("w-e")
    assert ring._points == before
    ring.keep(["w-a", "w-z"])
    assert {name for _, name in ring._points} == {"w-a", "w-z"}


def test_moving_one_of_ten_moves_about_a_tenth_of_the_keys() -> None:
    names = [f"replica-{index}" for index in range(10)]
    before, after = ring_of(*names), ring_of(*names[:-1])
    keys = [f"key {index}" for index in range(5000)]
    moved = [key for key in keys if before.pick(key, {}) != after.pick(key, {})]
    assert 0.06 < len(moved) / len(keys) < 0.15
    assert all(before.pick(key, {}) == names[-1] for key in moved)


@given(st.integers(1, 12), st.sampled_from([100, 125, 200]), st.integers(0, 2**32))
def test_loads_stay_within_the_bound(replicas: int, percentage: int, seed: int) -> None:
    """Placing jobs one after another never puts a replica above the bound of the moment."""
    rng = random.Random(seed)
    names = [f"r{index}" for index in range(replicas)]
    ring = ring_of(*names, replication=32)
    in_flight: Counter[str] = Counter()
    for _ in range(60):
        total = in_flight.total()
        name = ring.pick(f"key {rng.randint(0, 3)}", in_flight, percentage)
        assert name is not None
        assert in_flight[name] <= (total + 1) / replicas * percentage / 100 or total == 0
        in_flight[name] += 1

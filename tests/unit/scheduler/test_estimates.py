"""What loading and running are expected to take, before anything was measured and after."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from stoker.schemas.catalog import Model, Spec
from stoker.schemas.jobs import EmbeddingInput, Job
from stoker.schemas.workers import Tier
from stoker.services.scheduler.fleet.estimates import (
    BANDWIDTH_BYTES_PER_S,
    FIRST_RUN_S_PER_UNIT,
    FIXED_LOAD_S,
    LEARNT_RUNS,
    SMOOTHING,
    UNKNOWN_SIZE_BYTES,
    Estimates,
)

GB = 10**9
SPEC = Spec("default", "text", "", memory_bytes=2 * GB)


@pytest.mark.parametrize(("tier", "seconds"), [("base", 0.07), ("parked", 0.27), ("warm", 2.2)])
def test_an_unmeasured_load_takes_its_size_over_the_bandwidth_of_its_tier(tier: Tier, seconds: float) -> None:
    assert Estimates().load_s("a", SPEC, tier) == pytest.approx(seconds)


def test_weights_that_are_not_on_the_disk_are_fetched_and_then_loaded_from_there() -> None:
    estimates = Estimates()
    assert estimates.load_s("a", SPEC, "cold") == pytest.approx(0.5 + 20.0 + 2.2)
    estimates.learn_load("a", "default", "warm", 7.0)
    assert estimates.load_s("a", SPEC, "cold") == pytest.approx(0.5 + 20.0 + 7.0)


@pytest.mark.parametrize("tier", ["base", "parked", "warm"])
def test_weights_of_unknown_size_count_as_a_gigabyte(tier: Tier) -> None:
    unknown = Spec("default", "text", "")
    expected = FIXED_LOAD_S[tier] + UNKNOWN_SIZE_BYTES / BANDWIDTH_BYTES_PER_S[tier]
    assert Estimates().load_s("a", unknown, tier) == pytest.approx(expected)


def test_fetching_weights_of_unknown_size_counts_a_gigabyte_too() -> None:
    assert Estimates().load_s("a", Spec("default", "text", ""), "cold") == pytest.approx(0.5 + 10.0 + 1.2)


@pytest.mark.parametrize("tier", ["hot", "loading"])
def test_what_is_loaded_or_on_its_way_takes_no_load(tier: Tier) -> None:
    estimates = Estimates()
    estimates.learn_load("a", "default", tier, 9.0)
    assert estimates.load_s("a", SPEC, tier) == 0.0


def test_the_first_measurement_stands_and_later_ones_move_it_a_little() -> None:
    estimates = Estimates()
    estimates.learn_load("a", "default", "warm", 10.0)
    assert estimates.load_s("a", SPEC, "warm") == 10.0
    estimates.learn_load("a", "default", "warm", 20.0)
    assert estimates.load_s("a", SPEC, "warm") == pytest.approx(10.0 + SMOOTHING * 10.0)


def test_loads_are_learned_by_model_spec_and_tier() -> None:
    estimates = Estimates()
    estimates.learn_load("a", "default", "warm", 10.0)
    fresh = Estimates()
    assert estimates.load_s("b", SPEC, "warm") == fresh.load_s("b", SPEC, "warm")
    assert estimates.load_s("a", SPEC, "parked") == fresh.load_s("a", SPEC, "parked")
    other = Spec("other", "text", "", memory_bytes=2 * GB)
    assert estimates.load_s("a", other, "warm") == fresh.load_s("a", other, "warm")


def test_a_run_takes_a_learned_time_for_each_unit_of_its_work() -> None:
    estimates = Estimates()
    assert estimates.run_s("a", "default", 50.0) == pytest.approx(50 * FIRST_RUN_S_PER_UNIT)
    estimates.learn_run("a", "default", 10.0, 5.0)
    assert estimates.run_s("a", "default", 4.0) == pytest.approx(2.0)
    estimates.learn_run("a", "default", 10.0, 15.0)
    assert estimates.run_s("a", "default", 1.0) == pytest.approx(0.5 + SMOOTHING * 1.0)


def test_work_of_less_than_a_unit_counts_as_one() -> None:
    estimates = Estimates()
    nothing = Job("j", "a", EmbeddingInput(()), "gw", 0.0)
    estimates.learn_job(nothing, "default", 0.0, 3.0)
    assert estimates.units(nothing, "default") == 1.0
    assert estimates.run_s("a", "default", estimates.units(nothing, "default")) == 3.0
    assert estimates.run_s("a", "default", 2.0) == 6.0


def test_runs_are_learned_by_model_and_spec() -> None:
    estimates = Estimates()
    estimates.learn_run("a", "default", 1.0, 5.0)
    assert estimates.run_s("a", "other", 1.0) == FIRST_RUN_S_PER_UNIT
    assert estimates.run_s("b", "default", 1.0) == FIRST_RUN_S_PER_UNIT


def test_a_model_that_is_gone_is_forgotten_and_no_other() -> None:
    estimates = Estimates()
    for name in "ab":
        estimates.learn_load(name, "default", "warm", 9.0)
        estimates.learn_run(name, "default", 1.0, 9.0)
    estimates.forget("a")
    assert estimates.load_s("a", SPEC, "warm") == pytest.approx(2.2)
    assert estimates.run_s("a", "default", 1.0) == FIRST_RUN_S_PER_UNIT
    assert (estimates.load_s("b", SPEC, "warm"), estimates.run_s("b", "default", 1.0)) == (9.0, 9.0)


def test_what_a_load_measured_counts_until_the_model_has_other_weights() -> None:
    estimates = Estimates()
    was = Spec("default", "text", "file:///a", memory_bytes=GB)
    estimates.know(Model("a", (), (was,)))
    assert estimates.measured_bytes("a", was) == 0
    estimates.learn_load("a", "default", "warm", 9.0, 3 * GB)
    estimates.know(Model("a", (), (replace(was, slots=2),)))
    assert estimates.measured_bytes("a", was) == 3 * GB, "the same weights"
    now = replace(was, url="file:///other")
    estimates.know(Model("a", (), (now,)))
    assert estimates.measured_bytes("a", now) == 0
    estimates.learn_load("a", "default", "warm", 9.0, 2 * GB)
    estimates.forget("a")
    assert estimates.measured_bytes("a", now) == 0


@given(st.lists(st.floats(0.01, 1e4), min_size=1, max_size=30))
def test_what_was_learned_lies_between_the_shortest_and_the_longest(measured: list[float]) -> None:
    estimates = Estimates()
    for seconds in measured:
        estimates.learn_load("a", "default", "warm", seconds)
        estimates.learn_run("a", "default", 1.0, seconds)
    for learned in (estimates.load_s("a", SPEC, "warm"), estimates.run_s("a", "default", 1.0)):
        assert min(measured) * 0.999 <= learned <= max(measured) * 1.001


@given(st.integers(1, 10**12), st.integers(1, 10**12))
def test_larger_weights_never_load_faster_and_hotter_tiers_never_slower(one: int, other: int) -> None:
    small, large = (Spec("s", "text", "", memory_bytes=size) for size in sorted((one, other)))
    estimates = Estimates()
    tiers: list[Tier] = ["hot", "parked", "warm", "cold"]
    for tier in tiers:
        assert estimates.load_s("a", small, tier) <= estimates.load_s("a", large, tier)
    times = [estimates.load_s("a", large, tier) for tier in tiers]
    assert times == sorted(times)


def test_the_least_that_a_job_takes_is_the_shortest_of_the_last_runs() -> None:
    estimates = Estimates()
    assert estimates.least_s("a", "default", is_sized=True) == FIRST_RUN_S_PER_UNIT
    for seconds in (5.0, 2.0, 9.0):
        estimates.learn_run("a", "default", 10.0, seconds)
    assert estimates.least_s("a", "default", is_sized=True) == pytest.approx(0.2)


def test_of_jobs_without_a_size_nothing_is_said_before_many_were_seen() -> None:
    estimates = Estimates()
    for number in range(LEARNT_RUNS):
        assert estimates.least_s("f", "default", is_sized=False) == 0.0
        estimates.learn_run("f", "default", 1.0, 5.0 + number)
    assert estimates.least_s("f", "default", is_sized=False) == 5.0

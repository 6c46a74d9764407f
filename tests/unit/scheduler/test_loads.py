"""Loads as they are charged: who shares one that is under way, who a download serves, and what memory is waited for."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.services.scheduler.fleet.lane import Held
from stoker.services.scheduler.placing.placement import FREE_LOAD_SHARE, SPREAD_SHARE
from tests.unit.scheduler.place import MB, NOW, Place, model, resident, spec

SPEC = spec()


def hold(place: Place, worker: str, job: str, of: str = "a", run_s: float = 0.0, **fields: Any) -> None:
    found = place.fleet.workers[worker]
    place.fleet.hold(found, Held(job, of, "default", found.lane(of, "text"), 1, NOW, run_s, **fields))


def terms(place: Place, worker: str, now: float = NOW, of: str = "a") -> tuple[float, float]:
    """Wait and load of one more job."""
    option = place.dispatcher.predictor.option(place.fleet.workers[worker], of, SPEC, 256.0, now)
    return pytest.approx(option.wait_s), pytest.approx(option.load_s)


def test_a_load_that_evicts_counts_in_full_and_one_over_the_network_by_who_else_needs_it() -> None:
    place = Place()
    for tier in ("warm", "cold"):
        place.estimates.learn_load("a", "default", tier, 8.0)  # type: ignore[arg-type]
    place.worker("warm", resident("b"), resident(tier="warm"), memory_total_bytes=100 * MB)
    place.worker("cold", resident("b"), memory_total_bytes=100 * MB)
    assert (terms(place, "warm")[1], terms(place, "cold")[1]) == (8.0, 8.0), "nobody else asks for it"
    place.estimates.learn_run("a", "default", 256.0, 30.0)
    for number in range(40):
        place.job(f"j{number}")
    assert terms(place, "cold")[1] == FREE_LOAD_SHARE * 8.0, "more than the one that has it can run"


def test_a_load_that_is_under_way_counts_by_what_is_left_of_it_beyond_the_wait() -> None:
    place = Place()
    place.estimates.learn_load("a", "default", "warm", 6.0)
    worker = place.worker("w", resident(tier="warm"), slots=1)
    place.fleet.order_load(worker, "a", SPEC, NOW)
    assert terms(place, "w", NOW + 2)[1] == SPREAD_SHARE * 4.0, "it takes nobody's place"
    order = worker.ordered["a"]
    order.evict = frozenset({"b"})
    assert terms(place, "w", NOW + 2)[1] == FREE_LOAD_SHARE * 4.0
    order.evict = frozenset()
    hold(place, "w", "j", run_s=100.0)
    assert terms(place, "w", NOW + 2)[1] == 0.0


def loading(place: Place, name: str = "w", **facts: Any) -> None:
    """A worker that has been told to load a, for eight seconds more."""
    place.estimates.learn_load("a", "default", "warm", 8.0)
    worker = place.worker(name, resident(tier="warm"), slots=1, **facts)
    place.fleet.order_load(worker, "a", SPEC, NOW)


def test_what_is_hot_beside_a_load_runs_meanwhile_and_what_waits_for_it_does_not() -> None:
    place = Place()
    place.estimates.learn_run("a", "default", 256.0, 3.0)
    place.estimates.learn_run("b", "default", 256.0, 3.0)
    loading(place, lane="device")
    worker = place.worker("w", resident(tier="warm"), resident("b"), slots=1, lane="device")
    predictor = place.dispatcher.predictor
    assert predictor.meanwhile_s(worker, "lane:device", NOW) == 0.0
    for number in range(2):
        place.job(f"a{number}")
        place.job(f"b{number}", "b")
    place.dispatcher.plan.put(worker, "a", SPEC, 2)
    assert predictor.meanwhile_s(worker, "lane:device", NOW) == 0.0, "its own jobs wait for it"
    place.dispatcher.plan.put(worker, "b", SPEC, 2)
    assert predictor.meanwhile_s(worker, "lane:device", NOW) == pytest.approx(6.0)
    hold(place, "w", "b9", "b", run_s=4.0)
    assert predictor.meanwhile_s(worker, "lane:device", NOW) == pytest.approx(10.0)


def test_an_idle_fleet_loads_on_one_more_worker_rather_than_let_a_third_job_wait() -> None:
    place = Place()
    place.estimates.learn_run("a", "default", 256.0, 3.0)
    loading(place, "first")
    place.worker("second", resident(tier="warm"), slots=1)
    for number in range(3):
        place.job(f"j{number}")
    place.dispatcher.dispatch("a", NOW)
    lots = place.dispatcher.plan.of("a")
    assert sorted(lots) == ["first", "second"]
    assert sum(lot.jobs for lot in lots.values()) == 3


def test_a_download_counts_less_the_more_is_asked_for_than_those_who_have_it_can_run() -> None:
    shares: list[float] = []
    for waiting in (0, 5, 20, 80):
        place = Place()
        place.estimates.learn_load("a", "default", "cold", 10.0)
        place.estimates.learn_run("a", "default", 256.0, 6.0)
        place.worker("has it", resident(tier="warm"))
        place.worker("cold")
        for number in range(waiting):
            place.job(f"j{number}")
        shares.append(place.dispatcher.predictor._download_share("a", SPEC, NOW))
    assert shares == sorted(shares, reverse=True)
    assert shares[0] == 1.0 and shares[-1] == FREE_LOAD_SHARE


@given(st.integers(0, 200), st.integers(0, 6), st.floats(0.1, 60.0))
def test_a_download_counts_in_full_at_most_and_half_at_least(waiting: int, having: int, run_s: float) -> None:
    place = Place()
    place.estimates.learn_run("a", "default", 256.0, run_s)
    for number in range(having):
        place.worker(f"w{number}", resident(tier="warm"))
    for number in range(waiting):
        place.job(f"j{number}")
    share = place.dispatcher.predictor._download_share("a", SPEC, NOW)
    assert FREE_LOAD_SHARE <= share <= 1.0


def test_where_memory_is_taken_by_what_has_work_that_work_is_waited_for() -> None:
    """One model at a time fits, each in a lane of its own: what waits for a comes before b can be loaded."""
    wanted = spec(memory_bytes=200 * MB)
    place = Place(model("a", wanted), model("b", wanted))
    place.estimates.learn_run("a", "default", 256.0, 4.0)
    worker = place.worker("w", resident("a", size_mb=200), slots=1)
    predictor = place.dispatcher.predictor
    wanted = spec(memory_bytes=200 * MB)
    assert predictor.room_s(worker, "b", wanted, NOW) == 0.0, "nobody needs what is there"
    for number in range(3):
        place.job(f"j{number}")
    place.dispatcher.plan.put(worker, "a", wanted, 3)
    assert predictor.room_s(worker, "b", wanted, NOW) == pytest.approx(12.0)
    assert predictor.room_s(worker, "b", spec(memory_bytes=40 * MB), NOW) == 0.0, "there is room beside it"
    option = predictor.option(worker, "b", wanted, 1.0, NOW)
    assert option.wait_s == pytest.approx(12.0)

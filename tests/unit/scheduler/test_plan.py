"""The plan's books: lots come and go, are compared with the queue, and a worker that makes room closes others."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.services.scheduler.placing.plan import Plan
from tests.unit.scheduler.place import Place, resident, spec

SPEC = spec()


def planned(**lots: int) -> tuple[Place, Plan]:
    """Two workers, and jobs of model a that are meant for them."""
    place = Place()
    plan = place.dispatcher.plan
    for name in ("w1", "w2"):
        worker = place.worker(name, resident())
        if lots.get(name):
            plan.put(worker, "a", SPEC, lots[name])
    plan.validate()
    return place, plan


def jobs(plan: Plan) -> dict[str, int]:
    return {name: lot.jobs for name, lot in plan.of("a").items()}


def test_a_lot_takes_no_slot_and_counts_as_burden() -> None:
    place, plan = planned(w1=3)
    worker = place.fleet.workers["w1"]
    assert (worker.planned, worker.load("a", "text"), worker.burden("a", "text")) == ({"a": 3}, 0, 3)
    assert (plan.planned("a"), plan.planned("b"), list(plan.workers())) == (3, 0, ["w1"])


def test_a_job_is_given_out_of_the_workers_own_lot_else_of_the_largest() -> None:
    place, plan = planned(w1=1, w2=3)
    plan.given_out("a", "w1")
    assert jobs(plan) == {"w2": 3}
    plan.given_out("a", "w1")
    assert jobs(plan) == {"w2": 2}
    plan.given_out("b", "w1")
    plan.validate()
    assert place.fleet.workers["w1"].planned == {}


def test_lots_are_compared_with_the_queue() -> None:
    _, plan = planned(w1=2, w2=3)
    assert (plan.missing("a", 9), plan.missing("a", 5), plan.missing("a", 2)) == (4, 0, 0)
    plan.trim("a", 4)
    assert jobs(plan) == {"w1": 2, "w2": 2}
    plan.trim("a", 1)
    assert sum(jobs(plan).values()) == 1
    plan.trim("a", 0)
    assert (jobs(plan), plan.planned("a")) == ({}, 0)
    plan.validate()


def test_what_was_meant_for_a_worker_that_goes_is_meant_for_nobody() -> None:
    place, plan = planned(w1=2, w2=3)
    place.fleet.remove("w1")
    assert (jobs(plan), plan.missing("a", 5)) == ({"w2": 3}, 2)
    again = place.worker("w1", resident())
    assert again.planned == {}
    plan.validate()


def test_a_worker_that_is_closed_for_a_model_serves_what_was_meant_for_it_and_no_more() -> None:
    place, plan = planned(w1=2)
    plan.put(place.fleet.workers["w1"], "b", SPEC, 1)
    plan.close("w1", ["a"], "b")
    assert plan.has_turn("w1", "a")
    plan.put(place.fleet.workers["w1"], "a", SPEC, 5)
    for _ in range(2):
        plan.given_out("a", "w1")
    assert not plan.has_turn("w1", "a")
    assert plan.has_turn("w1", "b") and plan.has_turn("w2", "a")
    plan.reopen("w1")
    assert plan.has_turn("w1", "a")


def test_what_has_no_lot_has_no_turn_where_it_is_closed() -> None:
    place, plan = planned()
    plan.put(place.fleet.workers["w1"], "b", SPEC, 1)
    plan.close("w1", ["a"], "b")
    assert not plan.has_turn("w1", "a")


def test_a_worker_makes_room_no_longer_when_nobody_waits_for_it() -> None:
    place, plan = planned(w1=2)
    lot = plan.put(place.fleet.workers["w1"], "b", SPEC, 1)
    plan.close("w1", ["a"], "b")
    plan.take(lot)
    assert (plan.on("w1").closing, plan.on("w1").room_for) == ({}, "")


def test_jobs_of_a_shared_lane_are_counted_together() -> None:
    place = Place()
    worker = place.worker("w", resident("a"), resident("b"), lane="device")
    plan = place.dispatcher.plan
    plan.put(worker, "a", SPEC, 2)
    plan.put(worker, "b", SPEC, 3)
    assert worker.planned == {"lane:device": 5}
    place.worker("w", resident("a"), slots=0)  # between two runners it names no lane
    plan.take(plan.of("b")["w"], 3)
    plan.validate()
    assert worker.planned == {"lane:device": 2}


@pytest.mark.parametrize("breaks", ["count", "lane", "room"])
def test_validate_sees_every_contradiction(breaks: str) -> None:
    place, plan = planned(w1=2)
    if breaks == "count":
        plan._planned["a"] = 9
    elif breaks == "lane":
        place.fleet.workers["w1"].planned["a"] = 9
    else:
        plan.on("w1").room_for = "b"
    with pytest.raises(AssertionError):
        plan.validate()


STEP = st.tuples(
    st.sampled_from(["put", "take", "give", "trim", "close", "remove", "return"]),
    st.sampled_from(["w1", "w2", "w3"]),
    st.sampled_from("ab"),
    st.integers(1, 5),
)


@given(st.lists(STEP, max_size=60))
def test_the_books_agree_whatever_happens(steps: list[tuple[str, str, str, int]]) -> None:
    place = Place()
    plan = place.dispatcher.plan
    for step, name, model, number in steps:
        worker = place.fleet.workers.get(name)
        lot = plan.of(model).get(name)
        match step:
            case "put" if worker is not None:
                plan.put(worker, model, SPEC, number)
            case "take" if lot is not None:
                plan.take(lot, number)
            case "give" if worker is not None:
                plan.given_out(model, name)
            case "trim":
                plan.trim(model, number)
                assert plan.planned(model) <= number
            case "close" if lot is not None:
                plan.close(name, ["a" if model == "b" else "b"], model)
            case "remove":
                place.fleet.remove(name)
            case "return" if worker is None:
                place.worker(name, resident())
        plan.validate()
        assert sum(lot.jobs for lot in plan.of(model).values()) == plan.planned(model)

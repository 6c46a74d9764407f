"""Which workers are scored, and what an idle one takes over from the others."""

import pytest

from stoker.services.scheduler.placing.candidates import (
    ANY,
    LOOKED_AT,
    NEAR,
    PLANNED,
    REPLICAS,
    SMALL_FLEET,
    candidates,
)
from stoker.services.scheduler.placing.moving import MOVE_EVERY_S, Mover
from tests.unit.scheduler.place import MB, NOW, Place, model, resident, spec

SPEC = spec()


# Taking over --------------------------------------------------------------------------------------


def busy(jobs: int, run_s: float = 4.0, **idle: object) -> Place:
    """A worker for which jobs of a hot model are meant, and one with nothing to do."""
    place = Place()
    place.estimates.learn_run("a", "default", 256.0, run_s)
    worker = place.worker("busy", resident(), slots=1)
    place.worker("idle", *idle.pop("models", ()), slots=1, **idle)  # type: ignore[arg-type,misc]
    for number in range(jobs):
        place.job(f"j{number}")
    place.dispatcher.plan.put(worker, "a", SPEC, jobs)
    return place


def take_over(place: Place, now: float = NOW) -> dict[str, dict[str, int]]:
    Mover(place.dispatcher.predictor).take_over(place.fleet.workers["idle"], place.dispatcher.models, now)
    place.dispatcher.plan.validate()
    return place.meant()


def test_half_of_what_is_hot_elsewhere_moves_to_who_has_nothing_to_do() -> None:
    assert take_over(busy(9)) == {"busy": {"a": 4}, "idle": {"a": 5}}


def test_nothing_moves_where_loading_takes_longer_than_waiting() -> None:
    place = busy(9)
    place.estimates.learn_load("a", "default", "cold", 60.0)
    assert take_over(place) == {"busy": {"a": 9}}


def test_all_of_a_lot_moves_that_is_hot_nowhere() -> None:
    place = busy(1)
    other = place.fleet.workers["busy"]
    for number in range(3):
        place.job(f"b{number}", "b")
    place.dispatcher.plan.put(other, "b", SPEC, 3)
    place.estimates.learn_run("b", "default", 256.0, 0.1)
    place.estimates.learn_load("b", "default", "cold", 1.0)
    place.worker("idle", resident("b"))
    assert take_over(place)["idle"] == {"b": 3}


def test_a_worker_moves_something_once_in_a_while() -> None:
    place = busy(30)
    assert take_over(place)["idle"] == {"a": 15}
    place.dispatcher.plan.drop_worker("idle")
    place.dispatcher.plan.on("idle").moved_at = NOW
    assert "idle" not in take_over(place, NOW + MOVE_EVERY_S / 2)
    assert "idle" in take_over(place, NOW + MOVE_EVERY_S)


@pytest.mark.parametrize("why", ["failed", "suspected", "cannot", "particular", "gone"])
def test_nothing_moves_to_who_should_not_have_it(why: str) -> None:
    place = busy(9)
    idle = place.fleet.workers["idle"]
    match why:
        case "failed":
            idle.facts.failed_loads["a"] = "no such file"
        case "suspected":
            idle.suspected["a"] = NOW
        case "cannot":
            place.worker("idle", memory_total_bytes=50 * MB)
        case "particular":
            place.ledger.queue("a").particular["j0"] = None
        case "gone":
            place.dispatcher.models.pop("a")
    assert take_over(place) == {"busy": {"a": 9}}


def test_nothing_moves_where_only_what_is_in_use_could_make_room() -> None:
    place = busy(9, models=(resident("b"),), memory_total_bytes=100 * MB, memory_used_bytes=100 * MB)
    idle = place.fleet.workers["idle"]
    record = place.job("runs", "b")
    place.dispatcher.plan.put(idle, "b", SPEC, 1)
    assert place.fill(idle)[0].__class__.__name__ == "Assign"
    assert record.worker == "idle"
    assert take_over(place) == {"busy": {"a": 9}}


# Candidates ---------------------------------------------------------------------------------------


def names(place: Place) -> list[str]:
    return [worker.id for worker in candidates(place.fleet, place.dispatcher.plan, model())]


def test_of_a_small_fleet_all_are_scored() -> None:
    place = Place()
    for number in range(SMALL_FLEET):
        place.worker(f"w{number}")
    assert len(names(place)) == SMALL_FLEET


def test_of_a_large_fleet_the_least_burdened_of_each_sort_are_scored() -> None:
    place = Place()
    for number in range(40):
        place.worker(f"hot{number:02}", resident())
        place.worker(f"warm{number:02}", resident(tier="warm"))
        place.worker(f"cold{number:02}")
    for number in range(30):
        place.dispatcher.plan.put(place.fleet.workers[f"hot{number:02}"], "a", SPEC, 9)
    found = names(place)
    assert len(found) <= REPLICAS + PLANNED + NEAR + ANY
    assert {f"hot{number}" for number in range(30, 30 + REPLICAS)} <= set(found), "those with nothing to do"
    assert any(name.startswith("warm") for name in found)


def test_those_that_have_it_in_ram_come_before_those_that_have_it_on_disk() -> None:
    place = Place()
    for number in range(LOOKED_AT):
        place.worker(f"warm{number:02}", resident(tier="warm"))
    place.worker("parked", resident(tier="parked"))
    place.fleet.by_burden.drop("warm00")
    assert "parked" in names(place)


def test_the_one_worker_that_can_run_it_is_found_among_many_that_cannot() -> None:
    place = Place()
    for number in range(10 * LOOKED_AT):
        place.worker(f"small{number}", memory_total_bytes=50 * MB)
    large = place.worker("large")
    place.dispatcher.plan.put(large, "b", SPEC, 50)
    assert names(place) == ["large"]

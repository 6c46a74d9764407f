"""Loading for a job and ahead of need, workers kept for who starves, and models that leave the catalog."""

from typing import Any

import pytest

from services.scheduler.fleet.workers import Worker
from services.scheduler.placing.dispatch import DEMAND_HORIZON_S, EXPAND_EVERY_S, STARVING_LOADS, STARVING_S
from services.scheduler.protocol import commands
from tests.unit.scheduler.place import MB, NOW, Place, model, resident, spec

# Loading where nothing is loaded ------------------------------------------------------------------


def test_a_job_of_a_model_that_is_nowhere_loads_it_on_the_best_worker() -> None:
    place = Place()
    place.worker("cold")
    warm = place.worker("warm", resident(tier="warm"))
    place.job()
    assert place.given() == [("j", "warm")]
    assert warm.ordered["a"].spec == "default"
    assert [one.id for one in place.fleet.replicas("a").by_load()] == ["warm"]
    predicted = place.estimates.load_s("a", spec(), "warm") + place.estimates.run_s("a", "default", 256.0)
    assert warm.held["j"].run_s == pytest.approx(predicted)


def test_what_nobody_waits_for_is_named_to_be_evicted() -> None:
    place = Place(model("a"), model("b"), model("c"))
    place.worker("w", resident("b"), resident("c"))
    place.job("waits", "c")
    place.job()
    [assigned, _] = place.dispatch()
    assert isinstance(assigned, commands.Assign)
    assert assigned.assignment.evict == ("b",)


def test_a_load_ahead_names_what_nobody_waits_for_too() -> None:
    place, _ = backlog(0)
    place.worker("spare", resident("b"), resident(tier="warm"))
    for number in range(9):
        place.job(f"j{number}")
    assert place.dispatch(now=NOW + EXPAND_EVERY_S) == [commands.LoadOnWorker("spare", "a", spec(), ("b",))]


def test_a_wider_look_is_taken_at_most_so_often() -> None:
    place = Place()
    place.job()
    assert place.dispatch() == []
    place.worker("w")
    assert place.dispatch(now=NOW + EXPAND_EVERY_S / 2) == []
    assert len(place.dispatch(now=NOW + EXPAND_EVERY_S)) == 2


def test_a_worker_where_the_load_failed_is_tried_last() -> None:
    place = Place()
    place.worker("failed", resident(tier="warm"), failed_loads={"a": "no such file"})
    place.worker("w")
    place.job()
    assert place.given() == [("j", "w")]
    only = Place()
    only.worker("failed", failed_loads={"a": "no such file"})
    only.job()
    assert only.given() == [("j", "failed")], "where it failed everywhere it is tried again"


# Loading ahead of need ----------------------------------------------------------------------------


def backlog(jobs: int, **facts: Any) -> tuple[Place, list[commands.Command]]:
    """One replica with two runs of 2 s each, another worker that needs 10 s to load, and jobs that wait."""
    place = Place()
    place.estimates.learn_load("a", "default", "warm", 10.0)
    place.estimates.learn_run("a", "default", 1.0, 2.0 / 256)
    busy = place.worker("busy", resident())
    place.worker("spare", resident(tier="warm"), **facts)
    for name in ("runs-1", "runs-2"):
        place.job(name)
    place.dispatch()
    assert list(busy.held) == ["runs-1", "runs-2"]
    for number in range(jobs):
        place.job(f"j{number}")
    return place, place.dispatch(now=NOW + EXPAND_EVERY_S)


def test_a_replica_is_loaded_when_working_off_the_queue_takes_longer_than_loading() -> None:
    _, found = backlog(8)
    assert found == [], "1.9 s until a slot is free and 8 x 2 s of work in 2 slots: less than 10 s"
    place, found = backlog(9)
    assert found == [commands.LoadOnWorker("spare", "a", spec(), ())]
    assert place.fleet.workers["spare"].ordered["a"].at == NOW + EXPAND_EVERY_S
    assert len(place.ledger.waiting("a")) == 9, "the jobs stay in the queue"


def test_no_replica_is_loaded_where_room_could_be_made_only_from_what_is_in_use() -> None:
    place, _ = backlog(0)
    small = place.worker(
        "spare", resident("b"), resident(tier="warm"), memory_total_bytes=100 * MB, memory_used_bytes=100 * MB
    )
    place.job("other", "b")
    assert place.given("b") == [("other", "spare")]
    for number in range(50):
        place.job(f"j{number}")
    assert place.dispatch(now=NOW + 1) == []
    assert not small.ordered


# Reservations -------------------------------------------------------------------------------------


def crowded() -> tuple[Place, Worker]:
    """The only worker is full of b, which is in use; a job of a waits since NOW."""
    place = Place()
    place.estimates.learn_load("a", "default", "cold", 1.0)
    worker = place.worker("w", resident("b"), memory_total_bytes=100 * MB)
    place.job("runs", "b")
    assert place.given("b") == [("runs", "w")]
    place.job()
    return place, worker


def test_a_model_that_has_waited_too_long_gets_a_worker_kept_for_it() -> None:
    place, worker = crowded()
    limit_s = max(STARVING_S, STARVING_LOADS * 1.0)
    assert place.dispatch(now=NOW + limit_s) == []
    assert worker.reserved_for == ""
    assert place.dispatch(now=NOW + limit_s + 0.2) == []
    assert worker.reserved_for == "a"


def test_a_worker_that_is_kept_for_another_model_is_not_taken_from_it() -> None:
    place, worker = crowded()
    worker.reserved_for = "c"
    place.dispatch(now=NOW + 50)
    assert worker.reserved_for == "c"


def test_only_one_worker_is_kept_for_a_model() -> None:
    place, worker = crowded()
    second = place.worker("x", resident("b"), memory_total_bytes=100 * MB)
    place.job("runs-too", "b")
    assert place.given("b", NOW + 1) == [("runs-too", "x")]
    for after in (50, 51):
        place.dispatch(now=NOW + after)
    assert sorted([worker.reserved_for, second.reserved_for]) == ["", "a"]


def test_a_worker_is_free_again_when_the_model_waits_no_longer() -> None:
    place, worker = crowded()
    worker.reserved_for = "a"
    place.dispatcher.tidy()
    assert worker.reserved_for == "a"
    place.ledger.end(place.ledger.records["j"], "cancelled", NOW)
    place.dispatcher.tidy()
    assert worker.reserved_for == ""


# Demand, and models that go -----------------------------------------------------------------------


def test_demand_is_1_for_what_is_waited_for_or_used_and_falls_with_the_rate_of_arrivals() -> None:
    place = Place()
    assert place.dispatcher.demand("a") == 0.0
    record = place.job()
    assert place.dispatcher.demand("a") == 1.0
    place.worker("w", resident())
    place.dispatch()
    assert place.dispatcher.demand("a") == 1.0, "it runs"
    place.ledger.end(record, "completed", NOW)
    place.ledger.queue("a").arrival_rate = 0.25 / DEMAND_HORIZON_S
    assert place.dispatcher.demand("a") == pytest.approx(0.25)
    place.ledger.queue("a").arrival_rate = 9.0
    assert place.dispatcher.demand("a") == 1.0


def test_a_model_that_is_gone_goes_at_once_and_its_queue_with_its_last_job() -> None:
    place = Place()
    record = place.job()
    place.dispatcher.remove("a")
    place.dispatcher.remove("never there")
    assert "a" not in place.dispatcher.models
    place.dispatcher.tidy()
    assert "a" in place.ledger.queues
    place.ledger.end(record, "cancelled", NOW)
    place.ledger.queue("b")
    place.dispatcher.tidy()
    assert list(place.ledger.queues) == ["b"]


def test_a_model_whose_waiting_jobs_brought_their_spec_along_stays_for_them() -> None:
    place = Place()
    record = place.job(spec=spec("brought"))
    place.dispatcher.remove("a")
    place.dispatcher.tidy()
    assert "a" in place.dispatcher.models
    place.ledger.end(record, "cancelled", NOW)
    place.dispatcher.tidy()
    assert "a" not in place.dispatcher.models
    place.dispatcher.models["a"] = model("a")
    place.dispatcher.tidy()
    assert "a" in place.dispatcher.models, "it came back, and nobody removed it again"


def test_a_load_that_a_refused_job_would_have_caused_is_no_longer_counted_on() -> None:
    place = Place()
    worker = place.worker("w")
    record = place.job()
    assert place.given() == [("j", "w")]
    place.ledger.move(record, "waiting", NOW)
    assert (worker.ordered, len(place.fleet.replicas("a"))) == ({}, 0)


def test_while_a_replica_loads_no_other_is_loaded_for_a_short_queue() -> None:
    place = Place()
    place.estimates.learn_run("a", "default", 256.0, 0.01)
    place.worker("loading", resident(tier="loading"))
    place.worker("spare")
    for number in range(4):
        place.job(f"j{number}")
    assert place.given() == [("j0", "loading"), ("j1", "loading")]
    assert place.dispatch(now=NOW + EXPAND_EVERY_S) == []

"""Placing from the queues: what is assigned, who is avoided, and how it is explained."""

from typing import Any

import pytest

from schemas.catalog import Adapter
from services.scheduler.fleet.workers import Held
from services.scheduler.placing.dispatch import EXPLAINED_CANDIDATES, EXPLAINED_WHEN_HOT, MAX_PASSED
from services.scheduler.protocol import commands
from tests.unit.scheduler.place import MB, NOW, TERM, Place, model, resident, spec

# The quick path -----------------------------------------------------------------------------------


def test_an_assignment_says_everything_that_its_worker_needs() -> None:
    place = Place()
    worker = place.worker("w", resident())
    record = place.job(created_at=NOW - 2)
    [command] = place.dispatch()
    assert isinstance(command, commands.Assign)
    given = command.assignment
    assert (command.worker, command.trace) == ("w", "trace-j")
    assert (given.job, given.attempt, given.term, given.spec, given.tier) == (
        record.job,
        1,
        TERM,
        spec(),
        "hot",
    )
    assert (given.queued_s, given.evict, given.life) == (2.0, (), 3.0)
    assert (record.phase, record.worker, record.spec, record.term) == ("offered", "w", "default", TERM)
    expected_s = place.estimates.run_s("a", "default", 256.0)
    assert worker.held == {"j": Held("j", "a", "default", "a", 1, NOW, expected_s)}


def test_jobs_are_placed_in_order_until_there_is_no_room() -> None:
    place = Place()
    place.worker("w", resident(), slots=2)
    for name in ("j1", "j2", "j3"):
        place.job(name)
    assert place.given() == [("j1", "w"), ("j2", "w")]
    assert place.given() == []


def test_a_model_that_is_unknown_or_has_no_queue_places_nothing() -> None:
    place = Place()
    place.worker("w", resident("none"))
    place.job(of="none")
    assert place.dispatch("none") == []
    assert place.dispatch("never heard of") == []


def test_a_hot_replica_without_room_is_not_replaced_by_one_that_loads() -> None:
    place = Place()
    place.worker("hot", resident())
    place.worker("loading", resident(tier="loading"))
    for name in ("j1", "j2", "j3"):
        place.job(name)
    assert place.given() == [("j1", "hot"), ("j2", "hot")]


def test_without_a_hot_replica_the_first_that_loads_is_taken() -> None:
    place = Place()
    place.worker("loading-1", resident(tier="loading"))
    place.worker("loading-2", resident(tier="loading"))
    place.job()
    assert place.given() == [("j", "loading-1")]
    assert place.explained("j").reason == "being loaded here already"


def test_a_replica_of_a_spec_that_the_model_no_longer_has_is_none() -> None:
    place = Place()
    place.worker("w", resident(of="old"), memory_used_bytes=0)
    place.job()
    [assigned, _] = place.dispatch()
    assert isinstance(assigned, commands.Assign)
    assert (assigned.assignment.tier, assigned.assignment.spec.name) == ("cold", "default")


def test_a_worker_that_is_kept_for_another_model_takes_nothing_new() -> None:
    place = Place()
    kept = place.worker("w", resident("a"), resident("b"))
    kept.reserved_for = "b"
    place.job("j1", "a")
    place.job("j2", "b")
    assert place.given("a") == []
    assert place.given("b") == [("j2", "w")]
    assert kept.reserved_for == "", "it had its turn"


def test_a_job_that_must_wait_lets_those_behind_it_pass() -> None:
    place = Place(model("a", spec("plain"), spec("able", adapters=(Adapter("poet", "file:///p"),))))
    place.worker("w", resident(of="plain"), memory_total_bytes=100 * MB, memory_used_bytes=100 * MB)
    place.job("styled", adapter="poet")
    place.job("plain")
    assert place.given() == [("plain", "w")]


def test_only_so_many_jobs_with_needs_of_their_own_are_looked_at() -> None:
    place = Place()
    place.worker("w", resident(), slots=200)
    for number in range(MAX_PASSED):
        place.job(f"j{number}").refused_at["w"] = NOW
    place.job("behind")
    assert place.given() == []
    place.ledger.end(place.ledger.records["j0"], "cancelled", NOW)
    assert place.given() == [("behind", "w")]


# Workers to avoid ---------------------------------------------------------------------------------


def test_a_job_that_was_refused_goes_elsewhere_and_comes_back_later() -> None:
    place = Place()
    place.worker("w", resident())
    place.job().refused_at["w"] = NOW
    assert place.given() == []
    assert place.given(now=NOW + 1.0) == [("j", "w")]


def test_a_job_goes_back_where_it_was_lost_only_when_nobody_else_could_run_it() -> None:
    place = Place()
    place.worker("w", resident())
    other = place.worker("other", is_draining=True)
    place.job().lost_on.append("w")
    assert place.given() == [("j", "w")], "the other one drains"
    place.job("k").lost_on.append("w")
    place.ledger.end(place.ledger.records["j"], "completed", NOW)
    place.worker("other")
    assert other.is_open
    assert place.given() == [("k", "other")]


def test_another_worker_where_the_job_was_lost_too_is_no_way_out() -> None:
    place = Place()
    place.worker("w", resident())
    place.worker("other")
    place.job().lost_on += ["w", "other"]
    assert place.given() == [("j", "w")]


# Explanations -------------------------------------------------------------------------------------


def test_a_quick_placement_is_explained_with_a_few_others() -> None:
    place = Place()
    place.worker("w", resident())
    for number in range(5):
        place.worker(f"x{number}")
    place.job()
    place.dispatch()
    found = place.explained("j")
    assert (found.job, found.model, found.attempt, found.decided_at) == ("j", "a", 1, NOW)
    assert (found.chosen, found.considered, found.reason) == ("w", 6, "hot here, least loaded")
    assert [one.worker for one in found.candidates] == ["w", "x0", "x1", "x2"][: EXPLAINED_WHEN_HOT + 1]
    assert found.candidates[0].verdict == "chosen: hot here, least loaded"
    assert found.candidates[1].verdict.endswith("later, by loading")


def test_a_full_ranking_is_explained_up_to_a_limit_and_names_the_chosen_one_once() -> None:
    place = Place()
    for number in range(12):
        place.worker(f"w{number:02}")
    place.job()
    [assigned, kept] = place.dispatch()
    assert isinstance(assigned, commands.Assign) and isinstance(kept, commands.Record)
    found = place.explained("j")
    assert [one.worker for one in found.candidates] == [f"w{n:02}" for n in range(EXPLAINED_CANDIDATES)]
    assert found.candidates[1].verdict.startswith("lost: a tie")
    assert found.reason == "no replica is loaded; cold here, the quickest to get"
    event = kept.event
    assert (event.kind, event.subject, event.at, event.model, event.worker) == (
        "assigned",
        "j",
        NOW,
        "a",
        "w00",
    )
    assert (event.reason, event.details) == (found.reason, found)


@pytest.mark.parametrize(
    ("facts", "models", "word"),
    [({}, (), "loading"), ({"memory_total_bytes": 100 * MB}, (resident("b"),), "making room")],
)
def test_a_candidate_that_lost_says_by_what(facts: Any, models: Any, word: str) -> None:
    place = Place()
    place.estimates.learn_load("b", "default", "warm", 500.0)
    place.worker("warm", resident(tier="warm"))
    place.worker("x", *models, **facts)
    place.job("wants-b", "b")
    place.job()
    place.dispatch()
    [_, lost] = place.explained("j").candidates
    assert (lost.worker, lost.verdict.rsplit("by ", 1)[1]) == ("x", word)


def test_a_candidate_that_would_have_to_wait_says_so() -> None:
    place = Place()
    place.worker("free", resident())
    busy = place.worker("busy", resident())
    for name in ("one", "two"):
        place.fleet.hold(busy, Held(name, "a", "default", "a", 1, NOW, 300.0))
    place.job()
    place.dispatcher.dispatch("a", NOW)
    [_, lost] = place.explained("j").candidates
    assert (lost.worker, lost.verdict) == ("busy", "lost: 300 s later, by waiting")


def test_a_replica_that_is_hot_with_one_spec_serves_with_it_though_another_was_ordered() -> None:
    place = Place(model("a", spec("one"), spec("two")))
    worker = place.worker("w", resident(of="one"))
    place.fleet.order_load(worker, "a", spec("two"), NOW)
    place.job()
    [assigned] = place.dispatch()
    assert isinstance(assigned, commands.Assign)
    assert (assigned.assignment.spec.name, assigned.assignment.tier) == ("one", "hot")


def test_a_replica_whose_load_was_ordered_with_another_spec_serves_with_that_one() -> None:
    place = Place(model("a", spec("one"), spec("two")))
    worker = place.worker("w", resident(of="one", tier="warm"))
    place.fleet.order_load(worker, "a", spec("two"), NOW)
    place.job()
    [assigned] = place.dispatch()
    assert isinstance(assigned, commands.Assign)
    assert (assigned.assignment.spec.name, assigned.assignment.tier) == ("two", "loading")


def test_among_replicas_that_load_the_first_that_may_take_the_job_is_taken() -> None:
    place = Place()
    for name in ("w1", "w2", "w3"):
        place.worker(name, resident(tier="loading"))
    place.job().refused_at["w1"] = NOW
    assert place.given() == [("j", "w2")]


def test_a_hot_replica_behind_a_fuller_one_that_loads_is_still_found() -> None:
    place = Place()
    place.worker("loading", resident(tier="loading"))
    hot = place.worker("hot", resident())
    place.ledger.offer(place.job("other"), hot, Held("other", "a", "default", "a", 1, NOW), TERM, NOW)
    place.job()
    assert place.given() == [("j", "hot")]


def test_a_hot_replica_that_must_be_avoided_does_not_hide_another() -> None:
    place = Place()
    place.worker("refused", resident())
    other = place.worker("other", resident())
    place.ledger.offer(place.job("k"), other, Held("k", "a", "default", "a", 1, NOW), TERM, NOW)
    place.job().refused_at["refused"] = NOW
    assert place.given() == [("j", "other")]

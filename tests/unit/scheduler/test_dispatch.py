"""Placing from the queues: what is given out, what is meant for whom, what is loaded, and how it is explained."""

from typing import Any

import pytest

from stoker.schemas.catalog import Adapter
from stoker.schemas.job_events import Loading
from stoker.services.scheduler.fleet.lane import Held
from stoker.services.scheduler.placing.dispatch import MAX_PASSED, STRETCH
from stoker.services.scheduler.placing.explaining import EXPLAINED_CANDIDATES, EXPLAINED_WHEN_HOT
from stoker.services.scheduler.protocol import commands
from tests.unit.scheduler.place import MB, NOW, TERM, Place, model, resident, spec

# Free slots ---------------------------------------------------------------------------------------


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
    assert worker.held == {"j": Held("j", "a", "default", "a", 1, NOW, expected_s, slots=2)}


def test_jobs_are_given_out_in_order_while_slots_are_free_and_the_others_are_meant_for_somebody() -> None:
    place = Place()
    place.worker("w", resident(), slots=2)
    for name in ("j1", "j2", "j3"):
        place.job(name)
    assert place.given() == [("j1", "w"), ("j2", "w")]
    assert place.meant() == {"w": {"a": 1}}
    assert place.given() == []


def test_a_job_that_has_just_come_is_given_out_without_waiting_where_a_slot_is_free() -> None:
    place = Place()
    place.worker("w", resident(), slots=2)
    record = place.ledger.note(place.job("before").job, "h", 1, NOW)
    assert place.dispatcher.give_at_once(record, NOW) is None, "somebody waits for the model"
    place.ledger.end(place.ledger.records["before"], "cancelled", NOW)
    record = place.ledger.note(record.job, "h", 2, NOW)
    given = place.dispatcher.give_at_once(record, NOW)
    assert isinstance(given, commands.Assign) and given.worker == "w"
    assert (record.phase, len(place.ledger.queue("a").waiting)) == ("offered", 0)
    place.checked([given])
    place.ledger.move(record, "waiting", NOW)
    assert list(place.ledger.queue("a").waiting.in_order()) == ["before"], "it has a place when it comes back"


def test_the_least_burdened_replica_is_taken() -> None:
    place = Place()
    for name in ("w1", "w2"):
        place.worker(name, resident(), slots=9)
    place.run("w1", "x", 1.0)
    place.job()
    assert place.given() == [("j", "w2")]


def test_a_model_that_is_unknown_or_has_no_queue_places_nothing() -> None:
    place = Place()
    place.worker("w", resident("none"))
    place.job(of="none")
    assert place.dispatch("none") == []
    assert place.dispatch("never heard of") == []


def test_one_more_is_sent_ahead_where_the_engine_takes_one() -> None:
    place = Place()
    worker = place.worker("w", resident(), slots=1, prefetch=1)
    for name in ("j1", "j2", "j3"):
        place.job(name)
    assert place.given() == [("j1", "w"), ("j2", "w")]
    assert [held.is_ahead for held in worker.held.values()] == [False, True]
    assert place.meant() == {"w": {"a": 1}}


def test_nothing_is_given_to_a_worker_where_the_model_still_loads() -> None:
    place = Place()
    place.worker("loading", resident(tier="loading"))
    place.job()
    assert place.given() == []
    assert place.meant() == {"loading": {"a": 1}}
    hot = place.worker("loading", resident())
    assert [type(command) for command in place.fill(hot)] == [commands.Assign]


def test_what_has_to_go_for_a_load_is_given_nothing_more() -> None:
    place = Place()
    worker = place.worker("w", resident(), resident("b", tier="warm"), memory_total_bytes=100 * MB)
    place.job("other", "b")
    assert place.loads(place.dispatch("b")) == [("b", "w", ("a",))]
    place.job()
    assert place.given() == []
    place.worker("w", resident(tier="warm"), resident("b"), memory_total_bytes=100 * MB)
    assert [c.assignment.job.id for c in place.fill(worker) if isinstance(c, commands.Assign)] == ["other"]


def test_a_replica_of_a_spec_that_the_model_no_longer_has_is_none() -> None:
    place = Place()
    place.worker("w", resident(of="old"), memory_used_bytes=0)
    place.job()
    found = place.dispatch()
    assert place.loads(found) == [("a", "w", ())]
    assert not [command for command in found if isinstance(command, commands.Assign)]


# Loading for those who wait -----------------------------------------------------------------------


def test_a_job_of_a_model_that_is_nowhere_has_it_loaded_on_the_best_worker() -> None:
    place = Place()
    place.worker("cold")
    warm = place.worker("warm", resident(tier="warm"))
    record = place.job(wants_events=True)
    load, kept, told = place.dispatch()
    assert load == commands.LoadOnWorker("warm", "a", spec(), ())
    assert isinstance(kept, commands.Record)
    assert (kept.event.kind, kept.event.model, kept.event.worker) == ("assigned", "a", "warm")
    assert kept.event.reason == "a is loaded for 1 that wait; it was warm here"
    assert told == commands.Notify(record.job, Loading(tier="warm"))
    assert (record.phase, warm.held, warm.ordered["a"].tier) == ("waiting", {}, "warm")
    assert [one.id for one in place.fleet.replicas("a")] == ["warm"]


def test_a_load_that_no_heartbeat_shows_is_ordered_again() -> None:
    place = Place()
    worker = place.worker("w")
    place.job()
    assert len(place.loads(place.dispatch())) == 1
    assert place.loads(place.fill(worker, NOW + 1)) == []
    place.worker("w", now=NOW + 4)
    assert len(place.loads(place.fill(worker, NOW + 4))) == 1


def test_a_worker_where_the_load_failed_is_tried_last() -> None:
    place = Place()
    place.worker("failed", resident(tier="warm"), failed_loads={"a": "no such file"})
    place.worker("w")
    place.job()
    assert place.loads(place.dispatch()) == [("a", "w", ())]
    only = Place()
    only.worker("failed", failed_loads={"a": "no such file"})
    only.job()
    assert only.loads(only.dispatch()) == [("a", "failed", ())], "where it failed everywhere it is tried again"


def test_jobs_that_were_meant_for_a_worker_where_the_load_failed_are_named() -> None:
    place = Place()
    worker = place.worker("w")
    for number in range(3):
        place.job(f"j{number}")
    place.dispatch()
    assert [record.id for record in place.dispatcher.load_failed(worker, "a")] == ["j0", "j1", "j2"]
    assert place.meant() == {}
    assert place.dispatcher.load_failed(worker, "a") == []


def test_a_second_replica_is_loaded_when_working_off_the_queue_takes_longer() -> None:
    place = Place()
    place.estimates.learn_load("a", "default", "warm", 10.0)
    place.estimates.learn_run("a", "default", 256.0, 2.0)
    place.worker("busy", resident(), slots=1)
    place.worker("spare", resident(tier="warm"), slots=1)
    for number in range(3):
        place.job(f"j{number}")
    found = place.dispatch()
    assert (place.meant(), place.loads(found)) == ({"busy": {"a": 2}}, []), (
        "4 s of work and half of a load of 10 s"
    )
    for number in range(3, 6):
        place.job(f"j{number}")
    assert place.loads(place.dispatch()) == [("a", "spare", ())]
    assert place.meant()["spare"]["a"] >= 1


# The next job of a worker -------------------------------------------------------------------------


def both_hot(slots: int = 1, **fields: Any) -> Place:
    """A worker whose one lane runs a and b."""
    place = Place()
    for name in "ab":
        place.estimates.learn_run(name, "default", 256.0, 1.0)
    place.worker("w", resident(), resident("b"), lane="device", slots=slots, **fields)
    return place


def finish(place: Place, job: str, now: float) -> list[str]:
    """The job ends; the next ones that its worker is given."""
    place.ledger.end(place.ledger.records[job], "completed", now)
    found = place.fill(place.fleet.workers["w"], now)
    return [command.assignment.job.id for command in found if isinstance(command, commands.Assign)]


def queue_up(place: Place, *jobs: tuple[str, str, str, float]) -> None:
    """Jobs that wait behind one that runs: name, model, tenant, seconds that they have waited."""
    place.job("first")
    place.dispatch()
    for name, of, tenant, waited_s in jobs:
        place.job(name, of, tenant=tenant, created_at=NOW - waited_s)
    for of in "ab":
        place.dispatch(of)


def test_the_tenant_that_was_given_less_is_next_whatever_its_model() -> None:
    place = both_hot()
    queue_up(place, ("greedy1", "a", "greedy", 9), ("greedy2", "a", "greedy", 9), ("small", "b", "small", 0))
    assert finish(place, "first", NOW + 1) == ["greedy1"]
    assert finish(place, "greedy1", NOW + 2) == ["small"]
    assert finish(place, "small", NOW + 3) == ["greedy2"]


def test_of_one_tenants_jobs_the_short_go_first_unless_a_long_one_has_waited_for_long() -> None:
    for long_waited_s, first in ((STRETCH * 4, "short"), (STRETCH * 6, "long")):
        place = both_hot()
        place.estimates.learn_run("b", "default", 256.0, 1.0 + 5.0 / 0.3)
        assert place.estimates.run_s("b", "default", 256.0) == pytest.approx(6.0)
        queue_up(place, ("short", "a", "t", 0), ("long", "b", "t", long_waited_s))
        assert finish(place, "first", NOW) == [first]


def test_a_worker_with_nothing_of_its_own_takes_what_is_meant_for_others_and_hot_here() -> None:
    place = Place()
    busy, idle = place.worker("busy", resident(), slots=1), place.worker("w", slots=1)
    for number in range(4):
        place.job(f"j{number}")
    place.dispatch()
    place.dispatcher.plan.drop_worker("w")
    place.dispatcher.plan.put(busy, "a", spec(), 3)
    place.dispatcher.plan.trim("a", 3)
    idle.ordered.clear()
    place.worker("w", resident(), slots=1)
    assert [c.worker for c in place.fill(idle) if isinstance(c, commands.Assign)] == ["w"]
    assert sum(place.meant()["busy"].values()) == 2


def test_a_worker_that_drains_gets_nothing_and_what_was_meant_for_it_is_planned_anew() -> None:
    place = Place()
    place.worker("w", resident(), slots=1)
    for number in range(3):
        place.job(f"j{number}")
    place.dispatch()
    drains = place.worker("w", resident(), slots=1, is_draining=True)
    place.worker("other")
    assert place.fill(drains) == []
    assert place.loads(place.tick()) == [("a", "other", ())]
    assert place.meant() == {"other": {"a": 2}}


# Jobs with needs of their own ---------------------------------------------------------------------


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
        place.job_but_not_on("w", f"j{number}", "refused")
    place.job("behind")
    assert place.given() == []
    place.ledger.end(place.ledger.records["j0"], "cancelled", NOW)
    assert place.given() == [("behind", "w")]


def test_a_job_that_was_refused_goes_elsewhere_and_comes_back_later() -> None:
    place = Place()
    place.worker("w", resident())
    place.job_but_not_on("w", why="refused")
    assert place.given() == []
    assert place.given(now=NOW + 1.0) == [("j", "w")]


def test_a_job_goes_back_where_it_was_lost_only_when_nobody_else_could_run_it() -> None:
    place = Place()
    place.worker("w", resident())
    other = place.worker("other", is_draining=True)
    place.job_but_not_on("w")
    assert place.given() == [("j", "w")], "the other one drains"
    place.job_but_not_on("w", "k")
    place.ledger.end(place.ledger.records["j"], "completed", NOW)
    place.worker("other")
    assert other.is_open
    assert place.loads(place.dispatch()) == [("a", "other", ())]
    assert place.meant() == {"other": {"a": 1}}


def test_another_worker_where_the_job_was_lost_too_is_no_way_out() -> None:
    place = Place()
    place.worker("w", resident())
    place.worker("other")
    place.job().lost_on += ["w", "other"]
    assert place.given() == [("j", "w")]


def test_a_hot_replica_that_must_be_avoided_does_not_hide_another() -> None:
    place = Place()
    place.worker("refused", resident())
    other = place.worker("other", resident())
    place.ledger.offer(place.job("k"), other, Held("k", "a", "default", "a", 1, NOW), TERM, NOW)
    place.job_but_not_on("refused", why="refused")
    assert place.given() == [("j", "other")]


def test_what_is_meant_for_a_worker_that_all_who_wait_must_avoid_is_planned_anew() -> None:
    place = Place()
    worker = place.worker("w", resident())
    place.worker("other", resident(), slots=1)
    place.run("other", "x", 9.0)
    place.job_but_not_on("w")
    place.dispatcher.plan.put(worker, "a", spec(), 1)
    assert place.fill(worker) == []
    assert place.meant() == {}
    place.tick()
    assert place.meant() == {"other": {"a": 1}}


# Explanations -------------------------------------------------------------------------------------


def test_a_job_that_found_a_free_slot_is_explained_with_a_few_others() -> None:
    place = Place()
    place.worker("w", resident())
    for number in range(5):
        place.worker(f"x{number}")
    place.job()
    place.dispatch()
    found = place.explained("j")
    assert (found.job, found.model, found.attempt, found.decided_at) == ("j", "a", 1, NOW)
    assert (found.chosen, found.considered, found.reason) == ("w", 6, "hot here, least burdened")
    assert [one.worker for one in found.candidates] == ["w", "x0", "x1", "x2"][: EXPLAINED_WHEN_HOT + 1]
    assert found.candidates[0].verdict == "chosen: hot here, least burdened"
    assert found.candidates[1].verdict.endswith("later, by loading")


def test_a_job_that_waits_is_explained_by_where_it_is_meant_to_go() -> None:
    place = Place()
    for number in range(12):
        place.worker(f"w{number:02}")
    place.job()
    place.dispatch()
    found = place.dispatcher.explain("j", NOW)
    assert found is not None
    assert [one.worker for one in found.candidates] == [f"w{n:02}" for n in range(EXPLAINED_CANDIDATES)]
    assert found.candidates[0].verdict.startswith("meant for: loading here")
    assert place.dispatcher.explain("nobody", NOW) is None


def test_a_job_that_was_planned_is_explained_by_the_plans_terms_with_those_of_the_losers() -> None:
    place = Place()
    worker = place.worker("w", resident(), slots=1)
    place.worker("slow", resident(), slots=1)
    place.run("w", "x", 2.0)
    place.run("slow", "y", 300.0)
    place.job()
    assert place.given() == []
    place.ledger.end(place.ledger.records["x"], "completed", NOW + 2)
    place.fill(worker, NOW + 2)
    found = place.explained("j")
    assert (found.chosen, found.reason) == ("w", "hot here, and it ends first here, the wait included")
    assert [one.wait_s for one in found.candidates] == [2.0, 300.0]
    assert found.candidates[1].verdict == "lost: 298 s later, by waiting"


# The catalog --------------------------------------------------------------------------------------


def test_a_model_that_is_gone_goes_at_once_and_its_queue_with_its_last_job() -> None:
    place = Place()
    place.worker("w")
    record = place.job()
    place.dispatch()
    place.dispatcher.remove("a")
    place.dispatcher.remove("never there")
    assert ("a" in place.dispatcher.models, place.meant()) == (False, {})
    place.tick()
    assert "a" in place.ledger.queues
    place.ledger.end(record, "cancelled", NOW)
    place.ledger.queue("b")
    place.tick()
    assert list(place.ledger.queues) == ["b"]


def test_a_model_whose_waiting_jobs_brought_their_spec_along_stays_for_them() -> None:
    place = Place()
    record = place.job(spec=spec("brought"))
    place.dispatcher.remove("a")
    place.tick()
    assert "a" in place.dispatcher.models
    place.ledger.end(record, "cancelled", NOW)
    place.tick()
    assert "a" not in place.dispatcher.models
    place.dispatcher.set("a", model("a"))
    place.tick()
    assert "a" in place.dispatcher.models, "it came back, and nobody removed it again"


def test_a_model_that_changes_is_planned_anew() -> None:
    place = Place()
    place.worker("w")
    place.job()
    place.dispatch()
    place.dispatcher.set("a", model("a", spec("other")))
    assert place.meant() == {}
    place.tick()
    [lot] = place.dispatcher.plan.of("a").values()
    assert lot.spec.name == "other"

"""Why a job went where it went, in words; and what is learned of models that nobody has run yet."""

import pytest
from msgspec.structs import replace

from stoker.schemas.catalog import Model, Spec
from stoker.schemas.children import ChildView
from stoker.schemas.fleet import JobView
from stoker.schemas.jobs import CompletionInput, Job
from stoker.services.scheduler.fleet.estimates import (
    FIRST_RUN_S_PER_UNIT,
    FIXED_LOAD_S,
    LEARNT_BYTES,
    Estimates,
)
from stoker.services.scheduler.placing.explaining import (
    EXPLAINED_CANDIDATES,
    Decision,
    others_now,
    with_calls,
)
from stoker.services.scheduler.placing.option import Option
from tests.unit.scheduler.place import MB, NOW, Place, resident, spec

JOB = Job("j", "a", CompletionInput("x"), "gw", NOW)


def option(place: Place, worker: str, tier: str = "hot", **terms: float) -> Option:
    given = {"wait_s": 0.0, "load_s": 0.0, "eviction_s": 0.0, "run_s": 1.0, **terms}
    return Option(place.fleet.workers[worker], spec(), tier, **given)  # type: ignore[arg-type]


def stage(*names: str) -> Place:
    place = Place()
    for name in names:
        place.worker(name, resident())
    return place


@pytest.mark.parametrize(
    ("tier", "wait_s", "reason"),
    [
        ("hot", 0.0, "hot here, least burdened"),
        ("hot", 2.0, "hot here, and it ends first here, the wait included"),
        ("warm", 0.0, "warm here, and it ends first here, the load included"),
    ],
)
def test_the_reason_says_what_was_there_and_what_was_waited_for(tier: str, wait_s: float, reason: str) -> None:
    place = stage("w")
    found = Decision(JOB, 3, option(place, "w", tier, wait_s=wait_s), [], 1, NOW).explanation()
    assert (found.reason, found.candidates[0].verdict) == (reason, f"chosen: {reason}")
    assert (found.job, found.model, found.attempt, found.chosen, found.considered) == ("j", "a", 3, "w", 1)


@pytest.mark.parametrize("term", ["wait_s", "load_s", "eviction_s", "run_s"])
def test_who_lost_says_by_which_term_most(term: str) -> None:
    place = stage("w", "other")
    words = {"wait_s": "waiting", "load_s": "loading", "eviction_s": "making room", "run_s": "running"}
    loser = option(place, "other", **{term: 9.0})
    _, lost = Decision(JOB, 1, option(place, "w"), [loser], 2, NOW).explanation().candidates
    assert lost.verdict.endswith(f"later, by {words[term]}")


def test_a_tie_is_called_one() -> None:
    place = stage("w", "other")
    _, lost = Decision(JOB, 1, option(place, "w"), [option(place, "other")], 2, NOW).explanation().candidates
    assert lost.verdict == "lost: a tie that went to the hotter, then the less burdened"


def test_others_are_worked_out_when_asked_and_so_many_are_shown() -> None:
    place = stage(*(f"w{number}" for number in range(20)))
    asked = 0

    def others() -> list[Option]:
        nonlocal asked
        asked += 1
        return [option(place, f"w{number}", wait_s=float(number)) for number in range(1, 20)]

    decision = Decision(JOB, 1, option(place, "w0"), others, 20, NOW)
    assert asked == 0
    assert len(decision.explanation().candidates) == EXPLAINED_CANDIDATES
    assert asked == 1


def test_those_are_shown_that_could_have_had_the_job_as_they_are_now() -> None:
    place = stage("chosen", "other")
    place.worker("draining", resident(), is_draining=True)
    place.worker("small", memory_total_bytes=50 * MB)
    for_b = place.worker("for b alone")
    for_b.facts = replace(for_b.facts, engines={"text": replace(for_b.facts.engines["text"], models=("b",))})
    for_b.engines = for_b.facts.engines
    chosen, record = place.fleet.workers["chosen"], place.job()
    found = others_now(place.dispatcher.predictor, chosen, record, spec(), NOW)
    assert [one.worker.id for one in found] == ["other"]


def test_what_called_a_job_and_what_it_calls_are_told_with_its_way() -> None:
    way = Decision(JOB, 1, option(stage("w"), "w"), [], 1, NOW).explanation()
    calls = (ChildView("c", "b"),)
    view = JobView(id="j", status="running", model="a", created_at=NOW, parent="p", children=calls)
    found = with_calls(way, view)
    assert found is not None
    assert (found.parent, found.children, found.chosen) == ("p", calls, "w")
    assert with_calls(way, None) == way
    assert with_calls(None, view) is None


# Estimates of what nobody has seen ----------------------------------------------------------------


def known(*models: tuple[str, str, str]) -> Estimates:
    """Name, engine and weights of each model."""
    estimates = Estimates()
    for name, engine, url in models:
        estimates.know(Model(name, ("TextGeneration",), (Spec("default", engine, url),)))
    return estimates


def test_a_model_that_never_ran_is_taken_for_one_that_shares_its_weights_else_its_engine() -> None:
    estimates = known(
        ("base", "image", "file:///x"), ("styled", "image", "file:///x"), ("far", "image", "file:///y")
    )
    assert estimates.run_s("styled", "default", 10.0) == 10 * FIRST_RUN_S_PER_UNIT
    estimates.learn_run("far", "default", 10.0, 5.0)
    assert estimates.run_s("styled", "default", 10.0) == pytest.approx(5.0)
    estimates.learn_run("base", "default", 10.0, 2.0)
    assert estimates.run_s("styled", "default", 10.0) == pytest.approx(2.0)
    estimates.learn_run("styled", "default", 10.0, 3.0)
    assert estimates.run_s("styled", "default", 10.0) == pytest.approx(3.0)


def test_without_a_spec_the_first_of_the_model_is_meant() -> None:
    estimates = Estimates()
    estimates.know(Model("m", ("TextGeneration",), (Spec("one", "text", ""), Spec("two", "text", ""))))
    estimates.learn_run("m", "one", 1.0, 4.0)
    estimates.learn_run("m", "two", 1.0, 9.0)
    assert estimates.run_s("m", "", 1.0) == pytest.approx(4.0)
    estimates.forget("m")
    assert estimates.run_s("m", "", 1.0) == FIRST_RUN_S_PER_UNIT


def test_the_bandwidth_of_a_tier_is_that_of_other_models_loads() -> None:
    estimates, size = Estimates(), 10 * LEARNT_BYTES
    unknown = Spec("default", "text", "file:///u", memory_bytes=2 * size)
    before = estimates.load_s("u", unknown, "warm")
    estimates.learn_load("m", "default", "warm", FIXED_LOAD_S["warm"] + 4.0, size)
    assert estimates.load_s("u", unknown, "warm") == pytest.approx(FIXED_LOAD_S["warm"] + 8.0)
    assert before != estimates.load_s("u", unknown, "warm")
    estimates.learn_load("tiny", "default", "warm", 50.0, LEARNT_BYTES - 1)
    assert estimates.load_s("u", unknown, "warm") == pytest.approx(FIXED_LOAD_S["warm"] + 8.0)


def test_what_was_measured_of_a_model_itself_comes_before_all() -> None:
    estimates = Estimates()
    mine = Spec("default", "text", "file:///m", memory_bytes=10 * LEARNT_BYTES)
    estimates.learn_load("other", "default", "cold", 60.0, 10 * LEARNT_BYTES)
    assert estimates.load_s("m", mine, "cold") == pytest.approx(60.0)
    estimates.learn_load("m", "default", "cold", 7.0, 10 * LEARNT_BYTES)
    assert estimates.load_s("m", mine, "cold") == 7.0
    assert estimates.load_s("m", mine, "hot") == estimates.load_s("m", mine, "loading") == 0.0

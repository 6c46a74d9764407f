"""Where a job runs best: every term by itself, the ties, and the words for what no worker can run."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.schemas.catalog import Adapter, Model, Spec
from stoker.schemas.jobs import CompletionInput, Job
from stoker.schemas.workers import EngineCapability, Heartbeat, Tier
from stoker.services.scheduler.fleet.lane import Held
from stoker.services.scheduler.fleet.workers import Fleet
from stoker.services.scheduler.placing.option import Option
from stoker.services.scheduler.placing.placement import (
    FREE_LOAD_SHARE,
    IN_USE_S,
    MOST_RELOADS,
    RELOADS_CHARGED,
    has_adapter,
    why_impossible,
    why_never,
)
from tests.unit.scheduler.place import MB, NOW, Place, resident, spec
from tests.unit.scheduler.place import model as make

SPEC = spec()
WARM_S = 0.2 + 100 * MB / 1e9
"""Loading 100 MB from disk, as long as nothing was measured."""
PARKED_S = 0.02 + 100 * MB / 8e9


def hold(place: Place, worker: str, job: str, of: str = "a", run_s: float = 0.0, **fields: Any) -> None:
    found = place.fleet.workers[worker]
    place.fleet.hold(found, Held(job, of, "default", found.lane(of, "text"), 1, NOW, run_s, **fields))


def terms(place: Place, worker: str, now: float = NOW, of: str = "a") -> tuple[float, float, float]:
    """Wait, load and eviction of one more job."""
    option = place.dispatcher.predictor.option(place.fleet.workers[worker], of, SPEC, 256.0, now)
    return option.wait_s, pytest.approx(option.load_s), pytest.approx(option.eviction_s)


# Waiting ------------------------------------------------------------------------------------------


def test_nobody_waits_where_a_slot_is_free() -> None:
    place = Place()
    place.worker("w", resident(), slots=2)
    hold(place, "w", "j1", run_s=10.0)
    assert terms(place, "w")[0] == 0.0


def test_the_wait_is_what_is_left_of_the_work_ahead_over_the_slots() -> None:
    place = Place()
    place.worker("w", resident(), slots=2)
    hold(place, "w", "j1", run_s=10.0)
    hold(place, "w", "j2", run_s=4.0)
    assert terms(place, "w")[0] == 7.0
    assert terms(place, "w", NOW + 3)[0] == 4.0
    assert terms(place, "w", NOW + 99)[0] == 0.0, "who runs longer than predicted is expected to end at once"


def test_a_job_that_was_sent_ahead_has_all_its_work_before_it() -> None:
    place = Place()
    place.worker("w", resident(), slots=1)
    hold(place, "w", "j1", run_s=4.0)
    hold(place, "w", "j2", run_s=5.0, is_ahead=True)
    assert terms(place, "w", NOW + 1)[0] == 8.0


def test_what_is_meant_for_the_lane_is_ahead_too() -> None:
    place = Place()
    place.estimates.learn_run("a", "default", 256.0, 2.0)
    worker = place.worker("w", resident(), slots=1)
    for number in range(3):
        place.job(f"j{number}")
    place.dispatcher.plan.put(worker, "a", SPEC, 3)
    assert terms(place, "w")[0] == pytest.approx(6.0)
    assert terms(place, "w", of="b")[0] == 0.0, "another lane"


def test_models_of_one_lane_wait_for_each_other() -> None:
    place = Place()
    place.estimates.learn_run("b", "default", 256.0, 5.0)
    worker = place.worker("w", resident(), resident("b"), slots=1, lane="device")
    place.job("other", "b")
    place.dispatcher.plan.put(worker, "b", SPEC, 1)
    assert terms(place, "w")[0] == pytest.approx(5.0)


# Loading ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tier", "load_s"),
    [
        ("hot", 0.0),
        ("base", FREE_LOAD_SHARE * 3.0),
        ("parked", FREE_LOAD_SHARE * 3.0),
        ("warm", FREE_LOAD_SHARE * 3.0),
    ],
)
def test_a_load_into_free_memory_counts_in_part(tier: Tier, load_s: float) -> None:
    place = Place()
    place.estimates.learn_load("a", "default", tier, 3.0)
    place.worker("w", resident(tier=tier))
    assert terms(place, "w") == (0.0, load_s, 0.0)


def test_loads_that_are_owed_there_come_first() -> None:
    place = Place(make("a"), make("b"))
    worker = place.worker("w", resident("b", tier="warm"), resident(tier="warm"))
    place.job("other", "b")
    place.dispatcher.plan.put(worker, "b", SPEC, 1)
    assert terms(place, "w")[1] == FREE_LOAD_SHARE * WARM_S + WARM_S


def test_a_model_that_makes_room_is_hot_no_more_for_new_jobs() -> None:
    place = Place()
    worker = place.worker("w", resident(), resident("b", tier="warm"), memory_total_bytes=100 * MB)
    place.job("other", "b")
    place.dispatcher.plan.put(worker, "b", SPEC, 1)
    place.dispatcher.plan.close("w", ["a"], "b")
    assert terms(place, "w")[1] == 2 * WARM_S, "it is loaded again, after the other"


# Making room --------------------------------------------------------------------------------------


def victims(place: Place, needed_mb: int) -> list[str] | None:
    predictor, worker = place.dispatcher.predictor, place.fleet.workers["w"]
    idle = [one for one in predictor.in_memory(worker) if not one.is_in_use]
    found = predictor.victims(worker, needed_mb * MB, idle, NOW)
    return None if found is None else [one.key for one in found]


def arrive(place: Place, of: str, times: int) -> None:
    for _ in range(times):
        place.ledger.queue(of).count_arrival(NOW)


def test_nobody_is_evicted_where_there_is_room_to_the_byte() -> None:
    place = Place()
    place.worker("w", resident("b", size_mb=150))
    assert victims(place, 100) == []
    assert victims(place, 101) == ["b"]


def test_what_is_worth_least_for_its_size_goes_first_and_no_more_than_needed() -> None:
    place = Place(*(make(name) for name in ("needed", "small", "large")))
    place.worker("w", resident("needed"), resident("small", size_mb=50), resident("large"))
    arrive(place, "needed", 9)
    arrive(place, "small", 1)
    assert victims(place, 60) == ["large"]
    assert victims(place, 101) == ["large", "small"]
    assert victims(place, 240) == ["large", "small", "needed"]
    assert victims(place, 251) is None


def test_what_somebody_waits_for_here_goes_last() -> None:
    place = Place()
    worker = place.worker("w", resident("a"), resident("b"))
    place.job("waits", "b")
    place.dispatcher.plan.put(worker, "b", SPEC, 1)
    arrive(place, "a", 50)
    assert victims(place, 100) == ["a"]


def test_what_is_in_use_is_no_victim_and_neither_is_what_shares_its_weights() -> None:
    place = Place()
    shared = (resident("used", weights="one"), resident("sister", weights="one"), resident("idle", size_mb=50))
    place.worker("w", *shared, memory_total_bytes=150 * MB, memory_used_bytes=150 * MB)
    hold(place, "w", "j1", "used")
    assert victims(place, 50) == ["idle"]
    assert victims(place, 51) is None


def test_weights_that_two_models_share_are_freed_once() -> None:
    place = Place()
    models = (resident("one", weights="s"), resident("two", weights="s"), resident("other", size_mb=90))
    place.worker("w", *models, memory_total_bytes=190 * MB, memory_used_bytes=190 * MB)
    assert victims(place, 191) is None
    assert sorted(victims(place, 190) or []) == ["other", "s"]


@pytest.mark.parametrize(
    ("tier", "frees"), [("hot", True), ("base", True), ("loading", False), ("parked", False), ("warm", False)]
)
def test_only_what_is_in_device_memory_and_not_on_its_way_can_be_evicted(tier: Tier, frees: bool) -> None:
    place = Place()
    place.worker("w", resident("b", tier=tier), memory_total_bytes=100 * MB, memory_used_bytes=100 * MB)
    assert victims(place, 100) == (["b"] if frees else None)


def test_an_eviction_costs_reloads_by_how_often_the_model_is_asked_for_over_its_copies() -> None:
    place = Place()
    place.worker("w", resident("b"), resident(tier="warm"), memory_total_bytes=100 * MB)
    assert terms(place, "w")[2] == 0.0
    arrive(place, "b", 1)
    assert terms(place, "w")[2] == RELOADS_CHARGED * WARM_S
    place.worker("copy", resident("b"))
    assert terms(place, "w")[2] == RELOADS_CHARGED * WARM_S / 2
    arrive(place, "b", 99)
    assert terms(place, "w")[2] == RELOADS_CHARGED * WARM_S * MOST_RELOADS


def test_a_worker_that_keeps_weights_in_ram_brings_them_back_from_there() -> None:
    place = Place()
    place.worker("w", resident("b"), memory_total_bytes=100 * MB, ram_total_bytes=100 * MB)
    arrive(place, "b", 1)
    assert terms(place, "w")[2] == RELOADS_CHARGED * PARKED_S


def test_room_that_can_only_be_made_of_what_is_in_use_costs_a_wait() -> None:
    place = Place()
    place.worker("w", resident("b"), memory_total_bytes=100 * MB)
    hold(place, "w", "j", "b")
    assert terms(place, "w")[2] == IN_USE_S


# Options and their order --------------------------------------------------------------------------


def test_people_are_shown_every_term_rounded_and_the_verdict() -> None:
    place = Place()
    option = Option(place.worker(), SPEC, "warm", 1.00004, 2.00006, 3.00004, 4.00006)
    shown = option.candidate("chosen")
    assert (shown.worker, shown.spec, shown.tier, shown.verdict) == ("w", "default", "warm", "chosen")
    assert (shown.wait_s, shown.load_s, shown.eviction_s, shown.run_s) == (1.0, 2.0001, 3.0, 4.0001)
    assert option.total_s == pytest.approx(10.00020)


def order(place: Place, of: Model | None = None, adapter: str = "") -> list[tuple[str, str]]:
    workers = place.fleet.workers.values()
    ranked = place.dispatcher.predictor.rank(workers, of or make(), adapter, 1.0, NOW)
    return [(one.worker.id, one.spec.name) for one in ranked]


def test_the_quickest_is_first() -> None:
    place = Place()
    place.worker("cold")
    place.worker("warm", resident(tier="warm"))
    place.worker("hot", resident())
    assert [name for name, _ in order(place)] == ["hot", "warm", "cold"]


def test_of_equal_times_the_hotter_is_first() -> None:
    place = Place()
    tiers: list[Tier] = ["cold", "warm", "parked", "base", "loading", "hot"]
    for tier in tiers:
        place.estimates.learn_load("a", "default", tier, 0.0)
        place.worker(tier, resident(tier=tier))
    assert [name for name, _ in order(place)] == tiers[::-1]


def test_of_equal_tiers_the_less_burdened_is_first_then_the_emptier_then_by_name() -> None:
    place = Place()
    for name in ("a-busy", "b-elsewhere", "twin-2", "twin-1"):
        place.worker(name, resident(), slots=9)
    place.worker("c-full", resident(), slots=9, memory_used_bytes=200 * MB)
    hold(place, "a-busy", "j1", "a")
    hold(place, "b-elsewhere", "j2", "b")
    assert [name for name, _ in order(place)] == ["twin-1", "twin-2", "c-full", "b-elsewhere", "a-busy"]


def test_every_spec_that_a_worker_can_run_is_an_option_and_no_other() -> None:
    big = Spec("big", "text", "", memory_bytes=300 * MB)
    gpu = Spec("gpu", "text", "", options={"needs_gpu": True})
    other = Spec("other", "image", "")
    place = Place()
    place.worker("cpu")
    assert order(place, make("a", SPEC, big, gpu, other)) == [("cpu", "default")]
    place = Place()
    place.worker("gpu", device="cuda:0", memory_total_bytes=300 * MB)
    assert order(place, make("a", gpu, other)) == [("gpu", "gpu")]


def test_workers_that_drain_leave_or_are_away_are_no_options() -> None:
    place = Place()
    place.worker("drains", is_draining=True)
    place.worker("leaves", is_leaving=True)
    place.worker("away").turn("away", NOW)
    assert order(place) == []


def test_an_adapter_is_asked_of_specs_that_declare_it() -> None:
    able = Spec("able", "text", "", adapters=(Adapter("poet", "file:///p"), Adapter("clown", "file:///c")))
    place = Place()
    place.worker()
    assert order(place, make("a", SPEC, able), adapter="clown") == [("w", "able")]
    assert has_adapter(SPEC, "")
    assert not has_adapter(able, "nobody")


def test_a_worker_that_was_started_for_one_model_is_no_option_for_another() -> None:
    place = Place()
    for name, kept in (("kept", "a/default"), ("other", "b/default")):
        worker = place.worker(name)
        worker.facts = msgspec.structs.replace(worker.facts, spec=kept)
    assert order(place) == [("kept", "default")]


@given(st.lists(st.tuples(st.sampled_from(["hot", "warm", "cold"]), st.integers(0, 4)), min_size=1, max_size=8))
def test_the_order_is_by_the_total_and_does_not_depend_on_that_of_the_workers(
    kinds: list[tuple[Tier, int]],
) -> None:
    place = Place()
    for number, (tier, jobs) in enumerate(kinds):
        place.worker(f"w{number}", resident(tier=tier))
        for job in range(jobs):
            hold(place, f"w{number}", f"j{number}-{job}", run_s=1.0)
    workers = list(place.fleet.workers.values())
    predictor = place.dispatcher.predictor
    ranked = predictor.rank(workers, make(), "", 1.0, NOW)
    again = predictor.rank(workers[::-1], make(), "", 1.0, NOW)
    assert [one.worker.id for one in ranked] == [one.worker.id for one in again]
    totals = [round(one.total_s, 4) for one in ranked]
    assert totals == sorted(totals)


def worker(name: str = "w", *, memory_mb: int = 250, profile: str = "") -> Heartbeat:
    engines = {"text": EngineCapability(2, 1, ("TextGeneration",))}
    return Heartbeat(name, 1.0, 1, "", profile, "cpu", "h", engines, memory_mb * MB, 0)


def fleet_of(*beats: Heartbeat) -> Fleet:
    fleet = Fleet()
    for beat in beats:
        fleet.update(beat, NOW)
    return fleet


def model(*specs: Spec) -> Model:
    return make("a", *(specs or (SPEC,)))


# What can never run -------------------------------------------------------------------------------


def test_a_job_that_can_never_run_is_told_why_in_words() -> None:
    job = Job("j", "a", CompletionInput("x"), "gw", 1.0, adapter="poet")
    assert why_never(job, None) == "the model 'a' was removed from the catalog while the job waited"
    assert why_never(job, model()) == "the model 'a' has no adapter 'poet'"
    able = Spec("able", "text", "", adapters=(Adapter("poet", "file:///p"),))
    assert why_never(job, model(SPEC, able)) == ""


def test_a_model_is_possible_where_one_worker_could_run_one_spec() -> None:
    big = Spec("big", "text", "", memory_bytes=300 * MB)
    assert why_impossible(fleet_of(worker()), model(big, SPEC)) == ""
    assert why_impossible(fleet_of(worker("small"), worker("large", memory_mb=300)), model(big)) == ""


def test_a_model_whose_replicas_somebody_launches_is_always_possible() -> None:
    assert why_impossible(fleet_of(), model(Spec("auto", "text", "", launcher="docker"))) == ""


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        (Spec("s", "image", ""), "spec s: no worker has the engine image"),
        (Spec("s", "text", "", profile="l4"), "spec s: no worker has the profile l4"),
        (Spec("s", "text", "", options={"needs_gpu": True}), "spec s: it needs a GPU and no worker has one"),
        (
            Spec("s", "text", "", memory_bytes=300 * MB),
            "spec s: it needs 300 MB of memory and the largest worker has 250 MB",
        ),
    ],
)
def test_an_impossible_spec_says_what_is_lacking(spec: Spec, reason: str) -> None:
    fleet = fleet_of(worker("small", memory_mb=50), worker("large", memory_mb=250))
    assert why_impossible(fleet, model(spec)) == reason


def test_every_spec_of_an_impossible_model_says_its_reason() -> None:
    reasons = why_impossible(fleet_of(worker()), model(Spec("x", "image", ""), Spec("y", "audio", "")))
    assert reasons == "spec x: no worker has the engine image; spec y: no worker has the engine audio"


def test_a_profile_that_one_worker_has_is_not_what_is_lacking() -> None:
    spec = Spec("s", "text", "", profile="l4", memory_bytes=300 * MB)
    fleet = fleet_of(worker("other"), worker("right", profile="l4"))
    assert why_impossible(fleet, model(spec)).startswith("spec s: it needs 300 MB")

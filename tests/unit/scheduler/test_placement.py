"""Where a job runs best: every term by itself, the ties, and the words for what no worker can run."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.catalog import Adapter, Model, Spec
from schemas.jobs import CompletionInput, Job
from schemas.workers import EngineCapability, Heartbeat, ResidentModel, Tier
from services.scheduler.fleet.estimates import Estimates
from services.scheduler.fleet.workers import Held, OrderedLoad, Worker
from services.scheduler.placing.placement import (
    BUSY_EVICTION_S,
    Option,
    eviction_s,
    has_adapter,
    option,
    rank,
    victims,
    wait_s,
    why_impossible,
    why_never,
)

MB = 10**6
NOW = 1000.0
SPEC = Spec("default", "text", "file:///x", memory_bytes=100 * MB)


def worker(
    name: str = "w",
    *,
    memory_mb: int = 250,
    used_mb: int = 0,
    slots: int = 2,
    models: tuple[ResidentModel, ...] = (),
    device: str = "cpu",
    **facts: Any,
) -> Worker:
    engines = {"text": EngineCapability(slots, 1, ("TextGeneration",))}
    beat = Heartbeat(
        worker=name,
        started_at=1.0,
        seq=1,
        spec="",
        profile=facts.pop("profile", ""),
        device=device,
        host="h",
        engines=engines,
        memory_total_bytes=memory_mb * MB,
        memory_used_bytes=used_mb * MB,
        models=models,
        **facts,
    )
    found = Worker(name, beat, NOW, engines=engines)
    found.residents = {one.model: one for one in models}
    return found


def resident(model: str, memory_mb: int = 100, tier: Tier = "hot", weights: str = "") -> ResidentModel:
    return ResidentModel(model, "default", "text", tier, memory_mb * MB, weights=weights)


def hold(found: Worker, job: str, model: str = "a", run_s: float = 0.0, since: float = NOW) -> None:
    found.held[job] = Held(job, model, "default", model, 1, since, run_s)
    found.lanes[model] = found.lanes.get(model, 0) + 1


def need(**by_model: float) -> Any:
    """Demand: as given, else nobody asks."""
    return lambda model: by_model.get(model, 0.0)


# Waiting ------------------------------------------------------------------------------------------


def test_nobody_waits_where_a_slot_is_free() -> None:
    found = worker(slots=2)
    assert wait_s(found, "a", SPEC, Estimates(), NOW) == 0.0
    hold(found, "j1", run_s=10.0)
    assert wait_s(found, "a", SPEC, Estimates(), NOW) == 0.0


def test_the_wait_is_until_the_first_of_those_that_run_has_ended() -> None:
    found = worker(slots=2)
    hold(found, "j1", run_s=10.0)
    hold(found, "j2", run_s=4.0)
    assert wait_s(found, "a", SPEC, Estimates(), NOW) == 4.0
    assert wait_s(found, "a", SPEC, Estimates(), NOW + 3) == 1.0


def test_who_runs_longer_than_predicted_is_expected_to_end_at_once() -> None:
    found = worker(slots=1)
    hold(found, "j1", run_s=4.0)
    assert wait_s(found, "a", SPEC, Estimates(), NOW + 9) == 0.0


def test_jobs_that_wait_at_the_worker_add_their_share_of_the_mean_run() -> None:
    found = worker(slots=2)
    for number, run_s in enumerate((2.0, 4.0, 6.0)):
        hold(found, f"j{number}", run_s=run_s)
    assert wait_s(found, "a", SPEC, Estimates(), NOW) == pytest.approx(2.0 + 1 * 4.0 / 2)


def test_jobs_of_other_lanes_are_not_waited_for() -> None:
    found = worker(slots=1)
    hold(found, "other", "b", run_s=100.0)
    assert wait_s(found, "a", SPEC, Estimates(), NOW) == 0.0
    hold(found, "j1", run_s=3.0)
    assert wait_s(found, "a", SPEC, Estimates(), NOW) == 3.0


def test_the_slots_of_the_spec_count_before_those_of_the_engine() -> None:
    found = worker(slots=8)
    hold(found, "j1", run_s=5.0)
    assert wait_s(found, "a", Spec("default", "text", "", slots=1), Estimates(), NOW) == 5.0


def test_no_wait_is_told_where_the_engine_is_not_there() -> None:
    found = worker()
    hold(found, "j1", run_s=5.0)
    assert wait_s(found, "a", Spec("default", "image", ""), Estimates(), NOW) == 0.0


# Making room --------------------------------------------------------------------------------------


def names(found: list[ResidentModel] | None) -> list[str] | None:
    return None if found is None else [one.model for one in found]


def test_nobody_is_evicted_where_there_is_room_to_the_byte() -> None:
    found = worker(memory_mb=250, used_mb=150, models=(resident("b"),))
    assert victims(found, 100 * MB, need()) == []
    assert names(victims(found, 100 * MB + 1, need())) == ["b"]


def test_the_least_needed_goes_first_and_of_equals_the_largest() -> None:
    models = (resident("needed", 100), resident("small", 50), resident("large", 100))
    found = worker(memory_mb=250, used_mb=250, models=models)
    demand = need(needed=1.0)
    assert names(victims(found, 60 * MB, demand)) == ["large"]
    assert names(victims(found, 100 * MB, demand)) == ["large"]
    assert names(victims(found, 101 * MB, demand)) == ["large", "small"]
    assert names(victims(found, 151 * MB, demand)) == ["large", "small", "needed"]
    assert victims(found, 251 * MB, demand) is None


def test_what_is_in_use_is_no_victim_and_neither_is_what_shares_its_weights() -> None:
    models = (resident("used", weights="shared"), resident("sister", weights="shared"), resident("idle", 50))
    found = worker(memory_mb=250, used_mb=250, models=models)
    hold(found, "j1", "used")
    assert names(victims(found, 50 * MB, need())) == ["idle"]
    assert victims(found, 51 * MB, need()) is None


def test_weights_that_two_models_share_are_freed_once() -> None:
    models = (resident("one", weights="shared"), resident("two", weights="shared"), resident("other", 90))
    found = worker(memory_mb=190, used_mb=190, models=models)
    assert names(victims(found, 100 * MB, need())) == ["one"]
    assert names(victims(found, 150 * MB, need())) == ["one", "two", "other"]
    assert victims(found, 191 * MB, need()) is None


@pytest.mark.parametrize(
    ("tier", "frees"), [("hot", True), ("base", True), ("loading", False), ("parked", False), ("warm", False)]
)
def test_only_what_is_in_device_memory_and_not_on_its_way_can_be_evicted(tier: Tier, frees: bool) -> None:
    found = worker(memory_mb=100, used_mb=100, models=(resident("b", tier=tier),))
    assert names(victims(found, 100 * MB, need())) == (["b"] if frees else None)


def test_an_eviction_costs_what_reloading_costs_times_how_likely_that_is() -> None:
    estimates = Estimates()
    estimates.learn_load("b", "default", "warm", 8.0)
    found = worker(memory_mb=100, used_mb=100, models=(resident("b"),))
    assert eviction_s(found, "a", SPEC, "cold", estimates, need(b=0.25)) == 2.0
    assert eviction_s(found, "a", SPEC, "cold", estimates, need()) == 0.0


def test_the_costs_of_several_victims_add_up() -> None:
    estimates = Estimates()
    estimates.learn_load("b", "default", "warm", 8.0)
    estimates.learn_load("c", "default", "warm", 2.0)
    found = worker(memory_mb=100, used_mb=100, models=(resident("b", 50), resident("c", 50)))
    assert eviction_s(found, "a", SPEC, "warm", estimates, need(b=0.5, c=1.0)) == 6.0


def test_a_victim_whose_load_was_never_measured_costs_by_its_size() -> None:
    found = worker(memory_mb=100, used_mb=100, models=(resident("b", 100),))
    assert eviction_s(found, "a", SPEC, "warm", Estimates(), need(b=1.0)) == pytest.approx(0.2 + 100 * MB / 1e9)


@pytest.mark.parametrize("tier", ["hot", "loading", "base"])
def test_a_model_that_has_its_memory_already_evicts_nobody(tier: Tier) -> None:
    found = worker(memory_mb=100, used_mb=100, models=(resident("b"),))
    hold(found, "j1", "b")
    assert eviction_s(found, "a", SPEC, tier, Estimates(), need()) == 0.0
    assert eviction_s(found, "a", SPEC, "parked", Estimates(), need()) == BUSY_EVICTION_S


# Options and their order --------------------------------------------------------------------------


def test_an_option_has_every_term() -> None:
    estimates = Estimates()
    estimates.learn_load("a", "default", "warm", 3.0)
    estimates.learn_load("b", "default", "warm", 8.0)
    estimates.learn_run("a", "default", 10.0, 5.0)
    found = worker(slots=1, memory_mb=100, used_mb=100, models=(resident("b"), resident("a", tier="warm")))
    hold(found, "j1", "a", run_s=7.0)
    one = option(found, "a", SPEC, 4.0, estimates, need(b=0.5), NOW + 1)
    assert (one.tier, one.wait_s, one.load_s, one.eviction_s, one.run_s) == ("warm", 6.0, 3.0, 4.0, 2.0)
    assert (one.worker, one.spec, one.total_s, one.is_possible_now) == (found, SPEC, 15.0, True)


def test_a_load_that_was_ordered_is_waited_for_from_when_it_was_ordered() -> None:
    estimates = Estimates()
    estimates.learn_load("a", "default", "warm", 3.0)
    found = worker()
    found.ordered["a"] = OrderedLoad("default", "text", NOW - 1)
    one = option(found, "a", SPEC, 1.0, estimates, need(), NOW)
    assert (one.tier, one.load_s) == ("loading", 2.0)
    assert option(found, "a", SPEC, 1.0, estimates, need(), NOW + 9).load_s == 0.0


def test_a_load_that_nobody_ordered_is_taken_to_have_just_begun() -> None:
    estimates = Estimates()
    estimates.learn_load("a", "default", "warm", 3.0)
    found = worker(models=(resident("a", tier="loading"),))
    assert option(found, "a", SPEC, 1.0, estimates, need(), NOW).load_s == 3.0


def one_option(**terms: float) -> Option:
    given = {"wait_s": 0.0, "load_s": 0.0, "eviction_s": 0.0, "run_s": 0.0, **terms}
    return Option(worker=worker(), spec=SPEC, tier="warm", **given)


def test_people_are_shown_every_term_rounded_and_the_verdict() -> None:
    shown = one_option(wait_s=1.00004, load_s=2.00006, eviction_s=3.00004, run_s=4.00006).candidate("chosen")
    assert (shown.worker, shown.spec, shown.tier, shown.verdict) == ("w", "default", "warm", "chosen")
    assert (shown.wait_s, shown.load_s, shown.eviction_s, shown.run_s) == (1.0, 2.0001, 3.0, 4.0001)


def test_people_are_told_that_there_is_no_room_instead_of_a_huge_number() -> None:
    found = one_option(eviction_s=BUSY_EVICTION_S)
    assert not found.is_possible_now
    shown = found.candidate("chosen")
    assert (shown.eviction_s, shown.verdict) == (0.0, "no room: everything loaded is in use")


def model(*specs: Spec) -> Model:
    return Model("a", ("TextGeneration",), specs or (SPEC,))


def order(*workers: Worker, of: Model | None = None, adapter: str = "") -> list[tuple[str, str]]:
    ranked = rank(workers, of or model(), adapter, 1.0, Estimates(), need(), NOW)
    return [(one.worker.id, one.spec.name) for one in ranked]


def test_the_quickest_is_first() -> None:
    cold, hot = worker("cold"), worker("hot", models=(resident("a"),))
    warm = worker("warm", models=(resident("a", tier="warm"),))
    assert order(cold, warm, hot) == [("hot", "default"), ("warm", "default"), ("cold", "default")]


def test_of_equal_times_the_hotter_is_first() -> None:
    estimates = Estimates()
    for tier in ("base", "parked", "warm", "cold"):
        estimates.learn_load("a", "default", tier, 0.0)
    tiers: list[Tier] = ["cold", "warm", "parked", "base", "loading", "hot"]
    workers = [worker(tier, models=(resident("a", tier=tier),)) for tier in tiers]
    ranked = rank(workers, model(), "", 1.0, estimates, need(), NOW)
    assert [one.worker.id for one in ranked] == tiers[::-1]


def test_of_equal_tiers_the_less_loaded_is_first_then_the_emptier_then_by_name() -> None:
    busy, elsewhere = worker("a-busy", models=(resident("a"),)), worker("b-elsewhere", models=(resident("a"),))
    hold(busy, "j1", "a")
    hold(elsewhere, "j2", "b")
    full = worker("c-full", used_mb=200, models=(resident("a"),))
    twins = [worker(name, models=(resident("a"),)) for name in ("twin-2", "twin-1")]
    assert [name for name, _ in order(busy, elsewhere, full, *twins)] == [
        "twin-1", "twin-2", "c-full", "b-elsewhere", "a-busy",
    ]  # fmt: skip


def test_every_spec_that_a_worker_can_run_is_an_option_and_no_other() -> None:
    big = Spec("big", "text", "", memory_bytes=300 * MB)
    gpu = Spec("gpu", "text", "", options={"needs_gpu": True})
    other = Spec("other", "image", "")
    assert order(worker(), of=model(SPEC, big, gpu, other)) == [("w", "default")]
    assert order(worker(device="cuda:0", memory_mb=300), of=model(gpu, other)) == [("w", "gpu")]


def test_workers_that_drain_leave_or_are_away_are_no_options() -> None:
    away = worker("away")
    away.turn("away", NOW)
    assert order(worker("d", is_draining=True), worker("l", is_leaving=True), away) == []


def test_an_adapter_is_asked_of_specs_that_declare_it() -> None:
    able = Spec("able", "text", "", adapters=(Adapter("poet", "file:///p"), Adapter("clown", "file:///c")))
    assert order(worker(), of=model(SPEC, able), adapter="clown") == [("w", "able")]
    assert has_adapter(SPEC, "")
    assert not has_adapter(able, "nobody")


@given(st.lists(st.tuples(st.sampled_from(["hot", "warm", "cold"]), st.integers(0, 4)), min_size=1, max_size=8))
def test_the_order_does_not_depend_on_the_order_of_the_workers(kinds: list[tuple[Tier, int]]) -> None:
    workers = []
    for number, (tier, jobs) in enumerate(kinds):
        found = worker(f"w{number}", models=(resident("a", tier=tier),))
        for job in range(jobs):
            hold(found, f"j{number}-{job}", run_s=1.0)
        workers.append(found)
    ranked = rank(workers, model(), "", 1.0, Estimates(), need(), NOW)
    again = rank(workers[::-1], model(), "", 1.0, Estimates(), need(), NOW)
    assert [one.worker.id for one in ranked] == [one.worker.id for one in again]
    totals = [round(one.total_s, 4) for one in ranked]
    assert totals == sorted(totals)


# What can never run -------------------------------------------------------------------------------


def test_a_job_that_can_never_run_is_told_why_in_words() -> None:
    job = Job("j", "a", CompletionInput("x"), "gw", 1.0, adapter="poet")
    assert why_never(job, None) == "there is no model 'a'"
    assert why_never(job, model()) == "the model 'a' has no adapter 'poet'"
    able = Spec("able", "text", "", adapters=(Adapter("poet", "file:///p"),))
    assert why_never(job, model(SPEC, able)) == ""


def test_a_model_is_possible_where_one_worker_could_run_one_spec() -> None:
    big = Spec("big", "text", "", memory_bytes=300 * MB)
    assert why_impossible([worker()], model(big, SPEC)) == ""
    assert why_impossible([worker("small"), worker("large", memory_mb=300)], model(big)) == ""


def test_a_model_whose_replicas_somebody_launches_is_always_possible() -> None:
    assert why_impossible([], model(Spec("auto", "text", "", launcher="docker"))) == ""


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
    workers = [worker("small", memory_mb=50), worker("large", memory_mb=250)]
    assert why_impossible(workers, model(spec)) == reason


def test_every_spec_of_an_impossible_model_says_its_reason() -> None:
    reasons = why_impossible([worker()], model(Spec("x", "image", ""), Spec("y", "audio", "")))
    assert reasons == "spec x: no worker has the engine image; spec y: no worker has the engine audio"


def test_a_profile_that_one_worker_has_is_not_what_is_lacking() -> None:
    spec = Spec("s", "text", "", profile="l4", memory_bytes=300 * MB)
    workers = [worker("other"), worker("right", profile="l4")]
    assert why_impossible(workers, model(spec)).startswith("spec s: it needs 300 MB")


def test_a_worker_that_was_started_for_one_model_is_no_option_for_another() -> None:
    kept = worker("kept")
    kept.facts = msgspec.structs.replace(kept.facts, spec="a/default")
    other = worker("other")
    other.facts = msgspec.structs.replace(other.facts, spec="b/default")
    assert order(kept, other) == [("kept", "default")]

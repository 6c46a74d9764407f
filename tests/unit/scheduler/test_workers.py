"""The fleet's books: what a worker could run, its lanes and room, and the index of replicas by load."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.schemas.catalog import Spec
from stoker.schemas.workers import EngineCapability, Heartbeat, ResidentModel, Tier
from stoker.services.scheduler.fleet.by_burden import ByBurden
from stoker.services.scheduler.fleet.lane import Held
from stoker.services.scheduler.fleet.worker import (
    TRANSITIONS,
    OrderedLoad,
    Presence,
    Worker,
    newly_failed,
)
from stoker.services.scheduler.fleet.workers import LOAD_BELIEVED_S, Fleet
from tests.unit.scheduler.making import lane_loads

MB = 10**6
NOW = 1000.0
SPEC = Spec("default", "text", "", memory_bytes=100 * MB)
ENGINES = {
    "text": EngineCapability(2, 1, ("TextGeneration",)),
    "image": EngineCapability(1, 1, ("ImageGeneration",), lane="device"),
}
PRESENCES: list[Presence] = list(TRANSITIONS)


def beat(name: str = "w", seq: int = 1, **facts: Any) -> Heartbeat:
    given: dict[str, Any] = {
        "started_at": 1.0,
        "spec": "",
        "profile": "",
        "device": "cpu",
        "host": "h",
        "engines": ENGINES,
        "memory_total_bytes": 250 * MB,
        "memory_used_bytes": 0,
        **facts,
    }
    return Heartbeat(worker=name, seq=seq, **given)


def known(fleet: Fleet, name: str = "w", now: float = NOW, **facts: Any) -> Worker:
    found = fleet.update(beat(name, **facts), now)
    assert found is not None
    return found


def resident(
    model: str = "a", tier: Tier = "hot", spec: str = "default", engine: str = "text"
) -> ResidentModel:
    return ResidentModel(model, spec, engine, tier, 100 * MB)


def held(job: str, model: str = "a", lane: str = "") -> Held:
    return Held(job, model, "default", lane or model, 1, NOW)


def listed(fleet: Fleet, model: str = "a") -> list[str]:
    return [worker.id for worker in fleet.replicas(model)]


# Heartbeats ---------------------------------------------------------------------------------------


def test_a_first_heartbeat_makes_a_worker_that_is_present_since_then() -> None:
    found = known(Fleet())
    assert (found.id, found.presence, found.since, found.seen_at) == ("w", "present", NOW, NOW)
    assert found.engines == ENGINES


def test_engines_that_are_coming_count_for_what_it_could_run_and_not_for_what_it_can() -> None:
    fleet = Fleet()
    text, image = {"text": ENGINES["text"]}, {"image": ENGINES["image"]}
    found = known(fleet, engines=text, coming=image)
    drawing = Spec("default", "image", "", memory_bytes=100 * MB)
    assert (found.engines, found.could_run("a", drawing), found.can_run("a", drawing)) == (ENGINES, True, False)
    kind = found.kind
    assert known(fleet, seq=2, engines=ENGINES).kind == kind
    assert found.can_run("a", drawing)


def test_a_suspicion_goes_with_the_runner_that_it_was_of() -> None:
    fleet = Fleet()
    models = (resident("a"), resident("p", engine="image"))
    found = known(fleet, models=models)
    found.suspected = {"a": NOW, "p": NOW, "forgotten": NOW}
    known(fleet, seq=2, models=models)
    assert found.suspected.keys() == {"a", "p", "forgotten"}
    known(fleet, seq=3, models=models, engines={"text": ENGINES["text"]}, coming={"image": ENGINES["image"]})
    assert found.suspected.keys() == {"a", "forgotten"}
    known(fleet, seq=4, models=models, engines={}, coming=ENGINES)
    assert found.suspected == {}


def test_a_heartbeat_that_is_older_than_the_last_or_the_same_changes_nothing() -> None:
    fleet = Fleet()
    known(fleet, seq=5, memory_used_bytes=7)
    for seq in (4, 5):
        assert fleet.update(beat(seq=seq, memory_used_bytes=9), NOW + 1) is None
    found = fleet.workers["w"]
    assert (found.facts.memory_used_bytes, found.seen_at) == (7, NOW)


def test_a_newer_process_is_newer_whatever_its_number() -> None:
    fleet = Fleet()
    known(fleet, seq=50)
    assert fleet.update(beat(seq=1, started_at=2.0), NOW + 1) is not None
    assert fleet.update(beat(seq=51, started_at=1.0), NOW + 2) is None


def test_a_heartbeat_brings_a_silent_worker_back() -> None:
    fleet = Fleet()
    found = known(fleet)
    found.turn("silent", NOW + 1)
    known(fleet, seq=2, now=NOW + 2)
    assert (found.presence, found.since, found.seen_at) == ("present", NOW + 2, NOW + 2)


def test_a_worker_that_goes_on_speaking_is_present_since_the_beginning() -> None:
    fleet = Fleet()
    found = known(fleet)
    known(fleet, seq=2, now=NOW + 5)
    assert (found.since, found.seen_at) == (NOW, NOW + 5)


@pytest.mark.parametrize("to", PRESENCES)
@pytest.mark.parametrize("presence", PRESENCES)
def test_the_table_of_presences_decides(presence: Presence, to: Presence) -> None:
    found = Worker("w", beat(), NOW, presence=presence, since=NOW)
    is_allowed = to in TRANSITIONS[presence]
    assert found.turn(to, NOW + 3) is is_allowed
    assert (found.presence, found.since) == ((to, NOW + 3) if is_allowed else (presence, NOW))


def test_engines_of_a_worker_that_starts_its_runner_are_remembered() -> None:
    fleet = Fleet()
    found = known(fleet)
    known(fleet, seq=2, engines={})
    assert found.engines == ENGINES
    assert found.capability("text") is None
    assert found.could_run("a", SPEC)
    assert not found.can_run("a", SPEC)


# What it could run --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("facts", "spec", "could"),
    [
        ({}, SPEC, True),
        ({}, Spec("s", "audio", ""), False),
        ({"memory_total_bytes": 100 * MB}, SPEC, True),
        ({"memory_total_bytes": 100 * MB - 1}, SPEC, False),
        ({"profile": "cpu"}, SPEC, True),
        ({"profile": "cpu"}, Spec("s", "text", "", profile="cpu"), True),
        ({"profile": "cpu"}, Spec("s", "text", "", profile="l4"), False),
        ({"spec": "a/default"}, SPEC, True),
        ({"spec": "a/other"}, SPEC, False),
        ({"spec": "b/default"}, SPEC, False),
        ({"device": "cuda:0"}, Spec("s", "text", "", options={"needs_gpu": True}), True),
        ({"device": "cpu"}, Spec("s", "text", "", options={"needs_gpu": True}), False),
        ({"engines": {"text": EngineCapability(1, 0, (), models=("a",))}}, SPEC, True),
        ({"engines": {"text": EngineCapability(1, 0, (), models=("b",))}}, SPEC, False),
    ],
)
def test_what_a_worker_can_run(facts: dict[str, Any], spec: Spec, could: bool) -> None:
    found = known(Fleet(), **facts)
    assert found.could_run("a", spec) is could
    assert found.can_run("a", spec) is could


def test_draining_leaving_and_absent_workers_are_closed_and_silent_ones_are_not() -> None:
    assert known(Fleet()).is_open
    assert not known(Fleet(), is_draining=True).is_open
    assert not known(Fleet(), is_leaving=True).is_open
    quiet = known(Fleet())
    quiet.turn("silent", NOW)
    assert quiet.is_open
    quiet.turn("away", NOW)
    assert not quiet.is_open


# Tiers --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tier", ["hot", "loading", "base", "parked", "warm"])
def test_a_model_is_where_the_heartbeat_says(tier: Tier) -> None:
    found = known(Fleet(), models=(resident(tier=tier),))
    assert found.tier("a", "default") == tier
    assert found.tier("a", "other") == "cold"
    assert found.tier("b", "default") == "cold"
    assert found.replica_engine("a") == ("text" if tier in ("hot", "loading") else None)


def test_a_load_that_was_ordered_counts_as_loading_for_its_spec() -> None:
    found = known(Fleet(), models=(resident(tier="warm"),))
    found.ordered["a"] = OrderedLoad("default", "image", NOW)
    assert found.tier("a", "default") == "loading"
    assert found.tier("a", "other") == "cold"
    assert found.replica_engine("a") == "image"


def test_what_is_hot_is_hot_though_a_load_was_ordered() -> None:
    found = known(Fleet(), models=(resident(),))
    found.ordered["a"] = OrderedLoad("default", "image", NOW)
    assert found.tier("a", "default") == "hot"
    assert found.replica_engine("a") == "text"


# Lanes and room -----------------------------------------------------------------------------------


def test_jobs_share_the_lane_of_their_engine_or_else_of_their_model() -> None:
    fleet = Fleet()
    found = known(fleet)
    assert (found.lane("a", "text"), found.lane("i", "image")) == ("a", "lane:device")
    assert found.lane("a", "audio") == "a"
    fleet.hold(found, held("j1", "i", "lane:device"))
    assert (found.load("i", "image"), found.load("k", "image"), found.load("i", "text")) == (1, 1, 0)


def test_a_lane_has_room_for_its_slots_and_its_prefetch() -> None:
    fleet = Fleet()
    found = known(fleet)
    for number in range(3):
        assert found.has_room("a", SPEC), f"{number} of 2 slots and 1 ahead"
        fleet.hold(found, held(f"j{number}"))
    assert not found.has_room("a", SPEC)
    assert found.has_room("b", SPEC)
    assert not found.has_room("a", Spec("s", "audio", ""))


def test_a_spec_may_say_how_many_slots_and_how_large_a_batch_there_are() -> None:
    fleet = Fleet()
    found = known(fleet)
    assert [found.slots(spec) for spec in (SPEC, Spec("s", "text", "", slots=5), Spec("s", "audio", ""))] == [
        2,
        5,
        0,
    ]
    for number in range(3):
        fleet.hold(found, held(f"j{number}"))
    assert found.has_room("a", Spec("s", "text", "", slots=3))
    assert found.has_room("a", SPEC, batch=2), "a batch runs, and one waits"
    fleet.hold(found, held("j3"))
    assert not found.has_room("a", SPEC, batch=2)


def test_a_slot_that_is_released_twice_is_free_once() -> None:
    fleet = Fleet()
    found = known(fleet)
    fleet.hold(found, held("j1"))
    fleet.hold(found, held("j2"))
    assert fleet.release(found, "j1", NOW) is not None
    assert fleet.release(found, "j1", NOW) is None
    assert lane_loads(found) == {"a": 1}
    fleet.release(found, "j2", NOW)
    assert lane_loads(found) == {}


# Ordered loads ------------------------------------------------------------------------------------


def test_an_ordered_load_is_under_way_until_the_model_is_hot() -> None:
    fleet = Fleet()
    found = known(fleet)
    fleet.order_load(found, "a", SPEC, NOW)
    assert (listed(fleet), found.ordered["a"]) == (["w"], OrderedLoad("default", "text", NOW, "cold"))
    known(fleet, seq=2, models=(resident(tier="loading"),))
    assert (listed(fleet), list(found.ordered), found.is_loading) == (["w"], ["a"], True)
    known(fleet, seq=3, models=(resident(tier="hot"),))
    assert (listed(fleet), list(found.ordered), found.is_loading) == (["w"], [], False)


def test_a_load_that_nobody_ordered_is_under_way_from_when_it_is_seen() -> None:
    fleet = Fleet()
    found = known(fleet, models=(resident(tier="parked"),))
    known(fleet, seq=2, now=NOW + 5, models=(resident(tier="loading"),))
    assert found.ordered["a"] == OrderedLoad("default", "text", NOW + 5, "parked")


def test_what_has_to_go_for_a_load_is_not_hot_any_more() -> None:
    fleet = Fleet()
    found = known(fleet, models=(resident("b"),))
    fleet.order_load(found, "a", SPEC, NOW, frozenset({"b"}), NOW)
    assert (found.hot("b"), found.tier("b", "default"), listed(fleet, "b")) == (None, "parked", [])
    known(fleet, seq=2, models=(resident("b"), resident(tier="hot")))
    assert (found.tier("b", "default"), listed(fleet, "b")) == ("hot", ["w"]), "there was room for both"
    fleet.validate({})


def test_what_has_to_go_for_a_download_is_hot_until_the_room_is_needed() -> None:
    fleet = Fleet()
    found = known(fleet, models=(resident("b"),))
    fleet.order_load(found, "a", SPEC, NOW, frozenset({"b"}), NOW + 30)
    fleet.evict_due(found, NOW + 29)
    assert listed(fleet, "b") == ["w"]
    fleet.evict_due(found, NOW + 30)
    assert listed(fleet, "b") == []
    fleet.validate({})


def test_an_order_that_takes_the_place_of_another_gives_back_what_had_to_go() -> None:
    fleet = Fleet()
    found = known(fleet, models=(resident("b"), resident("c")))
    fleet.order_load(found, "a", SPEC, NOW, frozenset({"b"}), NOW)
    fleet.order_load(found, "a", SPEC, NOW, frozenset({"c"}), NOW)
    assert (listed(fleet, "b"), listed(fleet, "c")) == (["w"], [])
    fleet.validate({})


def test_an_ordered_load_that_no_heartbeat_shows_is_believed_for_a_while() -> None:
    fleet = Fleet()
    found = known(fleet)
    fleet.order_load(found, "a", SPEC, NOW)
    known(fleet, seq=2, now=NOW + LOAD_BELIEVED_S, models=(resident(tier="warm"),))
    assert listed(fleet) == ["w"]
    known(fleet, seq=3, now=NOW + LOAD_BELIEVED_S + 0.01)
    assert (listed(fleet), found.ordered) == ([], {})


def test_an_ordered_load_that_failed_is_no_replica() -> None:
    fleet = Fleet()
    found = known(fleet)
    fleet.order_load(found, "a", SPEC, NOW)
    fleet.order_load(found, "b", SPEC, NOW)
    known(fleet, seq=2, failed_loads={"a": "no such file"})
    assert (listed(fleet), listed(fleet, "b"), list(found.ordered)) == ([], ["w"], ["b"])


def test_a_failure_that_is_still_told_is_not_that_of_a_new_load() -> None:
    fleet = Fleet()
    found = known(fleet, failed_loads={"a": "no such file"}, load_failures={"a": 1})
    fleet.order_load(found, "a", SPEC, NOW)
    known(fleet, seq=2, failed_loads={"a": "no such file"}, load_failures={"a": 1})
    assert list(found.ordered) == ["a"]
    known(fleet, seq=3, failed_loads={"a": "no such file"}, load_failures={"a": 2})
    assert list(found.ordered) == []


def test_a_load_that_was_interrupted_by_a_stop_is_no_failure_and_one_of_an_early_worker_is_known_by_its_reason() -> (
    None
):
    counts, says = {"load_failures": {}}, {"failed_loads": {"a": "the runner died"}}
    assert newly_failed(beat(**counts), beat(**counts, **says)) == set(), "told, and not counted"
    assert newly_failed(beat(**counts), beat(load_failures={"a": 1}, **says)) == {"a"}
    assert newly_failed(beat(), beat(**says)) == {"a"}
    assert newly_failed(beat(**says), beat(**says)) == set()


# Kinds, weights, plans ----------------------------------------------------------------------------


def test_workers_that_could_run_the_same_are_of_one_kind() -> None:
    fleet = Fleet()
    known(fleet, "w1")
    known(fleet, "w2")
    changed = fleet.kinds_changed
    known(fleet, "w1", seq=2, models=(resident(),))
    assert (len(fleet.kinds), fleet.kinds_changed) == (1, changed), "what it has loaded does not matter"
    known(fleet, "w2", seq=2, profile="gpu")
    assert (len(fleet.kinds), fleet.kinds_changed) == (2, changed + 2)
    fleet.remove("w2")
    assert len(fleet.kinds) == 1


def test_copies_of_weights_are_counted_once_on_each_worker() -> None:
    fleet = Fleet()
    one = ResidentModel("a", "default", "text", "hot", 1, weights="shared")
    other = ResidentModel("b", "default", "text", "base", 1, weights="shared")
    known(fleet, "w1", models=(one, other))
    known(fleet, "w2", models=(other,))
    known(fleet, "w3", models=(ResidentModel("a", "default", "text", "warm", 1, weights="shared"),))
    assert (fleet.copies("shared"), fleet.holders("shared")) == (2, 3)
    known(fleet, "w1", seq=2)
    fleet.remove("w2")
    assert (fleet.copies("shared"), fleet.holders("shared")) == (0, 1)
    fleet.remove("w3")
    assert (fleet._copies._at, fleet._holders._at, fleet._holders._of) == ({}, {}, {}), "nothing is left of it"


def test_what_is_planned_counts_as_burden_and_takes_no_slot() -> None:
    fleet = Fleet()
    first = known(fleet, "w1", models=(resident(),))
    known(fleet, "w2", models=(resident(),))
    fleet.plan(first, "a", "a", 5)
    assert (listed(fleet), [one.id for one in fleet.by_burden]) == (["w2", "w1"], ["w2", "w1"])
    assert (first.load("a", "text"), first.burden("a", "text"), first.has_room("a", SPEC)) == (0, 5, True)
    fleet.plan(first, "a", "a", -5)
    assert first.planned == {}


def test_a_job_that_was_sent_ahead_begins_when_a_slot_is_free() -> None:
    fleet = Fleet()
    found = known(fleet)
    fleet.hold(found, held("runs"))
    fleet.hold(found, Held("waits", "a", "default", "a", 1, NOW, is_ahead=True))
    fleet.release(found, "runs", NOW + 7)
    assert (found.held["waits"].since, found.held["waits"].is_ahead) == (NOW + 7, False)


# The index of replicas ----------------------------------------------------------------------------


def test_the_least_loaded_replica_comes_first_whatever_was_first_before() -> None:
    fleet = Fleet()
    workers = [known(fleet, name, models=(resident(),)) for name in ("w1", "w2", "w3")]
    assert listed(fleet) == ["w1", "w2", "w3"]
    fleet.hold(workers[0], held("j1"))
    fleet.hold(workers[0], held("j2"))
    fleet.hold(workers[1], held("j3"))
    assert listed(fleet) == ["w3", "w2", "w1"]
    fleet.hold(workers[2], held("j4"))
    assert listed(fleet) == ["w2", "w3", "w1"]
    fleet.release(workers[0], "j1", NOW)
    fleet.release(workers[0], "j2", NOW)
    assert listed(fleet)[0] == "w1"


def test_models_that_share_a_lane_are_all_indexed_anew() -> None:
    fleet = Fleet()
    shown = (resident("i", engine="image"), resident("k", engine="image"))
    busy, idle = known(fleet, "busy", models=shown), known(fleet, "idle", models=shown)
    fleet.hold(busy, held("j1", "i", "lane:device"))
    assert listed(fleet, "i") == listed(fleet, "k") == ["idle", "busy"]
    fleet.release(busy, "j1", NOW)
    fleet.hold(idle, held("j2", "k", "lane:device"))
    assert listed(fleet, "i") == listed(fleet, "k") == ["busy", "idle"]


def test_a_model_that_left_the_device_is_no_replica_and_its_index_goes() -> None:
    fleet = Fleet()
    known(fleet, models=(resident("a"), resident("b")))
    known(fleet, seq=2, models=(resident("a", "warm"), resident("b")))
    assert (listed(fleet), listed(fleet, "b")) == ([], ["w"])
    assert (len(fleet.replicas("a")), len(fleet.replicas("b"))) == (0, 1)


def test_a_worker_that_is_removed_is_in_no_index() -> None:
    fleet = Fleet()
    gone = known(fleet, "gone", models=(resident("a"), resident("b")))
    known(fleet, "stays", models=(resident("a"),))
    assert fleet.remove("gone") is gone
    assert fleet.remove("gone") is None
    assert (listed(fleet), listed(fleet, "b"), list(fleet.workers)) == (["stays"], [], ["stays"])
    fleet.validate({})


@given(st.lists(st.tuples(st.sampled_from("uvwxyz"), st.one_of(st.none(), st.integers(0, 6))), max_size=60))
def test_the_index_agrees_with_sorting(steps: list[tuple[str, int | None]]) -> None:
    """None: the replica goes."""
    replicas, loads = ByBurden[str](), dict[str, int]()
    for name, load in steps:
        if load is None:
            replicas.drop(name)
            loads.pop(name, None)
        else:
            replicas.put(name, name, load)
            loads[name] = load
        order = list(replicas)
        assert sorted(order) == sorted(loads)
        assert [loads[one] for one in order] == sorted(loads.values())
        assert [loads[one] for one in reversed(replicas)] == sorted(loads.values(), reverse=True)
        assert len(replicas) == len(loads)
        assert all(one in replicas for one in loads)
        assert (name in replicas) == (load is not None)


def test_an_index_without_replicas_is_empty_again_and_again() -> None:
    replicas = ByBurden[str]()
    assert list(replicas) == []
    replicas.put("w", "w", 3)
    replicas.drop("w")
    assert list(replicas) == list(reversed(replicas)) == []
    replicas.put("w", "w", 0)
    assert len(list(replicas)) == 1


def test_room_and_slots_of_a_shared_lane_are_shared() -> None:
    fleet = Fleet()
    found = known(fleet)
    picture = Spec("default", "image", "")
    for number in range(2):
        assert found.has_room("k", picture)
        fleet.hold(found, held(f"j{number}", "i", "lane:device"))
    assert not found.has_room("k", picture)
    assert found.has_room("k", SPEC), "another engine, another lane"


def test_an_ordered_load_that_has_become_hot_is_no_longer_an_order() -> None:
    fleet = Fleet()
    found = known(fleet)
    fleet.order_load(found, "a", SPEC, NOW)
    known(fleet, seq=2, models=(resident(),))
    assert (found.ordered, listed(fleet)) == ({}, ["w"])

"""Which ready replica a job takes: shares to the last request, standbys, prefixes; and the ring to the last point."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.schemas.catalog import LoadBalancing, Model, Spec
from stoker.schemas.jobs import ChatInput, CompletionInput, EmbeddingInput, Job, JobInput, prefix_of
from stoker.schemas.openai import ChatMessage
from stoker.schemas.workers import EngineCapability, Heartbeat
from stoker.services.scheduler.fleet.lane import Held, Lane
from stoker.services.scheduler.fleet.worker import Worker
from stoker.services.scheduler.placing.balance import Balancer, Ready, is_plain
from stoker.services.scheduler.placing.prefix_hash import HashRing


def worker(name: str, load: int = 0, slots: int = 8) -> Worker:
    engines = {"text": EngineCapability(slots, 0, ("TextGeneration",))}
    found = Worker(name, Heartbeat(name, 1.0, 1, "", "", "cpu", "h", engines, 1, 0), 0.0)
    for number in range(load):
        give(found, f"held {number}")
    return found


def give(worker: Worker, job: str) -> None:
    worker.lanes.setdefault("m", Lane()).enter(Held(job, "m", "s", "m", 1, 0.0))


def ready(name: str, load: int = 0, *, target: int = 100, can_serve: bool = True, slots: int = 8) -> Ready:
    return Ready(worker(name, load, slots), Spec(f"s{target}", "text", "", target_requests=target), can_serve)


def model(**balancing: Any) -> Model:
    return Model("m", ("TextGeneration",), (Spec("s", "text", ""),), load_balancing=LoadBalancing(**balancing))


def job(prompt: str = "hello", adapter: str = "") -> Job:
    return Job("j", "m", CompletionInput(prompt), "gw", 0.0, adapter=adapter)


def chosen(*replicas: Ready, **balancing: Any) -> str | None:
    found = Balancer().choose(model(**balancing), job(), replicas)
    return None if found is None else found.worker.id


# Shares -------------------------------------------------------------------------------------------


def test_a_model_is_plain_with_one_spec_and_no_strategy_of_its_own() -> None:
    one, two = Spec("one", "text", ""), Spec("two", "text", "")
    assert is_plain(model())
    assert not is_plain(model(strategy="PrefixHash"))
    assert not is_plain(Model("m", ("TextGeneration",), (one, two)))


def test_the_replica_that_would_be_least_full_by_its_target_is_chosen() -> None:
    assert chosen(ready("a", 2, target=4), ready("b", 6, target=10)) == "b"
    assert chosen(ready("a", 2, target=4), ready("b", 7, target=10)) == "a"
    assert chosen(ready("a", 0, target=1), ready("b", 5, target=10)) == "b"


def test_of_equally_full_replicas_the_first_by_name_is_chosen() -> None:
    assert chosen(ready("b", 4, target=10), ready("a", 0, target=2)) == "a"
    assert chosen(ready("b"), ready("a")) == "a"


def test_who_cannot_serve_is_not_chosen_however_empty() -> None:
    assert chosen(ready("a", can_serve=False), ready("b", 50)) == "b"
    assert chosen(ready("a", can_serve=False)) is None
    assert chosen() is None


def test_a_standby_waits_though_the_others_have_no_room() -> None:
    assert chosen(ready("standby", target=0), ready("full", can_serve=False)) is None
    assert chosen(ready("standby", target=0), ready("able", 90)) == "able"
    assert chosen(ready("standby-1", 3, target=0), ready("standby-2", 2, target=0)) == "standby-2"


@given(st.lists(st.integers(1, 50), min_size=2, max_size=5), st.integers(1, 120))
def test_no_replica_gets_less_than_its_share_by_its_target(targets: list[int], requests: int) -> None:
    balancer, replicas = Balancer(), [ready(f"w{n}", target=target) for n, target in enumerate(targets)]
    for number in range(requests):
        found = balancer.choose(model(), job(), replicas)
        assert found is not None
        give(found.worker, f"given {number}")
    for replica, target in zip(replicas, targets, strict=True):
        assert replica.load("m") >= requests * target // sum(targets)


# Prefixes -----------------------------------------------------------------------------------------

PREFIX: dict[str, Any] = {"strategy": "PrefixHash", "prefix_char_length": 5}


def by_prefix(
    balancer: Balancer, prompt: str, replicas: list[Ready], adapter: str = "", **changed: Any
) -> str | None:
    found = balancer.choose(model(**PREFIX | changed), job(prompt, adapter), replicas)
    return None if found is None else found.worker.id


def test_the_replica_is_that_of_the_ring() -> None:
    replicas = [ready(name) for name in ("w-a", "w-b", "w-c", "w-d")]
    balancer = Balancer()
    assert by_prefix(balancer, "hello", replicas) == "w-b"
    assert by_prefix(balancer, "hello and more", replicas) == "w-b"
    assert by_prefix(balancer, "", replicas) == "w-c"
    assert by_prefix(balancer, "lo", replicas, adapter="hel") == "w-b", "the adapter comes before the prefix"


def test_a_replica_that_has_gone_is_not_chosen_and_one_that_comes_is_known() -> None:
    replicas = [ready(name) for name in ("w-a", "w-b", "w-c", "w-d")]
    balancer = Balancer()
    by_prefix(balancer, "hello", replicas)
    assert by_prefix(balancer, "hello", [one for one in replicas if one.worker.id != "w-b"]) == "w-c"
    assert by_prefix(balancer, "hello", replicas) == "w-b"
    assert by_prefix(balancer, "hello", []) is None


def test_a_replica_without_room_is_passed_over_and_standbys_are_off_the_ring() -> None:
    balancer = Balancer()
    full = [ready("w-a"), ready("w-b", can_serve=False), ready("w-c"), ready("w-d")]
    assert by_prefix(balancer, "hello", full) == "w-c"
    standby = [ready("w-a"), ready("w-b", target=0), ready("w-c"), ready("w-d")]
    assert by_prefix(balancer, "hello", standby) == "w-c"
    assert by_prefix(balancer, "hello", [ready("w-b", target=0)]) == "w-b"


def test_a_replica_above_the_mean_keeps_its_prefixes_while_half_its_slots_are_free() -> None:
    def replicas(load: int, slots: int) -> list[Ready]:
        return [ready("w-a", slots=slots), ready("w-b", load, slots=slots), ready("w-c"), ready("w-d")]

    assert by_prefix(Balancer(), "hello", replicas(3, 8)) == "w-b"
    assert by_prefix(Balancer(), "hello", replicas(4, 8)) == "w-c"
    assert by_prefix(Balancer(), "hello", replicas(3, 6)) == "w-c"
    assert by_prefix(Balancer(), "hello", replicas(4, 8), mean_load_percentage=400) == "w-b"


def test_a_change_of_the_replication_makes_the_ring_anew_and_models_have_rings_of_their_own() -> None:
    balancer = Balancer()
    replicas = [ready(name) for name in ("w-a", "w-b")]
    by_prefix(balancer, "hello", replicas, replication=4)
    ring = balancer._rings["m"]
    by_prefix(balancer, "hello", replicas, replication=4)
    assert balancer._rings["m"] is ring
    by_prefix(balancer, "hello", replicas, replication=8)
    assert (balancer._rings["m"].replication, len(balancer._rings["m"]._points)) == (8, 16)
    other = Model(
        "n", ("TextGeneration",), (Spec("s", "text", ""),), load_balancing=LoadBalancing("PrefixHash")
    )
    balancer.choose(other, job(), replicas[:1])
    assert (len(balancer._rings["n"]._points), len(balancer._rings["m"]._points)) == (256, 16)


@pytest.mark.parametrize(
    ("given_input", "prefix"),
    [
        (CompletionInput("hello world"), "hello"),
        (CompletionInput("hi"), "hi"),
        (ChatInput((ChatMessage("user", "hello world"),)), "hello"),
        (ChatInput((ChatMessage("system", "be brief"), ChatMessage("user", "first"))), "first"),
        (ChatInput((ChatMessage("system", "be brief"),)), ""),
        (EmbeddingInput(("text",)), ""),
    ],
)
def test_a_prefix_is_the_beginning_of_what_the_user_says(given_input: JobInput, prefix: str) -> None:
    assert prefix_of(given_input, 5) == prefix


# The ring -----------------------------------------------------------------------------------------


def ring(*names: str, replication: int = 64) -> HashRing:
    found = HashRing(replication)
    found.keep(names)
    return found


def test_each_replica_has_as_many_points_as_are_asked_for_in_order() -> None:
    found = ring("a", "b", replication=3)
    assert len(found._points) == 6
    assert found._points == sorted(found._points)
    assert HashRing().replication == 256


def test_the_bound_counts_the_request_that_comes_and_all_replicas() -> None:
    one = ring("a")
    assert one.pick("x", {"a": 10**6}) == "a", "who is alone is never passed over for long"
    two = ring("a", "b")
    first = two.pick("x", {})
    assert first is not None
    other = ({"a", "b"} - {first}).pop()
    assert two.pick("x", {first: 3, other: 2}, 100) == first, "3 of (5 + 1) / 2"
    assert two.pick("x", {first: 3, other: 1}, 100) == other, "3 of (4 + 1) / 2"
    assert two.pick("x", {first: 3, other: 1}, 120) == first, "3 of 2.5 and a fifth"
    assert two.pick("x", {first: 3, other: 1}, 119) == other


def test_loads_of_replicas_that_are_not_on_the_ring_do_not_count() -> None:
    two = ring("a", "b")
    first = two.pick("x", {})
    assert first is not None
    other = ({"a", "b"} - {first}).pop()
    assert two.pick("x", {first: 3, other: 1, "gone": 50}, 100) == other


def test_below_the_floor_nobody_is_overloaded() -> None:
    two = ring("a", "b")
    first = two.pick("x", {})
    assert first is not None
    other = ({"a", "b"} - {first}).pop()
    assert two.pick("x", {first: 3}, 100, floor=4) == first
    assert two.pick("x", {first: 3}, 100, floor=3) == other


def test_a_ring_without_load_passes_over_nobody_whatever_the_percentage() -> None:
    found = ring("a", "b", "c")
    assert found.pick("x", {}, 0) == found.pick("x", {})


@given(st.sets(st.sampled_from("abcdefgh"), min_size=1), st.text(max_size=8), st.sampled_from("abcdefgh"))
def test_a_key_moves_only_to_who_comes_and_from_who_goes(names: set[str], key: str, one: str) -> None:
    without, with_it = ring(*(names - {one})), ring(*names, one)
    before, after = without.pick(key, {}), with_it.pick(key, {})
    assert after in (before, one)


@given(
    st.sets(st.sampled_from("abcdefgh"), min_size=1), st.sets(st.sampled_from("abcdefgh")), st.text(max_size=8)
)
def test_of_those_that_can_serve_one_is_always_found(names: set[str], able: set[str], key: str) -> None:
    found = ring(*names).pick(key, dict.fromkeys(names, 7), 100, lambda name: name in able)
    assert (found in names & able) if names & able else found is None


def test_where_all_that_can_serve_are_overloaded_the_first_of_them_is_taken() -> None:
    two = ring("a", "b")
    assert two.pick("x", {"a": 10}, 100, lambda name: name == "a") == "a"
    four = ring("a", "b", "c", "d")
    loads = {"a": 50, "b": 60, "c": 0, "d": 0}
    able = {"a", "b"}
    order = [four.pick("x", {}, 100, lambda name, one=one: name in able - {one}) for one in ("", "a", "b")]
    first = order[0]
    assert {order[1], order[2]} == able
    assert four.pick("x", loads, 100, lambda name: name in able) == first


def test_half_of_an_odd_number_of_slots_is_rounded_down() -> None:
    replicas = [ready("w-a", slots=5), ready("w-b", 2, slots=5), ready("w-c", slots=5), ready("w-d", slots=5)]
    assert by_prefix(Balancer(), "hello", replicas) == "w-c"

"""The cache, one rule at a time: reservations, what is evicted and where to, pins, and a runner that dies."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.schemas.workers import Tier
from stoker.services.worker.models.cache import DoesNotFit, Entry, Eviction, IllegalMove, ModelCache, NoRoomNow

GB = 10**9


def cache_with(*sizes: int, memory: int = 10, ram: int = 0, can_park: bool = False) -> ModelCache:
    """Weights m0, m1, … that are hot, of these sizes in GB; m0 was used first."""
    cache = ModelCache(memory * GB, ram * GB)
    for number, size in enumerate(sizes):
        cache.plan(f"m{number}", "e", size * GB, float(number))
        cache.loaded(f"m{number}", size * GB, 0.5, can_park, float(number))
    return cache


def in_tier(tier: Tier) -> tuple[ModelCache, Entry]:
    cache = cache_with(1, ram=1, can_park=True)
    entry = cache.entries["m0"]
    entry.tier = tier
    return cache, entry


def test_a_plan_reserves_memory_before_anything_is_loaded() -> None:
    cache = ModelCache(10 * GB)
    assert cache.plan("a", "e", 6 * GB, 7.0) == []
    assert cache.entries["a"] == Entry("a", "e", "loading", 6 * GB, 7.0, loaded_from="cold")
    assert (cache.used_bytes, cache.parked_bytes) == (6 * GB, 0)
    with pytest.raises(NoRoomNow, match="in use"):
        cache.plan("b", "e", 5 * GB, 8.0)
    assert cache.plan("c", "e", 4 * GB, 8.0) == [], "what is left fits to the byte"


def test_weights_that_fill_the_device_fit_and_one_byte_more_never_does() -> None:
    assert ModelCache(GB).plan("a", "e", GB, 0.0) == []
    with pytest.raises(DoesNotFit):
        ModelCache(GB).plan("a", "e", GB + 1, 0.0)


def test_weights_that_do_not_fit_now_are_known_and_where_they_were() -> None:
    cache = cache_with(10)
    cache.pin("m0", 1.0)
    cache.note("b", "e", "warm")
    for key in ("b", "new"):
        with pytest.raises(NoRoomNow):
            cache.plan(key, "e", GB, 2.0)
    assert (cache.tier("b"), cache.tier("new"), cache.tier("m0")) == ("warm", "cold", "hot")


def test_weights_that_are_loaded_are_hot_with_what_was_measured() -> None:
    cache = ModelCache(10 * GB)
    cache.plan("a", "e", 6 * GB, 1.0)
    cache.loaded("a", 5 * GB, 2.5, True, 3.0)
    assert cache.entries["a"] == Entry(
        "a", "e", "hot", 5 * GB, 3.0, can_park=True, load_s=2.5, loaded_from="cold", is_measured=True
    )
    cache.loaded("a", 7 * GB, 0.1, False, 4.0)
    entry = cache.entries["a"]
    assert (entry.tier, entry.memory_bytes, entry.load_s, entry.can_park, entry.used_at) == (
        "hot", 7 * GB, 0.1, False, 4.0,
    )  # fmt: skip


@pytest.mark.parametrize("tier", ["cold", "warm", "parked"])
def test_a_load_remembers_where_it_began(tier: Tier) -> None:
    cache, entry = in_tier(tier)
    cache.plan("m0", "e", GB, 5.0)
    assert (entry.tier, entry.loaded_from, entry.used_at) == ("loading", tier, 5.0)


@pytest.mark.parametrize("tier", ["hot", "loading"])
def test_what_is_loaded_or_on_its_way_is_not_planned_again(tier: Tier) -> None:
    cache, entry = in_tier(tier)
    with pytest.raises(IllegalMove, match="m0"):
        cache.plan("m0", "e", GB, 5.0)
    assert entry.tier == tier


# Evictions ----------------------------------------------------------------------------------------


def evicted(cache: ModelCache, size: int, unneeded: tuple[str, ...] = ()) -> list[str]:
    return [eviction.key for eviction in cache.plan("new", "e", size * GB, 99.0, unneeded)]


def test_no_more_is_evicted_than_is_needed() -> None:
    assert evicted(cache_with(3, 3, 3), 1) == []
    assert evicted(cache_with(3, 3, 3), 2) == ["m0"]
    assert evicted(cache_with(3, 3, 3), 4) == ["m0"]
    assert evicted(cache_with(3, 3, 3), 5) == ["m0", "m1"]
    assert evicted(cache_with(3, 3, 3), 10) == ["m0", "m1", "m2"]


def test_a_small_victim_is_spared_where_a_later_one_makes_room_by_itself() -> None:
    assert evicted(cache_with(1, 2, 7), 7) == ["m2"]
    assert evicted(cache_with(1, 2, 7), 8) == ["m1", "m2"]
    assert evicted(cache_with(1, 2, 7), 9) == ["m1", "m2"]
    assert evicted(cache_with(1, 2, 7), 10) == ["m0", "m1", "m2"]


def test_what_nobody_needs_goes_before_what_was_used_least_lately() -> None:
    assert evicted(cache_with(3, 3, 3), 2, ("m2", "m1")) == ["m1"]
    assert evicted(cache_with(3, 3, 3), 7, ("m2",)) == ["m2", "m0"]
    assert evicted(cache_with(3, 3, 3), 4, ("m2", "not here")) == ["m2"]


def test_using_weights_makes_them_the_last_to_go() -> None:
    cache = cache_with(5, 5)
    cache.pin("m0", 50.0)
    cache.unpin("m0", 51.0)
    assert cache.entries["m0"].used_at == 51.0
    assert evicted(cache, 5) == ["m1"]


def test_evicted_weights_are_parked_only_where_the_engine_can_and_ram_has_room() -> None:
    assert cache_with(5, 5, ram=5, can_park=True).plan("new", "e", 5 * GB, 9.0) == [Eviction("m0", "parked")]
    assert cache_with(5, 5, ram=4, can_park=True).plan("new", "e", 5 * GB, 9.0) == [Eviction("m0", "warm")]
    assert cache_with(5, 5, ram=5).plan("new", "e", 5 * GB, 9.0) == [Eviction("m0", "warm")]


def test_parked_weights_take_ram_and_no_device_memory() -> None:
    cache = cache_with(5, 5, ram=8, can_park=True)
    assert cache.evict_idle() == [Eviction("m0", "parked"), Eviction("m1", "warm")]
    assert (cache.used_bytes, cache.parked_bytes) == (0, 5 * GB)
    cache.validate()


def test_what_is_in_use_or_on_its_way_is_not_evicted_even_when_the_device_ran_out() -> None:
    cache = cache_with(3, 3)
    cache.pin("m1", 5.0)
    cache.plan("loading", "e", GB, 6.0)
    assert cache.evict_idle() == [Eviction("m0", "warm")]
    assert (cache.tier("m1"), cache.tier("loading")) == ("hot", "loading")


# Going --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tier", "goes"), [("hot", True), ("parked", True), ("loading", False), ("warm", False), ("cold", False)]
)
def test_only_idle_weights_in_memory_can_be_dropped(tier: Tier, goes: bool) -> None:
    cache, entry = in_tier(tier)
    assert cache.drop("m0") is goes
    assert entry.tier == ("warm" if goes else tier)
    pinned, entry = in_tier(tier)
    pinned.pin("m0", 1.0)
    assert pinned.drop("m0") is False
    assert entry.tier == tier
    assert pinned.drop("nobody") is False


@pytest.mark.parametrize(
    ("tier", "goes"), [("cold", True), ("warm", True), ("hot", False), ("parked", False), ("loading", False)]
)
def test_only_weights_in_no_memory_are_forgotten_and_not_while_somebody_pins_them(
    tier: Tier, goes: bool
) -> None:
    cache, _ = in_tier(tier)
    cache.pin("m0", 1.0)
    cache.forget("m0")
    assert "m0" in cache.entries
    cache.unpin("m0", 2.0)
    cache.forget("m0")
    cache.forget("nobody")
    assert ("m0" in cache.entries) is not goes


@pytest.mark.parametrize(
    ("tier", "then"),
    [("hot", "warm"), ("parked", "warm"), ("loading", "loading"), ("warm", "warm"), ("cold", "cold")],
)
def test_a_runner_that_dies_takes_what_it_had_in_memory(tier: Tier, then: Tier) -> None:
    cache, entry = in_tier(tier)
    cache.all_dropped({"e"})
    assert entry.tier == then


@pytest.mark.parametrize(("began", "then"), [("parked", "warm"), ("cold", "cold"), ("warm", "warm")])
def test_a_load_from_ram_goes_on_from_the_disk_when_the_runner_dies(began: Tier, then: Tier) -> None:
    cache, entry = in_tier("loading")
    entry.loaded_from = began
    cache.all_dropped({"e"})
    assert (entry.tier, entry.loaded_from, cache.used_bytes) == ("loading", then, GB)


@pytest.mark.parametrize("tier", ["hot", "parked", "loading", "warm", "cold"])
def test_a_runner_of_other_engines_that_dies_takes_nothing(tier: Tier) -> None:
    cache, entry = in_tier(tier)
    entry.loaded_from = "parked"
    cache.all_dropped({"others"})
    assert (entry.tier, entry.loaded_from) == (tier, "parked")


def test_weights_are_in_the_process_of_the_engine_that_loads_them() -> None:
    """Specs without weights of their own share a key, whatever their engine."""
    cache = ModelCache(GB)
    cache.note("m", "text", "warm")
    cache.plan("m", "image", GB, 1.0)
    cache.loaded("m", GB, 0.1, False, 1.0)
    cache.all_dropped({"text"})
    assert cache.tier("m") == "hot"
    cache.all_dropped({"image"})
    assert cache.tier("m") == "warm"


def test_a_failed_load_returns_to_the_disk_and_touches_nothing_else() -> None:
    for tier in ("hot", "parked", "warm", "cold"):
        cache, entry = in_tier(tier)
        cache.not_loaded("m0")
        cache.not_loaded("nobody")
        assert entry.tier == tier
    cache, entry = in_tier("loading")
    cache.not_loaded("m0")
    assert (entry.tier, cache.used_bytes) == ("warm", 0)


def test_weights_are_noted_once_with_where_they_are() -> None:
    cache = ModelCache(GB)
    cache.note("a", "e", "warm", 7)
    cache.note("a", "other", "cold", 9)
    assert cache.entries == {"a": Entry("a", "e", "warm", 7, 0.0)}
    cache.note("b", "e", "cold")
    assert (cache.entries["b"].memory_bytes, cache.tier("b"), cache.tier("nobody")) == (0, "cold", "cold")


def test_each_pin_needs_its_own_unpin() -> None:
    cache = cache_with(5)
    for at in (1.0, 2.0):
        cache.pin("m0", at)
    cache.unpin("m0", 3.0)
    assert (cache.entries["m0"].pins, cache.evict_idle()) == (1, [])
    cache.unpin("m0", 4.0)
    assert cache.evict_idle() == [Eviction("m0", "warm")]
    with pytest.raises(AssertionError, match="m0 was let go more often"):
        cache.unpin("m0", 5.0)


def test_validate_sees_what_cannot_be() -> None:
    for field, value in (("key", "other"), ("tier", "lost"), ("pins", -1)):
        cache = cache_with(5)
        cache.validate()
        setattr(cache.entries["m0"], field, value)
        with pytest.raises(AssertionError):
            cache.validate()
    cache = cache_with(5)
    cache.entries["m0"].tier = "parked"
    with pytest.raises(AssertionError, match="more is parked"):
        cache.validate()


@given(st.lists(st.integers(1, 6), max_size=8), st.integers(1, 12), st.sets(st.integers(0, 7)))
def test_victims_make_room_and_none_of_them_could_have_stayed(
    sizes: list[int], needed: int, unneeded: set[int]
) -> None:
    memory = max(sum(sizes), 12)
    cache = cache_with(*sizes, memory=memory)
    gone = cache.plan("new", "e", needed * GB, 99.0, {f"m{number}" for number in unneeded})
    spare = memory * GB - cache.used_bytes
    assert spare >= 0
    assert all(cache.entries[eviction.key].memory_bytes > spare for eviction in gone)


def test_a_pin_is_a_use() -> None:
    cache = cache_with(5)
    cache.pin("m0", 42.0)
    assert (cache.entries["m0"].pins, cache.entries["m0"].used_at) == (1, 42.0)

"""What a worker evicts, keeps and parks."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from services.worker.models.cache import DoesNotFit, Eviction, ModelCache, NoRoomNow

GB = 10**9


def loaded(cache: ModelCache, model: str, size: int, now: float, can_park: bool = False) -> None:
    cache.plan(model, "e", size, now)
    cache.loaded(model, size, 0.1, can_park, now)


def test_making_room_for_10_gb_with_3_x_5_gb_of_20_frees_exactly_one() -> None:
    cache = ModelCache(20 * GB)
    for index, model in enumerate("abc"):
        loaded(cache, model, 5 * GB, index)
    assert cache.plan("big", "e", 10 * GB, 9.0) == [Eviction("a", "warm")]
    assert cache.used_bytes == 20 * GB


def test_the_least_recently_used_goes_first_and_unneeded_ones_before_it() -> None:
    cache = ModelCache(3 * GB)
    for index, model in enumerate("abc"):
        loaded(cache, model, GB, index)
    cache.pin("a", 10.0)
    cache.unpin("a", 11.0)
    assert cache.plan("d", "e", GB, 12.0) == [Eviction("b", "warm")]
    assert cache.plan("f", "e", GB, 13.0, unneeded=("a",)) == [Eviction("a", "warm")]


def test_a_model_in_use_is_never_evicted() -> None:
    cache = ModelCache(2 * GB)
    loaded(cache, "used", GB, 0.0)
    loaded(cache, "idle", GB, 1.0)
    cache.pin("used", 2.0)
    with pytest.raises(NoRoomNow):
        cache.plan("big", "e", 2 * GB, 3.0)
    assert cache.plan("small", "e", GB, 3.0) == [Eviction("idle", "warm")]


def test_what_can_never_fit_is_said_with_numbers() -> None:
    with pytest.raises(DoesNotFit, match=r"3000 MB.*2000 MB"):
        ModelCache(2 * GB).plan("big", "e", 3 * GB, 0.0)


def test_an_evicted_model_is_parked_while_ram_has_room() -> None:
    cache = ModelCache(GB, ram_bytes=GB)
    loaded(cache, "a", GB, 0.0, can_park=True)
    assert cache.plan("b", "e", GB, 1.0) == [Eviction("a", "parked")]
    cache.loaded("b", GB, 0.1, True, 1.0)
    assert cache.plan("c", "e", GB, 2.0) == [Eviction("b", "warm")]
    assert cache.tier("a") == "parked"


def test_a_measured_size_replaces_the_estimate() -> None:
    cache = ModelCache(3 * GB)
    cache.plan("a", "e", 2 * GB, 0.0)
    cache.loaded("a", GB, 0.1, False, 0.0)
    cache.drop("a")
    cache.plan("a", "e", 2 * GB, 1.0)
    assert cache.used_bytes == GB


def test_a_failed_load_gives_its_reservation_back() -> None:
    cache = ModelCache(GB)
    cache.plan("a", "e", GB, 0.0)
    cache.not_loaded("a")
    assert cache.used_bytes == 0


@given(
    st.lists(
        st.tuples(
            st.sampled_from("abcdef"),
            st.integers(1, 6),
            st.sampled_from(["load", "pin", "unpin", "crash"]),
        ),
        max_size=60,
    )
)
@example([("a", 5, "load"), ("b", 5, "load"), ("c", 6, "load")])  # two victims, RAM for one
def test_memory_is_never_overcommitted_and_pins_are_respected(steps: list[tuple[str, int, str]]) -> None:
    cache, pinned = ModelCache(10, ram_bytes=5), dict[str, int]()
    for now, (model, size, step) in enumerate(steps):
        entry = cache.entries.get(model)
        if step == "load" and (entry is None or entry.tier in ("warm", "parked", "cold")):
            try:
                cache.plan(model, "e", size, now)
            except (NoRoomNow, DoesNotFit):
                continue
            cache.loaded(model, cache.entries[model].memory_bytes, 0.1, True, now)
        elif step == "pin" and entry is not None and entry.tier == "hot":
            cache.pin(model, now)
            pinned[model] = pinned.get(model, 0) + 1
        elif step == "unpin" and pinned.get(model):
            cache.unpin(model, now)
            pinned[model] -= 1
        elif step == "crash":
            cache.all_dropped()
            pinned.clear()
        assert cache.used_bytes <= 10
        assert cache.parked_bytes <= 5
        assert all(cache.entries[name].tier == "hot" for name, pins in pinned.items() if pins)

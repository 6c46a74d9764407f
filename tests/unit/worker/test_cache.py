"""What a worker evicts, keeps and parks."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from stoker.schemas.workers import Tier
from stoker.services.worker.models.cache import (
    TRANSITIONS,
    DoesNotFit,
    Entry,
    Eviction,
    IllegalMove,
    ModelCache,
    NoRoomNow,
    Wanted,
)

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


def test_weights_that_take_more_than_the_worker_has_are_loaded_again_with_all_else_gone() -> None:
    """Whether they fit is judged by the estimate, on each worker and each time, as the scheduler judges it."""
    cache = ModelCache(3 * GB)
    loaded(cache, "small", GB, 0.0)
    assert cache.plan("big", "e", 2 * GB, 1.0) == []
    cache.loaded("big", 5 * GB, 0.1, False, 1.0)
    assert (cache.used_bytes, cache.free_bytes) == (6 * GB, 0)
    assert cache.plan("b", "e", GB, 2.0) == [Eviction("big", "warm")]
    cache.loaded("b", GB, 0.1, False, 2.0)
    cache.pin("b", 3.0)
    with pytest.raises(NoRoomNow):
        cache.plan("big", "e", 2 * GB, 3.0)
    cache.unpin("b", 4.0)
    assert cache.plan("big", "e", 2 * GB, 5.0) == [Eviction("small", "warm"), Eviction("b", "warm")]


def test_what_is_declared_now_counts_until_it_is_measured() -> None:
    cache = ModelCache(3 * GB)
    cache.note("a", "e", "warm", 5 * GB)
    assert cache.plan("a", "e", 2 * GB, 0.0) == []
    assert cache.used_bytes == 2 * GB


def test_models_that_were_found_to_take_too_much_together_are_reserved_again() -> None:
    cache = ModelCache(3 * GB)
    wanted = [Wanted("a", "e", GB), Wanted("b", "e", 2 * GB)]
    for _ in range(2):
        assert cache.reserve(wanted, 0.0) == ([], ["a", "b"])
        for one in wanted:
            cache.loaded(one.key, 3 * GB, 0.1, False, 1.0)
            cache.unpin(one.key, 1.0)
        assert cache.plan("c", "e", GB, 2.0) == [Eviction("a", "warm"), Eviction("b", "warm")]
        cache.not_loaded("c")


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
            cache.all_dropped({"e"})
            pinned.clear()
        assert cache.used_bytes <= 10
        assert cache.parked_bytes <= 5
        assert all(cache.entries[name].tier == "hot" for name, pins in pinned.items() if pins)


SIZES = {"a": 3, "b": 5, "c": 7, "d": 11}
ENGINE_OF = {"a": "text", "b": "text", "c": "image", "d": "image"}
KEYS = st.sampled_from(sorted(SIZES))


class CacheMachine(RuleBasedStateMachine):
    """Loads, pins, failures and deaths of the runners in any order, within 12 GB of device memory and 6 of RAM."""

    def __init__(self) -> None:
        super().__init__()
        self.cache = ModelCache(12 * GB, 6 * GB)
        self.now = 0.0
        self.pins: dict[str, int] = {}

    def tick(self) -> float:
        self.now += 1
        return self.now

    @rule(key=KEYS, unneeded=st.sets(KEYS))
    def plan(self, key: str, unneeded: set[str]) -> None:
        if self.cache.tier(key) in ("hot", "loading"):
            with pytest.raises((IllegalMove, NoRoomNow)):
                self.cache.plan(key, ENGINE_OF[key], SIZES[key] * GB, self.tick(), unneeded)
            return
        before = {name: entry.tier for name, entry in self.cache.entries.items()}
        try:
            evictions = self.cache.plan(key, ENGINE_OF[key], SIZES[key] * GB, self.tick(), unneeded)
        except NoRoomNow:
            assert {name: self.cache.tier(name) for name in before} == before, "nothing was evicted for nothing"
            return
        assert self.cache.tier(key) == "loading"
        for eviction in evictions:
            assert before[eviction.key] == "hot"
            assert not self.pins.get(eviction.key)
            assert self.cache.tier(eviction.key) == eviction.to
        freed = [SIZES[eviction.key] for eviction in evictions]
        spare = 12 * GB - self.cache.used_bytes
        assert all(size * GB > spare for size in freed), "one victim fewer would have been enough"

    @rule(key=KEYS, can_park=st.booleans())
    def finish(self, key: str, can_park: bool) -> None:
        if self.cache.tier(key) == "loading":
            self.cache.loaded(key, SIZES[key] * GB, 0.5, can_park, self.tick())
            assert self.cache.tier(key) == "hot"

    @rule(key=KEYS)
    def fail(self, key: str) -> None:
        was = self.cache.tier(key)
        self.cache.not_loaded(key)
        assert self.cache.tier(key) == ("warm" if was == "loading" else was)

    @rule(key=KEYS)
    def pin(self, key: str) -> None:
        if self.cache.tier(key) == "hot":
            self.cache.pin(key, self.tick())
            self.pins[key] = self.pins.get(key, 0) + 1

    @rule(key=KEYS)
    def unpin(self, key: str) -> None:
        if self.pins.get(key):
            self.cache.unpin(key, self.tick())
            self.pins[key] -= 1
        elif key in self.cache.entries:
            with pytest.raises(AssertionError, match="more often"):
                self.cache.unpin(key, self.now)

    @rule(key=KEYS)
    def drop(self, key: str) -> None:
        could = self.cache.tier(key) in ("hot", "parked") and not self.pins.get(key)
        assert self.cache.drop(key) == could

    @rule(key=KEYS)
    def forget(self, key: str) -> None:
        could = self.cache.tier(key) in ("cold", "warm") and not self.pins.get(key)
        self.cache.forget(key)
        assert not could or key not in self.cache.entries

    @rule()
    def evict_what_is_idle(self) -> None:
        idle = {k for k, e in self.cache.entries.items() if e.tier == "hot" and not self.pins.get(k)}
        assert {eviction.key for eviction in self.cache.evict_idle()} == idle

    @rule(engines=st.sets(st.sampled_from(["text", "image"])))
    def lose_a_runner(self, engines: set[str]) -> None:
        before = {key: entry.tier for key, entry in self.cache.entries.items()}
        self.cache.all_dropped(engines)
        for key, entry in self.cache.entries.items():
            if entry.engine in engines:
                assert entry.tier in ("warm", "cold", "loading")
            else:
                assert entry.tier == before[key], "it lives in another process"

    @invariant()
    def budgets_and_pins_hold(self) -> None:
        self.cache.validate()
        assert self.cache.used_bytes <= 12 * GB
        for key, entry in self.cache.entries.items():
            assert entry.pins == self.pins.get(key, 0)
        assert all(key in self.cache.entries for key, pins in self.pins.items() if pins)


CacheMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestCacheMachine = CacheMachine.TestCase


@pytest.mark.parametrize("to", sorted(TRANSITIONS))
@pytest.mark.parametrize("tier", sorted(TRANSITIONS))
def test_the_table_decides_and_an_illegal_move_changes_nothing(tier: Tier, to: Tier) -> None:
    entry = Entry("a", "e", tier, GB, 0.0)
    if to in TRANSITIONS[tier]:
        ModelCache._move(entry, to)
        assert entry.tier == to
    else:
        with pytest.raises(IllegalMove, match=f"{tier} -> {to}"):
            ModelCache._move(entry, to)
        assert entry.tier == tier

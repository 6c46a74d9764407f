"""Calls that need several models: all of them or none, so that nobody holds what another waits for.

The real loader, cache and core, with runners that answer, fail and die as the example says.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stoker.schemas.catalog import Model, Spec, weights_key
from stoker.schemas.jobs import FunctionInput, Job
from stoker.schemas.workers import Assignment, EngineCapability
from stoker.services.process.tasks import TaskOwner
from stoker.services.worker.jobs.attempt import Attempt
from stoker.services.worker.jobs.core import WorkerCore
from stoker.services.worker.models.asking import LoadError
from stoker.services.worker.models.cache import DoesNotFit, ModelCache, NoRoomNow, Wanted
from stoker.services.worker.models.loader import Loader
from stoker.services.worker.models.together import hold_together
from stoker.services.worker.runner.messages import Load, Loaded, LoadFailed, Message, Unload
from tests.waiting import eventually

MB = 10**6
ROOM_MB = 100
ENGINE = "function"


class Runners:
    """Answers after some turns of the loop. fails: loads that fail, by number; slow_s: turns of each answer."""

    def __init__(self, fails: set[int], turns: int) -> None:
        self.loader: Loader
        self._fails = fails
        self._turns = turns
        self._loads = 0
        self._life = 0
        self._tasks: set[asyncio.Task[None]] = set()

    def send(self, engine: str, message: Message) -> None:
        task = asyncio.create_task(self._answer(message, self._life))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answer(self, message: Message, life: int) -> None:
        for _ in range(self._turns):
            await asyncio.sleep(0)
        if life != self._life:
            return  # it died before
        if isinstance(message, Unload):
            self.loader.answers.unloaded(message.model)
        elif isinstance(message, Load):
            self._loads += 1
            if self._loads in self._fails:
                self.loader.answers.take(LoadFailed(message.model, "it is broken"))
            else:
                self.loader.answers.take(Loaded(message.model, 0, 0.01, False))

    def die(self) -> None:
        self._life += 1
        self.loader.runner_died({ENGINE})

    async def wait_ready(self, engine: str, seconds: float) -> None:
        await asyncio.sleep(0)

    def kill(self, engine: str) -> None:
        raise AssertionError("a load was given up")


@dataclass(frozen=True)
class Call:
    """One call: its models, when it comes, how long it runs, when it is cancelled; in turns of the loop."""

    models: tuple[str, ...]
    comes: int
    runs: int
    is_cancelled_after: int | None = None


@dataclass
class Bench:
    """Calls on one worker."""

    sizes_mb: dict[str, int]
    runners: Runners
    tasks: TaskOwner
    core: WorkerCore = field(
        default_factory=lambda: WorkerCore({ENGINE: EngineCapability(64, 0, ("Function",))})
    )
    ended: dict[int, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.loader = Loader(ModelCache(ROOM_MB * MB), self.runners, self.tasks, lambda *_: None, lambda: None)
        self.runners.loader = self.loader
        for name in self.sizes_mb:
            self.loader.model_changed(name, Model(name, ("Weights",), (self.spec(name),)))

    def spec(self, name: str) -> Spec:
        return Spec("default", ENGINE, "", memory_bytes=self.sizes_mb[name] * MB)

    async def call(self, number: int, call: Call) -> None:
        for _ in range(call.comes):
            await asyncio.sleep(0)
        asked = FunctionInput("f", {}, {str(index): name for index, name in enumerate(call.models)})
        job = Job(f"j{number}", call.models[0], asked, "gw", 0.0)
        self.core.assign(Assignment(job, 1, 1, self.spec(call.models[0])), 0.0)
        attempt = self.core.current(job.id)
        assert attempt is not None
        if call.is_cancelled_after is not None:
            asyncio.get_running_loop().call_soon(self._cancel, attempt, number, call.is_cancelled_after)
        models = [(name, self.spec(name)) for name in dict.fromkeys(call.models)]
        try:
            await hold_together(self.loader, models, (), attempt.hold, 20.0)
        except LoadError as error:
            self._end(attempt, number, str(error))
            return
        if attempt.phase != "preparing":
            return
        self.core.move(attempt, "ready")
        self.core.next_to_run(attempt.lane)
        for _ in range(call.runs):
            await asyncio.sleep(0)
            self.check_held(attempt, call)
        self._end(attempt, number, "completed")

    def check_held(self, attempt: Attempt, call: Call) -> None:
        """While a call runs, all of its models are where it finds them; unless their process has died."""
        entries = self.loader.cache.entries
        if attempt.phase == "running":
            assert all(entries[weights_key(name, self.spec(name))].pins for name in call.models)

    def _cancel(self, attempt: Attempt, number: int, turns: int) -> None:
        if turns:
            asyncio.get_running_loop().call_soon(self._cancel, attempt, number, turns - 1)
        elif attempt.phase != "gone":
            self.core.stop(attempt, "cancelled")
            self._end(attempt, number, "cancelled")

    def _end(self, attempt: Attempt, number: int, how: str) -> None:
        if attempt.phase == "gone":
            return
        self.ended[number] = how
        if attempt.phase != "ending":
            self.core.move(attempt, "ending")
        self.core.move(attempt, "gone")

    async def die_at(self, turns: int) -> None:
        for _ in range(turns):
            await asyncio.sleep(0)
        self.runners.die()

    def validate(self) -> None:
        self.core.validate()
        self.loader.cache.validate()
        assert self.core.is_idle
        assert {key: one.pins for key, one in self.loader.cache.entries.items() if one.pins} == {}
        assert self.loader.cache.used_bytes <= ROOM_MB * MB


NAMES = "abcde"
CALLS = st.lists(
    st.builds(
        Call,
        st.lists(st.sampled_from(NAMES), min_size=1, max_size=4).map(tuple),
        st.integers(0, 30),
        st.integers(0, 20),
        st.none() | st.integers(0, 60),
    ),
    min_size=1,
    max_size=14,
)


def together(
    sizes_mb: dict[str, int], calls: list[Call], fails: set[int], turns: int, deaths: list[int]
) -> dict[int, str]:
    async def run() -> dict[int, str]:
        async with TaskOwner("bench") as tasks:
            bench = Bench(sizes_mb, Runners(fails, turns), tasks)
            work = [bench.call(number, call) for number, call in enumerate(calls)]
            async with asyncio.timeout(10):
                await asyncio.gather(*work, *(bench.die_at(at) for at in deaths))
            await eventually(lambda: not bench.loader._loads)
            bench.validate()
            return bench.ended

    return asyncio.run(run())


@settings(max_examples=150, deadline=None)
@given(
    st.tuples(*[st.integers(5, 90)] * len(NAMES)),
    CALLS,
    st.sets(st.integers(1, 20), max_size=3),
    st.integers(0, 5),
    st.lists(st.integers(0, 80), max_size=2),
)
def test_no_call_waits_for_ever_and_each_that_fits_alone_runs(
    sizes: tuple[int, ...], calls: list[Call], fails: set[int], turns: int, deaths: list[int]
) -> None:
    sizes_mb = dict(zip(NAMES, sizes, strict=True))
    ended = together(sizes_mb, calls, fails, turns, deaths)
    assert ended.keys() == set(range(len(calls))), "each call has one end"
    for number, call in enumerate(calls):
        needed = sum(sizes_mb[name] for name in set(call.models))
        if needed > ROOM_MB and call.is_cancelled_after is None:
            assert f"= {needed} MB together, and this worker has {ROOM_MB} MB" in ended[number]
        elif needed <= ROOM_MB and call.is_cancelled_after is None and not fails and not deaths:
            assert ended[number] == "completed"


def test_two_calls_that_want_the_same_in_another_order_both_run() -> None:
    calls = [Call(("a", "b") if number % 2 else ("b", "a"), number, 3) for number in range(20)]
    calls += [Call(("c",), 2 * number, 3) for number in range(10)]
    ended = together({"a": 50, "b": 50, "c": 50}, calls, set(), 2, [])
    assert set(ended.values()) == {"completed"}


@pytest.fixture
def cache() -> ModelCache:
    found = ModelCache(100)
    for key, size in (("a", 40), ("b", 40), ("c", 60)):
        found.note(key, ENGINE, "warm", size)
    return found


def want(*keys: str, needed_bytes: int = 0) -> list[Wanted]:
    return [Wanted(key, ENGINE, needed_bytes) for key in keys]


def hot(cache: ModelCache, key: str) -> None:
    cache.plan(key, ENGINE, 0, 1.0)
    cache.loaded(key, 0 or cache.entries[key].memory_bytes, 0.1, False, 1.0)


def test_a_reservation_pins_what_is_there_and_makes_room_for_the_rest(cache: ModelCache) -> None:
    hot(cache, "c")
    hot(cache, "a")
    evictions, to_load = cache.reserve(want("a", "b"), 2.0)
    assert ([one.key for one in evictions], to_load) == (["c"], ["b"])
    assert {key: (one.tier, one.pins) for key, one in cache.entries.items()} == {
        "a": ("hot", 1), "b": ("loading", 1), "c": ("warm", 0)
    }  # fmt: skip
    assert cache.used_bytes == 80


def state(cache: ModelCache) -> list[tuple[str, str, int]]:
    return [(one.key, one.tier, one.pins) for one in cache.entries.values()]


def test_a_reservation_that_finds_no_room_changes_nothing(cache: ModelCache) -> None:
    hot(cache, "c")
    cache.pin("c", 1.0)
    before = state(cache)
    with pytest.raises(NoRoomNow):
        cache.reserve(want("a", "b"), 2.0)
    assert state(cache) == before
    with pytest.raises(DoesNotFit, match="c 0 MB \\+ new 0 MB = 0 MB together, and this worker has 0 MB"):
        cache.reserve(want("c", "new", needed_bytes=51), 2.0)
    assert state(cache) == before


def test_what_loads_already_is_counted_once(cache: ModelCache) -> None:
    cache.plan("a", ENGINE, 0, 1.0)
    evictions, to_load = cache.reserve(want("a", "c"), 2.0)
    assert (evictions, to_load, cache.used_bytes) == ([], ["c"], 100)
    cache.not_loaded("c")
    assert (cache.tier("c"), cache.entries["c"].pins) == ("warm", 1)


@pytest.mark.parametrize("is_wanted", [True, False])
async def test_who_wants_nothing_any_more_holds_nothing(is_wanted: bool) -> None:
    async with TaskOwner("bench") as tasks:
        bench = Bench({"a": 40, "b": 40}, Runners(set(), 1), tasks)
        held: list[Callable[[], object]] = []

        def hold(release: Callable[[], object]) -> bool:
            if is_wanted:
                held.append(release)
            else:
                release()
            return is_wanted

        await hold_together(bench.loader, [(name, bench.spec(name)) for name in "ab"], (), hold, 5.0)
        pins = [entry.pins for entry in bench.loader.cache.entries.values()]
        assert pins == [int(is_wanted)] * 2
        for release in held * 2:
            release()  # the second time it does nothing
        assert [entry.pins for entry in bench.loader.cache.entries.values()] == [0, 0]

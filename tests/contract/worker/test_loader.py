"""Loads always end: whoever waits is told, whatever happened to room, runner, disk or the one who asked first."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from stoker.schemas.catalog import Model, Spec, SpecFile
from stoker.services.process.tasks import LimitExceeded, TaskOwner
from stoker.services.worker.models import asking, loader
from stoker.services.worker.models.asking import LoadError
from stoker.services.worker.models.cache import ModelCache
from stoker.services.worker.models.loader import Loader
from stoker.services.worker.models.spec_files import VARIABLE
from stoker.services.worker.runner import supervisor
from stoker.services.worker.runner.messages import Load, Loaded, LoadFailed, Unloaded
from stoker.services.worker.runner.runners import Engines, Listener, Runners
from stoker.services.worker.runner.supervisor import RunnerSupervisor
from tests.contract.worker.agents import MB, model_of, spec_of
from tests.waiting import eventually

LIMIT_S = 20.0
A, B = spec_of(80), spec_of(60)


class Bench:
    """A loader with a real runner and no agent."""

    def __init__(self, memory_mb: int, tasks: TaskOwner) -> None:
        listener = Listener(
            self._take,
            lambda _: None,
            self._died,
            lambda: None,
            lambda engines: self.loader.is_loading(engines),
        )
        self.runners = Runners(["synthetic"], tasks, listener)
        self.loader = Loader(ModelCache(memory_mb * MB), self.runners, tasks, lambda *_: None, lambda: None)
        self.tasks = tasks
        self.errors: dict[str, BaseException | None] = {}

    def _take(self, message: object) -> None:
        if isinstance(message, Loaded | LoadFailed):
            self.loader.answers.take(message)
        elif isinstance(message, Unloaded):
            self.loader.answers.unloaded(message.model)

    @property
    def runner(self) -> RunnerSupervisor:
        return self.runners.of("synthetic")

    def _died(self, engines: Engines, _: int, was_killed: bool) -> None:
        self.loader.runner_died(engines, was_killed=was_killed)

    def catalog(self, **specs: Spec) -> None:
        for name, spec in specs.items():
            self.loader.model_changed(name, model_of(name, spec))

    def ask(self, name: str, spec: Spec, limit_s: float = LIMIT_S) -> Callable[[], bool]:
        """Wait for a model beside the test; whether it has ended."""

        async def wait() -> None:
            try:
                await self.loader.make_hot(name, spec, (), limit_s)
                self.errors[name] = None
            except (LoadError, LimitExceeded) as error:
                self.errors[name] = error

        self.tasks.start(wait)
        return lambda: name in self.errors

    async def hot(self, name: str, spec: Spec) -> None:
        await self.loader.make_hot(name, spec, (), LIMIT_S)

    async def waits_for_room(self, name: str, spec: Spec) -> Callable[[], bool]:
        ended = self.ask(name, spec)
        await eventually(lambda: self.loader.tier(name, spec) == "loading" and not self.loader.room.is_set())
        assert not ended()
        return ended

    def stop_runner(self) -> int:
        pid = self.runner.pid
        os.kill(pid, signal.SIGSTOP)
        return pid


@asynccontextmanager
async def bench(memory_mb: int = 100) -> AsyncIterator[Bench]:
    async with TaskOwner("test") as tasks:
        found = Bench(memory_mb, tasks)
        await found.runner.wait_ready(30)
        yield found
        found.loader.cache.validate()


async def release(one: Bench, let_go: Callable[[], None]) -> None:
    let_go()


async def unload_by_hand(one: Bench, let_go: Callable[[], None]) -> None:
    let_go()
    assert one.loader.unload("a") == ""


async def leave_the_catalog(one: Bench, let_go: Callable[[], None]) -> None:
    one.loader.model_changed("a", None)
    let_go()


async def kill_the_runner(one: Bench, let_go: Callable[[], None]) -> None:
    one.runner.kill()
    await eventually(lambda: not one.loader.is_hot("a", A))
    let_go()


@pytest.mark.parametrize("event", [release, unload_by_hand, leave_the_catalog, kill_the_runner])
async def test_who_waits_for_room_is_woken_by_whatever_makes_some(
    event: Callable[[Bench, Callable[[], None]], Awaitable[None]],
) -> None:
    async with bench() as one:
        one.catalog(a=A, b=B)
        await one.hot("a", A)
        let_go = one.loader.pin("a", A)
        ended = await one.waits_for_room("b", B)
        await event(one, let_go)
        await eventually(ended, LIMIT_S)
        assert one.errors["b"] is None
        assert one.loader.is_hot("b", B)


async def test_who_waits_for_room_is_woken_by_a_load_that_fails() -> None:
    failing = Spec("default", "synthetic", "", options={"load_s": "not a number"}, memory_bytes=80 * MB)
    async with bench() as one:
        one.catalog(a=failing, b=B)
        one.stop_runner()  # A's load stands, its memory is reserved
        a_ended = one.ask("a", failing)
        await eventually(lambda: one.loader.cache.tier("a") == "loading")
        b_ended = await one.waits_for_room("b", B)
        os.kill(one.runner.pid, signal.SIGCONT)
        await eventually(lambda: a_ended() and b_ended(), LIMIT_S)
        assert isinstance(one.errors["a"], LoadError)
        assert one.errors["b"] is None


async def test_who_waits_for_room_is_woken_by_a_load_that_is_done_and_idle() -> None:
    slow = spec_of(80, load_s=0.5)
    async with bench() as one:
        one.catalog(a=slow, b=B)
        one.ask("a", slow)
        await eventually(lambda: one.loader.cache.tier("a") == "loading")
        b_ended = await one.waits_for_room("b", B)
        await eventually(b_ended, LIMIT_S)
        assert one.errors == {"a": None, "b": None}


@pytest.mark.parametrize("declared_mb", [60, 0])
async def test_a_model_that_takes_more_than_its_worker_has_is_served_each_time_and_told(
    capsys: pytest.CaptureFixture[str], declared_mb: int
) -> None:
    big = Spec("default", "synthetic", "", options={"memory_bytes": 250 * MB}, memory_bytes=declared_mb * MB)
    async with bench() as one:
        one.catalog(a=big, b=B)
        for _ in range(2):
            await one.hot("a", big)
            assert one.loader.cache.used_bytes == 250 * MB
            await one.hot("b", B)
            assert one.loader.tier("a", big) == "warm"
        found = [await one.loader.wanted("a", big)]
        one.loader.reserve([("a", big)], found, ())()
        await one.hot("a", big)
    told = capsys.readouterr()
    assert "model.over_limit" in told.err + told.out and "limit_mb=100" in told.err + told.out


async def test_a_load_for_which_no_room_is_made_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader, "ROOM_LIMIT_S", 0.2)
    async with bench() as one:
        one.catalog(a=A, b=B)
        await one.hot("a", A)
        one.loader.pin("a", A)
        with pytest.raises(LoadError, match="making room of 60 MB took longer"):
            await one.hot("b", B)
        assert one.loader.cache.used_bytes == 80 * MB
        assert "b" in one.loader.failures.lately(time.monotonic())


async def test_who_waits_too_long_leaves_the_load_to_those_who_wait_longer() -> None:
    slow = spec_of(10, load_s=0.6)
    async with bench() as one:
        one.catalog(a=slow)
        patient = one.ask("a", slow)
        with pytest.raises(LimitExceeded, match="bringing a into memory"):
            await one.loader.make_hot("a", slow, (), 0.1)
        await eventually(patient, LIMIT_S)
        assert one.errors["a"] is None


async def test_one_load_serves_all_who_wait() -> None:
    slow = spec_of(10, load_s=0.3)
    async with bench() as one:
        one.catalog(a=slow)
        await asyncio.gather(*(one.hot("a", slow) for _ in range(20)))
        entry = one.loader.cache.entries["a"]
        assert entry.load_s is not None and entry.load_s < 0.6


async def test_a_runner_that_dies_while_it_loads_is_not_the_models_fault() -> None:
    slow = spec_of(10, load_s=30.0)
    async with bench() as one:
        one.catalog(a=slow)
        ended = one.ask("a", slow)
        await eventually(lambda: one.loader.answers._waiting)
        one.runner.kill()
        await eventually(ended, LIMIT_S)
        error = one.errors["a"]
        assert isinstance(error, LoadError) and error.is_lost
        assert one.loader.cache.tier("a") == "warm"
        assert one.loader.cache.used_bytes == 0


async def test_a_load_that_is_asked_while_the_runner_is_away_waits_for_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(supervisor, "FIRST_PAUSE_S", 0.2)
    async with bench() as one:
        one.catalog(a=A)
        first = one.runner.pid
        one.runner.kill()
        await eventually(lambda: one.runner.state == "pausing")
        await one.hot("a", A)
        assert one.runner.pid not in (0, first)


async def test_a_load_for_which_no_runner_comes_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "RUNNER_LIMIT_S", 0.2)
    monkeypatch.setattr(supervisor, "FIRST_PAUSE_S", 60.0)
    async with bench() as one:
        one.catalog(a=A)
        one.runner._pause_s = 60.0
        one.runner.kill()
        await eventually(lambda: one.runner.state == "pausing")
        with pytest.raises(LoadError, match="there is no runner") as raised:
            await one.hot("a", A)
        assert raised.value.is_lost


async def test_a_runner_that_does_not_answer_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "LOAD_LIMIT_S", 0.3)
    async with bench() as one:
        one.catalog(a=A)
        hung = one.stop_runner()
        with pytest.raises(LoadError, match="took longer") as raised:
            await one.hot("a", A)
        assert raised.value.is_lost
        monkeypatch.setattr(asking, "LOAD_LIMIT_S", 60.0)
        await one.hot("a", A)
        assert one.runner.pid not in (0, hung)


async def test_a_file_that_is_not_there_is_said_and_the_reservation_is_void() -> None:
    missing = Spec("default", "synthetic", "file:///nowhere/weights.gguf", memory_bytes=10 * MB)
    async with bench() as one:
        one.catalog(a=missing)
        with pytest.raises(LoadError, match=r"weights\.gguf") as raised:
            await one.hot("a", missing)
        assert not raised.value.is_lost
        assert one.loader.cache.used_bytes == 0


async def test_what_is_in_use_is_not_unloaded_and_says_so() -> None:
    async with bench() as one:
        one.catalog(a=A)
        assert one.loader.unload("a") == "a is not loaded"
        await one.hot("a", A)
        let_go = one.loader.pin("a", A)
        assert one.loader.unload("a") == "a is in use"
        let_go()
        assert one.loader.unload("a") == ""


async def test_weights_that_no_model_needs_any_more_are_dropped_and_forgotten() -> None:
    async with bench() as one:
        one.catalog(a=A)
        await one.hot("a", A)
        let_go = one.loader.pin("a", A)
        one.loader.model_changed("a", None)
        assert one.loader.cache.tier("a") == "hot", "a job needs them"
        let_go()
        assert one.loader.cache.entries == {}
        for number in range(20):
            one.loader.model_changed(f"m{number}", Model(f"m{number}", (), (spec_of(1),)))
            one.loader.model_changed(f"m{number}", None)
        assert one.loader.cache.entries == {}


async def test_closing_ends_every_load_and_those_who_wait_for_it() -> None:
    slow = spec_of(10, load_s=30.0)
    before = asyncio.all_tasks()
    async with bench() as one:
        one.catalog(a=slow)
        one.ask("a", slow)
        one.loader.begin("a", slow)
        await eventually(lambda: one.loader.answers._waiting)
    assert asyncio.all_tasks() == before
    assert one.loader._loads == {}
    assert one.loader.cache.used_bytes == 0


def text_at(path: str) -> str:
    return Path(path).read_text()


async def test_files_of_a_spec_are_there_before_its_engine_is_asked(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """And where they cannot be written, the load ends with the reason."""
    spec = msgspec.structs.replace(A, args=("--t=/c/t",), files=(SpecFile("/c/t", "text"),))
    other = msgspec.structs.replace(spec, env={"A": "b"})
    monkeypatch.setenv(VARIABLE, str(tmp_path / "files"))
    found: list[str] = []
    async with bench(200) as stand:
        ask = stand.loader._ask_twice

        async def noted(key: str, load: Load) -> Loaded:
            found.append(text_at(load.args[0].removeprefix("--t=")))
            return await ask(key, load)

        monkeypatch.setattr(stand.loader, "_ask_twice", noted)
        await stand.hot("a", spec)
        assert found == ["text"]
        (tmp_path / "file").write_text("")
        monkeypatch.setenv(VARIABLE, str(tmp_path / "file" / "below"))
        with pytest.raises(LoadError, match="Not a directory"):
            await stand.hot("b", other)

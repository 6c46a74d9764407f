"""Families of engines, what runners take together, and the memory of weights that are on their way out."""

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from stoker.schemas.workers import Resources
from stoker.services.worker.engines.registry import CAPABILITIES, ENGINES, engines_of, family_of
from stoker.services.worker.models.asking import LoadError, RunnerAnswers
from stoker.services.worker.runner.messages import Load, Loaded, Message, Unload
from stoker.services.worker.runner.process import RunnerAway
from stoker.services.worker.runner.runners import merged


def test_every_engine_is_in_one_family_and_each_family_has_its_engines() -> None:
    assert ENGINES.keys() == CAPABILITIES.keys()
    families = {family_of(engine) for engine in ENGINES}
    assert sorted(engine for family in families for engine in engines_of(family)) == sorted(ENGINES)
    for engine in ENGINES:
        assert engine in engines_of(family_of(engine))


def test_text_shares_no_process_with_what_draws_hears_or_was_written_by_others() -> None:
    assert family_of("llamacpp") == family_of("vllm") == family_of("ollama")
    others = {family_of(engine) for engine in ("diffusers", "whisper", "function", "synthetic")}
    assert len(others | {family_of("llamacpp")}) == 5
    assert family_of("diffusers") == family_of("spandrel")
    assert family_of("function") == family_of("custom")


def test_an_engine_that_is_not_in_the_table_lives_alone() -> None:
    assert (family_of("backwards"), engines_of("backwards")) == ("backwards", frozenset({"backwards"}))


AMOUNT = st.integers(0, 10**12)
REPORT = st.builds(
    Resources,
    cpu_percent=st.integers(0, 6400).map(float),
    rss_bytes=AMOUNT,
    gpu_allocated_bytes=st.none() | AMOUNT,
    gpu_reserved_bytes=st.none() | AMOUNT,
    gpu_total_bytes=st.none() | AMOUNT,
    gpu_used_bytes=st.none() | AMOUNT,
    gpu_utilization_percent=st.none() | st.integers(0, 100).map(float),
    engine=st.dictionaries(st.sampled_from(["requests_waiting", "requests_running"]), st.just(1.0)),
)


@given(st.lists(REPORT, max_size=4))
def test_what_processes_take_adds_up_and_of_the_device_the_latest_counts(reports: list[Resources]) -> None:
    found = merged(reports)
    assert found.rss_bytes == sum(one.rss_bytes for one in reports)
    assert found.cpu_percent == sum(one.cpu_percent for one in reports)
    for field in ("gpu_allocated_bytes", "gpu_reserved_bytes"):
        known = [value for one in reports if (value := getattr(one, field)) is not None]
        assert getattr(found, field) == (sum(known) if known else None)
    for field in ("gpu_total_bytes", "gpu_used_bytes", "gpu_utilization_percent"):
        known = [value for one in reports if (value := getattr(one, field)) is not None]
        assert getattr(found, field) == (known[-1] if known else None)
    assert found.engine.keys() == {name for one in reports for name in one.engine}


class Processes:
    """Runners that note what they are sent; `away` takes nothing."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, Message]] = []
        self.away: set[str] = set()
        self.killed: list[str] = []

    def send(self, engine: str, message: Message) -> None:
        if engine in self.away:
            raise RunnerAway("it is away")
        self.sent.append((engine, message))

    async def wait_ready(self, engine: str, seconds: float) -> None:
        if engine in self.away:
            raise RunnerAway("the worker stops")

    def kill(self, engine: str) -> None:
        self.killed.append(engine)


LOAD = Load("k", "text", "", {})


async def test_a_question_fails_with_the_runner_of_its_engine_and_with_no_other() -> None:
    processes = Processes()
    answers = RunnerAnswers(processes)
    asked = {key: asyncio.ensure_future(answers.ask(key, key, LOAD)) for key in ("text", "image")}
    await asyncio.sleep(0)
    answers.runner_died({"image", "upscaler"}, was_killed=True)
    with pytest.raises(LoadError, match="died while it loaded image") as failed:
        await asked["image"]
    assert (failed.value.is_lost, failed.value.was_killed) == (True, True)
    answers.take(Loaded("text", 1, 0.1, False))
    assert (await asked["text"]).memory_bytes == 1
    answers.take(Loaded("text", 1, 0.1, False))  # nobody waits for it


async def test_a_worker_that_stops_loads_nothing() -> None:
    processes = Processes()
    processes.away = {"text"}
    with pytest.raises(LoadError, match="the worker stops") as failed:
        await RunnerAnswers(processes).ask("k", "text", LOAD)
    assert failed.value.is_lost


ENGINE_OF = {"a": "text", "b": "text", "c": "image", "d": "image"}
KEYS = st.sampled_from(sorted(ENGINE_OF))
ENGINE = st.sampled_from(["text", "image"])


class LeavingMachine(RuleBasedStateMachine):
    """Memory counts as taken from the order to unload until its runner says that it is free, or is gone."""

    def __init__(self) -> None:
        super().__init__()
        self.processes = Processes()
        self.freed = 0
        self.answers = RunnerAnswers(self.processes, self.count)
        self.leaving: dict[str, int] = {}
        self.waiting: list[int] = []
        self.told: list[int] = []

    def count(self) -> None:
        self.freed += 1

    @rule(key=KEYS, memory_bytes=st.integers(0, 9), park=st.booleans())
    def unload(self, key: str, memory_bytes: int, park: bool) -> None:
        engine = ENGINE_OF[key]
        self.answers.unload(key, engine, memory_bytes, park=park)
        if engine not in self.processes.away:
            self.leaving[key] = memory_bytes
            assert self.processes.sent[-1] == (engine, Unload(key, park))

    @rule(key=KEYS)
    def say_so(self, key: str) -> None:
        before = self.freed
        self.answers.unloaded(key)
        assert self.freed - before == (self.leaving.pop(key, None) is not None)

    @rule()
    def wait_for_all(self) -> None:
        number = len(self.waiting)
        self.waiting.append(number)
        self.answers.when_left(lambda: self.told.append(number))

    @rule(engine=ENGINE)
    def die(self, engine: str) -> None:
        self.processes.away.add(engine)
        self.answers.runner_died({engine})
        self.leaving = {key: size for key, size in self.leaving.items() if ENGINE_OF[key] != engine}

    @rule(engine=ENGINE)
    def come_back(self, engine: str) -> None:
        self.processes.away.discard(engine)

    @invariant()
    def bytes_add_up(self) -> None:
        assert self.answers.leaving_bytes == sum(self.leaving.values())

    @invariant()
    def who_waits_is_told_once_and_when_all_have_left(self) -> None:
        assert self.told == self.waiting[: len(self.told)]
        assert self.leaving or self.told == self.waiting


LeavingMachine.TestCase.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)
TestLeavingMachine = LeavingMachine.TestCase

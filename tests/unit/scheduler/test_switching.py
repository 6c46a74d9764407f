"""What a worker loads next, and what has to make room for it: by what has waited, what it costs, and who is owed."""

from typing import Any

import pytest
from msgspec.structs import replace

from stoker.schemas.catalog import Spec
from stoker.schemas.workers import Tier
from stoker.services.scheduler.placing.plan import Plan
from stoker.services.scheduler.placing.switching import WORTH, Switch, Switcher
from stoker.services.scheduler.protocol.commands import ReadOnWorker
from tests.unit.scheduler.place import MB, NOW, Place, model, resident, spec

LOAD_S = 0.2 + 100 * MB / 1e9


class Lane(Place):
    """One worker with room for one model of 100 MB, b, which is hot; all models share its lane."""

    def __init__(self, room_mb: int = 100, **sizes_mb: int) -> None:
        super().__init__(*(model(name, spec(memory_bytes=sizes_mb.get(name, 100) * MB)) for name in "abc"))
        self.hot = self.worker(
            "w", resident("b"), resident(tier="warm"), lane="device", slots=1, memory_total_bytes=room_mb * MB
        )
        self.switcher = Switcher(self.dispatcher.predictor)

    @property
    def plan(self) -> Plan:
        return self.dispatcher.plan

    def wait(self, of: str, jobs: int, since: float = NOW, tenant: str = "") -> None:
        """Jobs of a model that wait and are meant for the worker."""
        for number in range(jobs):
            self.job(f"{of}{number}-{len(self.ledger.records)}", of, created_at=since, tenant=tenant)
        self.plan.put(self.hot, of, self.dispatcher.models[of].specs[0], jobs)

    def next(self, now: float = NOW) -> Switch | None:
        found = self.switcher.next(self.hot, now)
        self.plan.validate()
        return found

    def loads(self, now: float = NOW) -> tuple[str, list[str]] | None:  # type: ignore[override]
        found = self.next(now)
        return (found.lot.model, [one.key for one in found.victims]) if found is not None else None


def test_nothing_is_loaded_for_nobody() -> None:
    lane = Lane()
    assert lane.next() is None
    lane.wait("b", 3)
    assert lane.next() is None, "it is hot"


def test_what_nobody_waits_for_makes_room_at_once() -> None:
    lane = Lane()
    lane.wait("a", 1)
    assert lane.loads() == ("a", ["b"])


def test_where_there_is_room_nothing_has_to_go() -> None:
    lane = Lane(room_mb=200)
    lane.wait("b", 3)
    lane.wait("a", 1)
    assert lane.loads() == ("a", [])


@pytest.mark.parametrize(
    ("declared_mb", "where"), [(0, "here"), (0, "elsewhere"), (40, "here"), (40, "elsewhere")]
)
def test_room_is_made_for_what_a_model_took_when_it_was_loaded_not_for_what_was_thought(
    declared_mb: int, where: str
) -> None:
    """Else the worker has to make it by itself, of what others wait for."""
    lane = Lane(room_mb=150, a=declared_mb)
    lane.wait("a", 1)
    assert lane.loads() == ("a", []), "as declared"
    measured = replace(resident("a", tier="warm", size_mb=90), load_s=2.0)
    if where == "here":
        beat = (resident("b"), measured)
        lane.worker("w", *beat, lane="device", slots=1, memory_total_bytes=150 * MB)
    else:
        lane.estimates.learn_load("a", "default", "warm", 2.0, 90 * MB)
    assert lane.loads() == ("a", ["b"])
    lane.wait("b", 1)
    assert lane.next() is None, "b is waited for, and has its turn"


def test_a_model_that_takes_more_than_a_worker_has_is_served_there_in_all_of_its_memory() -> None:
    lane = Lane(room_mb=150)
    lane.estimates.learn_load("a", "default", "warm", 2.0, 400 * MB)
    lane.wait("a", 1)
    assert lane.loads() == ("a", ["b"])


def test_one_load_at_a_time() -> None:
    lane = Lane(room_mb=300)
    lane.wait("a", 1)
    lane.wait("c", 1)
    lane.fleet.order_load(lane.hot, "a", spec(), NOW)
    assert lane.next() is None


# What is read before it can be loaded -------------------------------------------------------------


def read(lane: Lane, now: float = NOW) -> list[str]:
    """The models that the worker is told to read now."""
    return [one.model for one in lane.fill(lane.hot, now) if isinstance(one, ReadOnWorker)]


def test_what_waits_for_a_model_in_use_to_go_is_read_meanwhile_and_once() -> None:
    lane = Lane()
    lane.run("w", "busy", 30.0, of="b")
    lane.wait("a", 1)
    assert read(lane) == ["a"]
    assert read(lane, NOW + 1) == []
    lane.fleet.order_load(lane.hot, "a", spec(), NOW + 2)
    assert lane.hot.read_ahead == set(), "it may be told again when it was loaded and evicted"


def test_of_several_that_wait_the_one_is_read_that_is_loaded_first() -> None:
    lane = Lane()
    lane.run("w", "busy", 30.0, of="b")
    beat = (resident("b"), resident(tier="warm"), resident("c", tier="warm"))
    lane.worker("w", *beat, lane="device", slots=1, memory_total_bytes=100 * MB)
    lane.wait("a", 1, since=NOW - 5)
    lane.wait("c", 3, since=NOW - 50)
    assert read(lane) == ["c"]


@pytest.mark.parametrize("tier", ["cold", "parked", "loading", "hot", "base"])
def test_only_what_lies_on_the_disk_is_read(tier: Tier) -> None:
    lane = Lane()
    lane.worker("w", resident("b"), resident(tier=tier), lane="device", slots=1, memory_total_bytes=100 * MB)
    lane.run("w", "busy", 30.0, of="b")
    lane.wait("a", 1)
    assert read(lane) == []


def test_nothing_is_read_while_something_is_loaded() -> None:
    lane = Lane()
    lane.run("w", "busy", 30.0, of="b")
    lane.wait("a", 1)
    lane.fleet.order_load(lane.hot, "c", spec(), NOW)
    assert read(lane) == []


class TwoEngines(Place):
    """A worker with two engines that loads a large model `big` of one; small ones wait."""

    def __init__(
        self, free_mb: int = 500, engine: str = "other", size_mb: int = 100, is_told: bool = True
    ) -> None:
        self.big = spec(memory_bytes=5000 * MB)
        small = Spec("default", engine, "file:///s", memory_bytes=size_mb * MB)
        super().__init__(model("big", self.big), model("small", small))
        told = [resident("big", tier="loading", size_mb=5000)] if is_told else []
        self.hot = self.worker("w", memory_total_bytes=(5000 + free_mb) * MB)
        self.fleet.order_load(self.hot, "big", self.big, NOW)
        self.worker("w", *told, memory_total_bytes=(5000 + free_mb) * MB, memory_used_bytes=5000 * MB)
        self.job("j", "small")
        self.dispatcher.plan.put(self.hot, "small", small, 1)
        self.switcher = Switcher(self.dispatcher.predictor)

    def beside(self, now: float = NOW) -> str | None:
        found = self.switcher.next(self.hot, now)
        assert found is None or not found.victims
        return found.lot.model if found is not None else None


def test_a_small_model_of_another_engine_does_not_wait_for_a_large_load() -> None:
    assert TwoEngines().beside() == "small"


@pytest.mark.parametrize(
    "wrong",
    [{"engine": "text"}, {"free_mb": 50}, {"size_mb": 6000, "free_mb": 9000}, {"is_told": False}],
    ids=["same engine", "no room", "longer", "its memory is not told yet"],
)
def test_a_load_waits_for_the_one_under_way(wrong: dict[str, Any]) -> None:
    assert TwoEngines(**wrong).beside() is None


def test_a_load_that_takes_longer_than_it_should_holds_nobody_up() -> None:
    place = TwoEngines(size_mb=6000, free_mb=9000)
    takes_s = place.dispatcher.predictor.load_s(place.hot, "small", place.dispatcher.models["small"].specs[0])
    assert place.beside(NOW + takes_s - 1.0) is None
    assert place.beside(NOW + takes_s + 1.0) == "small", "who knows how long it will take"


def test_two_loads_at_a_time_at_most() -> None:
    place = TwoEngines()
    assert place.beside() == "small"
    place.fleet.order_load(place.hot, "small", place.dispatcher.models["small"].specs[0], NOW)
    assert place.beside() is None


def test_the_model_whose_jobs_have_waited_most_for_what_they_take_is_first() -> None:
    lane = Lane(room_mb=300)
    lane.estimates.learn_run("a", "default", 256.0, 10.0)
    lane.estimates.learn_run("c", "default", 256.0, 1.0)
    lane.wait("a", 2, since=NOW - 10)
    lane.wait("c", 2, since=NOW - 9)
    assert lane.loads() == ("c", [])


def test_loras_are_laid_on_hot_weights_without_room_being_made() -> None:
    lane = Lane()
    lane.worker(
        "w", resident("b"), resident("a", tier="base"), lane="device", slots=1, memory_total_bytes=100 * MB
    )
    lane.wait("b", 3)
    lane.wait("a", 1)
    assert lane.loads() == ("a", [])


def test_a_model_that_is_used_is_closed_only_when_the_waiting_is_worth_it() -> None:
    lane = Lane()
    lane.wait("b", 4)
    lane.wait("a", 1, since=NOW)
    worth_s = WORTH * 2 * LOAD_S * 4
    assert lane.next(NOW + worth_s - 0.1) is None
    assert lane.plan.on("w").closing == {}
    assert lane.next(NOW + worth_s + 0.1) is None, "those that were meant for it have their turn"
    assert (lane.plan.on("w").closing, lane.plan.on("w").room_for) == ({"b": 4}, "a")
    for _ in range(4):
        lane.plan.given_out("b", "w")
    assert lane.loads(NOW + worth_s + 9) == ("a", ["b"])
    assert lane.plan.on("w").closing == {}


def test_new_jobs_do_not_prolong_a_turn() -> None:
    lane = Lane()
    lane.wait("b", 1)
    lane.wait("a", 1, since=NOW - 99)
    lane.next()
    lane.wait("b", 7)
    lane.plan.given_out("b", "w")
    assert lane.loads() == ("a", ["b"])


def test_a_load_that_other_models_hide_is_cheap() -> None:
    hidden, bare = Lane(room_mb=200), Lane(room_mb=200)
    for lane in (hidden, bare):
        lane.worker("w", resident("b"), resident("c"), lane="device", slots=1, memory_total_bytes=200 * MB)
        lane.estimates.learn_load("a", "default", "cold", 40.0)
        lane.wait("b", 1)
        lane.wait("c", 40 if lane is hidden else 2)
        lane.wait("a", 20, since=NOW - 10)
        lane.next()
    assert hidden.plan.on("w").room_for == "a", "its load goes on while c runs"
    assert bare.plan.on("w").room_for == ""


def test_a_tenant_that_was_given_less_gets_its_turn_at_once() -> None:
    lane = Lane()
    lane.wait("b", 300, tenant="greedy")
    lane.wait("a", 1, tenant="patient")
    assert lane.next(NOW + 1) is None
    assert lane.plan.on("w").room_for == ""
    lane.ledger.clock.charge("greedy", 2 * LOAD_S + 0.1)
    assert lane.loads(NOW + 1) is None
    assert lane.plan.on("w").closing == {"b": 0}, "no further job of b"
    assert lane.loads(NOW + 1) == ("a", ["b"])


def test_a_higher_priority_is_owed_a_turn() -> None:
    lane = Lane()
    lane.wait("b", 300)
    lane.job("urgent", "a", priority=1)
    lane.plan.put(lane.hot, "a", spec(), 1)
    lane.next(NOW + 1)
    assert lane.plan.on("w").closing == {"b": 0}


@pytest.mark.parametrize("size_mb", [101, 500])
def test_what_never_fits_closes_nobody(size_mb: int) -> None:
    lane = Lane(a=size_mb)
    lane.wait("b", 1)
    lane.wait("a", 1, since=NOW - 9999)
    assert lane.next() is None
    assert lane.plan.on("w").room_for == ""

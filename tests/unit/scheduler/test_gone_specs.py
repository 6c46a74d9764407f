"""A spec that is renamed, or taken out: its replicas serve until they have gone, and nothing is loaded for it."""

import msgspec

from stoker.schemas.catalog import Model, Spec
from stoker.services.scheduler.fleet.workers import Fleet
from stoker.services.scheduler.placing.gone_specs import GoneSpecs
from stoker.services.scheduler.protocol import events
from tests.unit.scheduler.making import make_model
from tests.unit.scheduler.workers import MB, SimWorker
from tests.unit.scheduler.world import World


def launched(*names: str, launcher: str = "process") -> Model:
    """Model a with specs of these names."""
    specs = [
        Spec(name, "text", "file:///x", launcher=launcher, profile="cpu", memory_bytes=100 * MB)
        for name in names
    ]
    return msgspec.structs.replace(make_model("a"), specs=tuple(specs))


def served(world: World, worker: str, spec: str) -> None:
    """The worker has model a in memory, as this spec."""
    [found] = [one for one in world.models["a"].specs if one.name == spec]
    world.workers[worker].make_hot("a", found)
    world.beat_now(world.workers[worker])
    world.run_for(0.1)


def renamed(world: World, model: Model) -> None:
    world.models["a"] = model
    world.feed(events.ModelChanged("a", model))


def test_a_model_is_set_anew_once_nobody_serves_a_spec_that_it_has_no_more() -> None:
    world = World(0, [SimWorker("w1"), SimWorker("w2")], [launched("old")])
    served(world, "w1", "old")
    gone = GoneSpecs(world.core.fleet)
    now = launched("new")
    assert [spec.name for spec in gone.added(now, launched("old")).specs] == ["new", "old"]
    assert gone.to_set_anew() == []
    world.say_goodbye("w1")
    world.run_for(3)
    assert gone.to_set_anew() == [now]
    gone.forget("a")
    assert gone.to_set_anew() == []


def test_jobs_go_to_the_replica_of_a_spec_that_was_renamed() -> None:
    world = World(0, [SimWorker("w")], [launched("old")])
    served(world, "w", "old")
    renamed(world, launched("new"))
    loads = world.workers["w"].loads
    job = world.submit("a")
    world.run_for(2)
    assert (world.ended[job], world.workers["w"].loads) == ("completed", loads)


def test_both_serve_while_both_are_there_and_the_new_one_alone_afterwards() -> None:
    world = World(0, [SimWorker("w1"), SimWorker("w2")], [launched("old")])
    served(world, "w1", "old")
    renamed(world, launched("new"))
    served(world, "w2", "new")
    first = [world.submit("a") for _ in range(20)]
    world.run_for(10)
    assert {world.ended[job] for job in first} == {"completed"}
    world.say_goodbye("w1")
    world.run_for(3)
    assert [spec.name for spec in world.core.dispatcher.models["a"].specs] == ["new"]
    job = world.submit("a")
    world.run_for(2)
    assert world.ended[job] == "completed"
    assert world.attempts[job][-1][1] == "w2"


def test_what_nobody_serves_is_forgotten_at_once() -> None:
    world = World(0, [SimWorker("w")], [launched("old")])
    renamed(world, launched("new"))
    assert [spec.name for spec in world.core.dispatcher.models["a"].specs] == ["new"]


def test_a_spec_that_comes_back_is_the_catalogs() -> None:
    world = World(0, [SimWorker("w")], [launched("old")])
    served(world, "w", "old")
    renamed(world, launched("new"))
    back = launched("new", "old")
    renamed(world, back)
    world.run_for(2)
    assert world.core.dispatcher.models["a"] == back


def test_a_spec_without_a_launcher_is_not_kept_since_its_workers_take_the_new_one_over() -> None:
    gone = GoneSpecs(Fleet())
    model = launched("new")
    assert gone.added(model, launched("old", launcher="")) is model
    assert gone.to_set_anew() == []


def test_a_model_that_is_gone_leaves_nothing() -> None:
    world = World(0, [SimWorker("w")], [launched("old")])
    served(world, "w", "old")
    renamed(world, launched("new"))
    world.feed(events.ModelChanged("a", None))
    world.run_for(2)
    assert "a" not in world.core.dispatcher.models

"""When a model is called impossible: not while a worker that may run it is starting, or has only just gone."""

from services.scheduler.forecast import IMPOSSIBLE_GRACE_S
from services.scheduler.protocol import commands
from tests.unit.scheduler.making import make_model
from tests.unit.scheduler.workers import SimWorker
from tests.unit.scheduler.world import World


def impossible(world: World) -> str:
    """What the last published depth of model a says."""
    depths = [c.depth for c in world.commands if isinstance(c, commands.PublishDepth) and c.depth.model == "a"]
    return depths[-1].impossible


def test_a_model_is_not_impossible_while_its_only_worker_starts_its_runner() -> None:
    world = World(0, [SimWorker("w1", run_s=1.0)], [make_model("a")])
    world.run_for(2)
    world.kill_runner("w1", restart_after_s=30.0)
    job = world.submit("a")
    world.run_for(25)
    assert impossible(world) == ""
    assert job not in world.ended, "its engines are coming"
    world.run_for(20)
    assert world.ended[job] == "completed"


def test_a_model_that_was_possible_is_impossible_only_after_a_grace() -> None:
    world = World(0, [SimWorker("big", memory_mb=500), SimWorker("small", memory_mb=50)], [make_model("a")])
    world.run_for(2)
    world.say_goodbye("big")
    job = world.submit("a")
    world.run_for(IMPOSSIBLE_GRACE_S - 2)
    assert impossible(world) == ""
    assert job not in world.ended
    world.run_for(5)
    assert "50 MB" in impossible(world)
    assert world.ended[job] == "failed"


def test_a_model_that_never_was_possible_is_refused_at_once() -> None:
    world = World(0, [SimWorker("small", memory_mb=50)], [make_model("a")])
    world.run_for(1.5)
    assert "50 MB" in impossible(world)

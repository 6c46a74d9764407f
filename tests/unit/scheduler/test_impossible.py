"""When a model is called impossible: not while a worker that may run it is starting, or has only just gone."""

from stoker.services.scheduler.placing.possibility import AWAY_GRACE_S, STARTING_GRACE_S
from stoker.services.scheduler.protocol import commands
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


def pictures_and_texts(*workers: SimWorker) -> World:
    return World(0, list(workers), [make_model("a", engine="image"), make_model("t")])


def test_a_model_is_not_impossible_while_the_runner_of_its_engine_alone_is_away() -> None:
    world = pictures_and_texts(SimWorker("w1", run_s=1.0))
    world.run_for(2)
    world.kill_runner_of("w1", "image", restart_after_s=30.0)
    picture, text = world.submit("a"), world.submit("t")
    world.run_for(25)
    assert impossible(world) == ""
    assert picture not in world.ended, "its engine is coming"
    assert world.ended[text] == "completed", "it has nothing to do with that"
    world.run_for(20)
    assert world.ended[picture] == "completed"


def test_a_leader_that_never_saw_the_engine_knows_that_it_is_coming() -> None:
    world = pictures_and_texts(SimWorker("w1", run_s=1.0))
    world.run_for(2)
    world.kill_runner_of("w1", "image", restart_after_s=30.0)
    world.change_leader()
    picture = world.submit("a")
    world.run_for(25)
    assert (impossible(world), picture in world.ended) == ("", False)
    world.run_for(20)
    assert world.ended[picture] == "completed"


def test_a_job_goes_elsewhere_while_the_runner_of_its_engine_is_away() -> None:
    world = pictures_and_texts(SimWorker("w1", run_s=1.0), SimWorker("w2", run_s=1.0))
    world.run_for(2)
    first = world.submit("a")
    world.run_for(1)
    [(_, there)] = world.attempts[first]
    world.kill_runner_of(there, "image", restart_after_s=30.0)
    world.run_for(10)
    assert world.ended[first] == "completed"
    assert [worker for _, worker in world.attempts[first]] != [there]


def test_what_a_worker_will_never_be_able_to_run_is_impossible_also_while_it_is_away() -> None:
    world = pictures_and_texts(SimWorker("small", memory_mb=50))
    world.kill_runner_of("small", "image", restart_after_s=30.0)
    world.run_for(1.5)
    assert "50 MB" in impossible(world)


def test_a_model_that_was_possible_is_impossible_only_after_a_grace() -> None:
    world = World(0, [SimWorker("big", memory_mb=500), SimWorker("small", memory_mb=50)], [make_model("a")])
    world.run_for(2)
    world.say_goodbye("big")
    job = world.submit("a")
    world.run_for(AWAY_GRACE_S - 2)
    assert impossible(world) == ""
    assert job not in world.ended
    world.run_for(5)
    assert "50 MB" in impossible(world)
    assert world.ended[job] == "failed"


def test_a_model_that_never_was_possible_is_refused_at_once() -> None:
    world = World(0, [SimWorker("small", memory_mb=50)], [make_model("a")])
    world.run_for(1.5)
    assert "50 MB" in impossible(world)


def test_a_later_leader_waits_for_a_worker_that_an_earlier_one_knew() -> None:
    world = pictures_and_texts(SimWorker("w1", run_s=1.0), SimWorker("small", memory_mb=50))
    world.run_for(2)
    world.say_goodbye("w1")
    world.change_leader()
    picture = world.submit("a")
    world.run_for(AWAY_GRACE_S - 2)
    assert (impossible(world), picture in world.ended) == ("", False)
    world.run_for(5)
    assert "50 MB" in impossible(world)
    assert world.ended[picture] == "failed"
    world.change_leader()
    assert world.possible["a"] is None, "the next leader need not wait so long"


def test_what_an_earlier_leader_knew_of_other_specs_says_nothing() -> None:
    world = World(0, [SimWorker("small", memory_mb=50)], [make_model("a")])
    world.possible = {"a": make_model("a", engine="another")}
    world.change_leader()
    world.run_for(STARTING_GRACE_S + 2)
    assert "50 MB" in impossible(world)


def test_models_together_are_waited_for_while_the_worker_of_one_of_them_is_away() -> None:
    world = pictures_and_texts(SimWorker("w1", run_s=1.0), SimWorker("small", memory_mb=50))
    world.run_for(2)
    world.say_goodbye("w1")
    world.change_leader()
    world.run_for(STARTING_GRACE_S + 2)
    why = world.core.forecast.possibility.why_never_together
    assert why(("a", "t"), world.now) == ""
    world.run_for(AWAY_GRACE_S)
    assert "no worker can have all of its models" in why(("a", "t"), world.now)


def test_what_could_not_be_noted_is_noted_later_unless_it_is_another_by_then() -> None:
    world = World(0, [SimWorker("w1")], [make_model("a")])
    world.run_for(1)
    possibility = world.core.forecast.possibility
    possibility.give_back("a", make_model("a"))
    possibility.give_back("b", None)
    assert possibility.take_notes() == {"a": make_model("a"), "b": None}
    possibility.give_back("a", None)
    possibility.give_back("a", make_model("a", slots=3))
    assert possibility.take_notes() == {"a": None}, "what is to be noted already is newer"

"""Jobs that need several models together: refused at once where no worker can hold them, else never stuck."""

import msgspec
import pytest

from stoker.schemas.catalog import Model
from stoker.schemas.job_events import Failed
from stoker.schemas.jobs import FunctionInput, Job, StoredInput, models_together
from stoker.services.scheduler.fleet.workers import Fleet
from stoker.services.scheduler.jobs.record import Failure
from stoker.services.scheduler.placing.model_sets import MAX_REMEMBERED, POSSIBLE_GRACE_S, ModelSets
from stoker.services.scheduler.placing.possibility import STARTING_GRACE_S
from stoker.services.scheduler.protocol import commands, events
from tests.unit.scheduler.making import make_model
from tests.unit.scheduler.single import Core
from tests.unit.scheduler.workers import SimWorker

SUMS = "its models need a 100 MB + b 100 MB + c 100 MB = 300 MB of memory together, and the largest worker has 250 MB"


def core(*sizes_mb: int) -> Core:
    found = Core()
    found.now += STARTING_GRACE_S + 1
    for name in ("b", "c"):
        found.feed(events.ModelChanged(name, make_model(name)))
    for number, size in enumerate(sizes_mb, 1):
        add(found, f"w{number}", size)
    return found


def add(core: Core, name: str, memory_mb: int) -> None:
    core.sims[name] = SimWorker(name, memory_mb=memory_mb)
    core.sims[name].make_hot("a", make_model("a").specs[0])
    core.beat(name)


def arrive(core: Core, *models: str, name: str = "j", is_stored: bool = False) -> list[commands.Command]:
    asked: FunctionInput | StoredInput = FunctionInput("f", {}, {f"m{name}": name for name in models})
    if is_stored:
        asked = StoredInput("blob", models=models_together(asked))
    job = Job(name, "a", asked, "gw", core.now)
    number = len(core.scheduler.ledger.records) + 1
    return core.feed(events.JobArrived(job, f"h{name}", number, "trace"))


def ends(found: list[commands.Command]) -> list[str]:
    return [
        one.event.message for one in found if isinstance(one, commands.EndJob) and isinstance(one.event, Failed)
    ]


def assigned(found: list[commands.Command]) -> list[str]:
    return [one.worker for one in found if isinstance(one, commands.Assign)]


def test_the_models_of_a_call_are_known_without_its_payload() -> None:
    several = FunctionInput("f", {}, {"x": "b", "y": "a", "z": "b"})
    assert models_together(several) == ("a", "b")
    assert models_together(FunctionInput("f", {}, {"x": "a", "y": "a"})) == ()
    assert models_together(StoredInput("blob", models=("a", "b"))) == ("a", "b")
    assert models_together(StoredInput("blob")) == ()


@pytest.mark.parametrize("is_stored", [False, True])
def test_a_set_that_fits_on_no_worker_is_refused_when_it_comes_with_the_sums(is_stored: bool) -> None:
    system = core(250, 200)
    assert ends(arrive(system, "a", "b", "c", is_stored=is_stored)) == [SUMS]
    assert system.scheduler.ledger.records == {}
    assert ends(arrive(system, "a", "unknown", name="k")) == [
        "no worker can have all of its models: a, unknown"
    ]


def test_a_later_leader_refuses_no_set_before_workers_had_time_to_tell_of_themselves() -> None:
    system = core(250)
    system.now -= STARTING_GRACE_S + 1
    assert ends(arrive(system, "a", "b", "c")) == []
    assert ends(system.feed(events.Ticked())) == []
    system.now += STARTING_GRACE_S + 1
    system.beat("w1")
    assert ends(system.feed(events.Ticked())) == [SUMS]


def test_a_set_goes_where_it_fits_and_one_model_goes_anywhere() -> None:
    system = core(100, 200, 300)
    assert assigned(arrive(system, "a", "b", "c", name="three")) == ["w3"]
    assert assigned(arrive(system, "a", "b", name="two")) == ["w2"]
    assert assigned(arrive(system, "a", name="one")) == ["w1"]


def test_a_set_waits_while_workers_start_and_until_a_worker_is_there() -> None:
    system = core()
    assert arrive(system, "a", "b", "c") == []
    system.sims["w1"] = SimWorker("w1", memory_mb=100)
    system.beat("w1", engines={})  # its runner starts
    assert ends(system.feed(events.Ticked())) == []
    system.beat("w1")
    assert len(ends(system.feed(events.Ticked()))) == 1


def test_a_set_that_fitted_a_moment_ago_is_refused_only_after_a_grace() -> None:
    system = core(250, 300)
    arrive(system, "a", "b", "c", name="first")
    system.feed(events.HeartbeatSeen(system.sims["w2"].heartbeat(is_leaving=True)))
    assert ends(arrive(system, "a", "b", "c", name="second")) == []
    assert system.record("second").phase == "waiting"
    system.now += POSSIBLE_GRACE_S / 2
    assert ends(system.feed(events.Ticked())) == []
    system.now += POSSIBLE_GRACE_S
    system.beat("w1")
    assert ends(system.feed(events.Ticked())) == [SUMS, SUMS]
    assert system.scheduler.ledger.records == {}


def test_a_set_that_failed_where_it_fits_has_nobody_else_to_try_it() -> None:
    system = core(250, 300)
    arrive(system, "a", "b", "c")
    record = system.record()
    record.failed_on["w2"] = Failure("load_failed", "x", system.now)
    assert not system.scheduler.dispatcher.replicas.has_another(record)


def test_among_many_workers_the_one_that_fits_is_found() -> None:
    system = core(*[250] * 30, 300)
    system.sims["w31"].models.clear()
    system.beat("w31")
    arrive(system, "a", "b", "c")
    assert [lot.worker for lot in system.scheduler.dispatcher.plan.of("a").values()] == ["w31"]


def test_what_is_launched_when_it_is_needed_is_never_impossible_and_memory_of_sets_is_bounded() -> None:
    fleet, catalog = Fleet(), {name: make_model(name) for name in "ab"}
    sets = ModelSets(fleet, catalog)
    assert sets.why_never(("a", "b"), 0.0) == "", "no worker is there"
    fleet.update(SimWorker("w", memory_mb=150).heartbeat(), 0.0)
    assert "= 200 MB" in sets.why_never(("a", "b"), 0.0)
    launched = msgspec.structs.replace(catalog["b"].specs[0], launcher="docker")
    catalog["b"] = Model("b", (), (launched,))
    assert sets.why_never(("a", "b"), 0.0) == ""
    assert sets.why_never((), 0.0) == ""
    for number in range(MAX_REMEMBERED + 5):
        sets._note_fitted((str(number), "x"), 0.0)
    assert len(sets._fitted_at) == MAX_REMEMBERED

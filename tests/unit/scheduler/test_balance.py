"""Which ready replica takes a job: targets, standbys, prefixes, adapters."""

from collections import Counter
from functools import partial

from stoker.schemas.catalog import Adapter, LoadBalancing, Model, Spec
from stoker.schemas.jobs import ChatInput, CompletionInput, Job, prefix_of
from stoker.schemas.openai import ChatMessage, TextPart
from stoker.schemas.workers import EngineCapability, Heartbeat, ResidentModel, Tier
from stoker.services.scheduler.core import Scheduler
from stoker.services.scheduler.protocol import commands, events

SLOTS = 1000


def beat(worker: str, spec: str, seq: int = 1, tier: Tier = "hot") -> Heartbeat:
    return Heartbeat(
        worker=worker,
        started_at=1.0,
        seq=seq,
        spec=f"m/{spec}",
        profile="",
        device="cpu",
        host="h",
        engines={"text": EngineCapability(SLOTS, 0, ("TextGeneration",))},
        memory_total_bytes=10**9,
        memory_used_bytes=0,
        models=(ResidentModel("m", spec, "text", tier),),
    )


def scheduler(model: Model, **workers: str) -> Scheduler:
    core = Scheduler(1, 0.0)
    core.handle(events.ModelChanged("m", model), 0.0)
    for worker, spec in workers.items():
        core.handle(events.HeartbeatSeen(beat(worker, spec)), 0.0)
    core.handle(events.Settled(), 0.0)
    return core


spec = partial(Spec, engine="text", url="")


def submit(core: Scheduler, prompts: list[str], adapter: str = "") -> list[str]:
    """The workers that jobs with these prompts were given to."""
    given: list[str] = []
    for index, prompt in enumerate(prompts):
        job = Job(f"j{len(given)}-{index}-{prompt}", "m", CompletionInput(prompt), "gw", 0.0, adapter=adapter)
        for command in core.handle(events.JobArrived(job, f"h{job.id}", index), 0.0):
            if isinstance(command, commands.Assign):
                given.append(command.worker)
    return given


def test_load_is_spread_in_proportion_to_the_targets() -> None:
    model = Model("m", ("TextGeneration",), (spec("big", target_requests=300), spec("small")))
    core = scheduler(model, w1="big", w2="small")
    counts = Counter(submit(core, [str(index) for index in range(400)]))
    assert counts == {"w1": 300, "w2": 100}


def test_a_standby_serves_only_while_nothing_else_is_ready() -> None:
    model = Model("m", ("TextGeneration",), (spec("gpu"), spec("cpu", target_requests=0)))
    core = scheduler(model, standby="cpu")
    assert submit(core, ["a"]) == ["standby"]
    core.handle(events.HeartbeatSeen(beat("gpu-1", "gpu", tier="loading")), 0.0)
    assert submit(core, ["b"]) == ["standby"]
    core.handle(events.HeartbeatSeen(beat("gpu-1", "gpu", seq=2)), 0.0)
    assert submit(core, ["c", "d", "e"]) == ["gpu-1"] * 3


def test_requests_that_begin_alike_go_to_one_replica() -> None:
    balancing = LoadBalancing("PrefixHash", mean_load_percentage=400, prefix_char_length=5)
    model = Model("m", ("TextGeneration",), (spec("s"),), load_balancing=balancing)
    core = scheduler(model, **{f"w{index}": "s" for index in range(4)})
    assert len(set(submit(core, [f"hello {index}" for index in range(5)]))) == 1


def test_the_ring_spills_when_a_replica_is_overloaded() -> None:
    balancing = LoadBalancing("PrefixHash")
    model = Model("m", ("TextGeneration",), (spec("s", slots=4),), load_balancing=balancing)
    core = scheduler(model, **{f"w{index}": "s" for index in range(4)})
    counts = Counter(submit(core, ["hello"] * 16))
    assert sorted(counts.values()) == [4, 4, 4, 4]


def test_an_adapter_is_served_where_it_is_declared() -> None:
    with_adapter = spec("with", adapters=(Adapter("poet", "file:///p"),))
    model = Model("m", ("TextGeneration",), (spec("without"), with_adapter))
    core = scheduler(model, plain="without", able="with")
    assert submit(core, ["a", "b", "c"], adapter="poet") == ["able"] * 3


def test_the_prefix_is_of_the_first_user_message() -> None:
    messages = (
        ChatMessage("system", "be brief"),
        ChatMessage("user", (TextPart("hello "), TextPart("world"))),
        ChatMessage("user", "later"),
    )
    job = Job("j", "m", ChatInput(messages), "gw", 0.0)
    assert prefix_of(job.input, 8) == "hello wo"

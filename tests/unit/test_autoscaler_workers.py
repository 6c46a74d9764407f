"""What the autoscaler remembers of workers: by model as if each heartbeat were looked at, and at no greater cost
where there are more of them.
"""

from collections.abc import Callable

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from stoker.schemas.catalog import Model, Spec
from stoker.schemas.fleet import QueueDepth
from stoker.schemas.workers import EngineCapability, Heartbeat, ResidentModel, Tier
from stoker.services.autoscaler.core import Autoscaler
from stoker.services.autoscaler.events import DepthSeen, Event, HeartbeatSeen, ModelChanged, Settled, Ticked
from stoker.services.autoscaler.workers import LOST_S, SILENT_S, Workers
from tests.fixtures.work_counted import instructions

NOW = 1000.0
ENGINES = {"text": EngineCapability(4, 2, ("TextGeneration",))}
MODELS = st.lists(
    st.tuples(
        st.sampled_from(["a", "b", "c"]), st.sampled_from(["fast", "slow"]), st.sampled_from(["hot", "warm"])
    ),
    unique_by=lambda one: one[0],
    max_size=3,
)


def heartbeat(
    worker: str, *models: tuple[str, str, Tier], draining: bool = False, leaving: bool = False
) -> Heartbeat:
    residents = tuple(ResidentModel(name, spec, "text", tier, 1) for name, spec, tier in models)
    found = Heartbeat(worker, 1.0, 1, "", "", "cpu", "h", ENGINES, 1, 0, models=residents)
    return msgspec.structs.replace(found, is_draining=draining, is_leaving=leaving)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["w1", "w2", "w3"]),
            MODELS,
            st.booleans(),
            st.booleans(),
            st.floats(0, 2 * LOST_S),
        ),
        max_size=30,
    )
)
def test_what_is_hot_is_what_the_last_heartbeats_say(
    said: list[tuple[str, list[tuple[str, str, Tier]], bool, bool, float]],
) -> None:
    workers, last, now = Workers(), dict[str, tuple[Heartbeat, float]](), NOW
    for worker, models, draining, leaving, pause_s in said:
        now += pause_s
        one = heartbeat(worker, *models, draining=draining, leaving=leaving)
        before = last.pop(worker, None)
        assert workers.take(one, now) == (before is None or before[0].models != one.models)
        if not leaving:
            last[worker] = (one, now)
        workers.forget_lost()
        last = {name: (beat, at) for name, (beat, at) in last.items() if now - at <= LOST_S}
        for model in ("a", "b", "c"):
            expected = {
                name: resident.spec
                for name, (beat, _) in last.items()
                for resident in beat.models
                if resident.model == model and resident.tier == "hot" and not beat.is_draining
            }
            assert dict(workers.hot(model)) == expected
        for name in ("w1", "w2", "w3"):
            speaks = name in last and now - last[name][1] <= SILENT_S
            assert workers.reported(name) == (last[name][0] if speaks else None)


def autoscaler(size: int) -> Autoscaler:
    """So many models on as many workers, each with four of them hot and all others on its disk."""
    found = Autoscaler(1)
    for number in range(size):
        model = Model(f"m{number}", ("TextGeneration",), (Spec("s", "text", ""),))
        found.handle(ModelChanged(model.name, model), NOW)
    found.handle(Settled(), NOW)
    for worker in range(size):
        models = ((f"m{(worker + one) % size}", "s", "hot" if one < 4 else "warm") for one in range(size))
        found.handle(HeartbeatSeen(heartbeat(f"w{worker}", *models)), NOW)
    found.handle(Ticked(), NOW)
    return found


def cost(size: int, event: Callable[[Autoscaler], Event]) -> int:
    """Instructions of an event where there are so many models and workers."""
    core = autoscaler(size)
    what = event(core)
    return instructions(lambda: core.handle(what, NOW))


def again(core: Autoscaler) -> Event:
    """A worker of which nothing has changed."""
    last = core.workers.reported("w0")
    assert last is not None
    return HeartbeatSeen(last)


def test_what_is_heard_of_one_costs_as_much_among_many() -> None:
    assert cost(20, again) == cost(80, again)
    depth = DepthSeen(QueueDepth("m1", queued=1, running=2))
    assert cost(20, lambda _: depth) == cost(80, lambda _: depth)


def test_a_tick_looks_at_each_model_once() -> None:
    assert cost(80, lambda _: Ticked()) < 4.2 * cost(20, lambda _: Ticked())

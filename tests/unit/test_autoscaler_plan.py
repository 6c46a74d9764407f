"""Plans of the autoscaler as properties: whatever is there and asked for, limits hold and every change has a reason."""

from hypothesis import given
from hypothesis import strategies as st

from stoker.schemas.catalog import ResourceProfile, Spec
from stoker.schemas.fleet import Replica, ReplicaPhase
from stoker.services.autoscaler.demand import Demand
from stoker.services.autoscaler.plan import Plan, Planner
from stoker.services.autoscaler.state import ModelState
from tests.unit.simulated_hardware import LAUNCHER, make_model, make_spec

NOW = 10_000.0
PROFILES = {name: ResourceProfile(name, LAUNCHER) for name in "abcs"}
PHASES: tuple[ReplicaPhase, ...] = ("launching", "starting", "ready", "draining")


@st.composite
def spec(draw: st.DrawFn, name: str) -> Spec:
    most = draw(st.sampled_from([0, 1, 2, 5]))
    return make_spec(
        name,
        target_requests=draw(st.sampled_from([1, 3, 10])),
        max_replicas=most,
        min_replicas=draw(st.integers(0, min(most, 2) if most else 2)),
        scale_group=draw(st.sampled_from(["", "g"])),
        scale_down_delay_s=draw(st.sampled_from([1.0, 30.0])),
    )


@st.composite
def state(draw: st.DrawFn) -> ModelState:
    names = "abc"[: draw(st.integers(1, 3))]
    specs = [draw(spec(name)) for name in names]
    if draw(st.booleans()):
        specs.append(make_spec("s", target_requests=0, max_replicas=1, min_replicas=1))
    found = ModelState("m", make_model(*specs), Demand(draw(st.sampled_from([-1e9, NOW - 5.0]))))
    found.take(PROFILES)
    for one in specs:
        for number in range(draw(st.integers(0, one.max_replicas or 4))):
            phase = draw(st.sampled_from(PHASES))
            at = NOW - draw(st.floats(0.0, 100.0))
            key = draw(st.sampled_from([found.launch_keys[one.name], "of before"]))
            replica = Replica(
                f"{one.name}-{number}", one.name, one.profile, LAUNCHER, phase, at, launched_as=key
            )
            found.add(replica)
    for requests, ago in draw(st.lists(st.tuples(st.integers(0, 40), st.floats(0.0, 60.0)), max_size=4)):
        found.demand.note(requests, NOW - ago)
    return found


def made(found: ModelState, budget: int = 16, now: float = NOW) -> Plan:
    return Planner(found, budget, now).make()


@given(state(), st.integers(0, 16))
def test_no_plan_goes_beyond_a_maximum_or_the_budget(found: ModelState, budget: int) -> None:
    plan = made(found, budget)
    assert len(plan.launches) <= budget
    for one in found.specs:
        ordered = sum(launched.name == one.name for launched, _ in plan.launches)
        assert not one.max_replicas or found.count(one.name) + ordered <= one.max_replicas


@given(state())
def test_every_change_has_a_reason_and_nothing_is_stopped_twice(found: ModelState) -> None:
    plan = made(found)
    assert all(why for _, why in (*plan.stops, *plan.launches))
    stopped = [replica.id for replica, _ in plan.stops]
    assert len(stopped) == len(set(stopped))
    assert all(replica.phase != "draining" for replica, _ in plan.stops)


@given(state())
def test_making_a_plan_changes_no_replica_and_the_same_state_gives_the_same_plan(found: ModelState) -> None:
    before = dict(found.replicas)
    first, second = made(found), made(found)
    assert found.replicas == before
    assert (first.launches, first.stops, first.desired) == (second.launches, second.stops, second.desired)


@given(state())
def test_a_spec_that_rests_is_not_launched(found: ModelState) -> None:
    resting = found.specs[0]
    found.health_of(resting.name).failed("LaunchFailed", "x", 1, NOW - 1, NOW)
    assert all(launched.name != resting.name for launched, _ in made(found).launches)


@given(state())
def test_what_has_no_launcher_is_not_launched(found: ModelState) -> None:
    found.launch_keys.clear()
    assert made(found).launches == []


@given(state())
def test_of_a_model_that_is_gone_everything_is_stopped_and_nothing_launched(found: ModelState) -> None:
    found.model = None
    plan = made(found)
    alive = {one.id for one in found.replicas.values() if one.phase != "draining"}
    assert {replica.id for replica, _ in plan.stops} == alive
    assert plan.launches == []


@given(state(), st.integers(1, 40))
def test_what_is_asked_for_is_on_its_way_as_far_as_limits_allow(found: ModelState, requests: int) -> None:
    found.demand.note(requests, NOW)
    plan = made(found, budget=1000)
    serving = [one for one in found.specs if not one.is_standby]
    launched = [one.name for one, _ in plan.launches]
    stopped = {replica.id for replica, _ in plan.stops}
    held = 0.0
    for one in serving:
        there = [r for r in found.in_phase(one.name, "launching", "starting", "ready") if r.id not in stopped]
        held += (len(there) + launched.count(one.name)) * one.target_requests
    is_full = all(
        one.max_replicas and found.count(one.name) + launched.count(one.name) >= one.max_replicas
        for one in serving
    )
    assert held >= requests or is_full


def test_what_the_only_replica_held_is_asked_of_others_when_it_goes_for_its_settings() -> None:
    found = ModelState("m", make_model(make_spec("a", max_replicas=1), make_spec("b")), Demand(-1e9))
    found.take(PROFILES)
    found.add(Replica("a-0", "a", "a", LAUNCHER, "ready", NOW, launched_as="of before"))
    found.demand.note(1, NOW)
    plan = made(found)
    assert [replica.id for replica, _ in plan.stops] == ["a-0"]
    assert [launched.name for launched, _ in plan.launches] == ["b"]

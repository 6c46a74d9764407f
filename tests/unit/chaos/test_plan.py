"""The plan of faults: the same for a seed, within its time, and never two at a time on one role."""

from collections import defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.chaos.plan import CUTTABLE, KINDS, ROLES, Choice, Fault, Kind, Role, plan


@given(seed=st.integers(0, 10**6), seconds=st.floats(1, 600), every_s=st.floats(0.2, 20))
def test_a_plan_is_the_same_for_its_seed_and_fits_its_time(seed: int, seconds: float, every_s: float) -> None:
    faults = list(plan(seed, seconds, every_s, Choice()))
    assert faults == list(plan(seed, seconds, every_s, Choice()))
    assert all(0 < fault.at < seconds for fault in faults)
    assert [fault.at for fault in faults] == sorted(fault.at for fault in faults)
    assert len(faults) <= seconds / (every_s / 2) + 1
    busy: dict[str, float] = defaultdict(float)
    for fault in faults:
        assert fault.at >= busy[fault.role] - 0.001, "two at a time on one role"
        busy[fault.role] = fault.until
        assert fault.kind != "cut" or fault.role in CUTTABLE
        assert 0 <= fault.which < 1 and fault.seconds > 0


@pytest.mark.parametrize("cuttable", [CUTTABLE, (*CUTTABLE, "nats"), ()])
def test_a_long_plan_has_everything_that_can_happen(cuttable: tuple[Role, ...]) -> None:
    faults = list(plan(1, 3600, 2.0, Choice(cuttable=cuttable)))
    assert {(fault.kind, fault.role) for fault in faults} == {
        (kind, role)
        for kind in KINDS
        for role in ROLES
        if (kind, role) != ("stop", "runner") and (kind != "cut" or role in cuttable)
    }
    assert len(faults) > 1000


@pytest.mark.parametrize(
    ("kinds", "roles"), [(["kill"], ["worker"]), (["pause", "cut"], ["nats", "scheduler"])]
)
def test_a_plan_keeps_to_what_was_chosen(kinds: list[Kind], roles: list[Role]) -> None:
    faults = list(plan(3, 600, 2.0, Choice(kinds, roles)))
    assert faults
    assert {fault.kind for fault in faults} <= set(kinds)
    assert {fault.role for fault in faults} <= set(roles)


def test_another_seed_is_another_plan_and_nothing_possible_is_none() -> None:
    assert list(plan(1, 60, 2.0, Choice())) != list(plan(2, 60, 2.0, Choice()))
    assert list(plan(1, 60, 2.0, Choice(["cut"], ["runner", "nats"]))) == []
    assert Fault(1.0, "kill", "worker", 0.0, 2.0).until == 3.0


def test_a_fault_lasts_as_long_as_was_chosen() -> None:
    faults = list(plan(1, 600, 2.0, Choice(pauses_s=[7.0, 60.0], cuts_s=[1.5])))
    assert {fault.seconds for fault in faults if fault.kind == "pause"} == {7.0, 60.0}
    assert {fault.seconds for fault in faults if fault.kind == "cut"} == {1.5}
    assert all(fault.seconds <= 1.0 for fault in faults if fault.kind in ("kill", "stop"))

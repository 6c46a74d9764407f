"""The autoscaler's core in an unkind world, chosen by hypothesis; what must hold is checked after each step.

Heartbeats come late, twice, out of order, and from workers that nobody launched; launchers lie, lose replicas
and answer late; the clock jumps; models, profiles and specs go and come back; the autoscaler restarts with what
is recorded.
"""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from stoker.schemas.catalog import ResourceProfile
from stoker.schemas.fleet import ModelReplicas, QueueDepth, Replica, ReplicaPhase
from stoker.schemas.workers import Heartbeat, ResidentModel
from stoker.services.autoscaler import commands, events
from stoker.services.autoscaler.core import MAX_LAUNCHING, Autoscaler
from stoker.services.autoscaler.state import TRANSITIONS, IllegalMove, ModelState
from tests.unit.simulated_hardware import ENGINES, LAUNCHER, make_model, make_spec

SPECS = (
    make_spec("a", max_replicas=3, target_requests=2, scale_group="g", scale_down_delay_s=2.0),
    make_spec("b", max_replicas=2, target_requests=5, scale_group="g", scale_down_delay_s=2.0),
    make_spec("standby", target_requests=0, max_replicas=1, scale_down_delay_s=2.0),
)
ORDER: tuple[ReplicaPhase, ...] = ("launching", "starting", "ready", "draining")


def beat(worker: str, spec: str, seq: int, **fields: Any) -> Heartbeat:
    return Heartbeat(
        worker=worker, started_at=1.0, seq=seq, spec=f"m/{spec}", profile=spec, device="cpu", host="h",
        engines=ENGINES, memory_total_bytes=1, memory_used_bytes=0, **fields,
    )  # fmt: skip


class UnkindWorld(RuleBasedStateMachine):
    """The core, the records that it wrote, and what was ordered of launchers."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0
        self.term = 0
        self.records: dict[str, ModelReplicas] = {}
        self.ordered: dict[str, str] = {}
        self.there: set[str] = set()
        self.old_beats: list[Heartbeat] = []
        self.seq = 0
        self.restart()

    # The world ------------------------------------------------------------------------------------

    @rule()
    def restart(self) -> None:
        self.term += 1
        self.core = Autoscaler(self.term)
        for record in list(self.records.values()):
            self.feed(events.Restored(record))
        for spec in SPECS:
            self.feed(events.ProfileChanged(spec.profile, ResourceProfile(spec.profile, LAUNCHER)))
        self.feed(events.ModelChanged("m", make_model(*SPECS)))
        self.look(lies=set())
        self.feed(events.Settled())

    @rule(seconds=st.one_of(st.floats(0.1, 5.0), st.sampled_from([60.0, 3600.0, -5.0, -3600.0])))
    def time_passes_or_jumps(self, seconds: float) -> None:
        self.now += seconds
        self.feed(events.Ticked())

    @rule(
        queued=st.integers(0, 30), running=st.integers(0, 5), model=st.sampled_from(["m", "m", "m", "nobodys"])
    )
    def demand(self, queued: int, running: int, model: str) -> None:
        self.feed(events.DepthSeen(QueueDepth(model, queued, running)))

    @rule(present=st.booleans(), count=st.integers(1, 3))
    def the_model_goes_or_comes_back(self, present: bool, count: int) -> None:
        self.feed(events.ModelChanged("m", make_model(*SPECS[:count]) if present else None))

    @rule(name=st.sampled_from("ab"), present=st.booleans())
    def a_profile_goes_or_comes_back(self, name: str, present: bool) -> None:
        self.feed(events.ProfileChanged(name, ResourceProfile(name, LAUNCHER) if present else None))

    @precondition(lambda self: self.ordered)
    @rule(data=st.data(), is_hot=st.booleans(), fails=st.booleans(), is_leaving=st.booleans())
    def a_worker_reports(self, data: st.DataObject, is_hot: bool, fails: bool, is_leaving: bool) -> None:
        worker = data.draw(st.sampled_from(sorted(self.ordered)))
        spec = self.ordered[worker]
        self.seq += 1
        models = (ResidentModel("m", spec, "text", "hot"),) if is_hot else ()
        failed = {"m": "no such weights"} if fails and not is_hot else {}
        heartbeat = beat(worker, spec, self.seq, models=models, failed_loads=failed, is_leaving=is_leaving)
        self.old_beats.append(heartbeat)
        self.feed(events.HeartbeatSeen(heartbeat))

    @precondition(lambda self: self.old_beats)
    @rule(data=st.data())
    def an_old_report_comes_again(self, data: st.DataObject) -> None:
        self.feed(events.HeartbeatSeen(data.draw(st.sampled_from(self.old_beats))))

    @rule(worker=st.sampled_from(["theirs", "m-a-1-999"]), spec=st.sampled_from("ab"))
    def a_worker_that_nobody_launched_reports(self, worker: str, spec: str) -> None:
        self.seq += 1
        models = (ResidentModel("m", spec, "text", "hot"),)
        self.feed(events.HeartbeatSeen(beat(worker, spec, self.seq, models=models)))

    @precondition(lambda self: self.ordered)
    @rule(data=st.data(), works=st.booleans())
    def a_launcher_answers_perhaps_late_or_again(self, data: st.DataObject, works: bool) -> None:
        replica = data.draw(st.sampled_from(sorted(self.ordered)))
        if works:
            self.there.add(replica)
            self.feed(events.Launched(replica))
        else:
            self.feed(events.LaunchFailed(replica, "OutOfStock", "none left"))

    @rule(lies=st.sets(st.sampled_from(["loses", "ends", "orphan", "stale"])))
    def look(self, lies: set[str]) -> None:
        seen = {replica: events.Seen("running") for replica in self.there}
        first = min(seen, default="")
        if "loses" in lies:
            seen.pop(first, None)
        elif "ends" in lies and first:
            seen[first] = events.Seen("ended", "it crashed")
        if "orphan" in lies:
            seen["m-a-1-777"] = events.Seen("running")
        began_at = self.now - 100.0 if "stale" in lies else self.now
        self.feed(events.LauncherLooked(LAUNCHER, began_at, seen))

    # Its commands ---------------------------------------------------------------------------------

    def feed(self, event: events.Event) -> None:
        has_ordered = False
        for command in self.core.handle(event, self.now):
            match command:
                case commands.Record(record):
                    assert not has_ordered, "an order came before a record"
                    self.records[record.model] = record
                case commands.Forget(model):
                    assert not has_ordered
                    del self.records[model]
                case commands.Launch(model, replica):
                    has_ordered = True
                    assert self.core.is_settled
                    assert replica.id not in self.ordered, "an id is used once"
                    recorded = {one.id: one.phase for one in self.records[model].replicas}
                    assert recorded[replica.id] == "launching"
                    self.ordered[replica.id] = replica.spec
                case commands.Stop(replica_id, _, grace_s):
                    has_ordered = True
                    known = {one.id: one.phase for record in self.records.values() for one in record.replicas}
                    assert known.get(replica_id, "draining") == "draining", "stopped, and not recorded as such"
                    if grace_s == 0.0:
                        self.there.discard(replica_id)

    # What must hold -------------------------------------------------------------------------------

    @invariant()
    def limits_hold(self) -> None:
        for state in self.core.models.values():
            for spec in SPECS:
                assert state.count(spec.name) <= spec.max_replicas
        phases = [one.phase for state in self.core.models.values() for one in state.replicas.values()]
        assert sum(phase in ("launching", "starting") for phase in phases) <= MAX_LAUNCHING

    @invariant()
    def what_is_recorded_is_what_is_known(self) -> None:
        known = {name: state.replicas for name, state in self.core.models.items() if state.replicas}
        recorded = {name: {one.id: one for one in r.replicas} for name, r in self.records.items() if r.replicas}
        assert recorded == known

    @invariant()
    def the_core_finds_nothing_wrong(self) -> None:
        self.core.validate()

    def teardown(self) -> None:
        """When nothing is asked for any more and the world is kind again, nothing is left."""
        self.feed(events.ModelChanged("m", None))
        for state in list(self.core.models.values()):
            for replica in state.replicas.keys() - state.acknowledged_at.keys():
                self.feed(events.LaunchFailed(replica, "LaunchFailed", "not answered in time"))
        for _ in range(30):
            self.now += 700.0
            self.there -= {
                one.id for r in self.records.values() for one in r.replicas if one.phase == "draining"
            }
            self.look(set())
            self.feed(events.Ticked())
        assert self.core.models == {}
        assert self.records == {}


TestUnkindWorld = UnkindWorld.TestCase
TestUnkindWorld.settings = settings(max_examples=80, stateful_step_count=30, deadline=None)


@given(st.lists(st.sampled_from(ORDER), max_size=6))
def test_a_move_that_the_table_has_not_raises_and_changes_nothing(wanted: list[ReplicaPhase]) -> None:
    state = ModelState("m")
    state.add(Replica("r", "a", "p", LAUNCHER, "launching", 1.0))
    for to in wanted:
        before = state.replicas["r"]
        if to in TRANSITIONS[before.phase]:
            assert state.move("r", to).phase == to
        else:
            with pytest.raises(IllegalMove, match=f"r of m is {before.phase} and cannot become {to}"):
                state.move("r", to)
            assert state.replicas["r"] is before
    state.forget("r")
    with pytest.raises(IllegalMove, match="r of m is gone"):
        state.move("r", "ready")


def test_every_phase_leads_to_gone_and_none_back_to_launching() -> None:
    assert set(TRANSITIONS) == set(ORDER)
    assert all("gone" in targets and "launching" not in targets for targets in TRANSITIONS.values())

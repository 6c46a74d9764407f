"""The autoscaler as a machine: `handle(event, now) -> [command]`.

Level-triggered: observe (heartbeats, depths, what launchers have) → plan (plan.py) → the smallest set of
launches and stops. A decision depends on what is known now, never on having seen each event.

The phases of a replica and the moves between them are a table in state.py. What fails on the way gives its
spec a condition and a pause (backoff.py). A launch is recorded before it is ordered and a replica is forgotten
only when its launcher no longer has it: a restarted autoscaler finds every one again, and what it has no
record of is stopped. Until it is settled (records, catalog and launchers have been read) nothing is decided.
"""

import math
from typing import assert_never

import msgspec

from stoker.schemas.catalog import ResourceProfile, Spec
from stoker.schemas.fleet import EventKind, ModelReplicas, PlatformEvent, Replica
from stoker.schemas.workers import Heartbeat
from stoker.services.autoscaler.backoff import OUT_OF_STOCK, STABLE_S
from stoker.services.autoscaler.commands import Announce, Command, Forget, Launch, Record, Stop
from stoker.services.autoscaler.demand import Demand
from stoker.services.autoscaler.events import (
    DepthSeen,
    Event,
    HeartbeatSeen,
    Launched,
    LauncherLooked,
    LaunchFailed,
    ModelChanged,
    ProfileChanged,
    Restored,
    Settled,
    Ticked,
)
from stoker.services.autoscaler.naming import replica_id
from stoker.services.autoscaler.plan import Plan, Planner
from stoker.services.autoscaler.state import AllReplicas, ModelState
from stoker.services.autoscaler.workers import LOST_S, Workers

DRAIN_LIMIT_S = 600.0
"""The longest that a replica may finish what it runs; then it is ended."""
FAILED_GRACE_S = 5.0
MAX_LAUNCHING = 16
"""Launches of all models under way at a time."""


class Autoscaler:
    """The state machine. `term` is the leader's: names of replicas are made from it."""

    def __init__(self, term: int) -> None:
        self.term = term
        self.models: dict[str, ModelState] = {}
        self.profiles: dict[str, ResourceProfile] = {}
        self.workers = Workers()
        self._replicas = AllReplicas()
        self._recorded: dict[str, ModelReplicas] = {}
        self._count = 0
        self.is_settled = False

    def handle(self, event: Event, now: float) -> list[Command]:
        """Take in one event; the commands are to be carried out in order: records come before all else."""
        commands = self._take(event, now)
        records = [one for one in commands if isinstance(one, Record | Forget)]
        return [*records, *(one for one in commands if not isinstance(one, Record | Forget))]

    def _take(self, event: Event, now: float) -> list[Command]:
        match event:
            case HeartbeatSeen():
                return self._heartbeat(event.heartbeat, now)
            case DepthSeen():
                self.workers.reported_at = now
                state = self._state(event.depth.model)
                state.note_depth(event.depth, now)
                return self._reconcile(state, now)
            case Ticked():
                return self._reconcile_all(now)
            case LauncherLooked():
                return self._looked(event, now)
            case Launched():
                return self._launched(event.replica, now)
            case LaunchFailed():
                return self._launch_failed(event, now)
            case ModelChanged():
                state = self._state(event.name)
                state.model = event.model
                state.take(self.profiles)
                return self._reconcile(state, now)
            case ProfileChanged():
                if event.profile is not None:
                    self.profiles[event.name] = event.profile
                else:
                    self.profiles.pop(event.name, None)
                for state in self.models.values():
                    state.take(self.profiles)
                return []
            case Settled():
                self.is_settled = True
                return self._drain_on(now) + self._reconcile_all(now)
            case Restored():
                self._restore(event.replicas, now)
                return []
            case _:
                assert_never(event)

    def validate(self) -> None:
        """Raises AssertionError when what is kept does not fit together. For tests and replays."""
        phases = [one.phase for state in self.models.values() for one in state.replicas.values()]
        assert phases.count("launching") <= MAX_LAUNCHING, "too many launches at a time"
        alive = {one: state.name for state in self.models.values() for one in state.replicas}
        assert self._replicas.owner == alive, f"owners {self._replicas.owner}, there are {alive}"
        assert self._replicas.under_way == sum(phase in ("launching", "starting") for phase in phases)
        for state in self.models.values():
            for kept in (state.acknowledged_at, state.surplus_since, state.kept, state.served, state.restored):
                assert set(kept) <= state.replicas.keys(), (
                    f"{state.name} keeps something of a replica that is gone"
                )
            specs = {spec.name for spec in state.specs} | {one.spec for one in state.replicas.values()}
            assert state.launch_keys.keys() <= specs, f"{state.name} has keys of specs that are gone"
            recorded = self._recorded.get(state.name)
            known = tuple(state.replicas.values())
            assert not self.is_settled or (recorded.replicas if recorded else ()) == known, "not recorded"

    def records(self) -> list[ModelReplicas]:
        """What is recorded of every model now."""
        return list(self._recorded.values())

    def _state(self, name: str) -> ModelState:
        found = self.models.get(name)
        if found is None:
            found = self.models[name] = ModelState(name, everywhere=self._replicas)
        return found

    def _owner(self, replica: str) -> ModelState | None:
        owner = self._replicas.owner.get(replica)
        return self.models[owner] if owner is not None else None

    def _restore(self, recorded: ModelReplicas, now: float) -> None:
        """Go on from a record. What was asked for before is not known: nothing shrinks for a full window."""
        state = self._state(recorded.model)
        self._recorded[recorded.model] = recorded
        if recorded.replicas:
            state.demand = Demand(known_since=now)
        for replica in recorded.replicas:
            phase = "starting" if replica.phase == "launching" else replica.phase
            state.add(msgspec.structs.replace(replica, phase=phase))
            state.acknowledged_at[replica.id] = -math.inf
            state.restored.add(replica.id)
        for spec in recorded.specs:
            state.health_of(spec.spec).condition = spec.condition
            state.learned_of(spec.spec).recall(spec)

    def _drain_on(self, now: float) -> list[Command]:
        """Stop again what an earlier autoscaler was stopping."""
        return [
            Stop(one.id, one.launcher, max(one.draining_at + DRAIN_LIMIT_S - now, FAILED_GRACE_S))
            for state in self.models.values()
            for one in state.replicas.values()
            if one.phase == "draining"
        ]

    # What workers and launchers say ---------------------------------------------------------------

    def _heartbeat(self, heartbeat: Heartbeat, now: float) -> list[Command]:
        if not self.workers.take(heartbeat, now):
            return []
        state = self._owner(heartbeat.worker)
        return self._reconcile(state, now) if state is not None else []

    def _launched(self, replica: str, now: float) -> list[Command]:
        state = self._owner(replica)
        if state is None:
            return []
        state.acknowledged_at[replica] = now
        known = state.replicas[replica]
        state.health_of(known.spec).taken(known.launched_at)
        state.learned_of(known.spec).ordered(known.launched_at, now, is_taken=True)
        if state.replicas[replica].phase == "launching":
            state.move(replica, "starting")
        return self._reconcile(state, now)

    def _launch_failed(self, event: LaunchFailed, now: float) -> list[Command]:
        state = self._owner(event.replica)
        if state is None:
            return []
        replica = state.replicas[event.replica]
        state.forget(event.replica)
        if event.reason == OUT_OF_STOCK:
            state.learned_of(replica.spec).ordered(replica.launched_at, now, is_taken=False)
        commands = self._note_failure(state, replica, event.reason, event.message, now)
        return commands + self._reconcile(state, now)

    def _looked(self, event: LauncherLooked, now: float) -> list[Command]:
        commands: list[Command] = []
        known: set[str] = set()
        for state in list(self.models.values()):
            for replica in [one for one in state.replicas.values() if one.launcher == event.launcher]:
                known.add(replica.id)
                seen = event.replicas.get(replica.id)
                acknowledged_at = state.acknowledged_at.get(replica.id)
                if seen is not None and seen.state != "ended":
                    state.restored.discard(replica.id)
                    continue
                if acknowledged_at is None:
                    continue
                if seen is None and event.began_at <= acknowledged_at:
                    continue
                commands += self._gone(state, replica, seen.message if seen is not None else "", now)
                if seen is not None:
                    commands.append(Stop(replica.id, replica.launcher, 0.0))
        for orphan in sorted(event.replicas.keys() - known):
            commands.append(Stop(orphan, event.launcher, FAILED_GRACE_S))
        return commands

    def _gone(self, state: ModelState, replica: Replica, message: str, now: float) -> list[Command]:
        """The launcher has it no longer."""
        was_restored = replica.id in state.restored
        state.forget(replica.id)
        if replica.phase == "draining" or was_restored:
            reason = "gone while no autoscaler was there" if was_restored else replica.reason
            return [self._announce("drained", state, replica, reason, now), *self._reconcile(state, now)]
        said = message or "its launcher no longer has it"
        commands = self._note_failure(state, replica, "Exited", said, now)
        return commands + self._reconcile(state, now)

    # Failures -------------------------------------------------------------------------------------

    def _note_failure(
        self, state: ModelState, replica: Replica, reason: str, message: str, now: float
    ) -> list[Command]:
        health = state.health_of(replica.spec)
        condition = health.failed(reason, message, len(state.specs), replica.launched_at, now)
        pause = f"not again for {condition.retry_at - now:.0f} s, after {condition.failures} failures in a row"
        return [
            self._announce("failed", state, replica, f"{reason}: {message}", now),
            self._announce("backoff", state, replica, pause, now),
        ]

    def _fail(
        self, state: ModelState, replica: Replica, reason: str, message: str, now: float
    ) -> list[Command]:
        """Give a replica up that its launcher still has."""
        commands = self._note_failure(state, replica, reason, message, now)
        return [*commands, self._drain(state, replica, message, FAILED_GRACE_S, now)]

    def _drain(self, state: ModelState, replica: Replica, why: str, grace_s: float, now: float) -> Command:
        state.move(replica.id, "draining", draining_at=now, reason=why)
        return Stop(replica.id, replica.launcher, grace_s)

    # Observe, plan, act ---------------------------------------------------------------------------

    def _reconcile_all(self, now: float) -> list[Command]:
        self.workers.forget_lost()
        return [command for state in list(self.models.values()) for command in self._reconcile(state, now)]

    def _reconcile(self, state: ModelState, now: float) -> list[Command]:
        if not self.is_settled:
            return []
        commands = self._observe(state, now)
        plan = Planner(state, MAX_LAUNCHING - self._replicas.under_way, now).make()
        actions = self._act(state, plan, now)
        return [*commands, *self._record(state, plan, now), *actions]

    def _observe(self, state: ModelState, now: float) -> list[Command]:
        """Bring phases up to date from heartbeats and clocks."""
        commands: list[Command] = []
        for replica in list(state.replicas.values()):
            if replica.phase != "draining":
                commands += self._observe_replica(state, replica, now)
        state.outside = {}
        for worker, spec in self.workers.hot(state.name).items():
            if worker not in state.replicas and self.workers.reported(worker) is not None:
                state.outside[spec] = state.outside.get(spec, 0) + 1
        return commands

    def _observe_replica(self, state: ModelState, replica: Replica, now: float) -> list[Command]:
        beat = self.workers.reported(replica.id)
        is_hot = beat is not None and any(
            one.model == state.name and one.spec == replica.spec and one.tier == "hot" for one in beat.models
        )
        if replica.phase == "ready":
            if now - replica.ready_at >= STABLE_S and not state.is_outdated(replica):
                state.health_of(replica.spec).proved(replica.ready_at)
            if not is_hot:  # it may come back; until then it does not count, and it has its time to start
                state.move(replica.id, "starting", launched_at=now, ready_at=0.0)
            return []
        if is_hot:
            return self._became_ready(state, replica, now)
        if beat is not None and state.name in beat.failed_loads:
            return self._fail(state, replica, "LoadFailed", beat.failed_loads[state.name], now)
        profile = self.profiles.get(replica.profile)
        limit_s = profile.start_timeout_s if profile is not None else LOST_S
        if now - replica.launched_at > limit_s:
            message = f"it was not ready within {limit_s:g} s"
            return self._fail(state, replica, "NotReadyInTime", message, now)
        return []

    def _became_ready(self, state: ModelState, replica: Replica, now: float) -> list[Command]:
        took_s = now - replica.launched_at
        state.learned_of(replica.spec).started(took_s)
        state.move(replica.id, "ready", ready_at=now)
        return [self._announce("ready", state, replica, f"loaded {took_s:.1f} s after its launch", now)]

    def _act(self, state: ModelState, plan: Plan, now: float) -> list[Command]:
        commands: list[Command] = []
        for replica, why in plan.stops:
            commands.append(self._announce("downscaled", state, replica, why, now))
            if replica.id not in state.served:
                state.learned_of(replica.spec).in_vain += 1
            commands.append(self._drain(state, replica, why, DRAIN_LIMIT_S, now))
        if plan.stops:
            commands += self._announce_kept(state, now)
        for spec, why in plan.launches:
            commands += self._order(state, spec, why, now)
        return commands

    def _announce_kept(self, state: ModelState, now: float) -> list[Command]:
        ready = [one for one in state.replicas.values() if one.phase == "ready" and one.id not in state.kept]
        state.kept |= {one.id for one in ready}
        return [self._announce("kept", state, one, "ready, and enough for what is asked", now) for one in ready]

    def _order(self, state: ModelState, spec: Spec, why: str, now: float) -> list[Command]:
        self._count += 1
        replica = Replica(
            id=replica_id(state.name, spec.name, self.term, self._count),
            spec=spec.name,
            profile=spec.profile,
            launcher=spec.launcher,
            phase="launching",
            launched_at=now,
            reason=why,
            launched_as=state.launch_keys[spec.name],
        )
        state.add(replica)
        return [
            self._announce("launched", state, replica, why, now),
            Launch(state.name, replica, spec, self.profiles[spec.profile]),
        ]

    def _record(self, state: ModelState, plan: Plan, now: float) -> list[Command]:
        """Write down what has changed; let go of a model that is gone when its last replica is."""
        if state.model is None and not state.replicas:
            del self.models[state.name]
            return [Forget(state.name)] if self._recorded.pop(state.name, None) is not None else []
        specs = tuple(state.summary(spec, plan.desired.get(spec.name, 0)) for spec in state.specs)
        record = ModelReplicas(state.name, specs, now, tuple(state.replicas.values()))
        before = self._recorded.get(state.name)
        if before is not None and (before.specs, before.replicas) == (specs, record.replicas):
            return []
        self._recorded[state.name] = record
        return [Record(record)]

    def _announce(
        self, kind: EventKind, state: ModelState, replica: Replica, reason: str, now: float
    ) -> Command:
        return Announce(
            PlatformEvent(
                kind=kind,
                subject=f"{state.name}/{replica.spec}",
                at=now,
                reason=reason,
                model=state.name,
                worker=replica.id,
            )
        )

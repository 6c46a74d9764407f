"""What the autoscaler knows of one model: facts only, everything else is derived from them in plan.py.

A replica is a state machine. `TRANSITIONS` is its table; `ModelState.move` and `forget` (to "gone") alone
change its phase. A move that the table has not raises IllegalMove and changes nothing.

launching   recorded, and the launcher is asked for it
starting    its launcher has it, the model is not in its device memory yet; or not any more
ready       it reports that the model is in device memory
draining    told to finish what it runs and end
gone        its launcher has it no longer, or never had it: all that was kept of it is forgotten
"""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from stoker.schemas.catalog import Model, ResourceProfile, Spec
from stoker.schemas.fleet import QueueDepth, Replica, ReplicaPhase, SpecReplicas
from stoker.services.autoscaler.backoff import Health
from stoker.services.autoscaler.demand import MEMORY_S, Demand
from stoker.services.autoscaler.economy import FIRST_START_S, HOUR_S, Learned, Racer, kept_idle_s, worth

TRANSITIONS: Mapping[ReplicaPhase, frozenset[str]] = {
    "launching": frozenset({"starting", "ready", "draining", "gone"}),
    "starting": frozenset({"ready", "draining", "gone"}),
    "ready": frozenset({"starting", "draining", "gone"}),
    "draining": frozenset({"gone"}),
}
"""launching → ready: it reported before its launcher's answer came."""

_encode = msgspec.msgpack.Encoder(order="deterministic").encode


def launch_key(spec: Spec, profile: ResourceProfile) -> str:
    """Hash of everything that a replica is: its spec without what says how many there are, and its hardware."""
    hardware = msgspec.structs.replace(profile, inventory=None, start_timeout_s=0.0, price_per_hour=0.0)
    alone = msgspec.structs.replace(
        spec,
        min_replicas=0,
        max_replicas=0,
        target_requests=0,
        scale_down_delay_s=0.0,
        scale_group="",
        size_bytes=0,
    )
    return hashlib.blake2b(_encode((alone, hardware)), digest_size=8).hexdigest()


class IllegalMove(RuntimeError):
    """A replica was to change to a phase that its own does not lead to; or there is no such replica."""


class AllReplicas:
    """Those of all models. owner: the model of each. under_way: how many are launched or started just now."""

    def __init__(self) -> None:
        self.owner: dict[str, str] = {}
        self.under_way = 0


@dataclass(slots=True)
class ModelState:
    """model: None once it is gone from the catalog, until its last replica has ended.

    health, learned, outside: by spec; outside counts replicas that somebody else has started.
    acknowledged_at: when the launcher took the order for a replica. surplus_since: since when it is not needed.
    kept: those of which it was told. served: those whose spec got a job while they were ready.
    restored: from a record, not seen at their launcher yet.
    launch_keys: by spec, of those that somebody can launch. prices: of one replica, money a second, by spec.
    late_s: device seconds of work that waits, where it is worth more replicas than the requests are.
    everywhere: replicas of all models, which it keeps up to date.
    """

    name: str
    model: Model | None = None
    demand: Demand = field(default_factory=Demand)
    replicas: dict[str, Replica] = field(default_factory=dict)
    health: dict[str, Health] = field(default_factory=dict)
    learned: dict[str, Learned] = field(default_factory=dict)
    outside: dict[str, int] = field(default_factory=dict)
    acknowledged_at: dict[str, float] = field(default_factory=dict)
    surplus_since: dict[str, float] = field(default_factory=dict)
    kept: set[str] = field(default_factory=set)
    served: set[str] = field(default_factory=set)
    restored: set[str] = field(default_factory=set)
    launch_keys: dict[str, str] = field(default_factory=dict)
    prices: dict[str, float] = field(default_factory=dict)
    arrival_rate: float = 0.0
    late_s: float = 0.0
    everywhere: AllReplicas = field(default_factory=AllReplicas)

    @property
    def specs(self) -> tuple[Spec, ...]:
        return self.model.specs if self.model is not None else ()

    def take(self, profiles: Mapping[str, ResourceProfile]) -> None:
        """Another model or other profiles: see anew what can be launched, and how."""
        self.launch_keys = {
            spec.name: launch_key(spec, profiles[spec.profile])
            for spec in self.specs
            if spec.launcher and spec.profile in profiles
        }
        self.prices = {
            spec.name: profiles[spec.profile].price_per_hour * spec.profile_count / HOUR_S
            for spec in self.specs
            if spec.profile in profiles
        }
        kept = {spec.name for spec in self.specs} | {one.spec for one in self.replicas.values()}
        for by_spec in (self.health, self.learned, self.outside):
            for gone in by_spec.keys() - kept:
                del by_spec[gone]

    def is_outdated(self, replica: Replica) -> bool:
        """Whether it was launched with other settings than its spec has now."""
        current = self.launch_keys.get(replica.spec)
        return bool(current and replica.launched_as) and replica.launched_as != current

    def health_of(self, spec: str) -> Health:
        return self.health.get(spec) or self.health.setdefault(spec, Health())

    def learned_of(self, spec: str) -> Learned:
        return self.learned.get(spec) or self.learned.setdefault(spec, Learned())

    def start_s(self, spec: str) -> float:
        """How long a replica takes to start, typically."""
        return self.learned_of(spec).start_s(0.5) or FIRST_START_S

    @property
    def waiting_cost(self) -> float:
        """What a second of one request's waiting is worth."""
        return self.model.waiting_cost_per_hour / HOUR_S if self.model is not None else 0.0

    def note_depth(self, depth: QueueDepth, now: float) -> None:
        """What waits and runs; with prices as many requests as those replicas hold that the work is worth."""
        self.arrival_rate = depth.arrival_rate
        requests, worth_requests = depth.queued + depth.running, self._worth(depth)
        self.late_s = depth.work_s if worth_requests > requests else 0.0
        self.demand.note(max(requests, worth_requests, depth.peak), now)
        self.demand.note(max(requests, worth_requests), now)
        for spec in depth.given_to:
            self.learned_of(spec).in_vain = 0
            self.served |= {one.id for one in self.in_phase(spec, "ready")}

    def _worth(self, depth: QueueDepth) -> int:
        priced = [spec for spec in self.specs if not spec.is_standby and self.prices.get(spec.name)]
        if not priced or not depth.work_s:
            return 0
        spec = min(priced, key=lambda one: self.prices[one.name])
        start_s = self.start_s(spec.name)
        replicas = worth(
            depth.queued, depth.work_s, self.prices[spec.name], self.waiting_cost,
            start_s + spec.scale_down_delay_s, start_s,
        )  # fmt: skip
        return replicas * spec.target_requests

    def kept_s(self, spec: Spec) -> float:
        """How long the last replica is kept when nothing is asked for."""
        price_s = self.prices.get(spec.name) or self.waiting_cost
        worth_s = kept_idle_s(price_s, self.start_s(spec.name), self.waiting_cost, self.arrival_rate)
        return max(spec.scale_down_delay_s, min(worth_s, MEMORY_S))

    def racer(self, spec: Spec, replicas: int) -> Racer:
        """A spec as it could be launched, so many replicas of it at once."""
        learned, start_s = self.learned_of(spec.name), self.start_s(spec.name)
        slow_s = max(learned.start_s(0.9) or start_s, start_s)
        return Racer(
            spec.name, self.prices.get(spec.name, 0.0) * max(replicas, 1), learned.stock, start_s, slow_s
        )

    def summary(self, spec: Spec, desired: int) -> SpecReplicas:
        """What is recorded of a spec."""
        learned = self.learned_of(spec.name)
        start_s, slow_s = learned.start_s(0.5), learned.start_s(0.9)
        phases = [one.phase for one in self.replicas.values() if one.spec == spec.name]
        return SpecReplicas(
            spec=spec.name,
            desired=desired,
            ready=phases.count("ready") + self.outside.get(spec.name, 0),
            starting=phases.count("launching") + phases.count("starting"),
            draining=phases.count("draining"),
            start_s=round(start_s, 3) if start_s is not None else None,
            slow_start_s=round(slow_s, 3) if slow_s is not None else None,
            stock=round(learned.stock, 3) if learned.judged_at > -math.inf else None,
            price_per_hour=round(self.prices.get(spec.name, 0.0) * HOUR_S, 4),
            condition=self.health_of(spec.name).condition,
        )

    def in_phase(self, spec: str, *phases: ReplicaPhase) -> list[Replica]:
        """Replicas of a spec, the oldest first."""
        found = [one for one in self.replicas.values() if one.spec == spec and one.phase in phases]
        return sorted(found, key=lambda one: (one.ready_at or one.launched_at, one.id))

    def count(self, spec: str) -> int:
        """Replicas of a spec that take up hardware, the draining ones included."""
        return sum(one.spec == spec for one in self.replicas.values())

    def add(self, replica: Replica) -> None:
        """A replica is new: about to be launched, or found in a record."""
        if replica.id in self.replicas:
            raise IllegalMove(f"{replica.id} is there already, {self.replicas[replica.id].phase}")
        self._put(replica.id, replica)

    def move(self, replica: str, to: ReplicaPhase, **noted: Any) -> Replica:
        """Change a replica's phase; noted: fields of the record that change with it. Raises IllegalMove."""
        known = self.replicas.get(replica)
        if known is None or to not in TRANSITIONS[known.phase]:
            phase = "gone" if known is None else known.phase
            raise IllegalMove(f"{replica} of {self.name} is {phase} and cannot become {to}")
        moved = msgspec.structs.replace(known, phase=to, **noted)
        self._put(replica, moved)
        return moved

    def forget(self, replica: str) -> None:
        """A replica is gone; everything that was kept of it goes too."""
        self._put(replica, None)
        self.acknowledged_at.pop(replica, None)
        self.surplus_since.pop(replica, None)
        self.kept.discard(replica)
        self.served.discard(replica)
        self.restored.discard(replica)

    def _put(self, name: str, replica: Replica | None) -> None:
        """The only one who changes `replicas`. None: it is gone."""
        before = self.replicas.pop(name, None) if replica is None else self.replicas.get(name)
        if replica is None:
            self.everywhere.owner.pop(name, None)
        else:
            self.replicas[name] = replica
            self.everywhere.owner[name] = self.name
        self.everywhere.under_way += _is_under_way(replica) - _is_under_way(before)


def _is_under_way(replica: Replica | None) -> bool:
    return replica is not None and replica.phase in ("launching", "starting")

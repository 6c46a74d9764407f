"""What the autoscaler knows of one model: facts only, everything else is derived from them in plan.py."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

import msgspec

from schemas.catalog import Model, ResourceProfile, Spec
from schemas.fleet import Replica, ReplicaPhase
from services.autoscaler.backoff import Health
from services.autoscaler.demand import Demand

_encode = msgspec.msgpack.Encoder(order="deterministic").encode


def launch_key(spec: Spec, profile: ResourceProfile) -> str:
    """Hash of everything that a replica is: its spec without what says how many there are, and its hardware."""
    hardware = msgspec.structs.replace(profile, inventory=None, start_timeout_s=0.0)
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


@dataclass(slots=True)
class ModelState:
    """model: None once it is gone from the catalog, until its last replica has ended.

    health, start_s, outside: by spec; outside counts replicas that somebody else has started.
    acknowledged_at: when the launcher took the order for a replica. surplus_since: since when it is not needed.
    kept: those of which it was told. restored: from a record, not seen at their launcher yet.
    launch_keys: by spec, of those that somebody can launch.
    """

    name: str
    model: Model | None = None
    demand: Demand = field(default_factory=Demand)
    replicas: dict[str, Replica] = field(default_factory=dict)
    health: dict[str, Health] = field(default_factory=dict)
    start_s: dict[str, float] = field(default_factory=dict)
    outside: dict[str, int] = field(default_factory=dict)
    acknowledged_at: dict[str, float] = field(default_factory=dict)
    surplus_since: dict[str, float] = field(default_factory=dict)
    kept: set[str] = field(default_factory=set)
    restored: set[str] = field(default_factory=set)
    launch_keys: dict[str, str] = field(default_factory=dict)

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

    def is_outdated(self, replica: Replica) -> bool:
        """Whether it was launched with other settings than its spec has now."""
        current = self.launch_keys.get(replica.spec)
        return bool(current and replica.launched_as) and replica.launched_as != current

    def health_of(self, spec: str) -> Health:
        return self.health.setdefault(spec, Health())

    def in_phase(self, spec: str, *phases: ReplicaPhase) -> list[Replica]:
        """Replicas of a spec, the oldest first."""
        found = [one for one in self.replicas.values() if one.spec == spec and one.phase in phases]
        return sorted(found, key=lambda one: (one.ready_at or one.launched_at, one.id))

    def count(self, spec: str) -> int:
        """Replicas of a spec that take up hardware, the draining ones included."""
        return sum(one.spec == spec for one in self.replicas.values())

    def forget(self, replica: str) -> None:
        """A replica has ended."""
        self.replicas.pop(replica, None)
        self.acknowledged_at.pop(replica, None)
        self.surplus_since.pop(replica, None)
        self.kept.discard(replica)
        self.restored.discard(replica)

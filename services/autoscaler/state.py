"""What the autoscaler knows of one model: facts only, everything else is derived from them in plan.py."""

from dataclasses import dataclass, field

from schemas.catalog import Model, Spec
from schemas.fleet import Replica, ReplicaPhase
from services.autoscaler.backoff import Health
from services.autoscaler.demand import Demand


@dataclass(slots=True)
class ModelState:
    """model: None once it is gone from the catalog, until its last replica has ended.

    health, start_s, outside: by spec; outside counts replicas that somebody else has started.
    acknowledged_at: when the launcher took the order for a replica. surplus_since: since when it is not needed.
    kept: those of which it was told. restored: from a record, not seen at their launcher yet.
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

    @property
    def specs(self) -> tuple[Spec, ...]:
        return self.model.specs if self.model is not None else ()

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

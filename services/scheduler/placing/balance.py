"""Which ready replica of a model with several specs, or with a strategy of its own, takes the next job. Pure.

A standby (target 0) serves only while no other replica is ready. The others share in proportion to the targets
of their specs, or, with `PrefixHash`, by what a request begins with (prefix_hash.py).
"""

from collections.abc import Sequence
from dataclasses import dataclass

from stoker.schemas.catalog import Model, Spec
from stoker.schemas.jobs import Job, prefix_of
from stoker.services.scheduler.fleet.worker import Worker
from stoker.services.scheduler.placing.prefix_hash import HashRing


@dataclass(frozen=True, slots=True)
class Ready:
    """A replica that is ready. can_serve: it may take this job now."""

    worker: Worker
    spec: Spec
    can_serve: bool

    def load(self, model: str) -> int:
        return self.worker.load(model, self.spec.engine)


def is_plain(model: Model) -> bool:
    """Whether the least loaded replica is always the right one."""
    return len(model.specs) == 1 and model.load_balancing.strategy == "LeastLoad"


class Balancer:
    """Chooses among ready replicas; keeps a ring for each model with `PrefixHash`."""

    def __init__(self) -> None:
        self._rings: dict[str, HashRing] = {}

    def choose(self, model: Model, job: Job, ready: Sequence[Ready]) -> Ready | None:
        """The replica for a job, or None when the ones that should take it have no room."""
        serving = [one for one in ready if not one.spec.is_standby] or list(ready)
        if model.load_balancing.strategy == "PrefixHash":
            return self._by_prefix(model, job, serving)
        able = [one for one in serving if one.can_serve]
        return min(able, key=lambda one: _share(one, model.name), default=None)

    def _by_prefix(self, model: Model, job: Job, serving: Sequence[Ready]) -> Ready | None:
        balancing = model.load_balancing
        ring = self._rings.get(model.name)
        if ring is None or ring.replication != balancing.replication:
            ring = self._rings[model.name] = HashRing(balancing.replication)
        by_name = {one.worker.id: one for one in serving}
        ring.keep(by_name)
        slots = min((one.worker.slots(one.spec) for one in serving), default=0)
        chosen = ring.pick(
            job.adapter + prefix_of(job.input, balancing.prefix_char_length),
            {name: one.load(model.name) for name, one in by_name.items()},
            balancing.mean_load_percentage,
            lambda name: by_name[name].can_serve,
            slots // 2,
        )
        return by_name[chosen] if chosen is not None else None


def _share(ready: Ready, model: str) -> tuple[float, str]:
    """How full the replica would be with one job more, by its target."""
    return (ready.load(model) + 1) / max(ready.spec.target_requests, 1), ready.worker.id

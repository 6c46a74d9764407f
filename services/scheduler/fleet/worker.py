"""The workers as the scheduler knows them: what they said in heartbeats, and what it gave them since.

A worker is `present` while it speaks. One that said nothing for a while is `silent`: it is asked
whether it is there. One of which the server says that nobody listens is `away`: it gets nothing new,
and keeps what it has for a moment, since a short disconnection looks like that. Then it is gone, and
its jobs move on; one that says goodbye has left, which is nobody's fault. Gone and left workers are not
in the books.

    present ──▶ silent ──▶ away        a heartbeat: back to present, from anywhere
       └───────────────────▶┘

Assigning takes the slot here and now, not when the worker says so. Indices keep the least burdened
worker, and the least burdened replica of each model, at hand however many workers there are
(by_burden.py).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from stoker.schemas.catalog import Spec, fits_device, memory_needed_bytes
from stoker.schemas.workers import EngineCapability, Heartbeat, ResidentModel, Tier
from stoker.services.scheduler.fleet.lane import Held, Lane

Kind = tuple[tuple[tuple[str, EngineCapability], ...], str, str, str, int]

Presence = Literal["present", "silent", "away"]
TRANSITIONS: dict[Presence, frozenset[Presence]] = {
    "present": frozenset({"silent", "away"}),
    "silent": frozenset({"present", "away"}),
    "away": frozenset({"present"}),
}


@dataclass(slots=True)
class OrderedLoad:
    """A load that a worker was told to start, or is seen to have started, until it is done. tier: where
    from.
    """

    spec: str
    engine: str
    at: float
    tier: Tier = "warm"
    evict: frozenset[str] = frozenset()
    evict_later: frozenset[str] = frozenset()
    evict_at: float = 0.0


@dataclass(slots=True)
class Worker:
    """One worker. `lanes`: its held jobs by lane, the one that the engine names, else the model; `waiting`
    counts those that wait for calls of theirs instead, by lane and depth; `busy` all of them by model.

    planned: jobs that wait and are meant for it, by lane (placing/plan.py).

    engines: what it last said that it has, or will have in a moment; one of an early version whose runner is
    being started names none.
    presence, since: its state and when that began. revoked: attempts that it was told to drop, and
    when, until its heartbeats no longer mention them. suspected: models of which a run does not go on
    here, and since when that was seen last. near: those of `residents` that are hot or loading, a few of what
    may be hundreds. read_ahead: models whose weights it was told to read until they are loaded.
    """

    id: str
    facts: Heartbeat
    seen_at: float
    presence: Presence = "present"
    since: float = 0.0
    held: dict[str, Held] = field(default_factory=dict)
    lanes: dict[str, Lane] = field(default_factory=dict)
    busy: dict[str, int] = field(default_factory=dict)
    waiting: dict[tuple[str, int], int] = field(default_factory=dict)
    planned: dict[str, int] = field(default_factory=dict)
    residents: dict[str, ResidentModel] = field(default_factory=dict)
    near: tuple[str, ...] = ()
    ordered: dict[str, OrderedLoad] = field(default_factory=dict)
    revoked: dict[tuple[str, int], float] = field(default_factory=dict)
    engines: dict[str, EngineCapability] = field(default_factory=dict)
    suspected: dict[str, float] = field(default_factory=dict)
    read_ahead: set[str] = field(default_factory=set)

    def turn(self, to: Presence, now: float) -> bool:
        """Change its presence; False, and nothing changes, where the table has no such move."""
        if to not in TRANSITIONS[self.presence]:
            return False
        self.presence, self.since = to, now
        return True

    def note_models(self, models: Iterable[ResidentModel]) -> None:
        """What it has now."""
        self.residents = {one.model: one for one in models}
        self.near = tuple(name for name, one in self.residents.items() if one.tier in ("hot", "loading"))

    def replicas(self) -> list[str]:
        """The models that are hot here, loading or to be loaded.

        In a fixed order, so that a replay chooses as it was chosen.
        """
        if not self.ordered:
            return list(self.near)
        return [one for one in dict.fromkeys((*self.residents, *self.ordered)) if self.replica_engine(one)]

    def tier(self, model: str, spec: str) -> Tier:
        """Where this spec of the model is here; a load that was ordered counts as loading."""
        resident = self.residents.get(model)
        if resident is not None and resident.spec != spec:
            resident = None
        if resident is not None and (resident.tier == "loading" or self.hot(model) is not None):
            return resident.tier
        order = self.ordered.get(model)
        if order is not None and order.spec == spec:
            return "loading"
        if resident is None:
            return "cold"
        return "parked" if resident.tier == "hot" else resident.tier

    def hot(self, model: str) -> ResidentModel | None:
        """The model as it is hot here; None where it is not, or has to go for a load that was ordered."""
        resident = self.residents.get(model)
        if resident is None or resident.tier != "hot":
            return None
        if self.ordered and any(model in order.evict for order in self.ordered.values()):
            return None
        return resident

    def replica_engine(self, model: str) -> str | None:
        """The engine that runs this model here, or None where it is neither hot nor loading."""
        resident = self.residents.get(model)
        if resident is not None and (resident.tier == "loading" or self.hot(model) is not None):
            return resident.engine
        order = self.ordered.get(model)
        return order.engine if order is not None else None

    def capability(self, engine: str) -> EngineCapability | None:
        """What it says of an engine; None while it has none of this name, such as between two runners."""
        return self.facts.engines.get(engine)

    def can_run(self, model: str, spec: Spec) -> bool:
        """Whether this worker could run the spec as it is now: engine, profile and memory."""
        return spec.engine in self.facts.engines and self.could_run(model, spec)

    def could_run(self, model: str, spec: Spec) -> bool:
        """Whether this worker could ever run the spec: the engines of one that starts its runner are
        coming.
        """
        facts = self.facts
        capability = self.engines.get(spec.engine)
        return (
            capability is not None
            and (not capability.models or model in capability.models)
            and (not spec.profile or spec.profile == facts.profile)
            and (not facts.spec or facts.spec == f"{model}/{spec.name}")
            and fits_device(spec, facts.device)
            and memory_needed_bytes(spec) <= facts.memory_total_bytes
        )

    def trust_new_runners(self) -> None:
        """Where the runner of an engine is away, the next one is another: nothing is suspected of that."""
        facts = self.facts
        if not facts.engines:
            self.suspected.clear()
        for resident in facts.models if facts.coming and self.suspected else ():
            if resident.engine in facts.coming:
                self.suspected.pop(resident.model, None)

    @property
    def is_open(self) -> bool:
        """Whether it may be given jobs and loads."""
        return self.presence != "away" and not (self.facts.is_draining or self.facts.is_leaving)

    def lane(self, model: str, engine: str) -> str:
        capability = self.capability(engine)
        return f"lane:{capability.lane}" if capability is not None and capability.lane else model

    def engine_slots(self, engine: str) -> int:
        """Jobs at a time of an engine, at least one."""
        capability = self.capability(engine)
        return max(capability.slots, 1) if capability is not None else 1

    def burden(self, model: str, engine: str) -> int:
        """Jobs in the lane that a job of this model would join, and those that are meant for it."""
        return self.lane_burden(self.lane(model, engine))

    def lane_burden(self, lane: str) -> int:
        """Jobs in a lane, and those that are meant for it."""
        return self.lane_load(lane) + self.planned.get(lane, 0)

    def lane_load(self, name: str) -> int:
        lane = self.lanes.get(name)
        return lane.jobs if lane is not None else 0

    def slots(self, spec: Spec) -> int:
        """Jobs at a time; 0 while the engine is not there."""
        capability = self.capability(spec.engine)
        return (spec.slots or capability.slots) if capability is not None else 0

    def load(self, model: str, engine: str) -> int:
        """Jobs in the lane that a job of this model would join."""
        return self.lane_load(self.lane(model, engine))

    def has_room(self, model: str, spec: Spec, batch: int = 1) -> bool:
        """Whether one more job may be sent here now, the prefetch included. batch: so many are drawn as one."""
        capability = self.capability(spec.engine)
        if capability is None:
            return False
        limit = self.slots(spec) + capability.prefetch
        return self.load(model, spec.engine) < (limit if batch == 1 else max(limit, 2 * batch))

    @property
    def is_loading(self) -> bool:
        """Whether a load is under way, or ordered: a second one would only slow it down."""
        return bool(self.ordered) or any(one.tier == "loading" for one in self.residents.values())

    @property
    def kind(self) -> Kind:
        """What decides which specs it could ever run."""
        facts = self.facts
        engines = tuple(sorted(self.engines.items(), key=lambda one: one[0]))
        return (engines, facts.profile, facts.spec, facts.device, facts.memory_total_bytes)

    def is_doubtful(self, model: str) -> bool:
        """Whether another worker is better for a model: a run of it does not go on here, or it is silent."""
        return model in self.suspected or self.presence != "present"


def newly_failed(before: Heartbeat, after: Heartbeat) -> set[str]:
    """Models whose load has failed between two heartbeats; a worker of an early version does not count them."""
    if after.load_failures is None:
        return after.failed_loads.keys() - before.failed_loads.keys()
    known = before.load_failures or {}
    return {model for model, count in after.load_failures.items() if count > known.get(model, 0)}


def newly_hot(before: Sequence[ResidentModel], after: Sequence[ResidentModel]) -> list[ResidentModel]:
    """Models that are hot in a heartbeat and were not so in the one before."""
    if after is before:
        return []
    known = {one.model: one for one in before}
    return [one for one in after if one.tier == "hot" and known.get(one.model) != one]

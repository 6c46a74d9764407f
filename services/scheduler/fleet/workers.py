"""The workers as the scheduler knows them: what they said in heartbeats, and what it gave them since.

A worker is `present` while it speaks. One that said nothing for a while is `silent`: it is asked whether it is
there. One of which the server says that nobody listens is `away`: it gets nothing new, and keeps what it has
for a moment, since a short disconnection looks like that. Then it is gone, and its jobs move on; one that says
goodbye has left, which is nobody's fault. Gone and left workers are not in the books.

    present ──▶ silent ──▶ away        a heartbeat: back to present, from anywhere
       └───────────────────▶┘

Assigning takes the slot here and now, not when the worker says so. For each model an index of its replicas by
load keeps choosing the least loaded at O(1) however many workers there are.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from schemas.catalog import Spec, batch_limit, fits_device, memory_needed_bytes
from schemas.workers import EngineCapability, Heartbeat, ResidentModel, Tier

LOAD_BELIEVED_S = 3.0
"""How long a load that was ordered counts as under way though no heartbeat shows it."""

Presence = Literal["present", "silent", "away"]
TRANSITIONS: dict[Presence, frozenset[Presence]] = {
    "present": frozenset({"silent", "away"}),
    "silent": frozenset({"present", "away"}),
    "away": frozenset({"present"}),
}


@dataclass(slots=True)
class Held:
    """A slot that a job takes up. run_s: how long it is predicted to, from `since`, load_s included."""

    job: str
    model: str
    spec: str
    lane: str
    attempt: int
    since: float
    run_s: float = 0.0
    load_s: float = 0.0


@dataclass(slots=True)
class OrderedLoad:
    """A load that a worker was told to start, until its heartbeat shows it."""

    spec: str
    engine: str
    at: float


@dataclass(slots=True)
class Worker:
    """One worker. `lanes` counts held jobs by lane: the one that the engine names, else the model.

    engines: what it last said that it has; a worker whose runner is being started names none for the moment.
    presence, since: its state and when that began. revoked: attempts that it was told to drop, and when, until
    its heartbeats no longer mention them. suspected: models of which a run does not go on here, and since when
    that was seen last.
    """

    id: str
    facts: Heartbeat
    seen_at: float
    presence: Presence = "present"
    since: float = 0.0
    held: dict[str, Held] = field(default_factory=dict)
    lanes: dict[str, int] = field(default_factory=dict)
    residents: dict[str, ResidentModel] = field(default_factory=dict)
    ordered: dict[str, OrderedLoad] = field(default_factory=dict)
    revoked: dict[tuple[str, int], float] = field(default_factory=dict)
    engines: dict[str, EngineCapability] = field(default_factory=dict)
    reserved_for: str = ""
    suspected: dict[str, float] = field(default_factory=dict)

    def turn(self, to: Presence, now: float) -> bool:
        """Change its presence; False, and nothing changes, where the table has no such move."""
        if to not in TRANSITIONS[self.presence]:
            return False
        self.presence, self.since = to, now
        return True

    def tier(self, model: str, spec: str) -> Tier:
        """Where this spec of the model is here; a load that was ordered counts as loading."""
        resident = self.residents.get(model)
        if resident is not None and resident.spec == spec and resident.tier in ("hot", "loading"):
            return resident.tier
        order = self.ordered.get(model)
        if order is not None and order.spec == spec:
            return "loading"
        return resident.tier if resident is not None and resident.spec == spec else "cold"

    def replica_engine(self, model: str) -> str | None:
        """The engine that runs this model here, or None where it is neither hot nor loading."""
        resident = self.residents.get(model)
        if resident is not None and resident.tier in ("hot", "loading"):
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
        """Whether this worker could ever run the spec: the engines of one that starts its runner are coming."""
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

    @property
    def is_open(self) -> bool:
        """Whether it may be given jobs and loads."""
        return self.presence != "away" and not (self.facts.is_draining or self.facts.is_leaving)

    def lane(self, model: str, engine: str) -> str:
        capability = self.capability(engine)
        return f"lane:{capability.lane}" if capability is not None and capability.lane else model

    def slots(self, spec: Spec) -> int:
        """Jobs at a time; 0 while the engine is not there."""
        capability = self.capability(spec.engine)
        return (spec.slots or capability.slots) if capability is not None else 0

    def load(self, model: str, engine: str) -> int:
        """Jobs in the lane that a job of this model would join."""
        return self.lanes.get(self.lane(model, engine), 0)

    def has_room(self, model: str, spec: Spec) -> bool:
        """Whether one more job may be sent here now, the prefetch included."""
        capability = self.capability(spec.engine)
        if capability is None:
            return False
        limit = self.slots(spec) + capability.prefetch
        return self.load(model, spec.engine) < max(limit, 2 * batch_limit(spec))

    def in_use(self, model: str) -> bool:
        return any(held.model == model for held in self.held.values())


class Replicas:
    """The workers on which one model is hot or loading, by load."""

    def __init__(self) -> None:
        self._by_load: list[dict[str, Worker]] = [{}]
        self._load_of: dict[str, int] = {}
        self._lowest = 0

    def __len__(self) -> int:
        return len(self._load_of)

    def __contains__(self, worker: str) -> bool:
        return worker in self._load_of

    def put(self, worker: Worker, load: int) -> None:
        self.drop(worker.id)
        while len(self._by_load) <= load:
            self._by_load.append({})
        self._by_load[load][worker.id] = worker
        self._load_of[worker.id] = load
        self._lowest = min(self._lowest, load)

    def drop(self, worker: str) -> None:
        load = self._load_of.pop(worker, None)
        if load is not None:
            del self._by_load[load][worker]

    def by_load(self) -> Iterator[Worker]:
        """Least loaded first. Do not change the index while iterating."""
        while self._lowest < len(self._by_load) - 1 and not self._by_load[self._lowest]:
            self._lowest += 1
        for bucket in self._by_load[self._lowest :]:
            yield from bucket.values()


_NO_REPLICAS = Replicas()


class Fleet:
    """All workers, and the replicas of each model."""

    def __init__(self) -> None:
        self.workers: dict[str, Worker] = {}
        self._replicas: dict[str, Replicas] = {}

    def replicas(self, model: str) -> Replicas:
        """The replicas of a model; to be read only."""
        return self._replicas.get(model, _NO_REPLICAS)

    def update(self, heartbeat: Heartbeat, now: float) -> Worker | None:
        """Take in a heartbeat; None when it is older than one already seen."""
        worker = self.workers.get(heartbeat.worker)
        if worker is None:
            worker = self.workers[heartbeat.worker] = Worker(heartbeat.worker, heartbeat, now, since=now)
        else:
            known = worker.facts
            if (heartbeat.started_at, heartbeat.seq) <= (known.started_at, known.seq):
                return None
            worker.facts = heartbeat
            worker.seen_at = now
        worker.turn("present", now)
        if not heartbeat.engines:
            worker.suspected.clear()  # its runner has ended: the next one is another
        worker.engines = heartbeat.engines or worker.engines
        before = [model for model in self._models_of(worker) if worker.replica_engine(model)]
        worker.residents = {resident.model: resident for resident in heartbeat.models}
        for model, order in list(worker.ordered.items()):
            resident = worker.residents.get(model)
            is_there = resident is not None and resident.tier in ("hot", "loading")
            if is_there or model in heartbeat.failed_loads or now - order.at > LOAD_BELIEVED_S:
                del worker.ordered[model]
        after = [model for model in self._models_of(worker) if worker.replica_engine(model)]
        for model in (*before, *after):
            if (model in before) != (model in after):
                self._reindex(worker, model)
        return worker

    @staticmethod
    def _models_of(worker: Worker) -> list[str]:
        """In a fixed order, so that a replay chooses as it was chosen."""
        return list(dict.fromkeys((*worker.residents, *worker.ordered)))

    def remove(self, worker: str) -> Worker | None:
        for model in list(self._replicas):
            self._drop(model, worker)
        return self.workers.pop(worker, None)

    def _drop(self, model: str, worker: str) -> None:
        replicas = self._replicas.get(model)
        if replicas is not None:
            replicas.drop(worker)
            if not len(replicas):
                del self._replicas[model]

    def order_load(self, worker: Worker, model: str, spec: Spec, now: float) -> None:
        """Remember that the worker was told to load this model."""
        worker.ordered[model] = OrderedLoad(spec.name, spec.engine, now)
        self._reindex(worker, model)

    def doubt_load(self, worker: Worker, model: str) -> None:
        """A job was not taken there: the load that it would have caused may never happen."""
        if model in worker.ordered and not worker.in_use(model):
            del worker.ordered[model]
            self._reindex(worker, model)

    def hold(self, worker: Worker, held: Held) -> None:
        worker.held[held.job] = held
        worker.lanes[held.lane] = worker.lanes.get(held.lane, 0) + 1
        self._reindex_lane(worker, held)

    def release(self, worker: Worker, job: str) -> Held | None:
        held = worker.held.pop(job, None)
        if held is not None:
            worker.lanes[held.lane] -= 1
            if not worker.lanes[held.lane]:
                del worker.lanes[held.lane]
            self._reindex_lane(worker, held)
        return held

    def _reindex_lane(self, worker: Worker, held: Held) -> None:
        if held.lane == held.model:
            self._reindex(worker, held.model)
        else:
            for model in self._models_of(worker):
                self._reindex(worker, model)

    def _reindex(self, worker: Worker, model: str) -> None:
        engine = worker.replica_engine(model)
        if engine is None:
            self._drop(model, worker.id)
            return
        replicas = self._replicas.get(model)
        if replicas is None:
            replicas = self._replicas[model] = Replicas()
        replicas.put(worker, worker.load(model, engine))

    def validate(self, holders: Mapping[str, str]) -> None:
        """Raise AssertionError where counts, index and slots disagree. holders: the worker of each live job."""
        for worker in self.workers.values():
            lanes: dict[str, int] = {}
            for held in worker.held.values():
                assert holders.get(held.job) == worker.id, (
                    f"{worker.id} holds {held.job}, the books do not say so"
                )
                lanes[held.lane] = lanes.get(held.lane, 0) + 1
            assert worker.lanes == lanes, f"{worker.id}: lanes {worker.lanes}, held {lanes}"
        for model, replicas in self._replicas.items():
            listed = {worker.id for worker in replicas.by_load()}
            there = {name for name, worker in self.workers.items() if worker.replica_engine(model)}
            assert listed == there, f"replicas of {model}: listed {listed}, there {there}"

"""Where a job runs best: the least predicted wait + load + run, evictions charged.

For every worker that can run a job the terms are (design, section 4):

- wait: until a slot of its lane is free, from what runs there and for how long already;
- load: 0 for hot, else learned or estimated from the tier (estimates.py);
- eviction: what reloading the victims is expected to cost, by the demand for each;
- run: learned for the spec, times the size of the work.

Ties go hot, then loading, parked, warm, cold, then to the least loaded. Pure: no clock, no randomness.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from schemas.catalog import Model, Spec, fits_device, memory_needed_bytes
from schemas.fleet import Candidate
from schemas.jobs import Job
from schemas.workers import ResidentModel, Tier
from services.scheduler.fleet.estimates import Estimates
from services.scheduler.fleet.workers import Worker

TIER_ORDER: dict[Tier, int] = {"hot": 0, "loading": 1, "base": 2, "parked": 3, "warm": 4, "cold": 5}
BUSY_EVICTION_S = 1e6
"""Charged where room could be made only by evicting a model in use: never chosen, still explained."""

Demand = Callable[[str], float]
"""Expected need of a model soon, 0 (nobody asks for it) to 1 (it is waited for)."""


@dataclass(frozen=True, slots=True)
class Option:
    """One worker with one spec, and its predicted terms in seconds."""

    worker: Worker
    spec: Spec
    tier: Tier
    wait_s: float
    load_s: float
    eviction_s: float
    run_s: float

    @property
    def total_s(self) -> float:
        return self.wait_s + self.load_s + self.eviction_s + self.run_s

    @property
    def is_possible_now(self) -> bool:
        return self.eviction_s < BUSY_EVICTION_S

    def candidate(self, verdict: str) -> Candidate:
        """As it is shown by `explain`."""
        return Candidate(
            worker=self.worker.id,
            spec=self.spec.name,
            tier=self.tier,
            wait_s=round(self.wait_s, 4),
            load_s=round(self.load_s, 4),
            run_s=round(self.run_s, 4),
            eviction_s=round(self.eviction_s, 4) if self.is_possible_now else 0.0,
            verdict=verdict if self.is_possible_now else "no room: everything loaded is in use",
        )


def wait_s(worker: Worker, model: str, spec: Spec, estimates: Estimates, now: float) -> float:
    """Seconds until the worker has a free slot for the model."""
    slots = worker.slots(spec)
    load = worker.load(model, spec.engine)
    if load < slots or not slots:
        return 0.0
    lane = worker.lane(model, spec.engine)
    ahead = [held for held in worker.held.values() if held.lane == lane]
    remaining = sorted(max(held.run_s - (now - held.since), 0.0) for held in ahead)
    first = remaining[0] if remaining else 0.0
    surplus = load - slots
    mean_run_s = sum(held.run_s for held in ahead) / max(len(ahead), 1)
    return first + surplus * mean_run_s / slots


def evictable(worker: Worker, demand: Demand) -> list[ResidentModel]:
    """Loaded models that are not in use, the least needed first; of equals the largest."""
    used = {held.model for held in worker.held.values()}
    residents = worker.residents.values()
    pinned = {resident.weights or resident.model for resident in residents if resident.model in used}
    idle = [
        resident
        for resident in residents
        if resident.tier in ("hot", "base") and (resident.weights or resident.model) not in pinned
    ]
    idle.sort(key=lambda resident: (demand(resident.model), -resident.memory_bytes))
    return idle


def victims(worker: Worker, needed_bytes: int, demand: Demand) -> list[ResidentModel] | None:
    """Which loaded models would make room.

    None: not even evicting everything that is idle would make room.
    """
    facts = worker.facts
    free = facts.memory_total_bytes - facts.memory_used_bytes
    if free >= needed_bytes:
        return []
    chosen: list[ResidentModel] = []
    freed: set[str] = set()
    for resident in evictable(worker, demand):
        chosen.append(resident)
        weights = resident.weights or resident.model
        free += resident.memory_bytes if weights not in freed else 0
        freed.add(weights)
        if free >= needed_bytes:
            return chosen
    return None


def eviction_s(
    worker: Worker, model: str, spec: Spec, tier: Tier, estimates: Estimates, demand: Demand
) -> float:
    """The expected cost of making room, seconds."""
    if tier in ("hot", "loading", "base"):
        return 0.0
    chosen = victims(worker, memory_needed_bytes(spec), demand)
    if chosen is None:
        return BUSY_EVICTION_S
    cost = 0.0
    for resident in chosen:
        reload = Spec(
            name=resident.spec,
            engine=resident.engine,
            url="",
            memory_bytes=resident.memory_bytes,
        )
        cost += demand(resident.model) * estimates.load_s(resident.model, reload, "warm")
    return cost


def option(
    worker: Worker,
    model: str,
    spec: Spec,
    units: float,
    estimates: Estimates,
    demand: Demand,
    now: float,
) -> Option:
    """The terms of running a job of `units` on this worker."""
    tier = worker.tier(model, spec.name)
    load_s = estimates.load_s(model, spec, tier)
    if tier == "loading":
        order = worker.ordered.get(model)
        began_at = order.at if order is not None else now
        load_s = max(estimates.load_s(model, spec, "warm") - (now - began_at), 0.0)
    return Option(
        worker=worker,
        spec=spec,
        tier=tier,
        wait_s=wait_s(worker, model, spec, estimates, now),
        load_s=load_s,
        eviction_s=eviction_s(worker, model, spec, tier, estimates, demand),
        run_s=estimates.run_s(model, spec.name, units),
    )


def rank(
    workers: Iterable[Worker],
    model: Model,
    adapter: str,
    units: float,
    estimates: Estimates,
    demand: Demand,
    now: float,
) -> list[Option]:
    """Every worker that can run the model, best first."""
    options = [
        option(worker, model.name, spec, units, estimates, demand, now)
        for worker in workers
        if worker.is_open
        for spec in model.specs
        if worker.can_run(model.name, spec) and has_adapter(spec, adapter)
    ]
    options.sort(
        key=lambda found: (
            round(found.total_s, 4),
            TIER_ORDER[found.tier],
            found.worker.load(model.name, found.spec.engine),
            len(found.worker.held),
            found.worker.facts.memory_used_bytes,
            found.worker.id,
        )
    )
    return options


def has_adapter(spec: Spec, adapter: str) -> bool:
    return not adapter or any(declared.name == adapter for declared in spec.adapters)


def why_never(job: Job, model: Model | None) -> str:
    """Why a job can never run though its model could; "" when it can."""
    if model is None:
        return f"there is no model {job.model!r}"
    if any(has_adapter(spec, job.adapter) for spec in model.specs):
        return ""
    return f"the model {model.name!r} has no adapter {job.adapter!r}"


def why_impossible(workers: Iterable[Worker], model: Model) -> str:
    """What every worker lacks for every spec of the model, in words; "" when one could run it."""
    reasons: list[str] = []
    for spec in model.specs:
        if spec.launcher:
            return ""
        needed = memory_needed_bytes(spec)
        having = [worker for worker in workers if spec.engine in worker.engines]
        if any(worker.could_run(model.name, spec) for worker in having):
            return ""
        if not having:
            reasons.append(f"spec {spec.name}: no worker has the engine {spec.engine}")
        elif spec.profile and all(worker.facts.profile != spec.profile for worker in having):
            reasons.append(f"spec {spec.name}: no worker has the profile {spec.profile}")
        elif not any(fits_device(spec, worker.facts.device) for worker in having):
            reasons.append(f"spec {spec.name}: it needs a GPU and no worker has one")
        else:
            most = max(worker.facts.memory_total_bytes for worker in having)
            reasons.append(
                f"spec {spec.name}: it needs {needed / 1e6:.0f} MB of memory and the largest "
                f"worker has {most / 1e6:.0f} MB"
            )
    return "; ".join(reasons)

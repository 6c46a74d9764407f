"""Where a job runs best: the least predicted wait + load + run, evictions charged.

For every worker that can run a job the terms are (design, section 4):

- wait: until its turn in the lane, from what runs there and what is meant for it already (plan.py);
- load: 0 for hot, else learned or estimated from the tier (estimates.py), after the loads that are owed
  there;
  a load into free memory counts half, since it harms nobody and serves those who come after;
- eviction: what reloading the victims is expected to cost, by how often they were asked for and how
  many copies
  of them there are; and more where a victim is in use;
- run: learned for the spec, times the size of the work.

Ties go hot, then loading, base, parked, warm, cold, then to the least burdened. Pure: no clock, no
randomness.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from stoker.schemas.catalog import Model, Spec, fits_device, memory_needed_bytes, weights_key
from stoker.schemas.jobs import Job
from stoker.schemas.workers import ResidentModel, Tier
from stoker.services.scheduler.fleet.estimates import Estimates
from stoker.services.scheduler.fleet.worker import Worker
from stoker.services.scheduler.fleet.workers import Fleet
from stoker.services.scheduler.jobs.ledger import Ledger
from stoker.services.scheduler.jobs.queues import HEAT_S
from stoker.services.scheduler.placing.option import TIER_ORDER, Option
from stoker.services.scheduler.placing.plan import Plan

IN_USE_S = 6.0
"""Charged where room can be made only when something ends that runs."""
FREE_LOAD_SHARE = 0.5
"""How much of a load counts that evicts nothing, or comes over the network, or lays LoRAs on hot weights."""
SPREAD_SHARE = 0.75
"""How much of a load that takes nobody's place counts to those who come while it is under way."""
RELOADS_CHARGED = 3.0
"""A reload keeps others waiting too: how many times over it is charged."""
MOST_RELOADS = 2.0
"""The most times that a victim is expected to be asked for soon."""


@dataclass(slots=True)
class Weights:
    """Weights in a worker's device memory, and the models that use them there."""

    key: str
    memory_bytes: int
    residents: list[ResidentModel]
    is_in_use: bool = False
    jobs: int = 0
    """Jobs that wait and are meant for these weights here."""


class Predictor:
    """Predicts the terms from the books. `models`: the catalog."""

    def __init__(self, ledger: Ledger, fleet: Fleet, estimates: Estimates, plan: Plan) -> None:
        self.ledger = ledger
        self.fleet = fleet
        self.estimates = estimates
        self.plan = plan
        self._sharing: dict[str, set[str]] = {}
        """Models by the key of their weights."""

    def note_model(self, name: str, before: Model | None, after: Model | None) -> None:
        """The catalog has changed: which models share weights."""
        for spec in before.specs if before is not None else ():
            sharing = self._sharing.get(weights_key(name, spec), set())
            sharing.discard(name)
            if not sharing:
                self._sharing.pop(weights_key(name, spec), None)
        for spec in after.specs if after is not None else ():
            self._sharing.setdefault(weights_key(name, spec), set()).add(name)

    # What is there --------------------------------------------------------------------------------

    def mean_run_s(self, model: str, spec: str) -> float:
        """Seconds that the waiting jobs of a model take each; of a batch their part."""
        queue = self.ledger.queues.get(model)
        if queue is None or not len(queue.waiting):
            return self.estimates.run_s(model, spec, 1.0)
        count = len(queue.waiting)
        return queue.waiting.seconds / count * self.estimates.share(model, spec, count)

    def wait_s(self, worker: Worker, lane: str, slots: int, now: float) -> float:
        """Seconds until a job that joins the lane now has a slot."""
        if worker.lane_burden(lane) < slots:
            return 0.0
        return (self.held_s(worker, lane, now) + self.planned_s(worker, lane)) / max(slots, 1)

    @staticmethod
    def held_s(worker: Worker, name: str, now: float) -> float:
        """Seconds of work that a lane has."""
        lane = worker.lanes.get(name)
        return lane.work_s(now) if lane is not None else 0.0

    def planned_s(self, worker: Worker, lane: str) -> float:
        """Seconds of work that wait and are meant for the lane."""
        if not worker.planned.get(lane):
            return 0.0
        lots = self.plan.on(worker.id).lots.values()
        return sum(one.jobs * self.mean_run_s(one.model, one.spec.name) for one in lots if one.lane == lane)

    def meanwhile_s(self, worker: Worker, lane: str, now: float) -> float:
        """Seconds of work that the lane has for what is hot there: it goes on while something is loaded."""
        lots = self.plan.on(worker.id).lots.values() if worker.planned.get(lane) else ()
        return self.held_s(worker, lane, now) + sum(
            one.jobs * self.mean_run_s(one.model, one.spec.name)
            for one in lots
            if one.lane == lane and worker.tier(one.model, one.spec.name) == "hot"
        )

    def owed_s(self, worker: Worker, but: str, now: float) -> float:
        """Seconds of loads that the worker has to do for what is planned on it, but for one model."""
        intent = self.plan.on(worker.id)
        if not intent.lots:
            return 0.0
        if intent.owed is None or intent.owed[0] != now:  # a look at all queues asks this for each
            intent.owed = now, sum(self.load_s(worker, one.model, one.spec) for one in intent.lots.values())
        own = intent.lots.get(but)
        own_s = self.load_s(worker, own.model, own.spec) if own is not None else 0.0
        return max(intent.owed[1] - own_s, 0.0)

    def load_s(self, worker: Worker, model: str, spec: Spec, now: float | None = None) -> float:
        """Seconds until the model is hot, by itself; less what a load under way has done by now."""
        tier = worker.tier(model, spec.name)
        if tier != "loading":
            return self.estimates.load_s(model, spec, tier)
        order = worker.ordered.get(model)
        if order is None:
            return self.estimates.load_s(model, spec, "warm")
        whole_s = self.estimates.load_s(model, spec, order.tier)
        return max(whole_s - (now - order.at), 0.0) if now is not None else whole_s

    def left_s(self, worker: Worker, model: str, now: float) -> float:
        """Seconds that a load which was ordered still takes; one that is overdue as long again as until now."""
        order = worker.ordered[model]
        spec = Spec(order.spec, order.engine, "", memory_bytes=worker.residents[model].memory_bytes)
        whole_s, past_s = self.estimates.load_s(model, spec, order.tier), now - order.at
        return whole_s - past_s if past_s < whole_s else past_s

    def reload_s(self, worker: Worker, one: ResidentModel) -> float:
        """Seconds to bring an evicted model back: from RAM, where the worker keeps weights there."""
        tier: Tier = "parked" if worker.facts.ram_total_bytes >= one.memory_bytes else "warm"
        spec = Spec(one.spec, one.engine, "", memory_bytes=one.memory_bytes)
        return self.estimates.load_s(one.model, spec, tier)

    def heat(self, weights: str, model: str, now: float) -> float:
        """Requests that may be expected soon for a copy of the weights."""
        names = self._sharing.get(weights) or {model}
        heat = sum(queue.heat(now) for name in names if (queue := self.ledger.queues.get(name)) is not None)
        return heat / max(self.fleet.copies(weights), 1)

    # Making room ----------------------------------------------------------------------------------

    def in_memory(self, worker: Worker) -> list[Weights]:
        """What is in the worker's device memory, loads under way not included."""
        found: dict[str, Weights] = {}
        lots = self.plan.on(worker.id).lots
        for one in worker.residents.values():
            if one.tier not in ("hot", "base"):
                continue
            key = one.weights or one.model
            weights = found.get(key)
            if weights is None:
                weights = found[key] = Weights(key, one.memory_bytes, [])
            weights.residents.append(one)
            weights.is_in_use |= one.model in worker.busy
            lot = lots.get(one.model)
            weights.jobs += lot.jobs if lot is not None else 0
        return list(found.values())

    def needed_bytes(self, worker: Worker, model: str, spec: Spec) -> int:
        """What its weights take on this worker: as measured there, else as where they were loaded last, else as
        estimated. What took more than this worker has is served here in all of it.
        """
        resident = worker.residents.get(model)
        if resident is not None and resident.spec == spec.name and resident.load_s is not None:
            measured = resident.memory_bytes
        else:
            measured = self.estimates.measured_bytes(model, spec)
        return min(measured, worker.facts.memory_total_bytes) or memory_needed_bytes(spec)

    def missing_bytes(self, worker: Worker, needed: int) -> int:
        return needed - (worker.facts.memory_total_bytes - worker.facts.memory_used_bytes)

    def worth_s(self, worker: Worker, one: Weights, now: float) -> float:
        """What evicting the weights is expected to cost, seconds."""
        first = one.residents[0]
        times = min(self.heat(one.key, first.model, now), MOST_RELOADS)
        return RELOADS_CHARGED * times * self.reload_s(worker, first)

    def victims(self, worker: Worker, needed: int, pool: list[Weights], now: float) -> list[Weights] | None:
        """The least worth of the pool that make room; None where all of it would not."""
        missing = self.missing_bytes(worker, needed)
        if missing <= 0:
            return []

        def price(one: Weights) -> tuple[bool, float]:
            work_s = sum(
                lot.jobs * self.mean_run_s(lot.model, lot.spec.name)
                for resident in one.residents
                if (lot := self.plan.on(worker.id).lots.get(resident.model)) is not None
            )
            return one.jobs > 0, (work_s + self.worth_s(worker, one, now)) / max(one.memory_bytes, 1)

        chosen: list[Weights] = []
        for one in sorted(pool, key=price):
            chosen.append(one)
            missing -= one.memory_bytes
            if missing <= 0:
                return _without_surplus(chosen, -missing)
        return None

    def room_s(self, worker: Worker, model: str, spec: Spec, now: float) -> float:
        """Seconds until there is memory for a model. Where all that is in the way has work, all that is meant
        for the worker comes before, as much at a time as the memory holds.
        """
        missing = self.missing_bytes(worker, self.needed_bytes(worker, model, spec))
        if missing <= 0:
            return 0.0
        weights = self.in_memory(worker)
        if missing <= sum(one.memory_bytes for one in weights if not (one.jobs or one.is_in_use)):
            return 0.0
        lots = list(self.plan.on(worker.id).lots.values())
        slots = {lane: 1 for lane in worker.lanes}
        slots |= {one.lane: max(worker.slots(one.spec), 1) for one in lots}
        work_s = sum(self.held_s(worker, lane, now) / count for lane, count in slots.items())
        work_s += sum(
            one.jobs * self.mean_run_s(one.model, one.spec.name) / max(slots[one.lane], 1) for one in lots
        )
        each = sum(one.memory_bytes for one in weights) / max(len(weights), 1)
        at_a_time = max(int(worker.facts.memory_total_bytes / max(each, 1.0)), 1)
        return work_s / at_a_time

    def eviction_s(self, worker: Worker, model: str, spec: Spec, now: float) -> tuple[float, bool]:
        """The expected cost of making room, seconds; and whether anything has to go for it."""
        needed = self.needed_bytes(worker, model, spec)
        if self.missing_bytes(worker, needed) <= 0:
            return 0.0, False
        idle = [one for one in self.in_memory(worker) if not one.is_in_use]
        chosen = self.victims(worker, needed, idle, now)
        if chosen is None:
            return IN_USE_S, True
        cost = 0.0
        for one in chosen:
            cost += self.worth_s(worker, one, now)
            cost += self.reload_s(worker, one.residents[0]) if one.jobs else 0.0
        return cost, True

    # Together -------------------------------------------------------------------------------------

    def option(self, worker: Worker, model: str, spec: Spec, units: float, now: float) -> Option:
        """The terms of running one more job of `units` on this worker."""
        tier = worker.tier(model, spec.name)
        wait = self.wait_s(worker, worker.lane(model, spec.engine), worker.slots(spec), now)
        if tier not in ("hot", "loading", "base"):
            wait = max(wait, self.room_s(worker, model, spec, now))
        load, eviction = self._ready_s(worker, model, spec, tier, wait, now)
        run = self.estimates.run_s(model, spec.name, units)
        return Option(worker, spec, tier, wait, load, eviction, run)

    def _ready_s(
        self, worker: Worker, model: str, spec: Spec, tier: Tier, wait_s: float, now: float
    ) -> tuple[float, float]:
        """Load and eviction, as they are charged to one more job."""
        is_closing = model in self.plan.on(worker.id).closing
        if tier == "hot" and not is_closing:
            return 0.0, 0.0
        load = self.load_s(worker, model, spec, now)
        if tier == "hot":
            resident = worker.residents[model]
            return self.reload_s(worker, resident) + self.owed_s(worker, model, now), 0.0
        if tier == "loading" or model in self.plan.on(worker.id).lots:
            if self._displaces(worker, model, spec):
                return max(FREE_LOAD_SHARE * load - wait_s, 0.0), 0.0
            lane = worker.lane(model, spec.engine)
            meanwhile_s = self.meanwhile_s(worker, lane, now) / max(worker.slots(spec), 1)
            return max(SPREAD_SHARE * load - meanwhile_s, 0.0), 0.0
        if tier == "base":
            return FREE_LOAD_SHARE * load, 0.0
        eviction, must_evict = self.eviction_s(worker, model, spec, now)
        share = 1.0 if must_evict else FREE_LOAD_SHARE
        if tier == "cold":
            share = self._download_share(model, spec, now)
        return share * load + self.owed_s(worker, model, now), eviction

    def _displaces(self, worker: Worker, model: str, spec: Spec) -> bool:
        """Whether a load that is under way, or meant to be, takes the place of others: more jobs should share
        it then, where a load into free memory is better made on one more worker.
        """
        order = worker.ordered.get(model)
        if order is not None:
            return bool(order.evict or order.evict_later)
        return self.missing_bytes(worker, self.needed_bytes(worker, model, spec)) > 0

    def _download_share(self, model: str, spec: Spec, now: float) -> float:
        """How much of a download counts: it serves those who come after too, where more are asked for than the
        workers that have the weights already can run.
        """
        queue = self.ledger.queues.get(model)
        busy = queue.heat(now) / HEAT_S * self.mean_run_s(model, spec.name) if queue is not None else 0.0
        having = max(self.fleet.holders(weights_key(model, spec)), 1)
        return 1.0 - (1.0 - FREE_LOAD_SHARE) * min(busy / having, 1.0)

    def rank(
        self, workers: Iterable[Worker], model: Model, adapter: str, units: float, now: float
    ) -> list[Option]:
        """Those of the workers that can run the model, best first."""
        options = [
            self.option(worker, model.name, spec, units, now)
            for worker in workers
            if worker.is_open
            for spec in model.specs
            if worker.can_run(model.name, spec) and has_adapter(spec, adapter)
        ]
        options.sort(
            key=lambda found: (
                round(found.total_s, 4),
                TIER_ORDER[found.tier],
                found.worker.burden(model.name, found.spec.engine),
                len(found.worker.held),
                found.worker.facts.memory_used_bytes,
                found.worker.id,
            )
        )
        return options


def _without_surplus(chosen: list[Weights], spare_bytes: int) -> list[Weights]:
    """Leave out victims that were taken before a larger one made them unnecessary."""
    kept: list[Weights] = []
    for one in chosen:
        if one.memory_bytes <= spare_bytes and one is not chosen[-1]:
            spare_bytes -= one.memory_bytes
        else:
            kept.append(one)
    return kept


def has_adapter(spec: Spec, adapter: str) -> bool:
    return not adapter or any(declared.name == adapter for declared in spec.adapters)


def why_never(job: Job, model: Model | None) -> str:
    """Why a job can never run though its model could; "" when it can."""
    if model is None:
        return f"the model {job.model!r} was removed from the catalog while the job waited"
    if any(has_adapter(spec, job.adapter) for spec in model.specs):
        return ""
    return f"the model {model.name!r} has no adapter {job.adapter!r}"


def why_impossible(fleet: Fleet, model: Model) -> str:
    """What every worker lacks for every spec of the model, in words; "" when one could run it.

    Workers of one kind lack the same: O(kinds).
    """
    kinds = [next(iter(workers.values())) for workers in fleet.kinds.values()]
    reasons: list[str] = []
    for spec in model.specs:
        if spec.launcher:
            return ""
        having = [worker for worker in kinds if spec.engine in worker.engines]
        if any(worker.could_run(model.name, spec) for worker in having):
            return ""
        reasons.append(_what_lacks(having, spec))
    return "; ".join(reasons)


def _what_lacks(having: list[Worker], spec: Spec) -> str:
    """What workers that have the engine of a spec lack for it."""
    if not having:
        return f"spec {spec.name}: no worker has the engine {spec.engine}"
    if spec.profile and all(worker.facts.profile != spec.profile for worker in having):
        return f"spec {spec.name}: no worker has the profile {spec.profile}"
    if not any(fits_device(spec, worker.facts.device) for worker in having):
        return f"spec {spec.name}: it needs a GPU and no worker has one"
    most = max(worker.facts.memory_total_bytes for worker in having)
    return (
        f"spec {spec.name}: it needs {memory_needed_bytes(spec) / 1e6:.0f} MB of memory and the largest "
        f"worker has {most / 1e6:.0f} MB"
    )

"""Placing: takes jobs from the queues to workers, and orders loads ahead of need.

Two paths. The quick one: a replica of the model is hot and has room, so the least loaded takes the next job;
O(1) in the number of workers. The slow one (`expand`, at most every `EXPAND_EVERY_S` per model): nothing hot
has room, so every worker is scored. Then

- with no replica anywhere, the next job itself goes to the best worker and loads the model there;
- with replicas, a load is ordered on the best other worker as soon as working off the queue takes longer
  than loading; the jobs stay in the queue, where priorities, cancels and better placements still count;
- a model that has waited for `STARVING_S` gets the best worker reserved: what runs there ends, and nothing
  new is sent before this model had its turn.
"""

from collections.abc import Iterator, Mapping
from functools import partial

from schemas.catalog import Model, Spec
from schemas.fleet import Explanation, PlatformEvent
from schemas.jobs import Job, work_units
from schemas.workers import Assignment
from services.bus.sizes import MAX_EVICTIONS
from services.scheduler.fleet.estimates import Estimates
from services.scheduler.fleet.workers import Fleet, Held, Worker
from services.scheduler.jobs.ledger import Ledger
from services.scheduler.jobs.queues import ModelQueue
from services.scheduler.jobs.record import Record as JobRecord
from services.scheduler.placing.balance import Balancer, Ready, is_plain
from services.scheduler.placing.placement import Option, evictable, has_adapter, option, rank
from services.scheduler.protocol.commands import Assign, Command, LoadOnWorker, Record

EXPAND_EVERY_S = 0.1
MAX_PASSED = 32
"""Jobs with needs of their own (an adapter, a worker to avoid) that others may pass in one look at a queue."""
EXPLAINED_CANDIDATES = 8
EXPLAINED_WHEN_HOT = 3
"""Candidates recorded for a job: of a full ranking, and of a quick placement."""
STARVING_S = 3.0
STARVING_LOADS = 4.0
"""A model starves after waiting this long, and this many times its own load time."""
DEMAND_HORIZON_S = 60.0


class Dispatcher:
    """Decides where queued jobs go. Shares the books and the fleet with the core."""

    def __init__(self, ledger: Ledger, fleet: Fleet, estimates: Estimates, term: int) -> None:
        self.ledger = ledger
        self.fleet = fleet
        self.estimates = estimates
        self.models: dict[str, Model] = {}
        self.term = term
        self._retired: set[str] = set()
        self._balancer = Balancer()

    def remove(self, name: str) -> None:
        """A model is gone from the catalog; one whose jobs brought their spec along stays until they ended."""
        if any(record.job.spec is not None for record in self.ledger.waiting(name)):
            self._retired.add(name)
        else:
            self.models.pop(name, None)

    def demand(self, model: str) -> float:
        """Expected need of a model within the horizon: 1 when it is waited for or used."""
        queue = self.ledger.queues.get(model)
        if queue is None:
            return 0.0
        if len(queue.waiting) or queue.running:
            return 1.0
        return min(queue.arrival_rate * DEMAND_HORIZON_S, 1.0)

    def dispatch(self, name: str, now: float) -> list[Command]:
        """Place as many waiting jobs of a model as have a good place now."""
        queue = self.ledger.queues.get(name)
        model = self.models.get(name)
        commands: list[Command] = []
        if queue is None or model is None:
            return commands
        specs = {spec.name: spec for spec in model.specs}
        choose = self._ready_replica if is_plain(model) else self._balanced_replica
        passed = 0
        for job in queue.waiting.in_order():
            record = self.ledger.records[job]
            found = choose(model, specs, record, now)
            if found is not None:
                commands.append(self._assign_hot(record, *found, now))
            elif not record.is_particular:
                break  # there is no room for anybody
            elif (passed := passed + 1) == MAX_PASSED:
                break
        if len(queue.waiting) and now >= queue.expand_at:
            queue.expand_at = now + EXPAND_EVERY_S
            commands += self._expand(model, queue, now)
        return commands

    def _avoids(self, record: JobRecord, worker: Worker, model: Model, now: float) -> bool:
        """Whether a job must not go to a worker: it was refused or failed there a moment ago, or lost there.

        Where it was lost it is tried again only when no other worker could run it.
        """
        if record.refused_lately(worker.id, now) or record.failed_lately(worker.id, now):
            return True
        if any(worker.id == other for other, _ in record.beside):
            return True
        if worker.id not in record.lost_on:
            return False
        return any(
            other.is_open
            and other.id not in record.lost_on
            and not record.failed_lately(other.id, now)
            and other.can_run(model.name, spec)
            for other in self.fleet.workers.values()
            for spec in model.specs
        )

    def has_another(self, record: JobRecord) -> bool:
        """Whether a worker on which the job has not failed yet could run it."""
        model = self.models.get(record.job.model)
        return model is not None and any(
            worker.is_open and worker.id not in record.failed_on and worker.could_run(model.name, spec)
            for worker in self.fleet.workers.values()
            for spec in model.specs
            if has_adapter(spec, record.job.adapter)
        )

    def _ready_replica(
        self, model: Model, specs: Mapping[str, Spec], record: JobRecord, now: float
    ) -> tuple[Worker, Spec] | None:
        """The least loaded replica with room; loading ones count only where none is hot, and one that is
        suspected only where no other has the model."""
        loading: tuple[Worker, Spec] | None = None
        suspected: tuple[Worker, Spec] | None = None
        has_hot = False
        for worker, spec, can_serve, is_hot in self._replicas(model, specs, record, now):
            if model.name in worker.suspected:
                suspected = suspected or ((worker, spec) if can_serve else None)
                continue
            has_hot = has_hot or is_hot
            if not can_serve:
                continue
            if is_hot:
                return worker, spec
            loading = loading or (worker, spec)
        return None if has_hot else loading or suspected

    def _balanced_replica(
        self, model: Model, specs: Mapping[str, Spec], record: JobRecord, now: float
    ) -> tuple[Worker, Spec] | None:
        """The replica that targets, standbys and prefixes say (balance.py); as above for loading ones."""
        hot: list[Ready] = []
        loading: list[Ready] = []
        suspected: list[Ready] = []
        for worker, spec, can_serve, is_hot in self._replicas(model, specs, record, now):
            is_suspected = model.name in worker.suspected
            (suspected if is_suspected else hot if is_hot else loading).append(Ready(worker, spec, can_serve))
        chosen = self._balancer.choose(model, record.job, hot or loading or suspected)
        return (chosen.worker, chosen.spec) if chosen is not None else None

    def _replicas(
        self, model: Model, specs: Mapping[str, Spec], record: JobRecord, now: float
    ) -> Iterator[tuple[Worker, Spec, bool, bool]]:
        """Replicas of the model, least loaded first: whether they may take the job now, and are hot."""
        name = model.name
        for worker in self.fleet.replicas(name).by_load():
            resident = worker.residents.get(name)
            is_hot = resident is not None and resident.tier == "hot"
            holder = resident if is_hot else worker.ordered.get(name) or resident
            spec = specs.get(holder.spec) if holder is not None else None
            if spec is None or not worker.is_open or not has_adapter(spec, record.job.adapter):
                continue
            usable = worker.reserved_for in ("", name) and not self._avoids(record, worker, model, now)
            yield worker, spec, usable and worker.has_room(name, spec), is_hot

    def beside(self, record: JobRecord, now: float) -> list[Command]:
        """Give a job that runs to another replica too, which has a slot free; nothing where there is none."""
        model = self.models.get(record.job.model)
        if model is None:
            return []
        specs = {spec.name: spec for spec in model.specs}
        for worker, spec, can_serve, is_hot in self._replicas(model, specs, record, now):
            is_free = can_serve and is_hot and worker.load(model.name, spec.engine) < worker.slots(spec)
            if is_free and worker.id != record.worker and model.name not in worker.suspected:
                record.beside.append((record.worker, record.attempt))
                self.ledger.move(record, "waiting", now)
                return [self._assign_hot(record, worker, spec, now)]
        return []

    def _assign_hot(self, record: JobRecord, worker: Worker, spec: Spec, now: float) -> Command:
        units = work_units(record.job.input)
        model = record.job.model
        chosen = option(worker, model, spec, units, self.estimates, self.demand, now)
        others: list[Option] = []
        for other in self.fleet.workers.values():
            if other is not worker and other.is_open and other.can_run(model, spec):
                others.append(option(other, model, spec, units, self.estimates, self.demand, now))
                if len(others) == EXPLAINED_WHEN_HOT:
                    break
        reason = "hot here, least loaded" if chosen.tier == "hot" else "being loaded here already"
        return self._assign(record, chosen, others, reason, now)

    def _assign(
        self, record: JobRecord, chosen: Option, others: list[Option], reason: str, now: float
    ) -> Command:
        job, worker, spec = record.job, chosen.worker, chosen.spec
        held = Held(
            job=job.id,
            model=job.model,
            spec=spec.name,
            lane=worker.lane(job.model, spec.engine),
            attempt=record.attempt + 1,
            since=now,
            run_s=chosen.load_s + chosen.run_s,
            load_s=chosen.load_s,
        )
        if worker.replica_engine(job.model) is None:
            self.fleet.order_load(worker, job.model, spec, now)
        self.ledger.offer(record, worker, held, self.term, now)
        if worker.reserved_for == job.model:
            worker.reserved_for = ""
        considered = len(self.fleet.workers)
        explain = partial(_explanation, job, record.attempt, chosen, others, reason, considered, now)
        self.ledger.history.decided(job.id, explain)
        return Assign(
            worker.id,
            Assignment(
                job=job,
                attempt=record.attempt,
                term=self.term,
                spec=job.spec or spec,
                tier=chosen.tier,
                queued_s=record.queued_s,
                evict=() if chosen.tier == "hot" else self._unneeded(worker),
                life=worker.facts.started_at,
                fence=record.fence,
            ),
            record.trace,
            record.must_fence,
        )

    def _unneeded(self, worker: Worker) -> tuple[str, ...]:
        """What may go first where room is needed: loaded here, not in use, and nothing waits for it."""
        idle = evictable(worker, self.demand)
        unneeded = [resident.model for resident in idle if self.demand(resident.model) < 1.0]
        return tuple(unneeded[:MAX_EVICTIONS])

    def _expand(self, model: Model, queue: ModelQueue, now: float) -> list[Command]:
        """Look wider for the first job that has a place at all: load the model for it, or another replica."""
        for job in queue.waiting.first(MAX_PASSED):
            record = self.ledger.records[job]
            options = self._options(record, model, now)
            if options or not record.is_particular:
                return self._expand_for(record, options, model, queue, now)
        return []

    def _options(self, record: JobRecord, model: Model, now: float) -> list[Option]:
        """Where a job could run, best first."""
        units = work_units(record.job.input)
        workers = [
            worker for worker in self.fleet.workers.values() if not self._avoids(record, worker, model, now)
        ]
        ranked = rank(workers, model, record.job.adapter, units, self.estimates, self.demand, now)
        able = [found for found in ranked if model.name not in found.worker.facts.failed_loads]
        return able or ranked  # where it failed everywhere, the next job tries again

    def _expand_for(
        self, record: JobRecord, options: list[Option], model: Model, queue: ModelQueue, now: float
    ) -> list[Command]:
        replicas = [found for found in options if found.tier in ("hot", "loading")]
        startable = [
            found for found in options if found.tier not in ("hot", "loading") and found.is_possible_now
        ]
        if not replicas:
            ready = [found for found in startable if found.worker.has_room(model.name, found.spec)]
            if ready:
                reason = f"no replica is loaded; {ready[0].tier} here, the quickest to get"
                command = self._assign(record, ready[0], options, reason, now)
                return [command, self._record_assigned(record, now)]
            self._reserve(record, options, now)
            return [self._order(startable[0], model.name, now)] if startable else []
        if not startable:
            return []
        slots = sum(found.worker.slots(found.spec) for found in replicas)
        soonest = min(found.wait_s + found.load_s for found in replicas)
        backlog_s = soonest + len(queue.waiting) * replicas[0].run_s / max(slots, 1)
        best = startable[0]
        if backlog_s <= best.load_s + best.eviction_s + best.wait_s:
            return []
        return [self._order(best, model.name, now)]

    def _order(self, best: Option, model: str, now: float) -> Command:
        self.fleet.order_load(best.worker, model, best.spec, now)
        return LoadOnWorker(best.worker.id, model, best.spec, self._unneeded(best.worker))

    def _reserve(self, record: JobRecord, options: list[Option], now: float) -> None:
        """Keep the best worker free for a model that finds no place."""
        if not options or any(found.worker.reserved_for == record.job.model for found in options):
            return
        best = options[0]
        waited = now - record.job.created_at
        if waited > max(STARVING_S, STARVING_LOADS * best.load_s) and not best.worker.reserved_for:
            best.worker.reserved_for = record.job.model

    def tidy(self) -> None:
        """Free the workers that were kept for a model which waits no longer; let go of models that are gone."""
        for name in [name for name in self._retired if not self.ledger.has_waiting(name)]:
            self._retired.discard(name)
            self.models.pop(name, None)
        for name in [name for name in self.ledger.queues if name not in self.models]:
            self.ledger.forget_queue(name)
        for worker in self.fleet.workers.values():
            if worker.reserved_for and not self.ledger.has_waiting(worker.reserved_for):
                worker.reserved_for = ""

    def _record_assigned(self, record: JobRecord, now: float) -> Command:
        explanation = self.ledger.history.explanation(record.job.id)
        return Record(
            PlatformEvent(
                kind="assigned",
                subject=record.job.id,
                at=now,
                reason=explanation.reason if explanation is not None else "",
                model=record.job.model,
                worker=record.worker,
                details=explanation,
            )
        )


def _explanation(
    job: Job, attempt: int, chosen: Option, others: list[Option], reason: str, considered: int, now: float
) -> Explanation:
    candidates = [chosen.candidate("chosen: " + reason)]
    for other in others:
        if other.worker is chosen.worker and other.spec is chosen.spec:
            continue
        if len(candidates) == EXPLAINED_CANDIDATES:
            break
        candidates.append(other.candidate(_why_lost(other, chosen)))
    return Explanation(
        job=job.id,
        model=job.model,
        attempt=attempt,
        decided_at=now,
        chosen=chosen.worker.id,
        reason=reason,
        considered=considered,
        candidates=tuple(candidates),
    )


def _why_lost(other: Option, chosen: Option) -> str:
    slower = other.total_s - chosen.total_s
    if slower > 0.0005:
        terms = {
            "waiting": other.wait_s - chosen.wait_s,
            "loading": other.load_s - chosen.load_s,
            "making room": other.eviction_s - chosen.eviction_s,
            "running": other.run_s - chosen.run_s,
        }
        return f"lost: {slower:.3g} s later, by {max(terms, key=lambda term: terms[term])}"
    return "lost: a tie that went to the hotter, then the less loaded"

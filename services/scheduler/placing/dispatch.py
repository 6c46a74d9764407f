"""Placing: takes jobs from the queues to workers, orders loads ahead of need, and moves what was planned.

A job that finds a hot replica with a free slot goes there at once: the least burdened, O(1) in the number of
workers. Any other is *meant* for the worker where it would end first (placement.py, plan.py), and stays
in its queue: it is given out when the model is hot there and the lane has room, not before. When a
worker has room

- it gets the next of what is hot there: by the fair clock, and among one tenant's jobs those first that are
  short for how long they have waited; where nothing is meant for it, what is meant for others and hot here too;
- it is told what to load next (switching.py);
- with nothing to do, it takes over a lot of the worker that has most to do, where that gains anything.
"""

from functools import partial
from itertools import islice

from stoker.schemas.catalog import Model, Spec, batch_limit
from stoker.schemas.fleet import Explanation, PlatformEvent
from stoker.schemas.job_events import Loading
from stoker.schemas.workers import Assignment
from stoker.services.bus.sizes import MAX_EVICTIONS
from stoker.services.scheduler.fleet.estimates import Estimates
from stoker.services.scheduler.fleet.lane import Held
from stoker.services.scheduler.fleet.worker import Worker
from stoker.services.scheduler.fleet.workers import Fleet
from stoker.services.scheduler.jobs.ledger import Ledger
from stoker.services.scheduler.jobs.queues import ModelQueue
from stoker.services.scheduler.jobs.record import Record as JobRecord
from stoker.services.scheduler.placing.balance import is_plain
from stoker.services.scheduler.placing.batching import next_of, note_batch
from stoker.services.scheduler.placing.calling import may_begin, may_begin_instead
from stoker.services.scheduler.placing.explaining import Decision, others_now
from stoker.services.scheduler.placing.gone_specs import GoneSpecs
from stoker.services.scheduler.placing.moving import Mover
from stoker.services.scheduler.placing.option import Option
from stoker.services.scheduler.placing.placement import Predictor, has_adapter
from stoker.services.scheduler.placing.plan import Plan
from stoker.services.scheduler.placing.replicas import Replicas
from stoker.services.scheduler.placing.switching import Switch, Switcher
from stoker.services.scheduler.protocol.commands import Assign, Command, LoadOnWorker, Notify
from stoker.services.scheduler.protocol.commands import Record as Keep

MAX_PASSED = 32
"""Jobs with needs of their own (an adapter, a worker to avoid) that others may pass in one look at a queue."""
MAX_PLACED = 256
"""Jobs of one model that are meant for somebody in one look; the next ones follow at the next tick."""
LOOKED_AT_IN_A_TICK = 32
"""Workers with something to load that are looked at in one tick."""
STRETCH = 40.0
"""Among one tenant's jobs, one goes before another if it has waited so many times the difference of their runs
less."""


class Dispatcher:
    """Decides where queued jobs go. Shares the books and the fleet with the core."""

    def __init__(self, ledger: Ledger, fleet: Fleet, estimates: Estimates, term: int) -> None:
        self.ledger = ledger
        self.fleet = fleet
        self.estimates = estimates
        self.models: dict[str, Model] = {}
        self.models_changed = 0
        self.term = term
        self.plan = Plan(fleet)
        self.predictor = Predictor(ledger, fleet, estimates, self.plan)
        self._switcher = Switcher(self.predictor)
        self._mover = Mover(self.predictor)
        self._retired: set[str] = set()
        self._gone_specs = GoneSpecs(fleet)
        self.replicas = Replicas(fleet, self.plan, self.models, estimates)
        self._looked_at = 0
        self._orphaned: dict[str, None] = {}
        fleet.on_remove = self._removed

    # The catalog ----------------------------------------------------------------------------------

    def set(self, name: str, model: Model) -> None:
        """A model is new in the catalog, or has changed: what was planned for it is planned anew."""
        model = self._gone_specs.added(model, self.models.get(name))
        self.predictor.note_model(name, self.models.get(name), model)
        self.estimates.know(model)
        self.models[name] = model
        self._retired.discard(name)
        self.models_changed += 1
        self.plan.trim(name, 0)

    def remove(self, name: str) -> None:
        """A model is gone from the catalog; one whose jobs brought their spec along stays until they ended."""
        self._gone_specs.forget(name)
        if self.ledger.has_own_specs(name):
            self._retired.add(name)
        else:
            self._forget(name)

    def _forget(self, name: str) -> None:
        self.predictor.note_model(name, self.models.pop(name, None), None)
        self.models_changed += 1
        self.plan.trim(name, 0)

    def _removed(self, worker: str) -> None:
        self._orphaned.update(dict.fromkeys(self.plan.on(worker).lots))
        self.plan.drop_worker(worker)

    def take_orphaned(self) -> list[str]:
        """The models of which something was meant for workers that are gone since the last call."""
        orphaned, self._orphaned = self._orphaned, {}
        return list(orphaned)

    # Jobs of one model ----------------------------------------------------------------------------

    def dispatch(self, name: str, now: float) -> list[Command]:
        """Give out what has a free slot somewhere, and plan the rest."""
        queue = self.ledger.queues.get(name)
        model = self.models.get(name)
        if queue is None or model is None:
            return []
        commands = self._give_out(model, queue, now)
        self.plan.trim(name, len(queue.waiting))
        missing = min(self.plan.missing(name, len(queue.waiting)), MAX_PLACED)
        touched = self._place(model, queue, missing, now) if missing else []
        for worker in touched:
            commands += self.fill(worker, now)
        return commands

    def give_at_once(self, record: JobRecord, now: float) -> Command | None:
        """Give out a job that has just come, where nobody waits for its model and a slot is free."""
        model, queue = self.models.get(record.job.model), self.ledger.queue(record.job.model)
        if model is None or len(queue.waiting) or record.is_particular or not is_plain(model):
            return None
        found = self.replicas.with_slot(model, {spec.name: spec for spec in model.specs}, record, now)
        return self._assign(record, *found, now) if found is not None else None

    def _give_out(self, model: Model, queue: ModelQueue, now: float) -> list[Command]:
        """Jobs that find a free slot of a hot replica, or of those that share it by targets or prefixes."""
        commands: list[Command] = []
        if not len(self.fleet.replicas(model.name)) or not len(queue.waiting):
            return commands
        specs = {spec.name: spec for spec in model.specs}
        choose = self.replicas.with_slot if is_plain(model) else self.replicas.balanced
        while (first := queue.waiting.peek()) is not None:
            jobs = (first,) if not queue.particular else queue.waiting.first(MAX_PASSED)
            passed = 0
            for job in jobs:
                record = self.ledger.records[job]
                found = choose(model, specs, record, now)
                if found is not None:
                    commands.append(self._assign(record, *found, now))
                    break
                if not record.is_particular:
                    return commands  # there is no room for anybody
                passed += 1
            if passed == min(MAX_PASSED, len(queue.waiting)):
                break
        return commands

    def _place(self, model: Model, queue: ModelQueue, missing: int, now: float) -> list[Worker]:
        """Mean so many more jobs for the workers where they would end first; these workers.

        Jobs with needs of their own each by these; all others are alike.
        """
        touched: dict[str, Worker] = {}

        def place(record: JobRecord) -> bool:
            options = self.options(record, model, now)
            if options:
                best = options[0]
                self.plan.put(best.worker, model.name, best.spec, 1).why = options
                touched[best.worker.id] = best.worker
            return bool(options)

        for job in list(islice(queue.particular, min(missing, MAX_PASSED))):
            missing -= place(self.ledger.records[job])
        plain = min(len(queue.waiting) - len(queue.particular), missing)
        if plain > 0:
            record = self.ledger.first_plain(queue)
            for _ in range(plain):
                if not place(record):
                    break
        return list(touched.values())

    def options(self, record: JobRecord, model: Model, now: float) -> list[Option]:
        """Where a job could run, best first."""
        workers = self.replicas.to_score(record, model, now)
        ranked = self.predictor.rank(workers, model, record.job.adapter, record.units, now)
        able = [found for found in ranked if model.name not in found.worker.facts.failed_loads]
        sound = [found for found in able or ranked if not found.worker.is_doubtful(model.name)]
        serving = [found for found in sound if not found.spec.is_standby]
        return serving or sound or able or ranked  # where it failed everywhere, the next job tries again

    def beside(self, record: JobRecord, now: float) -> list[Command]:
        """Give a job that runs to another replica too, which has a slot free; nothing where there is none."""
        model = self.models.get(record.job.model)
        if model is None:
            return []
        specs = {spec.name: spec for spec in model.specs}
        for worker, spec, can_serve in self.replicas.hot(model, specs, record, now):
            is_free = can_serve and worker.load(model.name, spec.engine) < worker.slots(spec)
            if is_free and worker.id != record.worker and not worker.is_doubtful(model.name):
                record.beside.append((record.worker, record.attempt))
                self.ledger.move(record, "waiting", now)
                return [self._assign(record, worker, spec, now)]
        return []

    # One worker -----------------------------------------------------------------------------------

    def fill(self, worker: Worker, now: float) -> list[Command]:
        """Give a worker its next jobs, tell it what to load, let it take over what others have too much of."""
        if not worker.is_open:
            self.plan.drop_worker(worker.id)
            return []
        self.fleet.evict_due(worker, now)
        commands = self._serve(worker, now)
        if not worker.held and not worker.planned and not worker.is_loading:
            self._mover.take_over(worker, self.models, now)
        if (switch := self._switcher.next(worker, now)) is not None:
            commands += self._order(worker, switch, now)
        else:
            commands += self._switcher.read_ahead(worker, now)
        return commands

    def _serve(self, worker: Worker, now: float) -> list[Command]:
        commands: list[Command] = []
        while (found := self._next_here(worker, now)) is not None:
            commands.append(self._assign(*found, now))
        return commands

    def _next_here(self, worker: Worker, now: float) -> tuple[JobRecord, Worker, Spec] | None:
        """The next job for a worker: of what is meant for it, else of what is hot here and meant for others."""
        lots = self.plan.on(worker.id).lots
        found = self._best_of(worker, [name for name in worker.near if name in lots], now, only_free=False)
        if found is None:
            others = [name for name in worker.near if name not in lots and self.plan.planned(name)]
            found = self._best_of(worker, others, now, only_free=True)
        return found

    def _best_of(
        self, worker: Worker, names: list[str], now: float, *, only_free: bool
    ) -> tuple[JobRecord, Worker, Spec] | None:
        """The most urgent job of these models that may go to the worker. only_free: to a slot that is free."""
        best: tuple[tuple[int, float, int, float], JobRecord, Worker, Spec] | None = None
        for name in names:
            found = self._next_of(worker, name, now, only_free=only_free)
            if found is None or (order := self.ledger.queue(name).waiting.order()) is None:
                continue
            record = found[0]
            due = record.job.created_at + STRETCH * self.predictor.mean_run_s(name, found[2].name)
            urgency = (*order, -record.job.depth, due)
            if best is None or urgency < best[0]:
                best = (urgency, *found)
        return best[1:] if best is not None else None

    def _next_of(
        self, worker: Worker, name: str, now: float, *, only_free: bool
    ) -> tuple[JobRecord, Worker, Spec] | None:
        """The next job of a model that may go to the worker now."""
        model, resident = self.models.get(name), worker.hot(name)
        if model is None or resident is None or not self.plan.has_turn(worker.id, name):
            return None
        spec = next((one for one in model.specs if one.name == resident.spec), None)
        if spec is None or not worker.has_room(name, spec, batch := self.estimates.batch_size(name, spec)):
            return None
        if only_free and worker.load(name, spec.engine) >= worker.slots(spec):
            return None
        if worker.is_doubtful(name) and len(self.fleet.replicas(name)) > 1:
            return None
        waiting = self.ledger.queue(name).waiting
        first = waiting.peek()
        if first is None:
            return None
        record = self.ledger.records[first]
        if not record.is_particular and is_plain(model):
            able = may_begin_instead(self.ledger, worker, record, spec)
            chosen = next_of(self.ledger, worker, able, spec, now, batch) if able is not None else None
            return (chosen, worker, spec) if chosen is not None else None
        return self._next_particular(worker, model, spec, now)

    def _next_particular(
        self, worker: Worker, model: Model, spec: Spec, now: float
    ) -> tuple[JobRecord, Worker, Spec] | None:
        """The same where jobs have needs of their own, or replicas share them by targets or prefixes."""
        specs = {one.name: one for one in model.specs}
        for job in self.ledger.queue(model.name).waiting.first(MAX_PASSED):
            record = self.ledger.records[job]
            if not may_begin(worker, record, spec):
                continue
            if not is_plain(model):
                chosen = self.replicas.balanced(model, specs, record, now)
                if chosen is not None:
                    return record, *chosen
            elif has_adapter(spec, record.job.adapter) and not self.replicas.avoids(record, worker, model, now):
                return record, worker, spec
            if not record.is_particular:
                return None
        lot = self.plan.of(model.name).get(worker.id)
        if lot is not None:  # none of those that wait may go here
            self.plan.take(lot, lot.jobs)
        return None

    def _assign(self, record: JobRecord, worker: Worker, spec: Spec, now: float) -> Command:
        """Give a job to a worker where its model is hot."""
        job = record.job
        planned = self.plan.given_out(job.model, worker.id)
        run_s = self.estimates.run_s(job.model, spec.name, record.units)
        held = Held(
            job=job.id,
            model=job.model,
            spec=spec.name,
            lane=worker.lane(job.model, spec.engine),
            attempt=record.attempt + 1,
            since=now,
            run_s=run_s,
            slots=max(worker.slots(spec), 1),
            depth=job.depth,
            is_ahead=worker.load(job.model, spec.engine) >= worker.slots(spec),
        )
        if batch_limit(spec) > 1:
            note_batch(worker, held, job, spec, self.estimates)
        self.ledger.offer(record, worker, held, self.term, now)
        chosen = planned[0] if planned else Option(worker, spec, "hot", 0.0, 0.0, 0.0, run_s)
        others = planned[1:] if planned else partial(others_now, self.predictor, worker, record, spec, now)
        decision = Decision(job, record.attempt, chosen, others, len(self.fleet.workers), now)
        self.ledger.history.decided(job.id, decision.explanation)
        assignment = Assignment(
            job=job,
            attempt=record.attempt,
            term=self.term,
            spec=job.spec or spec,
            queued_s=record.queued_s,
            life=worker.facts.started_at,
            fence=record.fence,
            together=held.batch if batch_limit(spec) > 1 else 0,
        )
        return Assign(worker.id, assignment, record.trace, record.must_fence)

    def explain(self, job: str, now: float) -> Explanation | None:
        """Why a job went where it went, or where it is meant to go and when."""
        record = self.ledger.records.get(job)
        model = self.models.get(record.job.model) if record is not None else None
        if record is None or model is None or record.phase != "waiting":
            return self.ledger.history.explanation(job)
        options = self.options(record, model, now)
        if not options:
            return self.ledger.history.explanation(job)
        decision = Decision(record.job, record.attempt, options[0], options[1:], len(self.fleet.workers), now)
        return decision.explanation(is_waiting=True)

    def _order(self, worker: Worker, switch: Switch, now: float) -> list[Command]:
        """Have a worker load the model of a lot; tell those who wait for it, and operators."""
        lot = switch.lot
        tier = worker.tier(lot.model, lot.spec.name)
        going = frozenset(resident.model for one in switch.victims for resident in one.residents)
        load_s = self.estimates.load_s(lot.model, lot.spec, "warm") if tier == "cold" else 0.0
        room_at = now + max(self.estimates.load_s(lot.model, lot.spec, tier) - load_s, 0.0) if load_s else now
        self.fleet.order_load(worker, lot.model, lot.spec, now, going, room_at)
        evict = [one.residents[0].model for one in switch.victims][:MAX_EVICTIONS]
        reason = f"{lot.model} is loaded for {lot.jobs} that wait; it was {tier} here"
        event = PlatformEvent("assigned", lot.model, now, reason, model=lot.model, worker=worker.id)
        told = self.ledger.queue(lot.model).waiting.first(min(lot.jobs, MAX_PASSED))
        jobs = [self.ledger.records[job].job for job in told]
        return [
            LoadOnWorker(worker.id, lot.model, lot.spec, tuple(evict)),
            Keep(event),
            *(Notify(job, Loading(tier=tier)) for job in jobs if job.wants_events),
        ]

    # Time -----------------------------------------------------------------------------------------

    def tick(self, now: float) -> list[Command]:
        """Plan what is not planned yet; look again at workers with something to load, some at a time."""
        for model in self._gone_specs.to_set_anew():
            self.set(model.name, model)
        for name in [name for name in self._retired if not self.ledger.has_own_specs(name)]:
            self._retired.discard(name)
            self._forget(name)
        for name in [name for name in self.ledger.queues if name not in self.models]:
            self.ledger.forget_queue(name)
        commands: list[Command] = []
        queues = self.ledger.waiting_queues()
        unplanned = [queue for queue in queues if self.plan.planned(queue.name) != len(queue.waiting)]
        for queue in self.ledger.by_first_job(unplanned):
            commands += self.dispatch(queue.name, now)
        names = list(self.plan.workers())
        for _ in range(min(LOOKED_AT_IN_A_TICK, len(names))):
            self._looked_at = (self._looked_at + 1) % len(names)
            if (worker := self.fleet.workers.get(names[self._looked_at])) is not None:
                commands += self.fill(worker, now)
        return commands

    def load_failed(self, worker: Worker, model: str) -> list[JobRecord]:
        """A model could not be loaded on a worker: the jobs that were meant for it there, planned no more."""
        lot = self.plan.of(model).get(worker.id)
        if lot is None:
            return []
        queue = self.ledger.queue(model)
        jobs = list(queue.waiting.first(lot.jobs))
        queue.particular.update(dict.fromkeys(jobs))
        self.plan.take(lot, lot.jobs)
        return [self.ledger.records[job] for job in jobs]

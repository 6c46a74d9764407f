"""The scheduler's books: every live job, the queue of each model, deadlines, and the last decisions and
endings.

`move` is the one function that changes the state of a job (record.py has the table). It raises IllegalMove and
changes nothing where the table has no such move. Entering and leaving do the rest: a waiting job stands in its
queue and has a deadline; any other holds a slot of its worker and is counted as running. So no slot, count or
place in a queue can outlive the state that it belongs to. `validate` checks all of that, for tests and replays.
"""

import heapq
from collections.abc import Iterable

import msgspec

from stoker.schemas.fleet import JobsPage, JobsQuery, JobView, QueueDepth
from stoker.schemas.jobs import Job, Status, models_together
from stoker.schemas.workers import RunningJob
from stoker.services.scheduler.fleet.estimates import Estimates
from stoker.services.scheduler.fleet.lane import Held
from stoker.services.scheduler.fleet.worker import Worker
from stoker.services.scheduler.fleet.workers import Fleet
from stoker.services.scheduler.jobs.fair_queue import FairClock, FairQueue
from stoker.services.scheduler.jobs.family import Family
from stoker.services.scheduler.jobs.history import History
from stoker.services.scheduler.jobs.queues import ModelQueue
from stoker.services.scheduler.jobs.record import HOLDS_SLOT, STATUS, TRANSITIONS, IllegalMove, Phase, Record

DEEPER = 2**48
"""Among the jobs of one tenant, calls go before what is less deep: what has begun is ended first."""
KEPT_DEADLINES = 10_000
"""Deadlines that are void and may lie about until they are swept out together."""


class Ledger:
    """All books. Methods are O(log n) unless they say otherwise."""

    def __init__(self, fleet: Fleet, estimates: Estimates | None = None) -> None:
        self.fleet = fleet
        self.clock = FairClock()
        self._estimates = estimates if estimates is not None else Estimates()
        self.records: dict[str, Record] = {}
        self.queues: dict[str, ModelQueue] = {}
        self.history = History()
        self.family = Family()
        self._deadlines: list[tuple[float, str]] = []
        self._returned: set[str] = set()
        self._arrivals = 0

    def queue(self, model: str) -> ModelQueue:
        found = self.queues.get(model)
        if found is None:
            found = self.queues[model] = ModelQueue(model, FairQueue(self.clock))
        return found

    def forget_queue(self, model: str) -> None:
        """Let go of the queue of a model that is no longer there, once no job of it is live."""
        queue = self.queues.get(model)
        if queue is not None and queue.is_idle:
            del self.queues[model]

    def waiting_queues(self) -> list[ModelQueue]:
        """Queues with waiting jobs, in no order. O(models)."""
        return [queue for queue in self.queues.values() if len(queue.waiting)]

    def by_first_job(self, queues: Iterable[ModelQueue]) -> list[ModelQueue]:
        """The queue whose first job is the most urgent comes first."""
        return sorted(queues, key=self._first_key)

    def _first_key(self, queue: ModelQueue) -> tuple[int, float, int, float]:
        """Orders queues by their first jobs: priority, what its tenant was given, depth, age."""
        first = queue.waiting.first_with_order()
        if first is None:
            return (0, 0.0, 0, 0.0)
        name, order = first
        job = self.records[name].job
        return (*order, -job.depth, job.created_at)

    def first_plain(self, queue: ModelQueue) -> Record:
        """The next job that any worker may run; there is one."""
        first = queue.waiting.peek()
        if first is not None and not (record := self.records[first]).is_particular:
            return record
        records = (self.records[job] for job in queue.waiting.in_order())
        return next(one for one in records if not one.is_particular)

    def has_waiting(self, model: str) -> bool:
        queue = self.queues.get(model)
        return queue is not None and len(queue.waiting) > 0

    def has_own_specs(self, model: str) -> bool:
        """Whether a job of the model brought its spec along. O(jobs)."""
        return any(one.job.model == model and one.job.spec is not None for one in self.records.values())

    def waiting(self, model: str) -> list[Record]:
        """Every waiting job of a model, in order: O(jobs log jobs)."""
        queue = self.queues.get(model)
        return [self.records[job] for job in queue.waiting.in_order()] if queue is not None else []

    # States ---------------------------------------------------------------------------------------

    def add(self, job: Job, handle: str, sequence: int, now: float, trace: str = "") -> Record:
        """Enter an arrived job: it is waiting."""
        record = self.note(job, handle, sequence, now, trace)
        self.enqueue(record)
        return record

    def note(self, job: Job, handle: str, sequence: int, now: float, trace: str = "") -> Record:
        """Enter an arrived job that is offered at once, or enqueued."""
        queue = self.queue(job.model)
        queue.count_arrival(now)
        self._arrivals += 1
        units, models = self._estimates.units(job, queue.last_spec), models_together(job.input)
        record = Record(job, handle, sequence, self._arrivals, now, trace, units=units, models=models)
        self.records[job.id] = record
        if job.parent in self.records:
            self.family.arrived(job)
        return record

    def enqueue(self, record: Record) -> None:
        """It waits in the queue of its model, until its deadline."""
        job, queue = record.job, self.queue(record.job.model)
        run_s = self.run_s(record)
        if record.is_particular:
            queue.particular[record.id] = None
        if job.parent:
            queue.calls[record.id] = None
        number = record.number - DEEPER * job.depth
        queue.waiting.push(job.id, number, job.priority, job.tenant, run_s, job.created_at, job.weight)
        self._set_deadline(record)

    def run_s(self, record: Record) -> float:
        """Device seconds that a waiting job is predicted to take, on the spec that its model had last."""
        return self._estimates.run_s(record.job.model, self.queue(record.job.model).last_spec, record.units)

    def offer(self, record: Record, worker: Worker, held: Held, term: int, now: float) -> None:
        """A worker is asked to take the job: the slot is taken now, not when the worker answers."""
        self._check(record, "offered")
        self._enter_worker(record, worker, held, term, now)
        self.move(record, "offered", now)

    def accepted(self, record: Record, now: float) -> None:
        """Its worker has taken it: it says so, or how the attempt ended."""
        if record.phase == "offered":
            self.move(record, "running", now)

    def adopt(self, record: Record, worker: Worker, running: RunningJob, now: float) -> None:
        """A worker has the job already: from an earlier leader, or from before it was away."""
        self._check(record, "running")
        resident = worker.residents.get(running.model)
        lane = worker.lane(running.model, resident.engine if resident is not None else "")
        slots = worker.engine_slots(resident.engine if resident is not None else "")
        held = Held(running.job, running.model, running.spec, lane, running.attempt, since=now, slots=slots)
        held.depth = record.job.depth
        self._enter_worker(record, worker, held, running.term, now)
        self.fleet.turn_waiting(worker, record.id, now, waits=running.waits)
        self.move(record, "running", now)

    def _enter_worker(self, record: Record, worker: Worker, held: Held, term: int, now: float) -> None:
        record.worker, record.spec = worker.id, held.spec
        record.attempt, record.term = held.attempt, term
        record.queued_s = max(now - record.job.created_at, 0.0)
        self.fleet.hold(worker, held)

    def move(self, record: Record, to: Phase, now: float) -> None:
        """Change the state of a job. Raises IllegalMove, and changes nothing, where the table forbids it."""
        self._check(record, to)
        before = record.phase
        record.phase, record.mentioned_at = to, now
        queue = self.queue(record.job.model)
        queue.is_changed = True
        if before == "waiting":
            queue.particular.pop(record.id, None)
            queue.calls.pop(record.id, None)
        if before == "waiting" and to == "ended":
            queue.waiting.remove(record.id)
        elif before == "waiting":
            queue.last_spec = record.spec or queue.last_spec
            record.charged_s = self._device_s(record)
            if record.id in queue.waiting:
                queue.waiting.take(record.id, record.charged_s)
            else:
                self._charge(record, record.charged_s)
        if before not in HOLDS_SLOT and to in HOLDS_SLOT:
            queue.running += 1
            queue.given_to.add(record.spec)
            queue.by_spec[record.spec] = queue.by_spec.get(record.spec, 0) + 1
        elif before in HOLDS_SLOT and to not in HOLDS_SLOT:
            self._leave_worker(record, queue, now)
        if to == "waiting":
            self._charge(record, -record.charged_s)
            record.charged_s = 0.0
            self.enqueue(record)
            self._returned.add(record.job.model)

    def _device_s(self, record: Record) -> float:
        """What a job is predicted to take of the device of its worker: the time of one of its slots."""
        worker = self.fleet.workers.get(record.worker)
        held = worker.held.get(record.id) if worker is not None else None
        if worker is None or held is None:
            return 0.0
        return self._estimates.run_s(held.model, held.spec, record.units) / held.slots

    def _charge(self, record: Record, device_s: float) -> None:
        """Charge the tenant of a job that does not stand in a queue; negative: give back."""
        self.clock.charge(record.job.tenant, device_s / record.job.weight)

    def ran(self, record: Record, run_s: float) -> None:
        """A job ran for so long: its tenant is charged for what that is more, or less, than was predicted."""
        worker = self.fleet.workers.get(record.worker)
        held = worker.held.get(record.id) if worker is not None else None
        if held is not None:
            device_s = run_s / held.slots
            self._charge(record, device_s - record.charged_s)
            record.charged_s = device_s

    def _leave_worker(self, record: Record, queue: ModelQueue, now: float) -> None:
        queue.running -= 1
        queue.by_spec[record.spec] -= 1
        if not queue.by_spec[record.spec]:
            del queue.by_spec[record.spec]
        worker = self.fleet.workers.get(record.worker)
        if worker is not None:
            self.fleet.release(worker, record.id, now)
        if record.phase == "waiting":
            record.worker, record.spec = "", ""

    def take_returned(self) -> list[str]:
        """The models to whose queues jobs have come back since the last call, in a fixed order."""
        if not self._returned:
            return []
        returned, self._returned = sorted(self._returned), set()
        return returned

    @staticmethod
    def _check(record: Record, to: Phase) -> None:
        if to not in TRANSITIONS[record.phase]:
            raise IllegalMove(f"job {record.id}, attempt {record.attempt}: {record.phase} -> {to}")

    def end(self, record: Record, status: Status, now: float) -> None:
        """Forget a job that has ended, but for what a listing shows."""
        view = self._with_calls(self._view(record, status))
        self.move(record, "ended", now)
        del self.records[record.id]
        self.history.ended(msgspec.structs.replace(view, finished_at=now), record.job)
        self.family.parent_ends(record.id)
        if record.job.parent in self.records:
            self.family.ended(record.job.parent, record.id, record.job.model, status)

    def note_ending(self, view: JobView) -> None:
        """Enter an ending from before this term, of no live job."""
        self.history.note_ending(view)
        if view.parent in self.records and view.id not in self.records:
            self.family.ended(view.parent, view.id, view.model, view.status)

    # Deadlines ------------------------------------------------------------------------------------

    @staticmethod
    def _waits_until(job: Job) -> float:
        patience_s = job.admission_timeout_s
        return job.created_at + (patience_s if job.deadline_s is None else min(patience_s, job.deadline_s))

    def _set_deadline(self, record: Record) -> None:
        heapq.heappush(self._deadlines, (self._waits_until(record.job), record.id))
        if len(self._deadlines) > 2 * len(self.records) + KEPT_DEADLINES:
            self._deadlines = list({one for one in self._deadlines if one[1] in self.records})
            heapq.heapify(self._deadlines)

    def overdue(self, now: float) -> list[Record]:
        """Waiting jobs whose time to wait is over, each once. One that comes back has its deadline again."""
        found: dict[str, Record] = {}
        while self._deadlines and self._deadlines[0][0] <= now:
            deadline, job = heapq.heappop(self._deadlines)
            record = self.records.get(job)
            if record is None or record.phase != "waiting":
                continue
            if self._waits_until(record.job) == deadline:  # else it is that of an earlier job of this id
                found[job] = record
        return list(found.values())

    # Looking --------------------------------------------------------------------------------------

    def _view(self, record: Record, status: Status) -> JobView:
        job = record.job
        return JobView(
            id=job.id,
            model=job.model,
            status=status,
            created_at=job.created_at,
            attempt=record.attempt,
            worker=record.worker,
            spec=record.spec,
            queued_s=round(record.queued_s, 4),
            fingerprint=job.fingerprint,
            gateway=job.gateway,
            tenant=job.tenant,
            parent=job.parent,
            priority=job.priority,
            deadline_s=job.deadline_s,
            depth=job.depth,
            waits=self.fleet.waits(record.worker, record.id),
        )

    def _with_calls(self, view: JobView) -> JobView:
        """With the calls of a live job, as they are now."""
        calls = self.family.shown(view.id)
        if not calls:
            return view
        now = tuple(
            msgspec.structs.replace(call, status=STATUS[self.records[call.id].phase])
            if call.id in self.records
            else call
            for call in calls
        )
        return msgspec.structs.replace(view, children=now, child_count=self.family.count(view.id))

    def view(self, job: str) -> JobView | None:
        """A live job with its position (O(queue)), or one of the last that ended."""
        record = self.records.get(job)
        if record is None:
            return self.history.endings.get(job)
        view = self._with_calls(self._view(record, STATUS[record.phase]))
        if record.phase != "waiting":
            return view
        position = self.queue(record.job.model).waiting.position(job)
        return msgspec.structs.replace(view, position=position)

    def watch(self, job: str) -> None:
        """Somebody wants the events of a job from now on; who has it already is asked for them directly."""
        record = self.records.get(job)
        if record is None or record.phase != "waiting":
            return
        if record.job.batches_text or not record.job.wants_events:
            record.job = msgspec.structs.replace(record.job, wants_events=True, batches_text=False)

    def page(self, query: JobsQuery) -> JobsPage:
        """Jobs that match, newest first: O(jobs), for people; of one tenant only its own are looked at."""
        views = [
            self._view(record, STATUS[record.phase])
            for record in self.records.values()
            if query.tenant in ("", record.job.tenant)
        ]
        views += self.history.endings.values()
        views = [view for view in views if query.fits(view)]
        views.sort(key=lambda view: (view.created_at, view.id), reverse=True)
        start = 0
        if query.cursor:
            start = next((i + 1 for i, view in enumerate(views) if view.id == query.cursor), len(views))
        page = views[start : start + query.limit]
        has_more = start + query.limit < len(views)
        return JobsPage(jobs=tuple(page), next_cursor=page[-1].id if has_more and page else "")

    def depth(self, queue: ModelQueue, now: float, limit: int) -> QueueDepth:
        """The queue of a model as it is published; predictions are added by who can make them."""
        first = queue.waiting.peek()
        oldest = self.records[first].job.created_at if first is not None else now
        return QueueDepth(
            model=queue.name,
            queued=len(queue.waiting),
            running=queue.running,
            oldest_wait_s=round(max(now - oldest, 0.0), 3),
            arrival_rate=round(queue.arrival_rate, 3),
            by_spec=dict(queue.by_spec),
            limit=limit,
            peak=queue.take_peak(),
            given_to=queue.take_given(),
        )

    def validate(self) -> None:
        """Raise AssertionError where the books contradict each other. O(everything), for tests and replays."""
        running: dict[str, dict[str, int]] = {}
        for job, record in self.records.items():
            assert record.phase != "ended", f"{job} has ended and is still in the books"
            queue = self.queues[record.job.model]
            assert (record.phase == "waiting") == (job in queue.waiting), (
                f"{job} {record.phase}: place in queue"
            )
            worker = self.fleet.workers.get(record.worker)
            held = worker.held.get(job) if worker is not None else None
            if record.phase in HOLDS_SLOT:
                assert held is not None and held.attempt == record.attempt, f"{job} {record.phase}: no slot"
                specs = running.setdefault(record.job.model, {})
                specs[record.spec] = specs.get(record.spec, 0) + 1
            else:
                assert not record.worker and not record.spec, f"{job} waits and has a worker"
        for name, queue in self.queues.items():
            assert queue.by_spec == running.get(name, {}), f"{name}: {queue.by_spec} counted as running"
            assert queue.running == sum(queue.by_spec.values())
            assert all(job in self.records for job in queue.waiting.in_order())
        self.clock.validate()
        self.family.validate({job: record.job.parent for job, record in self.records.items()})
        self.fleet.validate({job: record.worker for job, record in self.records.items()})

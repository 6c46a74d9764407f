"""The scheduler's books: every live job, the queue of each model, and the last decisions and endings.

Pure state without policy: what is stored here are facts; positions and depths are derived.
"""

import heapq
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

from schemas.fleet import Explanation, JobsPage, JobsQuery, JobView, QueueDepth
from schemas.jobs import Job, Status
from services.scheduler.jobs.fair_queue import FairQueue, Key

KEPT_EXPLANATIONS = 20_000
KEPT_ENDINGS = 10_000
"""How many of the last decisions and endings can be asked for."""
KEPT_DEADLINES = 10_000
"""Deadlines of ended jobs that may lie about until they are swept out together."""
RATE_WINDOW_S = 10.0
REFUSAL_REMEMBERED_S = 1.0
"""A worker that refused a job is asked again after this, when no other takes it."""


@dataclass(slots=True)
class Record:
    """One live job. attempt: assignments so far.

    lost_on: the workers that died under it. refused_at: when a worker did not take it.
    """

    job: Job
    handle: str
    sequence: int
    key: Key
    trace: str = ""
    status: Status = "queued"
    attempt: int = 0
    worker: str = ""
    spec: str = ""
    queued_s: float = 0.0
    lost_on: list[str] = field(default_factory=list)
    refused_at: dict[str, float] = field(default_factory=dict)
    is_cancelled: bool = False
    is_checking: bool = False

    def avoids(self, worker: str, now: float) -> bool:
        """Whether this worker must not be tried now."""
        if worker in self.lost_on:
            return True
        refused_at = self.refused_at.get(worker)
        return refused_at is not None and now - refused_at < REFUSAL_REMEMBERED_S


@dataclass(slots=True)
class ModelQueue:
    """The waiting jobs of one model, and what is measured of it."""

    name: str
    waiting: FairQueue = field(default_factory=FairQueue)
    running: int = 0
    by_spec: dict[str, int] = field(default_factory=dict)
    arrival_rate: float = 0.0
    arrived: int = 0
    rate_at: float = 0.0
    published_at: float = 0.0
    is_changed: bool = True
    expand_at: float = 0.0

    def count_arrival(self, now: float) -> None:
        self.arrived += 1
        self.is_changed = True
        if not self.rate_at:
            self.rate_at = now

    def settle_rate(self, now: float) -> None:
        """Fold the arrivals since the last call into the rate (jobs a second, over `RATE_WINDOW_S`)."""
        elapsed = now - self.rate_at
        if elapsed < 1.0:
            return
        share = min(elapsed / RATE_WINDOW_S, 1.0)
        self.arrival_rate += share * (self.arrived / elapsed - self.arrival_rate)
        self.arrived, self.rate_at = 0, now


class Ledger:
    """All books. Methods are O(log n) unless they say otherwise."""

    def __init__(self) -> None:
        self.records: dict[str, Record] = {}
        self.queues: dict[str, ModelQueue] = {}
        self.endings: OrderedDict[str, JobView] = OrderedDict()
        self._explanations: OrderedDict[str, Callable[[], Explanation]] = OrderedDict()
        self._deadlines: list[tuple[float, str]] = []

    def queue(self, model: str) -> ModelQueue:
        found = self.queues.get(model)
        if found is None:
            found = self.queues[model] = ModelQueue(model)
        return found

    def waiting_queues(self) -> list[ModelQueue]:
        """Queues with waiting jobs; the one whose first job came first is first. O(models log models)."""
        waiting = [queue for queue in self.queues.values() if len(queue.waiting)]
        waiting.sort(key=lambda queue: self.first_key(queue.name))
        return waiting

    def first_key(self, model: str) -> tuple[int, float]:
        """Orders queues by their first jobs: priority, then age."""
        first = self.queue(model).waiting.peek()
        record = self.records[first] if first is not None else None
        return (record.key[0], record.job.created_at) if record is not None else (0, 0.0)

    def add(self, job: Job, handle: str, sequence: int, now: float, trace: str = "") -> Record:
        """Enter an arrived job and put it into its queue."""
        queue = self.queue(job.model)
        queue.count_arrival(now)
        key = queue.waiting.push(job.id, job.priority, job.tenant)
        record = Record(job, handle, sequence, key, trace)
        self.records[job.id] = record
        waits_until = job.created_at + job.admission_timeout_s
        if job.deadline_s is not None:
            waits_until = min(waits_until, job.created_at + job.deadline_s)
        heapq.heappush(self._deadlines, (waits_until, job.id))
        if len(self._deadlines) > 2 * len(self.records) + KEPT_DEADLINES:
            self._deadlines = [one for one in self._deadlines if one[1] in self.records]
            heapq.heapify(self._deadlines)
        return record

    def start(self, record: Record, worker: str, spec: str, now: float) -> None:
        """Take a job out of its queue: it is assigned now."""
        queue = self.queue(record.job.model)
        queue.waiting.remove(record.job.id)
        queue.running += 1
        queue.by_spec[spec] = queue.by_spec.get(spec, 0) + 1
        queue.is_changed = True
        record.status, record.worker, record.spec = "assigned", worker, spec
        record.queued_s = max(now - record.job.created_at, 0.0)

    def requeue(self, record: Record) -> None:
        """Put a job back to the place it had."""
        self._stop(record)
        queue = self.queue(record.job.model)
        queue.waiting.push_back(record.job.id, record.key)
        record.status, record.worker, record.spec = "queued", "", ""

    def _stop(self, record: Record) -> None:
        queue = self.queue(record.job.model)
        queue.is_changed = True
        if record.status == "queued":
            queue.waiting.remove(record.job.id)
        else:
            queue.running -= 1
            queue.by_spec[record.spec] -= 1

    def end(self, record: Record, status: Status) -> None:
        """Forget a job that has ended, but for what a listing shows."""
        self._stop(record)
        del self.records[record.job.id]
        self.endings[record.job.id] = self._view(record, status)
        if len(self.endings) > KEPT_ENDINGS:
            self.endings.popitem(last=False)

    def note_ending(self, view: JobView) -> None:
        """Enter an ending from before this scheduler's time."""
        self.endings.setdefault(view.id, view)

    def decided(self, job: str, explain: Callable[[], Explanation]) -> None:
        """Keep a decision; it is put into words when somebody asks, which few do."""
        self._explanations[job] = explain
        if len(self._explanations) > KEPT_EXPLANATIONS:
            self._explanations.popitem(last=False)

    def explanation(self, job: str) -> Explanation | None:
        """Why a job went where it went last; None when it waits, or is long over."""
        explain = self._explanations.get(job)
        return explain() if explain is not None else None

    def overdue(self, now: float) -> list[Record]:
        """Queued jobs whose waiting time is over."""
        found: list[Record] = []
        while self._deadlines and self._deadlines[0][0] <= now:
            _, job = heapq.heappop(self._deadlines)
            record = self.records.get(job)
            if record is not None and record.status == "queued":
                found.append(record)
        return found

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
        )

    def view(self, job: str) -> JobView | None:
        """A live job with its position (O(queue)), or one of the last that ended."""
        record = self.records.get(job)
        if record is None:
            return self.endings.get(job)
        view = self._view(record, record.status)
        if record.status != "queued":
            return view
        position = self.queue(record.job.model).waiting.position(job)
        return JobView(
            **{field: getattr(view, field) for field in view.__struct_fields__} | {"position": position}
        )

    def page(self, query: JobsQuery) -> JobsPage:
        """Jobs that match, newest first: O(jobs), for people."""
        views = [self._view(record, record.status) for record in self.records.values()]
        views += self.endings.values()
        views = [
            view
            for view in views
            if (not query.status or view.status == query.status)
            and (not query.model or view.model == query.model)
            and (not query.tenant or view.tenant == query.tenant)
        ]
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
            by_spec={spec: count for spec, count in queue.by_spec.items() if count},
            limit=limit,
        )

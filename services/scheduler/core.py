"""The scheduler as a machine: `handle(event, now) -> [command]`. Every state change is here or below.

What must hold after every event (tests/unit/scheduler drive these with hypothesis and a seeded simulation):

- a job is in exactly one place: a queue, one worker's hands, or ended;
- a job's handle is acknowledged once, and only after a terminal event for it is stored;
- attempts of a job only grow; no worker is given a job that it lost before;
- a lane of a worker never holds more than its slots and prefetch;
- a job whose workers died twice ends with `worker_lost`.

While settling (a new leader that does not yet know what its predecessor left) jobs are only taken in.
No NATS, no clock, no randomness here: `now` is an argument, in seconds since 1970.
"""

from typing import assert_never

from schemas.fleet import EventKind, PlatformEvent
from schemas.workers import HEARTBEAT_INTERVAL_S, Accepted, Finished, Heartbeat, RunningJob
from services.scheduler.fleet.estimates import Estimates
from services.scheduler.fleet.workers import Fleet, Held, Worker
from services.scheduler.forecast import Forecast
from services.scheduler.jobs.ledger import Ledger
from services.scheduler.jobs.ledger import Record as JobRecord
from services.scheduler.placing.dispatch import Dispatcher
from services.scheduler.protocol.commands import (
    Acknowledge,
    CancelOnWorker,
    CheckResult,
    Command,
    Probe,
    Record,
)
from services.scheduler.protocol.endings import Endings
from services.scheduler.protocol.events import (
    AssignmentAnswered,
    AssignmentFailed,
    CancelRequested,
    Event,
    HeartbeatSeen,
    JobArrived,
    JobFinished,
    ModelChanged,
    ReplicasChanged,
    ResultChecked,
    Settled,
    Ticked,
    WorkerGone,
)

MAX_LOST_WORKERS = 2
SILENT_S = 1.5 * HEARTBEAT_INTERVAL_S
"""A worker that said nothing for this long is asked whether it is there."""
GONE_S = 6.0
"""A worker that neither speaks nor answers for this long is gone, though its connection stands."""
FORGOTTEN_S = 2.0 * HEARTBEAT_INTERVAL_S
"""A job that its worker has not mentioned for this long may have ended without our hearing of it."""
EARLY_CANCELS = 10_000
"""Cancels remembered for jobs that have not arrived yet."""


class Scheduler:
    """The state machine. `term` names this time in office; assignments carry it."""

    def __init__(self, term: int, now: float) -> None:
        self.ledger = Ledger()
        self.fleet = Fleet()
        self.estimates = Estimates()
        self.dispatcher = Dispatcher(self.ledger, self.fleet, self.estimates)
        self.dispatcher.term = term
        self.term = term
        self.endings = Endings(self.ledger, term)
        self.is_settling = True
        self._early_cancels: dict[str, float] = {}
        self._claims: dict[str, tuple[str, RunningJob]] = {}
        self.forecast = Forecast(self.dispatcher, now)

    def handle(self, event: Event, now: float) -> list[Command]:
        """Take in one event; the commands are to be carried out in order."""
        match event:
            case JobArrived():
                return self._arrived(event, now)
            case JobFinished():
                return self._finished(event.worker, event.finished, now)
            case AssignmentAnswered():
                return self._answered(event, now)
            case HeartbeatSeen():
                return self._heartbeat(event.heartbeat, now)
            case Ticked():
                return self._tick(now)
            case AssignmentFailed():
                return self._not_assigned(event, now)
            case CancelRequested():
                return self._cancel(event.job, now)
            case WorkerGone():
                return self._lose(event.worker, "it no longer listens", now)
            case ResultChecked():
                return self._checked(event, now)
            case ModelChanged():
                return self._model_changed(event, now)
            case ReplicasChanged():
                self.forecast.replicas_changed(event.model, event.replicas)
                return []
            case Settled():
                self.is_settling = False
                return self._dispatch_all(now)
            case _:
                assert_never(event)

    def _dispatch(self, model: str, now: float) -> list[Command]:
        return [] if self.is_settling else self.dispatcher.dispatch(model, now)

    def _dispatch_all(self, now: float) -> list[Command]:
        queues = self.ledger.waiting_queues()
        return [command for queue in queues for command in self._dispatch(queue.name, now)]

    def _dispatch_on(self, worker: Worker, now: float) -> list[Command]:
        """Give a worker that has become freer its next jobs, the longest waiting model first."""
        names = [
            name
            for name in (*worker.residents, *worker.ordered)
            if (queue := self.ledger.queues.get(name)) is not None and len(queue.waiting)
        ]
        if len(names) > 1:
            names.sort(key=self.ledger.first_key)
        commands = [command for name in names for command in self._dispatch(name, now)]
        if worker.reserved_for and not worker.held:
            commands += self._dispatch(worker.reserved_for, now)
        return commands

    # Jobs -----------------------------------------------------------------------------------------

    def _arrived(self, event: JobArrived, now: float) -> list[Command]:
        job = event.job
        known = self.ledger.records.get(job.id)
        if known is not None:
            if known.sequence == event.sequence:  # delivered again: the newer handle is the valid one
                known.handle = event.handle
                return []
            return [Acknowledge(event.handle)]  # the same id stored twice: the first one stands
        record = self.ledger.add(job, event.handle, event.sequence, now, event.trace)
        if job.id in self._early_cancels:
            del self._early_cancels[job.id]
            return self.endings.cancelled(record, now)
        claim = self._claims.pop(job.id, None)
        if claim is not None and claim[0] in self.fleet.workers:
            self._adopt(record, self.fleet.workers[claim[0]], claim[1], now)
            return []
        if job.model not in self.dispatcher.models and not self.is_settling:
            return self.endings.failed(record, "impossible", f"there is no model {job.model!r}", now)
        commands = self._dispatch(job.model, now)
        if record.status == "queued" and job.wants_events:
            place = len(self.ledger.queue(job.model).waiting) - 1
            commands += self.forecast.position(record, place, now)
        return commands

    def _adopt(self, record: JobRecord, worker: Worker, running: RunningJob, now: float) -> None:
        """Take over a job that a worker has from an earlier time, or from an earlier leader."""
        record.attempt = running.attempt
        self.ledger.start(record, worker.id, running.spec, now)
        record.status = "running"
        resident = worker.residents.get(running.model)
        engine = resident.engine if resident is not None else ""
        self.fleet.hold(
            worker,
            Held(
                job=running.job,
                model=running.model,
                spec=running.spec,
                lane=worker.lane(running.model, engine),
                attempt=running.attempt,
                since=now,
                accepted_at=now,
            ),
        )

    def _finished(self, worker_id: str, finished: Finished, now: float) -> list[Command]:
        worker = self.fleet.workers.get(worker_id)
        record = self.ledger.records.get(finished.job)
        self._claims.pop(finished.job, None)
        if worker is not None:
            held = worker.held.get(finished.job)
            if held is not None and held.attempt == finished.attempt:
                self.fleet.release(worker, finished.job)
        if finished.outcome == "completed" and record is not None:
            self.estimates.learn_run(finished.model, record.spec, finished.units, finished.run_s)
        commands: list[Command] = []
        if record is not None:
            if finished.outcome != "lost":
                self._release_elsewhere(record)
                self.ledger.end(record, finished.outcome)
                commands.append(Acknowledge(record.handle))
            elif record.attempt == finished.attempt and record.worker == worker_id:
                commands += self._lost(record, worker_id, now)
        if worker is not None:
            commands += self._dispatch_on(worker, now)
        return commands

    def _release_elsewhere(self, record: JobRecord) -> None:
        """An attempt that we had given up has ended the job: free the slot of the newer one."""
        worker = self.fleet.workers.get(record.worker)
        if worker is not None:
            self.fleet.release(worker, record.job.id)
            self.fleet.doubt_load(worker, record.job.model)

    def _answered(self, event: AssignmentAnswered, now: float) -> list[Command]:
        record = self.ledger.records.get(event.job)
        worker = self.fleet.workers.get(event.worker)
        is_current = record is not None and record.attempt == event.attempt
        if not is_current or record is None or record.worker != event.worker:
            if isinstance(event.answer, Accepted):
                return [CancelOnWorker(event.worker, event.job, event.attempt)]
            return []
        if isinstance(event.answer, Accepted):
            record.status = "running"
            if worker is not None and (held := worker.held.get(event.job)) is not None:
                held.accepted_at = now
            if record.is_cancelled:
                return [CancelOnWorker(event.worker, event.job, event.attempt)]
            return []
        record.refused_at[event.worker] = now
        return self._take_back(record, now)

    def _not_assigned(self, event: AssignmentFailed, now: float) -> list[Command]:
        record = self.ledger.records.get(event.job)
        commands: list[Command] = []
        if record is not None and (record.attempt, record.worker) == (event.attempt, event.worker):
            record.refused_at[event.worker] = now
            if not event.is_gone:
                commands.append(CancelOnWorker(event.worker, event.job, event.attempt))
            commands += self._take_back(record, now)
        if event.is_gone:
            commands += self._lose(event.worker, "it no longer listens", now)
        return commands

    def _take_back(self, record: JobRecord, now: float) -> list[Command]:
        """Return a job that no worker has taken to its place in the queue, and place it again."""
        self._release_elsewhere(record)
        if record.is_cancelled:
            return self.endings.cancelled(record, now)
        self.ledger.requeue(record)
        return self._dispatch(record.job.model, now)

    def _lost(self, record: JobRecord, worker: str, now: float) -> list[Command]:
        """A worker died with this job."""
        record.lost_on.append(worker)
        if len(record.lost_on) >= MAX_LOST_WORKERS:
            message = f"{MAX_LOST_WORKERS} workers died while they ran this job; it is not tried again"
            event = PlatformEvent(
                kind="failed",
                subject=record.job.id,
                at=now,
                reason=message,
                model=record.job.model,
                worker=worker,
            )
            return [*self.endings.failed(record, "worker_lost", message, now), Record(event)]
        return self._take_back(record, now)

    def _cancel(self, job: str, now: float) -> list[Command]:
        record = self.ledger.records.get(job)
        if record is None:
            if job not in self.ledger.endings:
                self._early_cancels[job] = now
                while len(self._early_cancels) > EARLY_CANCELS:
                    del self._early_cancels[next(iter(self._early_cancels))]
            return []
        record.is_cancelled = True
        if record.status == "queued":
            return self.endings.cancelled(record, now)
        return [CancelOnWorker(record.worker, job, record.attempt)]

    def _checked(self, event: ResultChecked, now: float) -> list[Command]:
        record = self.ledger.records.get(event.job)
        if record is None or record.attempt != event.attempt:
            return []
        record.is_checking = False
        if event.is_stored:
            self._release_elsewhere(record)
            self.ledger.end(record, "completed")
            return [Acknowledge(record.handle)]
        return self._take_back(record, now)

    # Workers --------------------------------------------------------------------------------------

    def _heartbeat(self, heartbeat: Heartbeat, now: float) -> list[Command]:
        known = self.fleet.workers.get(heartbeat.worker)
        commands: list[Command] = []
        if known is not None and known.facts.started_at != heartbeat.started_at:
            commands += self._lose(heartbeat.worker, "it was started again", now)
            known = None
        if heartbeat.is_leaving:
            return commands + (
                self._lose(heartbeat.worker, "it has stopped", now, says_so=True) if known else []
            )
        before = {one.model: one for one in known.facts.models} if known is not None else {}
        worker = self.fleet.update(heartbeat, now)
        if worker is None:
            return commands
        if known is None:
            reason = f"{heartbeat.device} on {heartbeat.host}, engines {', '.join(heartbeat.engines)}"
            commands.append(self._about_worker("joined", worker.id, reason, now))
        for resident in heartbeat.models:
            is_new = resident.tier == "hot" and before.get(resident.model) != resident
            if is_new and resident.load_s is not None:
                self.estimates.learn_load(resident.model, resident.spec, resident.loaded_from, resident.load_s)
        mentioned = {running.job: running for running in heartbeat.running}
        for running in heartbeat.running:
            if running.job not in self.ledger.records:
                self._claims[running.job] = (worker.id, running)
        for held in list(worker.held.values()):
            if held.job in mentioned or held.accepted_at is None:
                continue
            record = self.ledger.records.get(held.job)
            if record is None:
                self.fleet.release(worker, held.job)
            elif now - held.accepted_at > FORGOTTEN_S and not record.is_checking:
                record.is_checking = True
                commands.append(CheckResult(held.job, record.attempt, record.job.gateway))
        return commands + self._dispatch_on(worker, now)

    def _lose(self, worker_id: str, reason: str, now: float, *, says_so: bool = False) -> list[Command]:
        """A worker is gone. says_so: it has said that it goes, itself."""
        worker = self.fleet.remove(worker_id)
        if worker is None:
            return []
        commands: list[Command] = []
        is_drained = (says_so or worker.facts.is_draining) and not worker.held
        kind: EventKind = "drained" if is_drained else "lost"
        commands.append(self._about_worker(kind, worker_id, reason, now))
        self._claims = {job: claim for job, claim in self._claims.items() if claim[0] != worker_id}
        for held in worker.held.values():
            record = self.ledger.records.get(held.job)
            if record is None or record.worker != worker_id:
                continue
            if held.accepted_at is None:
                record.refused_at[worker_id] = now
                commands += self._take_back(record, now)
            else:
                commands += self._lost(record, worker_id, now)
        return commands

    def _about_worker(self, kind: EventKind, worker: str, reason: str, now: float) -> Command:
        return Record(PlatformEvent(kind=kind, subject=worker, at=now, reason=reason, worker=worker))

    def _model_changed(self, event: ModelChanged, now: float) -> list[Command]:
        if event.model is not None:
            self.dispatcher.models[event.name] = event.model
            self.ledger.queue(event.name).is_changed = True
            return self._dispatch(event.name, now)
        self.dispatcher.remove(event.name)
        queue = self.ledger.queues.get(event.name)
        if queue is None or self.is_settling:
            return []
        message = f"the model {event.name!r} was removed from the configuration"
        waiting = [self.ledger.records[job] for job in queue.waiting.first(len(queue.waiting))]
        return [
            c for r in waiting if r.job.spec is None for c in self.endings.failed(r, "impossible", message, now)
        ]

    # Time -----------------------------------------------------------------------------------------

    def _tick(self, now: float) -> list[Command]:
        commands: list[Command] = []
        for record in self.ledger.overdue(now):
            commands += self.endings.expired(record, now)
        for worker in list(self.fleet.workers.values()):
            silent_s = now - worker.seen_at
            if silent_s > GONE_S:
                commands += self._lose(worker.id, f"silent for {silent_s:.1f} s", now)
            elif silent_s > SILENT_S and not worker.is_probed:
                worker.is_probed = True
                commands.append(Probe(worker.id))
        if self.is_settling:
            return commands
        for record, reason in self.forecast.hopeless(now):
            commands += self.endings.failed(record, "impossible", reason, now)
        self.dispatcher.tidy()
        commands += self._dispatch_all(now)
        return commands + self.forecast.positions(self.ledger.waiting_queues(), now) + self.forecast.depths(now)

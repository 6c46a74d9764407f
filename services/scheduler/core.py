"""The scheduler as a machine: `handle(event, now) -> [command]`. Every state change is here or below.

What must hold after every event (`validate`; tests/unit drive it with hypothesis and a seeded, unkind
simulation):

- a job is in exactly one state (jobs/record.py), and holds exactly what that state holds;
- a job's handle is acknowledged once, and only after a terminal event for it is stored;
- attempts of a job only grow, and an earlier one that may be alive cannot end the job once a later one has it;
  a worker that lost a job gets it again only where no other could run it;
- a lane of a worker never holds more than its slots and prefetch, but for jobs that were adopted;
- nothing is given to a worker before its model is hot there;
- a job under which runners crashed twice ends with `worker_lost`.

While settling (a new leader that does not yet know what its predecessor left) jobs are only taken in.
No NATS, no clock, no randomness here: `now` is an argument, in seconds since 1970, and never goes back.
"""

from typing import assert_never

from stoker.schemas.fleet import JobView
from stoker.schemas.jobs import Status
from stoker.schemas.workers import Accepted, Finished, Heartbeat
from stoker.services.scheduler.fleet.estimates import Estimates
from stoker.services.scheduler.fleet.worker import Worker, newly_failed, newly_hot
from stoker.services.scheduler.fleet.workers import Fleet
from stoker.services.scheduler.forecast import Forecast
from stoker.services.scheduler.jobs.ledger import Ledger
from stoker.services.scheduler.jobs.record import HOLDS_SLOT, Failure
from stoker.services.scheduler.jobs.record import Record as JobRecord
from stoker.services.scheduler.leaving import Leaving, about_worker
from stoker.services.scheduler.placing.batching import learn
from stoker.services.scheduler.placing.dispatch import Dispatcher
from stoker.services.scheduler.placing.placement import why_never
from stoker.services.scheduler.placing.suspicion import Suspicion
from stoker.services.scheduler.protocol.commands import Acknowledge, AcknowledgeEnded, Cancel, Command
from stoker.services.scheduler.protocol.endings import Endings, acknowledged
from stoker.services.scheduler.protocol.events import (
    AssignmentAnswered,
    AssignmentFailed,
    CancelRequested,
    EarlierJobsArrived,
    EndingsListed,
    Event,
    Fenced,
    HeartbeatSeen,
    JobArrived,
    JobFinished,
    ModelChanged,
    PossibleNoted,
    ReplicasChanged,
    ResultChecked,
    Settled,
    Ticked,
    WorkerGone,
)
from stoker.services.scheduler.reconciling import Reconciler
from stoker.services.scheduler.usage import UsageBook

EARLY_CANCELS = 10_000
"""Cancels remembered for jobs that have not arrived yet."""


class Scheduler:
    """The state machine. `term`: of this leader's lease; assignments carry it."""

    def __init__(self, term: int, now: float) -> None:
        self.term = term
        self.fleet = Fleet()
        self.estimates = Estimates()
        self.ledger = Ledger(self.fleet, self.estimates)
        self.endings = Endings(self.ledger, term)
        self.leaving = Leaving(self.ledger, self.fleet, self.endings)
        self.reconciler = Reconciler(self.ledger, self.fleet, self.leaving, term)
        self.dispatcher = Dispatcher(self.ledger, self.fleet, self.estimates, term)
        self.suspicion = Suspicion(self.ledger, self.fleet, self.estimates)
        self.forecast = Forecast(self.dispatcher, now)
        self.usage = UsageBook()
        self.is_settling = True
        self._early_cancels: dict[str, None] = {}

    def handle(self, event: Event, now: float) -> list[Command]:
        """Take in one event; the commands are to be carried out in order."""
        commands = self._take_in(event, now)
        while orphaned := self.ledger.family.take_orphaned():
            commands += [command for job in orphaned for command in self._cancel(job, now)]
        for model in (*self.dispatcher.take_orphaned(), *self.ledger.take_returned()):
            commands += self._dispatch(model, now)
        return commands

    def _take_in(self, event: Event, now: float) -> list[Command]:
        match event:
            case JobArrived():
                return self._arrived(event, now)
            case Fenced():
                return self._fenced(event)
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
                return self.leaving.away(event.worker, now)
            case ResultChecked():
                return self._checked(event, now)
            case ModelChanged():
                return self._model_changed(event, now)
            case ReplicasChanged() | PossibleNoted():
                self.forecast.told(event)
                return []
            case Settled():
                return self._settled(now)
            case EarlierJobsArrived():
                self.reconciler.jobs_are_complete(now)
                return []
            case EndingsListed():
                return [command for view in event.endings for command in self._ended_before(view, now)]
            case _:
                assert_never(event)

    def _dispatch(self, model: str, now: float) -> list[Command]:
        return [] if self.is_settling else self.dispatcher.dispatch(model, now)

    def _dispatch_all(self, now: float) -> list[Command]:
        queues = self.ledger.by_first_job(self.ledger.waiting_queues())
        return [command for queue in queues for command in self._dispatch(queue.name, now)]

    def _fill(self, worker: Worker, now: float) -> list[Command]:
        """Give a worker that has become freer its next jobs."""
        return [] if self.is_settling else self.dispatcher.fill(worker, now)

    # Jobs -----------------------------------------------------------------------------------------

    def _arrived(self, event: JobArrived, now: float) -> list[Command]:
        job = event.job
        known = self.ledger.records.get(job.id)
        if known is not None:
            if known.sequence == event.sequence:  # delivered again: the newer handle is the valid one
                known.handle = event.handle
                return []
            return [Acknowledge(event.handle)]  # the same id stored twice: the first one stands
        ended = self.ledger.history.endings.get(job.id)
        if ended is not None and ended.created_at == job.created_at:
            return [AcknowledgeEnded(job, event.handle)]
        record = self.ledger.note(job, event.handle, event.sequence, now, event.trace)
        record.must_fence = event.may_have_run
        claim = self.reconciler.claim_of(job.id)
        if job.parent and job.parent not in self.ledger.records:
            self._early_cancels[job.id] = None  # what has called it came before it, and has ended
        is_usual = claim is None and not event.unreadable and job.id not in self._early_cancels
        if is_usual and not self.is_settling:
            given = self.dispatcher.give_at_once(record, now)
            if given is not None:
                return [given]
        self.ledger.enqueue(record)
        if claim is not None:
            worker, running = claim
            self.ledger.adopt(record, worker, running, now)
        if job.id in self._early_cancels:
            del self._early_cancels[job.id]
            return self._cancel(job.id, now)
        if event.unreadable:
            return self.endings.failed(record, "poisoned", event.unreadable, now)
        if claim is not None:
            return []
        if reason := self._why_never(record, now):
            return self.endings.failed(record, "impossible", reason, now)
        commands = self._dispatch(job.model, now)
        if record.phase == "waiting" and job.wants_events:
            place = len(self.ledger.queue(job.model).waiting) - 1
            commands += self.forecast.position(record, place, now)
        return commands

    def _why_never(self, record: JobRecord, now: float) -> str:
        """Why a job that waits can never run; "" while it may, and before everything is known."""
        if self.is_settling:
            return ""
        reason = why_never(record.job, self.dispatcher.models.get(record.job.model))
        return reason or self.forecast.possibility.why_never_together(record.models, now)

    def _finished(self, worker_id: str, finished: Finished, now: float) -> list[Command]:
        """A worker says how an attempt ended; it may be one that was given up before."""
        commands: list[Command] = []
        record = self.ledger.records.get(finished.job)
        self.reconciler.forget_claim(finished.job)
        if record is not None:
            is_current = record.is_attempt(worker_id, finished.attempt)
            if is_current:
                self.ledger.accepted(record, now)
            if is_current and finished.outcome == "completed":
                learn(self.estimates, self.dispatcher.models.get(finished.model), record, finished)
                self.ledger.ran(record, finished.run_s / finished.batch)
                self.forecast.began(record, now - finished.run_s)
                if (on := self.fleet.workers.get(worker_id)) is not None:
                    on.suspected.pop(finished.model, None)
            if finished.outcome != "lost":
                if not is_current:  # the job has ended: nobody needs the newer attempt
                    commands += self.reconciler.revoke_current(record, now)
                self.ledger.end(record, finished.outcome, now)
                self.usage.note(record.job, finished, now)
                commands.append(acknowledged(record))
            elif is_current and finished.kind:
                failure = Failure(finished.kind, finished.reason, now)
                commands += self._failed_there(record, worker_id, failure, now)
            elif is_current:
                commands += self.leaving.lost(
                    record, worker_id, now, may_end=False, is_crash=not finished.was_killed
                )
        worker = self.fleet.workers.get(worker_id)
        return commands + (self._fill(worker, now) if worker is not None else [])

    def _failed_there(self, record: JobRecord, worker: str, failure: Failure, now: float) -> list[Command]:
        """A job failed on one worker, and may do better on another: ended when nobody is left to try it."""
        record.failed_on[worker] = failure
        if record.phase == "cancelling" or self.dispatcher.replicas.has_another(record):
            return [] if record.phase == "waiting" else self.leaving.take_back(record, now, may_end=False)
        reasons = [f"on {name}: {one.reason}" for name, one in record.failed_on.items()]
        message = "; ".join(reasons) if len(reasons) > 1 else failure.reason
        return self.endings.failed(record, failure.kind, message, now)

    def _fenced(self, event: Fenced) -> list[Command]:
        record = self.ledger.records.get(event.job)
        if record is not None:
            record.fence = event.fence
            record.must_fence &= record.attempt != event.attempt
        return []

    def _ended_before(self, view: JobView, now: float) -> list[Command]:
        """A job that ended before this term: it may be in the books still."""
        record = self.ledger.records.get(view.id)
        if record is None or record.job.created_at != view.created_at:
            self.ledger.note_ending(view)
            return []
        return self._has_ended(record, view.status, now)

    def _has_ended(
        self, record: JobRecord, status: Status, now: float, *, has_current: bool = True
    ) -> list[Command]:
        """A job's end is stored, and nobody has told us: what runs of it is for nothing.

        has_current: whether a worker may have its current attempt.
        """
        must_revoke = has_current and record.phase in HOLDS_SLOT
        commands = self.reconciler.revoke_current(record, now) if must_revoke else []
        self.ledger.end(record, status, now)
        return [*commands, acknowledged(record)]

    def _answered(self, event: AssignmentAnswered, now: float) -> list[Command]:
        record = self.ledger.records.get(event.job)
        is_accepted = isinstance(event.answer, Accepted)
        if record is None or not record.is_attempt(event.worker, event.attempt):
            worker = self.fleet.workers.get(event.worker)
            if not is_accepted or worker is None:
                return []
            return self.reconciler.revoke(worker, event.job, self.term, event.attempt, now)
        if is_accepted:
            self.ledger.accepted(record, now)
            return [Cancel(event.worker, event.job, event.attempt)] if record.phase == "cancelling" else []
        record.refused_at[event.worker] = now
        return self.leaving.take_back(record, now, may_end=False)

    def _not_assigned(self, event: AssignmentFailed, now: float) -> list[Command]:
        """No answer to an assignment. Unless nobody was there, the worker may have it all the same."""
        record = self.ledger.records.get(event.job)
        commands: list[Command] = []
        if record is not None and record.is_attempt(event.worker, event.attempt) and record.phase != "running":
            record.refused_at[event.worker] = now
            if not event.is_gone:
                commands += self.reconciler.revoke_current(record, now)
            commands += self.leaving.take_back(record, now, may_end=not event.is_gone)
        if event.is_gone:
            commands += self.leaving.away(event.worker, now)
        return commands

    def _cancel(self, job: str, now: float) -> list[Command]:
        """Somebody asked for it: the only way to `cancelled`."""
        record = self.ledger.records.get(job)
        if record is None:
            if job not in self.ledger.history.endings:
                self._early_cancels[job] = None
                while len(self._early_cancels) > EARLY_CANCELS:
                    del self._early_cancels[next(iter(self._early_cancels))]
            return []
        if record.phase == "waiting":
            return self.endings.cancelled(record, now)
        if record.phase != "cancelling":
            self.ledger.move(record, "cancelling", now)
        return [Cancel(record.worker, job, record.attempt)]

    def _checked(self, event: ResultChecked, now: float) -> list[Command]:
        """Whether a job that its worker no longer mentions, or that was to be given out again, has ended."""
        record = self.ledger.records.get(event.job)
        if record is None:
            return []
        if event.found == "stored":
            return self._has_ended(record, event.status, now, has_current=record.attempt != event.attempt)
        if record.phase != "checking" or record.attempt != event.attempt:
            return []
        if event.found == "unknown":  # believed to run, and asked again when it stays unmentioned
            self.ledger.move(record, "running", now)
            return []
        return self.leaving.take_back(record, now, may_end=True)

    # Workers and models ---------------------------------------------------------------------------

    def _heartbeat(self, heartbeat: Heartbeat, now: float) -> list[Command]:
        known = self.fleet.workers.get(heartbeat.worker)
        commands: list[Command] = []
        if known is not None and heartbeat.started_at < known.facts.started_at:
            return []  # an earlier process of the same name, which a newer one has replaced
        if known is not None and heartbeat.started_at > known.facts.started_at:
            commands += self.leaving.gone(heartbeat.worker, "it was started again", now)
            known = None
        if heartbeat.is_leaving:
            return commands + self.leaving.left(heartbeat.worker, now)
        earlier = known.facts.models if known is not None else ()
        failed = newly_failed(known.facts, heartbeat) if known is not None else set()
        worker = self.fleet.update(heartbeat, now)
        if worker is None:
            return commands
        if known is None:
            reason = f"{heartbeat.device} on {heartbeat.host}, engines {', '.join(heartbeat.engines)}"
            commands.append(about_worker("joined", worker.id, reason, now))
            self.leaving.returned(worker.id, heartbeat.started_at)
        for resident in newly_hot(earlier, heartbeat.models):
            if resident.load_s is not None:
                self.estimates.learn_load(
                    resident.model, resident.spec, resident.loaded_from, resident.load_s, resident.memory_bytes
                )
        commands += self.reconciler.heartbeat(worker, heartbeat, now)
        for model in sorted(failed):
            reason = heartbeat.failed_loads.get(model, "it could not be loaded")
            commands += self._load_failed(worker, model, reason, now)
        return commands + self._fill(worker, now)

    def _load_failed(self, worker: Worker, model: str, reason: str, now: float) -> list[Command]:
        """A model could not be loaded: the jobs that were meant for it there are tried elsewhere, or end."""
        commands: list[Command] = []
        for record in self.dispatcher.load_failed(worker, model):
            commands += self._failed_there(record, worker.id, Failure("load_failed", reason, now), now)
        return commands + self._dispatch(model, now)

    def _model_changed(self, event: ModelChanged, now: float) -> list[Command]:
        if event.model is not None:
            self.dispatcher.set(event.name, event.model)
            self.ledger.queue(event.name).is_changed = True
        else:
            self.dispatcher.remove(event.name)
            self.estimates.forget(event.name)
            self.forecast.possibility.forget(event.name)
        return self._end_impossible(event.name, now) + self._dispatch(event.name, now)

    def _end_impossible(self, model: str, now: float) -> list[Command]:
        """End the waiting jobs of a model that can never run as the catalog is now."""
        commands: list[Command] = []
        for record in self.ledger.waiting(model):
            if record.job.spec is None and (reason := self._why_never(record, now)):
                commands += self.endings.failed(record, "impossible", reason, now)
        return commands

    def _settled(self, now: float) -> list[Command]:
        self.is_settling = False
        queues = self.ledger.waiting_queues()
        commands = [command for queue in queues for command in self._end_impossible(queue.name, now)]
        return commands + self._dispatch_all(now)

    # Time -----------------------------------------------------------------------------------------

    def _tick(self, now: float) -> list[Command]:
        commands: list[Command] = []
        for record in self.ledger.overdue(now):
            commands += self.endings.expired(record, now)
        commands += self.leaving.tick(now)
        if self.is_settling:
            return commands
        commands += self.reconciler.tick(now)
        for record, reason in self.forecast.hopeless(now):
            commands += self.endings.failed(record, "impossible", reason, now)
        commands += [each for one in self.forecast.unserved(now) for each in self.endings.given_up(one, now)]
        commands += self.dispatcher.tick(now) + self._look_after_slow_ones(now)
        return commands + self.forecast.positions(self.ledger.waiting_queues(), now) + self.forecast.depths(now)

    def _look_after_slow_ones(self, now: float) -> list[Command]:
        """Runs that do not go on: their workers are suspected, and their jobs have another try beside."""
        overdue, commands = self.suspicion.look(now)
        for record in filter(self.suspicion.may_go_beside, overdue):
            commands += self.dispatcher.beside(record, now)
        return commands

    def validate(self) -> None:
        """Raise AssertionError where the books contradict each other. O(everything), for tests and replays."""
        self.ledger.validate()
        self.dispatcher.plan.validate()

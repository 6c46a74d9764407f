"""What becomes of a worker's jobs when the worker, its runner, or their connection is not there any more. Pure.

Three answers to "where is it?", which must not be mixed up:

- *left*: it said goodbye, or is another process now that says so. Its jobs go back to their places; nobody is
  blamed.
- *gone*: it neither speaks nor answers, or was started again. Its jobs are tried elsewhere. A worker runs no
  code of jobs itself, its runner does: so it is a runner that crashes which counts against a job. One under
  which runners crashed `MAX_CRASHES` times ends as `worker_lost`, lest it take down every runner there is; so
  does one that was lost `MAX_LOST` times in any way.
- *away*: the server says that nobody listens. For `AWAY_LIMIT_S` that may be a short disconnection: its jobs
  stay.

Time is the caller's; a worker's silence is measured on a clock that never steps (services/process/clock.py).
"""

from stoker.schemas.fleet import EventKind, PlatformEvent
from stoker.schemas.workers import HEARTBEAT_INTERVAL_S
from stoker.services.scheduler.fleet.worker import Worker
from stoker.services.scheduler.fleet.workers import Fleet
from stoker.services.scheduler.jobs.ledger import Ledger
from stoker.services.scheduler.jobs.record import Record
from stoker.services.scheduler.protocol.commands import Command, Probe
from stoker.services.scheduler.protocol.commands import Record as Keep
from stoker.services.scheduler.protocol.endings import Endings

MAX_CRASHES, MAX_LOST = 2, 6
SILENT_S = 1.5 * HEARTBEAT_INTERVAL_S
"""A worker that said nothing for this long is asked whether it is there."""
AWAY_LIMIT_S = 1.0
"""A worker at whose subject nobody listens is gone after this: longer than a reconnection takes."""
GONE_S = 6.0
"""A worker that neither speaks nor answers for this long is gone, though its connection stands."""


class Leaving:
    """Ends attempts that their workers cannot end themselves."""

    def __init__(self, ledger: Ledger, fleet: Fleet, endings: Endings) -> None:
        self._ledger = ledger
        self._fleet = fleet
        self._endings = endings
        self._gone: dict[str, float] = {}
        """Workers that are gone, by the start of the process that was: should it come back, it did not die."""

    def away(self, worker_id: str, now: float) -> list[Command]:
        """Nobody listens at the worker's subject at this moment."""
        worker = self._fleet.workers.get(worker_id)
        if worker is not None:
            worker.turn("away", now)
        return []

    def left(self, worker_id: str, now: float) -> list[Command]:
        """A worker has said goodbye."""
        worker = self._fleet.workers.get(worker_id)
        if worker is None:
            return []
        kind: EventKind = "drained" if not worker.held else "lost"
        unfinished = f", {len(worker.held)} jobs unfinished" if worker.held else ""
        event = about_worker(kind, worker_id, f"it has stopped{unfinished}", now)
        for record in self._remove(worker):
            self.take_back(record, now, may_end=True)
        return [event]

    def gone(self, worker_id: str, reason: str, now: float) -> list[Command]:
        """A worker is not there any more, and has not said so."""
        worker = self._fleet.workers.get(worker_id)
        if worker is None:
            return []
        self._gone[worker_id] = worker.facts.started_at
        is_drained = worker.facts.is_draining and not worker.held
        commands = [about_worker("drained" if is_drained else "lost", worker_id, reason, now)]
        for record in self._remove(worker):
            commands += self.lost(record, worker_id, now, may_end=True)
        return commands

    def returned(self, worker_id: str, started_at: float) -> None:
        """A worker that was not in the books speaks. The same process as before has not died under any job."""
        if self._gone.pop(worker_id, None) != started_at:
            return
        for record in self._ledger.records.values():
            if worker_id in record.lost_on:
                record.lost_on.remove(worker_id)

    def _remove(self, worker: Worker) -> list[Record]:
        """Take a worker out of the books; the jobs that it had, which hold no slot of it any more."""
        self._fleet.remove(worker.id)
        held = [self._ledger.records.get(job) for job in worker.held]
        return [record for record in held if record is not None and record.worker == worker.id]

    def lost(
        self, record: Record, worker: str, now: float, *, may_end: bool, is_crash: bool = False
    ) -> list[Command]:
        """A worker or its runner died with this job. One that was only asked to take it has not lost it.

        may_end: as in `take_back`. is_crash: its runner ended by itself, and the job may be why.
        """
        if record.phase == "offered":
            return self.take_back(record, now, may_end=may_end)
        record.lost_on.append(worker)
        record.crashes += is_crash
        is_too_often = record.crashes >= MAX_CRASHES or len(record.lost_on) >= MAX_LOST
        if not is_too_often or record.phase == "cancelling":
            return self.take_back(record, now, may_end=may_end)
        message = f"{len(record.lost_on)} workers died while they ran this job; it is not tried again"
        event = PlatformEvent(
            kind="failed", subject=record.id, at=now, reason=message, model=record.job.model, worker=worker
        )
        return [*self._endings.failed(record, "worker_lost", message, now), Keep(event)]

    def take_back(self, record: Record, now: float, *, may_end: bool) -> list[Command]:
        """Return a job to its place in the queue; one that somebody cancelled meanwhile ends.

        may_end: the attempt that it had may be alive, and end the job yet; the next one is fenced from it.
        """
        if record.phase == "cancelling":
            return self._endings.cancelled(record, now)
        record.must_fence |= may_end
        self._ledger.move(record, "waiting", now)
        return []

    def tick(self, now: float) -> list[Command]:
        """Ask silent workers; give up those that were away or silent for too long."""
        commands: list[Command] = []
        for worker in list(self._fleet.workers.values()):
            silent_s = now - worker.seen_at
            if worker.presence == "away" and now - worker.since > AWAY_LIMIT_S:
                commands += self.gone(worker.id, "it no longer listens", now)
            elif silent_s > GONE_S:
                commands += self.gone(worker.id, f"silent for {silent_s:.1f} s", now)
            elif silent_s > SILENT_S and worker.presence == "present":
                worker.turn("silent", now)
                commands.append(Probe(worker.id))
        return commands


def about_worker(kind: EventKind, worker: str, reason: str, now: float) -> Command:
    return Keep(PlatformEvent(kind=kind, subject=worker, at=now, reason=reason, worker=worker))

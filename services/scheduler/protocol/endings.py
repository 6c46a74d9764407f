"""Jobs that end without a worker: cancelled in the queue, expired, impossible, or given up. Pure."""

from dataclasses import dataclass

from stoker.schemas.job_events import Cancelled, Ending, Expired, Failed, FailureKind, Timings
from stoker.schemas.jobs import Job
from stoker.services.scheduler.jobs.ledger import Ledger
from stoker.services.scheduler.jobs.record import Record
from stoker.services.scheduler.protocol.commands import Acknowledge, Command, EndJob

UNSERVED = "unserved"


@dataclass(frozen=True, slots=True)
class GivenUp:
    """A waiting job whose model nothing serves, and what its client is told."""

    record: Record
    reason: str
    retry_after_s: float


class Endings:
    """Takes a job out of the books and says how it ended. `term`: of this leader's lease."""

    def __init__(self, ledger: Ledger, term: int) -> None:
        self._ledger = ledger
        self._term = term

    def cancelled(self, record: Record, now: float) -> list[Command]:
        event = Cancelled(**self._ending(record, now))
        self._ledger.end(record, "cancelled", now)
        return [EndJob(record.job, record.handle, event, record.fence)]

    def failed(self, record: Record, kind: FailureKind, message: str, now: float) -> list[Command]:
        event = Failed(**self._ending(record, now), kind=kind, message=message)
        self._ledger.end(record, "failed", now)
        return [EndJob(record.job, record.handle, event, record.fence)]

    def given_up(self, one: GivenUp, now: float) -> list[Command]:
        """Nothing serves its model, and its client does not wait longer for that."""
        record = one.record
        event = Failed(
            **self._ending(record, now),
            kind="resource",
            code=UNSERVED,
            message=one.reason,
            retry_after_s=one.retry_after_s,
        )
        self._ledger.end(record, "failed", now)
        return [EndJob(record.job, record.handle, event, record.fence)]

    def expired(self, record: Record, now: float) -> list[Command]:
        """It waited longer than it was allowed to."""
        waited = now - record.job.created_at
        message = f"no worker could start it within {waited:.0f} s"
        event = Expired(**self._ending(record, now), message=message)
        self._ledger.end(record, "expired", now)
        return [EndJob(record.job, record.handle, event, record.fence)]

    def _ending(self, record: Record, now: float) -> Ending:
        job = record.job
        return {
            "term": self._term,
            "attempt": record.attempt,
            "job": job.id,
            "model": job.model,
            "created_at": job.created_at,
            "finished_at": now,
            "timings": Timings(
                queued_s=round(record.queued_s if record.worker else max(now - job.created_at, 0.0), 4)
            ),
            "worker": record.worker,
            "spec": record.spec,
            "fingerprint": job.fingerprint,
            "webhook": job.webhook,
            "tenant": job.tenant,
            "parent": job.parent,
            "children": self._ledger.family.shown(job.id),
            "child_count": self._ledger.family.count(job.id),
        }


def acknowledged(record: Record) -> Acknowledge:
    """The end of a job is stored by its worker: out of the stream with it."""
    return Acknowledge(record.handle, record.job if record.job.webhook else None)


def poisoned(job: Job, term: int, reason: str, finished_at: float) -> Failed:
    """The end of a job that is in no book, as it could not be taken in."""
    return Failed(
        term=term,
        job=job.id,
        model=job.model,
        created_at=job.created_at,
        finished_at=finished_at,
        fingerprint=job.fingerprint,
        webhook=job.webhook,
        tenant=job.tenant,
        kind="poisoned",
        message=reason,
    )

"""Heartbeats against the books: what a worker says it runs, and what we believe it runs. Pure.

A heartbeat lists every attempt that its worker has. Each is compared with the books, every time, so that
whatever was lost, late or doubled on the way is put right by the next heartbeat (a level, not an edge).
Takeover, partition and restart are this one path:

| the worker has | the books say | then |
|---|---|---|
| an attempt | the same attempt, here | it is running, whatever answer was lost |
| the newest attempt | the job waits | adopt it |
| a newer attempt of an earlier leader | another worker has an older one | adopt this, revoke that |
| an older attempt | it goes on beside the current one | nothing |
| an older attempt | anything else | revoke it |
| an attempt that this leader never ordered | anything | revoke it |
| an attempt | the job has ended | revoke it |
| an attempt | no such job | keep it, a claim, until the job arrives; revoke it `CLAIM_LIMIT_S` after all came |
| nothing | it runs here | look whether its result is stored, after `FORGOTTEN_S` |

An attempt that was revoked is never adopted: the order may be on its way still. It is given again while the
worker goes on to mention it.
"""

from dataclasses import dataclass

from stoker.schemas.workers import HEARTBEAT_INTERVAL_S, Heartbeat, RunningJob
from stoker.services.scheduler.fleet.worker import Worker
from stoker.services.scheduler.fleet.workers import Fleet
from stoker.services.scheduler.jobs.ledger import Ledger
from stoker.services.scheduler.jobs.record import Record
from stoker.services.scheduler.leaving import Leaving
from stoker.services.scheduler.protocol.commands import CheckResult, Command, Revoke

FORGOTTEN_S = 2.0 * HEARTBEAT_INTERVAL_S
"""A job that its worker has not mentioned for this long may have ended without our knowing."""
CLAIM_LIMIT_S = 10.0
"""How long a worker may have an attempt of a job that does not arrive: it has ended long ago."""
REVOKE_AGAIN_S = 1.0


@dataclass(frozen=True, slots=True)
class Claim:
    """An attempt that a worker has, of a job that has not arrived. since: when it was first mentioned."""

    worker: str
    running: RunningJob
    since: float


class Reconciler:
    """Compares. Keeps claims: attempts of jobs that have not arrived. term: of this leader's lease."""

    def __init__(self, ledger: Ledger, fleet: Fleet, leaving: Leaving, term: int) -> None:
        self._ledger = ledger
        self._fleet = fleet
        self._leaving = leaving
        self._term = term
        self._claims: dict[str, Claim] = {}
        self._complete_since: float | None = None
        """Since when every job of before this term has arrived."""

    @property
    def knows_all_jobs(self) -> bool:
        return self._complete_since is not None

    def jobs_are_complete(self, now: float) -> None:
        """Every job of before this term has arrived: an attempt of any other is of one that has ended."""
        if self._complete_since is None:
            self._complete_since = now

    def heartbeat(self, worker: Worker, heartbeat: Heartbeat, now: float) -> list[Command]:
        """Bring the books and the worker together. Jobs that must run again are waiting then."""
        commands: list[Command] = []
        mentioned = {(running.job, running.attempt) for running in heartbeat.running}
        for key in [key for key in worker.revoked if key not in mentioned]:
            del worker.revoked[key]
        self._drop_claims(worker.id, {running.job for running in heartbeat.running})
        for running in heartbeat.running:
            commands += self._mentioned(worker, running, now)
        for held in list(worker.held.values()):
            if (held.job, held.attempt) not in mentioned:
                commands += self._not_mentioned(self._ledger.records[held.job], now)
        return commands

    def _mentioned(self, worker: Worker, running: RunningJob, now: float) -> list[Command]:
        record = self._ledger.records.get(running.job)
        if record is None:
            return self._unknown(worker, running, now)
        if record.is_attempt(worker.id, running.attempt):
            self._fleet.turn_waiting(worker, record.id, now, waits=running.waits)
            worker.held[record.id].goes_on = running.goes_on
            if record.phase in ("offered", "checking"):
                self._ledger.move(record, "running", now)
            elif record.phase == "running":
                record.mentioned_at = now
            return []
        if (worker.id, running.attempt) in record.beside:
            return []
        if (running.job, running.attempt) in worker.revoked or not self._is_newest(record, running):
            return self.revoke(worker, running.job, running.term, running.attempt, now)
        return self._take_over(record, worker, running, now)

    def _is_newest(self, record: Record, running: RunningJob) -> bool:
        """Whether no later attempt is known: only then its events follow those that watchers have."""
        mentioned, known = (running.term, running.attempt), (record.term, record.attempt)
        if record.term == running.term == self._term and running.attempt > record.attempt:
            return False
        if record.phase == "waiting":
            return mentioned >= known
        return record.phase != "cancelling" and mentioned > known

    def _take_over(self, record: Record, worker: Worker, running: RunningJob, now: float) -> list[Command]:
        commands: list[Command] = []
        if record.phase != "waiting":
            commands += self.revoke_current(record, now)
            commands += self._leaving.take_back(record, now, may_end=True)
        self._ledger.adopt(record, worker, running, now)
        return commands

    def _unknown(self, worker: Worker, running: RunningJob, now: float) -> list[Command]:
        if running.job in self._ledger.history.endings:
            return self.revoke(worker, running.job, running.term, running.attempt, now)
        known = self._claims.get(running.job)
        if known is None or (known.running.term, known.running.attempt) < (running.term, running.attempt):
            self._claims[running.job] = Claim(worker.id, running, now)
        return []

    def _not_mentioned(self, record: Record, now: float) -> list[Command]:
        """Its worker does not have it, unless the assignment is on its way: `offered` waits for the answer."""
        if now - record.mentioned_at <= FORGOTTEN_S:
            return []
        if record.phase == "running":
            self._ledger.move(record, "checking", now)
            return [CheckResult(record.id, record.attempt)]
        if record.phase == "cancelling":  # first wins: if a result is stored, it stays
            return self._leaving.take_back(record, now, may_end=True)
        return []

    def revoke(self, worker: Worker, job: str, term: int, attempt: int, now: float) -> list[Command]:
        """Have a worker drop an attempt; again while it goes on to mention it."""
        told_at = worker.revoked.get((job, attempt))
        if told_at is not None and now - told_at < REVOKE_AGAIN_S:
            return []
        worker.revoked[job, attempt] = now
        return [Revoke(worker.id, job, term, attempt)]

    def revoke_current(self, record: Record, now: float) -> list[Command]:
        """Have the worker that has the job drop it. The caller moves the job."""
        worker = self._fleet.workers.get(record.worker)
        if worker is None:
            return []
        return self.revoke(worker, record.id, record.term, record.attempt, now)

    # Claims ---------------------------------------------------------------------------------------

    def claim_of(self, job: str) -> tuple[Worker, RunningJob] | None:
        """The attempt of a job that has just arrived, where a worker that is there has one; it is taken out."""
        claim = self._claims.pop(job, None)
        worker = self._fleet.workers.get(claim.worker) if claim is not None else None
        return (worker, claim.running) if claim is not None and worker is not None else None

    def forget_claim(self, job: str) -> None:
        """The job has ended."""
        self._claims.pop(job, None)

    def _drop_claims(self, worker: str, mentioned: set[str]) -> None:
        stale = [job for job, claim in self._claims.items() if claim.worker == worker and job not in mentioned]
        for job in stale:
            del self._claims[job]

    def tick(self, now: float) -> list[Command]:
        """Revoke what nobody has accepted."""
        commands: list[Command] = []
        if self._complete_since is None:
            return commands
        for job, claim in list(self._claims.items()):
            worker = self._fleet.workers.get(claim.worker)
            if worker is None:
                del self._claims[job]
            elif now - max(claim.since, self._complete_since) > CLAIM_LIMIT_S:
                running = claim.running
                commands += self.revoke(worker, job, running.term, running.attempt, now)
        return commands

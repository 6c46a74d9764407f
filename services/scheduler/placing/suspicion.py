"""Runs that take longer than any of their kind: what is believed of their workers, and what is tried elsewhere.
Pure.

A driver that hangs, a disk that answers after minutes, a device that is throttled: the worker speaks, and its
job does not go on. A run that takes `SLOW_FACTOR` times as long as the slowest of the last ones, and of which
nothing has come in the last seconds (its worker says so: `goes_on`; one answer may be much longer than all
others), makes its worker *suspected* for this model: nothing new goes there while another replica has room. It
is cleared when a run of the model ends well there, when its runner is another one, or after `SUSPECTED_S`.
Where the engine asks a server that another worker would ask too (`is_elsewhere`), no worker is suspected.

A job under suspicion is given to another replica too, where that is safe (`is_repeatable`), a slot is free and
nobody waits for it. Both attempts have the same fence: whichever ends first ends the job, and the other is
revoked.
"""

from collections.abc import Iterator

from stoker.schemas.fleet import PlatformEvent
from stoker.schemas.jobs import is_repeatable
from stoker.services.scheduler.fleet.estimates import Estimates
from stoker.services.scheduler.fleet.worker import Worker
from stoker.services.scheduler.fleet.workers import Fleet
from stoker.services.scheduler.jobs.ledger import Ledger
from stoker.services.scheduler.jobs.record import Record
from stoker.services.scheduler.protocol.commands import Command
from stoker.services.scheduler.protocol.commands import Record as Keep

SLOW_FACTOR = 2.0
MIN_SLOW_S = 3.0
"""No run is slow before this, however quick the others were."""
SUSPECTED_S = 60.0
LOOK_EVERY_S = 0.5
TURNS = 5
"""In so many turns all workers are looked at."""
MOST_AT_A_TIME = 128
MOST_BESIDE = 1
"""Further attempts that a job is given beside its first."""


class Suspicion:
    """Looks at what runs."""

    def __init__(self, ledger: Ledger, fleet: Fleet, estimates: Estimates) -> None:
        self._ledger = ledger
        self._fleet = fleet
        self._estimates = estimates
        self._looked_at = 0.0
        self._next: list[str] = []
        self._each = 0
        self._slowest: dict[tuple[str, str, float], float | None] = {}
        """By model, spec and size, in one look: most of thousands that run are alike."""

    def look(self, now: float) -> tuple[list[Record], list[Command]]:
        """The running jobs that are overdue; suspects their workers. Some workers at a time, so that
        each is looked at once in `LOOK_EVERY_S`, or as often as `MOST_AT_A_TIME` allows.
        """
        if now - self._looked_at < LOOK_EVERY_S / TURNS:
            return [], []
        self._looked_at = now
        if not self._next:
            self._next = list(reversed(self._fleet.workers))
            self._each = min(-(-len(self._next) // TURNS), MOST_AT_A_TIME)
        overdue: list[Record] = []
        commands: list[Command] = []
        self._slowest.clear()
        for _ in range(min(self._each, len(self._next))):
            worker = self._fleet.workers.get(self._next.pop())
            if worker is not None:
                self._look_at(worker, now, overdue, commands)
        return overdue, commands

    def _look_at(self, worker: Worker, now: float, overdue: list[Record], commands: list[Command]) -> None:
        for model in [model for model, since in worker.suspected.items() if now - since > SUSPECTED_S]:
            del worker.suspected[model]
        for record, slow_s in self._slow(worker, now):
            overdue.append(record)
            if record.job.model not in worker.suspected:
                commands.append(_told(worker, record, slow_s, now))
            worker.suspected[record.job.model] = now

    def _slow(self, worker: Worker, now: float) -> Iterator[tuple[Record, float]]:
        """The jobs that a worker runs for too long, and how long would have been slow."""
        for held in worker.held.values():
            if now - held.since <= MIN_SLOW_S + held.load_s or held.is_ahead or held.waits_since is not None:
                continue
            if held.goes_on:
                continue
            record = self._ledger.records[held.job]
            alike = (held.model, held.spec, record.units)
            if alike not in self._slowest:
                self._slowest[alike] = self._estimates.slowest_s(*alike)
            slowest_s = self._slowest[alike]
            if slowest_s is None or record.phase != "running":
                continue
            slow_s = max(SLOW_FACTOR * slowest_s, MIN_SLOW_S)
            if now - held.since > slow_s + held.load_s and not _is_elsewhere(worker, held.model):
                yield record, slow_s

    def may_go_beside(self, record: Record) -> bool:
        """Whether a job that is overdue may be given to another replica too."""
        return (
            is_repeatable(record.job.input)
            and len(record.beside) < MOST_BESIDE
            and not record.must_fence
            and not self._ledger.has_waiting(record.job.model)
        )


def _is_elsewhere(worker: Worker, model: str) -> bool:
    capability = worker.capability(worker.replica_engine(model) or "")
    return capability is not None and capability.is_elsewhere


def _told(worker: Worker, record: Record, slow_s: float, now: float) -> Command:
    model = record.job.model
    reason = f"job {record.id} has run for over {slow_s:.1f} s, much longer than any of the last"
    found = PlatformEvent(
        kind="suspected", subject=worker.id, at=now, reason=reason, model=model, worker=worker.id
    )
    return Keep(found)

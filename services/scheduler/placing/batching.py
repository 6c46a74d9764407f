"""Jobs that are drawn as one: a model with the option `batch` runs up to so many like jobs in one go, as many
as were measured to gain (fleet/batch_gains.py). Pure.

A worker draws together what is alike of the jobs that it has. While its lane is busy, one batch is gathered
ahead: its first job is the next one as the fair clock has them, and until the lane is free only those follow
that can be drawn with it, past others that wait. No slot is kept free for jobs that may come: whoever waits
there would end later for it.
"""

from stoker.schemas.catalog import Model, Spec, batch_limit
from stoker.schemas.jobs import Job, likeness
from stoker.schemas.workers import Finished
from stoker.services.scheduler.fleet.estimates import Estimates
from stoker.services.scheduler.fleet.lane import Held
from stoker.services.scheduler.fleet.worker import Worker
from stoker.services.scheduler.jobs.ledger import Ledger
from stoker.services.scheduler.jobs.record import Record

LOOKED_AT = 32
"""How many of the next jobs are looked at for one that is alike."""
TOGETHER_S = 0.005
"""What is sent within this time after one that begins at once, is drawn with it."""


def learn(estimates: Estimates, model: Model | None, record: Record, finished: Finished) -> None:
    """A run was measured: what it took, and what its batch gained."""
    estimates.learn_job(record.job, record.spec, finished.units, finished.run_s, finished.batch)
    spec = next((one for one in model.specs if one.name == record.spec), None) if model is not None else None
    if spec is None or batch_limit(spec) == 1:
        return
    if finished.too_many > 1:
        estimates.gains.too_many(finished.model, spec.name, finished.too_many)
    else:
        alike = likeness(record.job, spec)
        estimates.gains.learn(finished.model, spec.name, alike, finished.batch, finished.run_s)


def note_batch(worker: Worker, held: Held, job: Job, spec: Spec, estimates: Estimates) -> None:
    """Enter in a new entry of the books what it is drawn with, and what that makes of its time."""
    held.likeness, held.batch = likeness(job, spec), estimates.batch_size(job.model, spec)
    alike = [one for one in worker.held.values() if one.likeness == held.likeness]
    begun = [one for one in alike if not one.is_ahead]
    if begun and len(begun) < held.batch and held.since - begun[0].since < TOGETHER_S:
        held.is_ahead = False
    with_it = len(alike) - len(begun) if held.is_ahead else len(begun)
    held.run_s *= estimates.share(held.model, held.spec, with_it % held.batch + 1)


def next_of(ledger: Ledger, worker: Worker, first: Record, spec: Spec, now: float, limit: int) -> Record | None:
    """The next job for a worker: the first of the queue; where one has just begun or waits in the lane already,
    one that is drawn with it, or None: the others are not bound to this worker before they have to be.

    limit: how many are drawn as one.
    """
    if limit == 1:
        return first
    held = [one for one in worker.held.values() if one.model == first.job.model]
    begun = [one for one in held if not one.is_ahead and now - one.since < TOGETHER_S]
    if begun and len(begun) < limit and (with_it := _alike(ledger, first, spec, begun[0])) is not None:
        return with_it
    ahead = [one for one in held if one.is_ahead]
    if not ahead:
        return first
    return _alike(ledger, first, spec, ahead[0]) if len(ahead) < limit else None


def _alike(ledger: Ledger, first: Record, spec: Spec, held: Held) -> Record | None:
    """Of the next jobs of the queue, as urgent as the first, one that is drawn with one that a worker has."""
    for job in ledger.queue(first.job.model).waiting.first(LOOKED_AT):
        other = ledger.records[job]
        if other.job.priority != first.job.priority or other.is_particular:
            return None
        if likeness(other.job, spec) == held.likeness:
            return other
    return None

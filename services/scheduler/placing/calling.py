"""Jobs that wait for calls of their own: how many of them a worker may have. Pure.

Such a job takes no slot, but memory and a thread. So a lane of a worker begins no further function of a depth
of which MOST_WAITING wait there already; it begins deeper ones, for which those wait. That can stop nobody for
good: functions of the greatest depth that there is wait for nothing, so that they run, end, and let those go on
that wait for them.
"""

from stoker.schemas.catalog import Spec
from stoker.schemas.jobs import FunctionInput, StoredInput
from stoker.services.scheduler.fleet.worker import Worker
from stoker.services.scheduler.jobs.ledger import Ledger
from stoker.services.scheduler.jobs.record import Record

MOST_WAITING = 32
"""Jobs of one depth that wait for calls of theirs, in one lane of a worker."""


def may_begin(worker: Worker, record: Record, spec: Spec) -> bool:
    """Whether a worker that has a free slot may begin a job with it."""
    if not worker.waiting or not isinstance(record.job.input, FunctionInput | StoredInput):
        return True
    lane = worker.lane(record.job.model, spec.engine)
    return worker.waiting.get((lane, record.job.depth), 0) < MOST_WAITING


def may_begin_instead(ledger: Ledger, worker: Worker, first: Record, spec: Spec) -> Record | None:
    """The first of a queue where it may begin, else the deepest call behind it that may. O(waiting calls)."""
    if may_begin(worker, first, spec):
        return first
    calls = [ledger.records[job] for job in ledger.queue(first.job.model).calls]
    able = [call for call in calls if not call.is_particular and may_begin(worker, call, spec)]
    return max(able, key=lambda call: call.job.depth, default=None)

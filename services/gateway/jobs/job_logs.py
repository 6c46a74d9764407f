"""What a job has printed, as text. Pure but for `job_log`, which asks for it.

Places in an output are counted in bytes from its beginning, what was left out included, so that who has read
up to a place can ask for the rest.
"""

from stoker.schemas import wire
from stoker.schemas.job_events import JobLog
from stoker.schemas.workers import Replay, ReplayRequest
from stoker.services.bus.errors import BusError
from stoker.services.gateway.edge.access import is_visible
from stoker.services.gateway.edge.problems import RETRY_AFTER_S, RequestError
from stoker.services.gateway.gateway import Gateway
from stoker.services.gateway.jobs.files import check_id, no_such_job
from stoker.services.gateway.locating import Nowhere, locate
from stoker.services.gateway.scheduler_queries import Known, Unknown
from stoker.services.records.results import Stored, Unreadable

ASK_TIMEOUT_S = 2.0
EMPTY = JobLog()


def size_of(log: JobLog) -> int:
    """Bytes that were printed, what was left out included."""
    return len(log.head) + log.dropped_bytes + len(log.tail)


def text_after(log: JobLog, place: int) -> bytes:
    """What was printed after this place; a line says what was left out there."""
    head_end, tail_start = len(log.head), len(log.head) + log.dropped_bytes
    said = b""
    if log.dropped_bytes and place < tail_start:
        kept = f"a log keeps the first {head_end} and the last {len(log.tail)} bytes"
        left_out = f"{log.dropped_lines} lines ({log.dropped_bytes} bytes) were left out here"
        said = f"\n[stoker] {left_out}: {kept}\n".encode()
    return log.head[place:] + said + log.tail[max(place - tail_start, 0) :]


async def job_log(gateway: Gateway, job: str) -> tuple[JobLog, bool]:
    """What a job has printed by now, and whether it has ended. Raises RequestError 404, 503."""
    match await locate(gateway.bus, check_id(job)):
        case Stored(result):
            if not is_visible(result.event.tenant):
                raise no_such_job(job)
            return result.event.log or EMPTY, True
        case Known(view):
            if not is_visible(view.tenant):
                raise no_such_job(job)
            return await _from_worker(gateway, job, view.worker), False
        case Unreadable(reason):
            raise RequestError(500, reason, code="unreadable_result")
        case Unknown(reason):
            message = f"nobody could say where the job is ({reason}); try again"
            raise RequestError(503, message, retry_after_s=RETRY_AFTER_S)
        case Nowhere():
            raise no_such_job(job)


async def _from_worker(gateway: Gateway, job: str, worker: str) -> JobLog:
    """What the worker that has the job knows; nothing where it waits, or its worker does not answer."""
    if not worker:
        return EMPTY
    subject = gateway.bus.subjects.worker(worker, "replay")
    try:
        asked = ReplayRequest(job, wants_log=True)
        answer: Replay = await gateway.bus.ask(subject, asked, Replay, ASK_TIMEOUT_S)
    except (BusError, wire.UnreadableMessage):
        return EMPTY
    return answer.log or EMPTY

"""Where a job is, for whoever asks about it: as an answer, and only if it is theirs."""

import asyncio

from stoker.schemas.jobs import Job
from stoker.services.gateway.edge.access import current_key, is_visible
from stoker.services.gateway.edge.idempotency import conflict
from stoker.services.gateway.edge.problems import RETRY_AFTER_S, RequestError
from stoker.services.gateway.gateway import Gateway
from stoker.services.gateway.jobs.answers import JobAnswer, from_result, from_view
from stoker.services.gateway.jobs.files import NO_SUCH_JOB, check_id, no_such_job, visible_result
from stoker.services.gateway.locating import Nowhere, locate
from stoker.services.gateway.scheduler_queries import Known, Unknown
from stoker.services.records.results import Stored, Unreadable

CONFLICT_WAIT_S, LOOK_AGAIN_S = 2.0, 0.05


async def find_job(gateway: Gateway, job: str, *, must_be_sure: bool = False) -> tuple[JobAnswer, str] | None:
    """A job and its fingerprint; None: there is none, or there was none a moment ago where it need not be sure.

    Raises RequestError 404 when it is another key's, 503 when it could not be found out, BlobGone.
    """
    match await locate(gateway.bus, check_id(job), must_be_sure=must_be_sure):
        case Stored(result):
            stored = await visible_result(gateway, job, result)
            return from_result(stored.event), stored.event.fingerprint
        case Unreadable(reason):
            raise RequestError(500, reason, code="unreadable_result")
        case Known(view):
            if not is_visible(view.tenant):
                raise no_such_job(job)
            return from_view(view), view.fingerprint
        case Unknown(reason):
            message = f"nobody could say where the job is ({reason}); try again"
            raise RequestError(503, message, retry_after_s=RETRY_AFTER_S)
        case Nowhere():
            return None


async def present_job(gateway: Gateway, job: str) -> JobAnswer:
    """A job that a client asks about, as it is now. Raises RequestError 404 when it is sure that there is none,
    else as `find_job` does.
    """
    found = await find_job(gateway, job, must_be_sure=True)
    if found is None:
        raise no_such_job(job)
    return found[0]


async def made_before(gateway: Gateway, job: str) -> tuple[JobAnswer, str] | None:
    """`find_job` for who would make the job. Raises RequestError: 409 where it is another key's."""
    try:
        return await find_job(gateway, job)
    except RequestError as error:
        if error.code != NO_SUCH_JOB:
            raise
        raise RequestError(409, f"another key has a job {job!r}", code="conflict", field="id") from error


async def is_there(gateway: Gateway, job: Job) -> bool:
    """Whether a job that its client has named was made before. Raises RequestError: 409 by another request."""
    present = await made_before(gateway, job.id) if job.is_client_named else None
    if present is not None and present[1] != job.fingerprint:
        raise conflict(job.id)
    return present is not None


async def await_job(gateway: Gateway, job: str) -> tuple[JobAnswer, str]:
    """The job that was stored a moment ago under the same id. Raises RequestError 503."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + CONFLICT_WAIT_S
    while (found := await made_before(gateway, job)) is None:
        if loop.time() > deadline:
            message = "a job of this id is being accepted; try again"
            raise RequestError(503, message, retry_after_s=RETRY_AFTER_S)
        await asyncio.sleep(LOOK_AGAIN_S)
    return found


async def check_owner(gateway: Gateway, job: str) -> None:
    """Raises RequestError 404 when the job is another key's."""
    if current_key.get() is not None:
        await find_job(gateway, job, must_be_sure=True)

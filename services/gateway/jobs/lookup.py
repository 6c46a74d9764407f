"""Where a job is: with the scheduler, or stored as ended. "There is none" is said only when that is certain."""

import asyncio

from services.gateway.edge.access import current_key, is_visible
from services.gateway.edge.problems import RETRY_AFTER_S, RequestError
from services.gateway.gateway import Gateway
from services.gateway.jobs.answers import JobAnswer, from_result, from_view
from services.gateway.jobs.files import (
    LOOK_AGAIN_S,
    STORED_WITHIN_S,
    check_id,
    no_such_job,
    stored_result,
)
from services.gateway.scheduler_queries import Known, Unknown, look_up_job, no_scheduler

CONFLICT_WAIT_S = 2.0


async def find_job(gateway: Gateway, job: str) -> tuple[JobAnswer, str] | None:
    """A job and its fingerprint; None when there was none a moment ago: it may be accepted, or end, just now.

    What is stored counts more than what the scheduler says: one that takes over may not know of an end yet.
    Raises RequestError 404 when it is another key's, 503 and BusError when it could not be found out.
    """
    stored = await stored_result(gateway, job)
    if stored is not None:
        return from_result(stored.event), stored.event.fingerprint
    view = await look_up_job(gateway.bus, job)
    if isinstance(view, Known) and view.is_under_way:
        if not is_visible(view.view.tenant):
            raise no_such_job(job)
        return from_view(view.view), view.view.fingerprint
    if isinstance(view, Unknown):
        raise no_scheduler()
    return None


async def present_job(gateway: Gateway, job: str) -> JobAnswer:
    """A job that a client asks about, as it is now. Raises RequestError 404 when there is none, 503, BusError.

    It may have been accepted, or have ended, a moment ago: "none" is said only when it stays so for a moment.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + STORED_WITHIN_S
    while (found := await find_job(gateway, job)) is None:
        if loop.time() > deadline:
            raise no_such_job(job)
        await asyncio.sleep(LOOK_AGAIN_S)
    return found[0]


async def await_job(gateway: Gateway, job: str) -> tuple[JobAnswer, str]:
    """The job that was stored a moment ago under the same id. Raises RequestError 503."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + CONFLICT_WAIT_S
    while (found := await find_job(gateway, job)) is None:
        if loop.time() > deadline:
            message = "a job of this id is being accepted; try again"
            raise RequestError(503, message, retry_after_s=RETRY_AFTER_S)
        await asyncio.sleep(LOOK_AGAIN_S)
    return found


async def check_owner(gateway: Gateway, job: str) -> None:
    """Raises RequestError 404 when the job is another key's."""
    if current_key.get() is not None:
        await find_job(gateway, check_id(job))

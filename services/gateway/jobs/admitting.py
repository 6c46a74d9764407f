"""Between making the jobs of a request and storing them: too much is refused, and what they need is had.

A job that its client has named and that was made before is not made again: nothing of that is looked at for it.
"""

from collections.abc import Sequence

from stoker.schemas.jobs import Job
from stoker.services.gateway.gateway import Gateway
from stoker.services.gateway.jobs.files import with_files
from stoker.services.gateway.jobs.large_inputs import fitting
from stoker.services.gateway.jobs.lookup import is_there


async def admitted(
    gateway: Gateway,
    jobs: Sequence[Job],
    body_bytes: int,
    impossible_status: int = 503,
    *,
    may_name_files: bool = False,
) -> list[Job]:
    """The jobs as they may be stored, those that are there already as they are. Raises RequestError: for all of
    them where one is refused.
    """
    new = [job for job in jobs if not await is_there(gateway, job)]
    made = await ready(gateway, new, body_bytes, impossible_status, may_name_files=may_name_files)
    ready_by_id = {job.id: job for job in made}
    return [ready_by_id.get(job.id, job) for job in jobs]


async def ready(
    gateway: Gateway,
    jobs: Sequence[Job],
    body_bytes: int,
    impossible_status: int,
    *,
    may_name_files: bool = False,
) -> list[Job]:
    """New jobs, counted and with all that they need. may_name_files: a payload of theirs may name files.

    Raises RequestError, as `fitting` does; then none of them counts.
    """
    gateway.admission.check_all(jobs, impossible_status)
    try:
        if may_name_files:
            jobs = [await with_files(gateway, job) for job in jobs]
        return [await fitting(gateway, job, body_bytes) for job in jobs]
    except BaseException:
        for job in jobs:
            gateway.limits.not_made(job)
        raise

"""Inputs that do not fit a message travel as blobs: the job has the blob's name, and its worker reads it."""

from stoker.schemas import wire
from stoker.schemas.jobs import Job, StoredInput, is_repeatable, models_together, prefix_of, work_units
from stoker.services.bus.sizes import max_job_bytes
from stoker.services.gateway.gateway import Gateway
from stoker.services.gateway.jobs.remote_files import has_remote_pictures, with_pictures
from stoker.services.gateway.jobs.submission import with_input
from stoker.services.records.blobs import write_blob

KEPT_CHARS = 4096
"""Of a text's beginning, by which jobs of one beginning are brought together."""


async def fitting(gateway: Gateway, job: Job, body_bytes: int) -> Job:
    """The same job with all that it needs: pictures that lie elsewhere are fetched, and an input that is too
    large to travel with the job is stored and named. Raises RequestError 400, 413, 429, 503, BusError.

    body_bytes: of the request; what is made of a small one is small.
    Not while services of the version before may be there, which could not read it: then it stays as it is,
    and is refused for its size.
    """
    most = max_job_bytes(gateway.bus.max_payload)
    if has_remote_pictures(job):
        job = await with_pictures(gateway.fetching, job)
    elif body_bytes < most // 2:
        return job
    if not job.is_sealed or len(wire.encode(job)) <= most:
        return job
    name = await write_blob(gateway.bus, f"{job.id}/input", wire.encode(job.input), is_sealed=True)
    stored = StoredInput(
        blob=name,
        units=work_units(job.input),
        is_repeatable=is_repeatable(job.input),
        begins=prefix_of(job.input, KEPT_CHARS),
        models=models_together(job.input),
    )
    return with_input(job, stored)

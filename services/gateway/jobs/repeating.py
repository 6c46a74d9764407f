"""Running a job again that failed, was cancelled or waited for too long: as it was accepted, under another id.

The scheduler keeps such jobs for as long as results are kept (stream STOKER_RETRIES).
"""

import time

import msgspec
from nats.nuid import NUID

from stoker.schemas import wire
from stoker.schemas.jobs import Job
from stoker.schemas.subjects import RETRIES_STREAM
from stoker.services.bus.errors import BusError, Missing, named
from stoker.services.gateway.edge.access import check_model, current_key, is_visible
from stoker.services.gateway.edge.problems import RETRY_AFTER_S, RequestError
from stoker.services.gateway.gateway import Gateway
from stoker.services.gateway.jobs.files import no_such_job
from stoker.services.gateway.jobs.lookup import present_job

KEPT_WITHIN_S = 5.0
"""The scheduler stores what has ended once a second."""


async def repeated(gateway: Gateway, job: str, name: str = "", fingerprint: str = "") -> Job:
    """The same job once more, with an id of its own. It belongs to the key that asks. name, fingerprint: its id
    and what was asked, where its client has named the request.

    Raises RequestError 404 where the job is another key's, 409 where it has not ended, has completed, or is not
    kept any more; 503.
    """
    kept = await _kept(gateway, job)
    if kept is None or not is_visible(kept.tenant):
        found = await present_job(gateway, job)
        if kept is not None:
            raise no_such_job(job)
        ended_at = found.finished_at if found.status != "completed" else None
        if ended_at is not None and time.time() - ended_at < KEPT_WITHIN_S:
            message = "the job has ended just now and is not kept yet; try again"
            raise RequestError(503, message, field="job", retry_after_s=RETRY_AFTER_S)
        raise RequestError(409, _why_not(found.status), field="job", code="cannot_be_repeated")
    check_model(kept.model)
    if kept.model not in gateway.models:
        raise RequestError(
            404, f"the model {kept.model!r} is no longer there", field="model", code="model_not_found"
        )
    key = current_key.get()
    return msgspec.structs.replace(
        kept,
        id=name or NUID().next().decode(),
        gateway=gateway.name,
        created_at=time.time(),
        tenant=key.id if key is not None else "",
        weight=key.weight if key is not None else 1.0,
        wants_events=True,
        is_client_named=bool(name),
        fingerprint=fingerprint or kept.fingerprint,
        is_sealed=gateway.bus.seals.are_there,
    )


def _why_not(status: str) -> str:
    match status:
        case "queued" | "assigned" | "running":
            return f"the job has not ended: it is {status}; cancel it first"
        case "completed":
            return "the job has completed; submit it anew to run it once more"
        case _:
            return "this job is no longer kept, is a call of another job, or is too large; submit it anew"


async def _kept(gateway: Gateway, job: str) -> Job | None:
    subject = gateway.bus.subjects.retry(job)
    try:
        with named(f"reading the job {job}"):
            message = await gateway.bus.jetstream.get_last_msg(RETRIES_STREAM, subject, direct=True)
        kept: Job = wire.decode(Job, message.data or b"")
    except (Missing, wire.UnreadableMessage):
        return None
    except BusError as error:
        raise RequestError(503, str(error), retry_after_s=RETRY_AFTER_S) from error
    return kept

"""Jobs that no request brings: calls of calls, and what schedules start. They go the way of all others.

Each has a tenant, whose key is in force while such a job is made: which models it may use, its limits, whose
files it may name. Run this in a task of its own, for `as_tenant` sets the key of the task.
"""

from typing import Any

import msgspec

from stoker.schemas.jobs import Job
from stoker.services.gateway.edge.access import current_key
from stoker.services.gateway.edge.idempotency import fingerprint_of
from stoker.services.gateway.edge.problems import RequestError
from stoker.services.gateway.gateway import Gateway
from stoker.services.gateway.jobs.admitting import ready
from stoker.services.gateway.jobs.function_calls import placed_by
from stoker.services.gateway.jobs.request_rules import split_adapter
from stoker.services.gateway.jobs.requests import JobRequest, job_input
from stoker.services.records.keys import read_key

PASSING = (429, 503, 507)
"""Answers after which the same job may be accepted."""
LONG_S = 60
"""What passes no sooner is not waited for."""


async def as_tenant(gateway: Gateway, tenant: str) -> None:
    """From now on this task asks with the key of a tenant; "": with none. Raises RequestError 401, BusError."""
    key = None
    if tenant:
        key = gateway.access.key(tenant) or await read_key(gateway.bus, tenant)
        if key is None:
            raise RequestError(
                401, "the API key that this is done for is no longer valid", code="invalid_api_key"
            )
    current_key.set(key)


def job_named(
    gateway: Gateway, name: str, payload: dict[str, Any], job_id: str, *, priority: int = 0, **fields: Any
) -> Job:
    """A call of a function or a model, as a job of this id. fields: more of the job. Raises RequestError."""
    asked = JobRequest(model=name, input=payload, priority=priority)
    model, adapter = split_adapter(asked.model, gateway.models)
    input_, seed = job_input(asked, model)
    job = gateway.submission.make_job(
        model,
        adapter,
        input_,
        place_by=placed_by(input_),
        job_id=job_id,
        seed=seed,
        wants_events=False,
        fingerprint=fingerprint_of(msgspec.json.encode(payload, order="deterministic")),
    )
    return msgspec.structs.replace(job, **{"priority": priority or job.priority, **fields})


async def give(gateway: Gateway, job: Job, body_bytes: int) -> None:
    """Give a job to the queue, unless it is there. Raises RequestError, BusError, BlobGone."""
    [job] = await ready(gateway, [job], body_bytes, 422, may_name_files=True)
    if not await gateway.submission.store(job):
        gateway.streams.look_now(job.id)


def is_passing(error: RequestError) -> bool:
    """Whether a job that was refused may be accepted in a moment. What no worker can do is not waited for."""
    return error.status in PASSING and error.code != "impossible" and (error.retry_after_s or 0) <= LONG_S

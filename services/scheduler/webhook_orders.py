"""Ordering webhooks: what is to be posted, and where, once a job's end is stored.

The address comes from the job, never from who ran it; a gateway posts what is stored (gateway/webhooks.py). The
job stays in the stream of jobs until its order is stored, so a scheduler that dies between the two loses none;
the server drops the second order of its successor.
"""

import asyncio

import msgspec

from stoker.schemas import wire
from stoker.schemas.jobs import Job
from stoker.services.bus.connection import Bus
from stoker.services.bus.errors import BusError
from stoker.services.process.logs import get_logger
from stoker.services.records.results import NotStored, Stored, Unknown, Unreadable, find_result

log = get_logger("webhooks")

AGAIN_S = 0.5
LOOKS_FOR_RESULT = 20
"""A worker said that it has stored the end: after so many looks there is none."""


async def order_webhook(bus: Bus, job: Job) -> None:
    """Have the stored end of a job posted to the job's webhook. Returns when that is stored."""
    looks = 0
    while True:
        match await find_result(bus, job.id, for_sure=True):
            case Stored(result):
                if await _ordered(
                    bus, job, wire.encode(msgspec.structs.replace(result.event, webhook=job.webhook))
                ):
                    return
            case Unreadable(reason):
                log.error("webhook.not_ordered", job=job.id, reason=reason)
                return
            case NotStored():
                looks += 1
                if looks == LOOKS_FOR_RESULT:
                    log.error("webhook.not_ordered", job=job.id, reason="its end is not stored")
                    return
            case Unknown(reason):
                log.warning("webhook.not_ordered_yet", job=job.id, reason=reason)
        await asyncio.sleep(AGAIN_S)


async def _ordered(bus: Bus, job: Job, order: bytes) -> bool:
    try:
        await bus.publish_stored(bus.subjects.webhook(job.id), order, message_id=job.id)
    except BusError as error:
        log.warning("webhook.not_ordered_yet", job=job.id, reason=str(error))
        return False
    return True

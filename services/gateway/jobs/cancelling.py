"""Cancelling a job, and telling what became of it: it may complete before its engine hears of it."""

from contextlib import suppress

import anyio

from stoker.services.gateway.edge.problems import RequestError
from stoker.services.gateway.gateway import Gateway

ENDED_WITHIN_S = 5.0
"""How long the end of a job is waited for; one that goes on is shown as it is."""


async def cancel(gateway: Gateway, job: str) -> bool:
    """Have a job cancelled, and wait a little for its end. Whether the scheduler knows it; where not, it is
    cancelled on arrival, or has ended. Raises RequestError where no scheduler answers.
    """
    with gateway.streams.expecting(job, ENDED_WITHIN_S) as ended, anyio.move_on_after(ENDED_WITHIN_S):
        if not await gateway.submission.cancel(job):
            return False
        with suppress(RequestError):  # its end cannot be told: it is shown as it is
            await ended
    return True

"""Leader leases: one key of the TTL bucket `stoker_leases` per office, held by whoever created it.

Theory. Creating a key succeeds for one contender only. The holder renews it three times per TTL with the
revision it knows; when that fails it is no longer the holder and must stop acting before the TTL is over,
which is why the last third of the TTL is left for it. A clean stop deletes the key, so that a successor
need not wait. The lease decides who tries to lead; what keeps an old leader from doing harm is the
fencing at the consumer (services/scheduler/service.py), not this clock.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import nats.errors
from nats.js.errors import APIError, KeyWrongLastSequenceError
from nats.js.errors import Error as JetStreamError
from nats.js.kv import KeyValue

from schemas.subjects import LEASES_BUCKET, to_token
from services.bus.connection import Bus
from services.bus.streams import LEASE_TTL_S
from services.process.logs import get_logger

log = get_logger("leases")

RENEWALS_PER_TTL = 3
POLL_S = 0.1
ASK_AGAIN_S = 1.0
_ERRORS = (nats.errors.Error, JetStreamError, APIError, TimeoutError)


class Lease:
    """A held lease. `epoch` grows with every holder; `lost` is set when it is no longer held."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch
        self.lost = asyncio.Event()


async def _bucket(bus: Bus) -> KeyValue:
    """The bucket, as soon as JetStream answers: while servers of a cluster elect a leader it does not."""
    while True:
        try:
            async with asyncio.timeout(ASK_AGAIN_S):
                return await bus.jetstream.key_value(LEASES_BUCKET)
        except _ERRORS as error:
            log.warning("leases.not_there", error=str(error) or type(error).__name__)
            await asyncio.sleep(POLL_S)


@asynccontextmanager
async def hold(bus: Bus, office: str, holder: str) -> AsyncIterator[Lease]:
    """Wait for the lease on `office`, hold and renew it inside the block, release it after."""
    key = to_token(office)
    bucket = await _bucket(bus)
    while True:
        try:
            revision = await bucket.create(key, holder.encode())
            break
        except _ERRORS:
            await asyncio.sleep(POLL_S)
    lease = Lease(epoch=revision)

    async def renew() -> None:
        nonlocal revision
        loop = asyncio.get_running_loop()
        renewed_at = loop.time()
        while True:
            await asyncio.sleep(LEASE_TTL_S / RENEWALS_PER_TTL)
            try:
                async with asyncio.timeout(LEASE_TTL_S / RENEWALS_PER_TTL):
                    revision = await bucket.update(key, holder.encode(), last=revision)
                renewed_at = loop.time()
            except KeyWrongLastSequenceError:
                break
            except _ERRORS:
                if loop.time() - renewed_at > LEASE_TTL_S * (RENEWALS_PER_TTL - 1) / RENEWALS_PER_TTL:
                    break
        log.warning("lease.lost", office=office)
        lease.lost.set()

    renewal = asyncio.create_task(renew())
    try:
        yield lease
    finally:
        renewal.cancel()
        if not lease.lost.is_set() and bus.is_connected:
            try:
                await asyncio.shield(asyncio.wait_for(bucket.delete(key, last=revision), 1.0))
            except _ERRORS:
                log.warning("lease.not_released", office=office)

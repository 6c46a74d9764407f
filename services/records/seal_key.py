"""The key of the seals, in the bucket `stoker_secrets`: made with the streams, read by gateways and the
scheduler.
"""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from stoker.schemas import wire
from stoker.schemas.subjects import SECRETS_BUCKET
from stoker.services.bus.buckets import open_bucket
from stoker.services.bus.connection import Bus
from stoker.services.bus.errors import Conflict
from stoker.services.bus.seals import SealKey, Seals
from stoker.services.bus.streams import RESULT_TTL_S
from stoker.services.bus.watching import watch_bucket
from stoker.services.process.logs import get_logger
from stoker.services.process.running import CannotStart
from stoker.services.process.tasks import LimitExceeded, TaskOwner, limit

log = get_logger("seals")

KEY_BYTES = 32
ENTRY = "seal"
READ_WITHIN_S = 30.0


async def make_key(bus: Bus, *, is_new: bool) -> None:
    """Make the key, unless there is one. is_new: no job has been accepted before. Raises BusError."""
    bucket = await open_bucket(bus, SECRETS_BUCKET)
    made = SealKey(secrets.token_bytes(KEY_BYTES), 0.0 if is_new else time.time())
    try:
        await bucket.create(ENTRY, wire.encode(made))
    except Conflict:
        return


@asynccontextmanager
async def knowing_seals(bus: Bus) -> AsyncIterator[None]:
    """Inside, `bus.seals` is what the bucket says. Raises CannotStart where it cannot be read."""
    is_read = asyncio.Event()
    async with TaskOwner("seals") as tasks:
        tasks.start(_watch_key, bus, is_read)
        try:
            with limit("reading the key of the seals", READ_WITHIN_S):
                await is_read.wait()
        except LimitExceeded as error:
            raise CannotStart(str(error)) from error
        yield


async def _watch_key(bus: Bus, is_read: asyncio.Event) -> None:
    def take(name: str, value: bytes) -> None:
        if name != ENTRY or not value:
            return
        try:
            bus.seals = Seals(wire.decode(SealKey, value), RESULT_TTL_S)
        except wire.UnreadableMessage as error:
            log.error("seals.unreadable", error=str(error))

    await watch_bucket(bus, SECRETS_BUCKET, take, is_read)

"""The bucket `stoker_batches`: a record for each batch. A change names the revision that it was made from."""

import asyncio
from collections.abc import Callable

from stoker.schemas import wire
from stoker.schemas.batches import BatchRecord
from stoker.schemas.subjects import BATCHES_BUCKET, to_token
from stoker.services.bus.bucket_feed import read_changes
from stoker.services.bus.buckets import open_bucket
from stoker.services.bus.connection import Bus
from stoker.services.bus.errors import BusError, Conflict
from stoker.services.bus.watching import watch_bucket
from stoker.services.process.logs import get_logger

log = get_logger("batches")

CHANGE_ATTEMPTS = 20
AGAIN_S = 0.05


async def create_batch(bus: Bus, record: BatchRecord) -> None:
    """Raises BusError."""
    bucket = await open_bucket(bus, BATCHES_BUCKET)
    await bucket.create(to_token(record.id), wire.encode(record))


async def read_batch(bus: Bus, batch: str) -> tuple[BatchRecord, int] | None:
    """A batch and its revision; None: there is none, or none any more. Raises BusError, UnreadableMessage."""
    bucket = await open_bucket(bus, BATCHES_BUCKET)
    entry = await bucket.get(to_token(batch))
    if entry is None or not entry.value:
        return None
    return wire.decode(BatchRecord, entry.value), entry.revision


async def list_batches(bus: Bus) -> list[BatchRecord]:
    """Every batch. Raises BusError, wire.UnreadableMessage."""
    changes = await read_changes(bus, BATCHES_BUCKET)
    return [wire.decode(BatchRecord, change.value) for change in changes if change.value]


async def write_batch(bus: Bus, record: BatchRecord, revision: int) -> int:
    """The new revision. Raises Conflict when somebody has written since `revision`, BusError."""
    bucket = await open_bucket(bus, BATCHES_BUCKET)
    return await bucket.update(to_token(record.id), wire.encode(record), revision)


async def change_batch(
    bus: Bus, batch: str, change: Callable[[BatchRecord], BatchRecord | None]
) -> BatchRecord | None:
    """The batch as it is after `change`, which is given what is stored and says None to leave it so.

    None: there is no such batch. Raises BusError, wire.UnreadableMessage, and what `change` raises.
    """
    for _ in range(CHANGE_ATTEMPTS):
        found = await read_batch(bus, batch)
        if found is None:
            return None
        record, revision = found
        wanted = change(record)
        if wanted is None:
            return record
        try:
            await write_batch(bus, wanted, revision)
            return wanted
        except Conflict:
            await asyncio.sleep(AGAIN_S)
    raise BusError(f"the batch {batch} changes all the time")


async def watch_batches(bus: Bus, changed: Callable[[str, BatchRecord | None], None]) -> None:
    """Call `changed` with every batch, and every change of one, until cancelled. None: it is no longer kept."""

    def take(key: str, value: bytes) -> None:
        try:
            changed(key, wire.decode(BatchRecord, value) if value else None)
        except wire.UnreadableMessage as error:
            log.warning("batch.unreadable", batch=key, error=str(error))

    await watch_bucket(bus, BATCHES_BUCKET, take)

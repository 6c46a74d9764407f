"""A batch that is this gateway's: what it may write, until another gateway takes it.

Theory. The record names its owner, and every write names the revision that it was made from. So of two gateways
that both take a batch one does, and an owner that was replaced writes nothing more: its next write is a
conflict, and it reads that the batch is another's. A batch is taken from an owner whose record has not changed
for `STALE_S` by the taker's own clock; the owner counts `beat` up every `BEAT_S`.
"""

import asyncio
import time
from collections.abc import Callable

import anyio
import msgspec

from stoker.schemas import wire
from stoker.schemas.batches import BatchRecord
from stoker.services.bus.connection import Bus
from stoker.services.bus.errors import BusError, Conflict
from stoker.services.gateway.jobs.batch_states import has_ended
from stoker.services.process.logs import get_logger
from stoker.services.process.tasks import cleanup
from stoker.services.records.batches import read_batch, write_batch

log = get_logger("batches")

BEAT_S = 0.5
STALE_S = 3.0
AGAIN_S = 0.3
RELEASE_TIMEOUT_S = 2.0

Change = Callable[[BatchRecord], BatchRecord]
"""From what is stored to what shall be. It is made again where something else has changed meanwhile, and where
nobody knows whether it was stored: so it says how things are, not what comes on top.
"""


class Lost(Exception):
    """The batch is another's, or is no longer there."""


class Claim:
    """A batch that is `owner`'s. `update` is how its record changes."""

    def __init__(self, bus: Bus, record: BatchRecord, revision: int) -> None:
        self.record = record
        self._bus = bus
        self._revision = revision
        self._writing = anyio.Lock()

    async def update(self, change: Change) -> BatchRecord:
        """The record after the change. Waits for as long as NATS is away. Raises Lost, and as `change` does."""
        async with self._writing:
            while True:
                wanted = change(self.record)
                try:
                    self._revision = await write_batch(self._bus, wanted, self._revision)
                except Conflict:
                    await self._read_again()
                except BusError as error:  # whether it was stored nobody knows
                    log.warning("batch.not_written", batch=self.record.id, error=str(error))
                    await asyncio.sleep(AGAIN_S)
                    await self._read_again()
                else:
                    self.record = wanted
                    return wanted

    async def beat(self) -> None:
        """Tell the others that the owner lives. Raises Lost."""
        await self.update(lambda record: msgspec.structs.replace(record, beat=record.beat + 1))

    async def _read_again(self) -> None:
        while True:
            try:
                found = await read_batch(self._bus, self.record.id)
                break
            except (BusError, wire.UnreadableMessage) as error:
                log.warning("batch.not_read", batch=self.record.id, error=str(error))
                await asyncio.sleep(AGAIN_S)
        mine = (self.record.owner, self.record.claim)
        if found is None or (found[0].owner, found[0].claim) != mine:
            raise Lost(self.record.id)
        self.record, self._revision = found

    async def release(self) -> None:
        """Let another take it at once."""
        async with cleanup("releasing a batch", RELEASE_TIMEOUT_S):
            try:
                await self.update(lambda record: msgspec.structs.replace(record, owner=""))
            except Lost:
                pass


async def take(bus: Bus, seen: BatchRecord, owner: str) -> Claim | None:
    """The batch, if it is as it was seen and nobody else takes it; None: it is not this owner's.

    Raises BusError, wire.UnreadableMessage.
    """
    found = await read_batch(bus, seen.id)
    if found is None:
        return None
    record, revision = found
    if has_ended(record.status) or (record.owner, record.claim, record.beat) != (
        seen.owner,
        seen.claim,
        seen.beat,
    ):
        return None
    taken = msgspec.structs.replace(record, owner=owner, claim=record.claim + 1)
    try:
        revision = await write_batch(bus, taken, revision)
    except Conflict:
        return None
    log.info("batch.taken", batch=seen.id, claim=taken.claim, status=taken.status, before=record.owner)
    return Claim(bus, taken, revision)


def now() -> float:
    """Unix seconds."""
    return time.time()

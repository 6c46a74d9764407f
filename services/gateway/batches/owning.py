"""Which batches this gateway runs: those that nobody runs, and those whose owner says nothing any more.

Every gateway reads every record as it changes. A batch is taken at once where its record names no owner, and
`STALE_S` after its last change where it names one: a gateway that was killed, whichever name its successor has.
"""

import asyncio
import secrets
from collections import Counter
from dataclasses import dataclass
from functools import partial

import anyio

from stoker.schemas import wire
from stoker.schemas.batches import BatchRecord
from stoker.schemas.subjects import BATCHES_BUCKET, of_bucket
from stoker.services.bus.connection import Bus
from stoker.services.bus.errors import BusError
from stoker.services.bus.streams import is_declared
from stoker.services.gateway.batches.claim import STALE_S, Claim, Lost, take
from stoker.services.gateway.batches.running import Run
from stoker.services.gateway.gateway import Gateway
from stoker.services.gateway.jobs.batch_states import has_ended
from stoker.services.process.logs import get_logger
from stoker.services.process.tasks import TaskOwner, until
from stoker.services.records.batches import watch_batches

log = get_logger("batches")

BATCHES_AT_ONCE, BATCHES_AT_ONCE_EACH = 32, 8
"""That one gateway runs, and of one key: it has the input file of each on its disk, and one may take a day."""
SWEEP_S = 0.5
ASK_AGAIN_S = 5.0


@dataclass(slots=True)
class _Seen:
    """A batch that has not ended. at: when its record last changed, by the event loop's clock."""

    record: BatchRecord
    at: float


class Batches:
    """Runs batches until cancelled."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._owner = f"{gateway.name}.{secrets.token_hex(4)}"
        """This process: its successor may have the same name."""
        self._seen: dict[str, _Seen] = {}
        self._running: dict[str, str] = {}
        """Whose each is."""
        self._changed = anyio.Event()

    async def run(self) -> None:
        await _wait_for_bucket(self._gateway.bus)
        async with TaskOwner("batches") as tasks:
            watch = partial(watch_batches, self._gateway.bus, self._on_change)
            await until(asyncio.Event(), watch, partial(self._take_often, tasks))

    def _on_change(self, batch: str, record: BatchRecord | None) -> None:
        if record is None or has_ended(record.status):
            self._seen.pop(batch, None)
        else:
            self._seen[batch] = _Seen(record, asyncio.get_running_loop().time())
            if not record.owner:
                self._changed.set()

    async def _take_often(self, tasks: TaskOwner) -> None:
        while True:
            with anyio.move_on_after(SWEEP_S):
                await self._changed.wait()
            self._changed = anyio.Event()
            while (batch := self._next()) is not None:
                seen = self._seen[batch]
                self._running[batch] = seen.record.tenant
                tasks.start_contained(self._run, batch, seen)

    def _next(self) -> str | None:
        """The oldest batch that nobody runs, of the keys that have the fewest under way here."""
        if len(self._running) >= BATCHES_AT_ONCE:
            return None
        under_way = Counter(self._running.values())
        free = [
            (under_way[seen.record.tenant], seen.record.created_at, batch)
            for batch, seen in self._seen.items()
            if under_way[seen.record.tenant] < BATCHES_AT_ONCE_EACH and self._is_free(batch, seen)
        ]
        return min(free)[2] if free else None

    def _is_free(self, batch: str, seen: _Seen) -> bool:
        """Whether nobody runs the batch, as far as can be seen from here."""
        if batch in self._running:
            return False
        return not seen.record.owner or asyncio.get_running_loop().time() > seen.at + STALE_S

    async def _run(self, batch: str, seen: _Seen) -> None:
        try:
            claim = await take(self._gateway.bus, seen.record, self._owner)
            if claim is None:
                seen.at = asyncio.get_running_loop().time()  # what has changed is told
            else:
                await self._run_taken(claim)
        except (BusError, wire.UnreadableMessage) as error:
            log.warning("batch.not_taken", batch=batch, error=str(error))
        finally:
            self._running.pop(batch, None)

    async def _run_taken(self, claim: Claim) -> None:
        try:
            await Run(self._gateway, claim).run()
        except Lost:
            log.warning("batch.lost", batch=claim.record.id)
        except BaseException:
            if not has_ended(claim.record.status):
                await claim.release()
            raise


async def _wait_for_bucket(bus: Bus) -> None:
    """Until the bucket of batches is there: one installed by the version before has none."""
    while True:
        try:
            if await is_declared(bus, of_bucket(BATCHES_BUCKET)):
                return
            log.warning(
                "batches.not_there",
                remedy="run `stoker install-streams` once, as a NATS user that may make streams",
            )
        except BusError as error:
            log.warning("batches.not_found_out", error=str(error))
        await asyncio.sleep(ASK_AGAIN_S)

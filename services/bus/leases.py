"""Leader leases: one key of the TTL bucket `stoker_leases` for each role, held by whoever created it.

Theory. Creating a key succeeds for one contender only. The holder renews it three times per TTL with the
revision it knows. The server counts the TTL from when it took the write, which is later than when the holder
began to write; so the holder trusts its lease for TTL seconds from the *beginning* of the last write that
succeeded, less a margin, and never longer: whatever a slow answer, a paused process or a lost connection does
to it, it stops before the server lets a successor in. A clean stop deletes the key, so that a successor need
not wait.

`term` is the revision of the key's creation: it grows with every holder. The lease decides who tries to lead.
What keeps an earlier leader from doing harm are the fences at what it writes (the scheduler's consumer, the
revisions of the autoscaler's records, the term in every assignment), not this clock.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from stoker.schemas.subjects import LEASES_BUCKET, to_token
from stoker.services.bus.buckets import Bucket, open_bucket
from stoker.services.bus.connection import Bus
from stoker.services.bus.errors import BusError, Conflict
from stoker.services.bus.streams import LEASE_TTL_S
from stoker.services.process.logs import get_logger
from stoker.services.process.tasks import LimitExceeded, TaskOwner, cleanup, limit

log = get_logger("leases")

RENEWALS_PER_TTL = 3
MARGIN_S = LEASE_TTL_S / 6
"""How long before the TTL is over the holder stops trusting its lease."""
TRUSTED_S = LEASE_TTL_S - MARGIN_S
POLL_S = 0.1
ASK_AGAIN_S = 1.0
RELEASE_TIMEOUT_S = 1.0


class Lease:
    """A held lease. `lost` is set when it is no longer held."""

    def __init__(self, term: int, trusted_until: float) -> None:
        self.term = term
        self.lost = asyncio.Event()
        self.trusted_until = trusted_until
        """On the event loop's clock. Past it the lease may be another's."""

    def is_trusted(self, now: float) -> bool:
        """Whether nobody else can hold the lease yet. now: of the event loop's clock."""
        return not self.lost.is_set() and now < self.trusted_until


async def _bucket(bus: Bus) -> Bucket:
    """The bucket, as soon as JetStream answers: while servers of a cluster elect a leader it does not."""
    while True:
        try:
            with limit("opening the bucket of leases", ASK_AGAIN_S):
                return await open_bucket(bus, LEASES_BUCKET)
        except (BusError, LimitExceeded) as error:
            log.warning("leases.unavailable", error=str(error))
            await asyncio.sleep(POLL_S)


@asynccontextmanager
async def hold(bus: Bus, role: str, holder: str) -> AsyncIterator[Lease]:
    """Wait for the lease on `role`, hold and renew it inside the block, release it after."""
    keeper = _Keeper(await _bucket(bus), role, holder)
    lease = await keeper.acquire()
    try:
        async with TaskOwner("lease") as tasks:
            tasks.start(keeper.keep, lease)
            yield lease
    finally:
        if not lease.lost.is_set() and bus.is_connected:
            await keeper.release()


class _Keeper:
    """Acquires, renews and releases one lease."""

    def __init__(self, bucket: Bucket, role: str, holder: str) -> None:
        self._bucket = bucket
        self._role = role
        self._key = to_token(role)
        self._holder = holder.encode()
        self._revision = 0

    async def acquire(self) -> Lease:
        loop = asyncio.get_running_loop()
        while True:
            began = loop.time()
            try:
                self._revision = await self._bucket.create(self._key, self._holder)
            except BusError:
                await asyncio.sleep(POLL_S)
                continue
            if loop.time() < began + TRUSTED_S:
                return Lease(self._revision, began + TRUSTED_S)
            log.warning("lease.too_slow", role=self._role)  # by now it may be another's

    async def keep(self, lease: Lease) -> None:
        """Renew until that fails; `lease.lost` is set before a successor can hold it."""
        loop = asyncio.get_running_loop()
        interval_s = LEASE_TTL_S / RENEWALS_PER_TTL
        while True:
            await asyncio.sleep(min(interval_s, max(lease.trusted_until - loop.time(), 0.0)))
            began = loop.time()
            if began >= lease.trusted_until:
                break
            try:
                with limit("renewing a lease", min(interval_s, lease.trusted_until - began)):
                    self._revision = await self._bucket.update(self._key, self._holder, self._revision)
                lease.trusted_until = began + TRUSTED_S
            except Conflict:
                if not await self._is_ours(lease):
                    break
            except (BusError, LimitExceeded) as error:
                log.warning("lease.not_renewed", role=self._role, error=str(error))
        log.warning("lease.lost", role=self._role)
        lease.lost.set()

    async def _is_ours(self, lease: Lease) -> bool:
        """After a conflict: whether it was a renewal of our own whose answer never came."""
        try:
            with limit("reading a lease", max(lease.trusted_until - asyncio.get_running_loop().time(), 0.0)):
                found = await self._bucket.get(self._key)
        except (BusError, LimitExceeded):
            return True  # it could not be found out: trust ends by itself
        if found is None or found.value != self._holder:
            return False
        self._revision = found.revision
        return True

    async def release(self) -> None:
        async with cleanup("releasing a lease", RELEASE_TIMEOUT_S):
            try:
                await self._bucket.delete(self._key, self._revision)
            except BusError as error:
                log.warning("lease.not_released", role=self._role, error=str(error))

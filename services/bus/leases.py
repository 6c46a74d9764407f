"""Leader leases: one key of the TTL bucket `stoker_leases` for each role, held by whoever created it.

Theory. Creating a key succeeds for one contender only. The holder renews it three times per TTL with the
revision it knows. The server counts the TTL from when it took the write, which is later than when the holder
began to write; so the holder trusts its lease for TTL seconds from the *beginning* of the last write that
succeeded, less a margin, and never longer: whatever a slow answer, a paused process or a lost connection does
to it, it stops before the server lets a successor in. A clean stop deletes the key, so that a successor need
not wait.

A leader that has much to do must not lose its lease for that: its successor would have as much to do, and the
takeover besides, so that an overloaded system would do nothing but change leaders. So the lease is kept by a
thread with a connection of its own, where no renewal waits behind the messages of jobs or for a turn of the
loop. It is kept for as long as the loop shows life once in `STALLED_S`, and has a connection.

`term` is the revision of the key's creation: it grows with every holder. The lease decides who tries to lead.
What keeps an earlier leader from doing harm are the fences at what it writes (the scheduler's consumer, the
revisions of the autoscaler's records, the term in every assignment), not this clock.
"""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import TypeVarTuple

from stoker.schemas.subjects import LEASES_BUCKET, to_token
from stoker.services.bus.buckets import Bucket, open_bucket
from stoker.services.bus.connection import Bus
from stoker.services.bus.errors import BusError, CannotConnect, Conflict
from stoker.services.bus.streams import LEASE_TTL_S
from stoker.services.process.logs import get_logger
from stoker.services.process.running import StoppedAtStart
from stoker.services.process.tasks import LimitExceeded, TaskOwner, cleanup, limit, until

log = get_logger("leases")

RENEWALS_PER_TTL = 3
MARGIN_S = LEASE_TTL_S / 6
"""How long before the TTL is over the holder stops trusting its lease."""
TRUSTED_S = LEASE_TTL_S - MARGIN_S
POLL_S = 0.1
ASK_AGAIN_S = 1.0
RELEASE_TIMEOUT_S = 1.0
END_TIMEOUT_S = 3.0
STALLED_S = 5.0
"""A leader whose loop does nothing for this long, or that has no connection, gives its lease up."""
SHOW_LIFE_EVERY_S = 0.2

Ts = TypeVarTuple("Ts")


class Lease:
    """A held lease. `lost` is set when it is no longer held.

    trusted_until, alive_at: of time.monotonic(). Past the first it may be another's; the second is when whoever
    holds it last showed that it goes on.
    """

    def __init__(self, term: int, trusted_until: float) -> None:
        self.term = term
        self.lost = asyncio.Event()
        self.trusted_until = trusted_until
        self.alive_at = time.monotonic()

    def is_trusted(self) -> bool:
        """Whether nobody else can hold the lease yet."""
        return not self.lost.is_set() and time.monotonic() < self.trusted_until


@asynccontextmanager
async def hold(bus: Bus, role: str, holder: str) -> AsyncIterator[Lease]:
    """Wait for the lease on `role`, hold and renew it inside the block, release it after. Raises BusError."""
    thread = _KeeperThread(bus, role, holder)
    thread.start()
    try:
        lease = await thread.held
        async with TaskOwner("lease") as tasks:
            tasks.start(_show_life, bus, lease)
            yield lease
    finally:
        async with cleanup("ending the keeper of a lease", END_TIMEOUT_S):
            await thread.end()


async def _show_life(bus: Bus, lease: Lease) -> None:
    while True:
        if bus.is_connected:
            lease.alive_at = time.monotonic()
        await asyncio.sleep(SHOW_LIFE_EVERY_S)


class _KeeperThread:
    """Keeps a lease in a thread, for the event loop that made it. `held`: the lease, or why there is none."""

    def __init__(self, bus: Bus, role: str, holder: str) -> None:
        self._another = bus.another
        self._role = role
        self._holder = holder
        self._owner = asyncio.get_running_loop()
        self.held: asyncio.Future[Lease] = self._owner.create_future()
        self._ended = asyncio.Event()
        self._is_ending = False
        self._lease: Lease | None = None
        self._inside: tuple[asyncio.AbstractEventLoop, asyncio.Event] | None = None
        """The thread's loop, and what ends its work."""

    def start(self) -> None:
        threading.Thread(target=self._run, name=f"lease of {self._role}", daemon=True).start()

    async def end(self) -> None:
        """Release the lease, if it is held, and return when the thread has done so."""
        self._is_ending = True
        if self._inside is not None:
            loop, stopping = self._inside
            with suppress(RuntimeError):  # it has ended by itself
                loop.call_soon_threadsafe(stopping.set)
        await self._ended.wait()
        if self.held.done() and not self.held.cancelled():
            self.held.exception()  # where nobody waited for it any more

    # In the thread --------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            asyncio.run(self._work())
        except BusError as error:
            self._tell(self._failed, error)
        finally:
            self._tell(self._over)

    async def _work(self) -> None:
        stopping = asyncio.Event()
        self._inside = (asyncio.get_running_loop(), stopping)
        if self._is_ending:
            return
        while not stopping.is_set() and self._lease is None:
            try:
                async with self._another(stopping=stopping) as bus:
                    await self._lead(bus, stopping)
            except StoppedAtStart:
                return
            except CannotConnect as error:
                log.warning("leases.unavailable", role=self._role, error=str(error))

    async def _lead(self, bus: Bus, stopping: asyncio.Event) -> None:
        keeper = _Keeper(bus, self._role, self._holder)
        is_lost = False

        async def keep() -> None:
            nonlocal is_lost
            self._lease = await keeper.acquire()
            self._tell(self._is_held, self._lease)
            await keeper.keep(self._lease)
            is_lost = True
            self._tell(self._lease.lost.set)

        await until(stopping, keep)
        if self._lease is not None and not is_lost and bus.is_connected:
            await keeper.release()

    def _tell(self, what: Callable[[*Ts], object], *arguments: *Ts) -> None:
        with suppress(RuntimeError):  # its loop is closed: nobody is left to be told
            self._owner.call_soon_threadsafe(what, *arguments)

    # Told to the owner's loop ---------------------------------------------------------------------

    def _is_held(self, lease: Lease) -> None:
        if not self.held.done():
            self.held.set_result(lease)

    def _failed(self, error: BusError) -> None:
        if not self.held.done():
            self.held.set_exception(error)

    def _over(self) -> None:
        if self._lease is not None:
            self._lease.lost.set()
        self._ended.set()


async def _bucket(bus: Bus) -> Bucket:
    """The bucket, as soon as JetStream answers: while servers of a cluster elect a leader it does not."""
    while True:
        try:
            with limit("opening the bucket of leases", ASK_AGAIN_S):
                return await open_bucket(bus, LEASES_BUCKET)
        except (BusError, LimitExceeded) as error:
            log.warning("leases.unavailable", error=str(error))
            await asyncio.sleep(POLL_S)


class _Keeper:
    """Acquires, renews and releases one lease."""

    def __init__(self, bus: Bus, role: str, holder: str) -> None:
        self._bus = bus
        self._role = role
        self._key = to_token(role)
        self._holder = holder.encode()
        self._revision = 0

    async def acquire(self) -> Lease:
        self._bucket = await _bucket(self._bus)
        while True:
            began = time.monotonic()
            try:
                self._revision = await self._bucket.create(self._key, self._holder)
            except BusError:
                await asyncio.sleep(POLL_S)
                continue
            if time.monotonic() < began + TRUSTED_S:
                return Lease(self._revision, began + TRUSTED_S)
            log.warning("lease.too_slow", role=self._role)  # by now it may be another's

    async def keep(self, lease: Lease) -> None:
        """Renew until that fails, or its holder shows no more life."""
        interval_s = LEASE_TTL_S / RENEWALS_PER_TTL
        while not lease.lost.is_set():
            await asyncio.sleep(min(interval_s, max(lease.trusted_until - time.monotonic(), 0.0)))
            began = time.monotonic()
            if began >= lease.trusted_until:
                break
            if began > lease.alive_at + STALLED_S:
                log.error("lease.given_up", role=self._role, stalled_s=round(began - lease.alive_at, 1))
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

    async def _is_ours(self, lease: Lease) -> bool:
        """After a conflict: whether it was a renewal of our own whose answer never came."""
        try:
            with limit("reading a lease", max(lease.trusted_until - time.monotonic(), 0.0)):
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

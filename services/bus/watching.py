"""Watching a key-value bucket through reconnections: every key that is there, and every change of one.

`watch_bucket` tells key by key. `watch_changes` tells at once what was read at once, for values that belong
together.

Theory. The changes after the last place that was read are read again and again (bucket_feed.py): at once when a
write to the bucket is heard, and every `LOOK_EVERY_S` whatever is heard. So a write that is not heard, and one
that a server of a cluster did not have yet, are a moment late and never lost. A bucket that was made anew is
read from its beginning.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import anyio
from nats.aio.msg import Msg

from stoker.services.bus.bucket_feed import read_changes
from stoker.services.bus.changes import Change
from stoker.services.bus.connection import Bus
from stoker.services.bus.errors import BusError, named
from stoker.services.process.logs import get_logger

log = get_logger("buckets")

RETRY_S = 0.5
LOOK_EVERY_S = 1.0
TURN_CHANGES = 50
"""After so many the loop lets others run: a lease has to be renewed however full a bucket is."""
CHECK_LOOKS = 10
"""After so many looks it is found out whether the bucket was made anew."""
Changed = Callable[[str, bytes], None]
"""Called with a key and its new value; b"" when it was removed."""
Told = Callable[[Sequence[Change], bool], Awaitable[None]]
"""Called with the changes of one reading, in order, and whether they are all keys of a bucket that is (or may
be) another than before."""


async def watch_bucket(bus: Bus, name: str, changed: Changed, caught_up: asyncio.Event | None = None) -> None:
    """Call `changed` for every key and every change, until cancelled; never twice for the same value.

    What it raises at one entry is logged, and the next is told.
    `caught_up` is set when everything that was there at the start has been told.
    """
    await watch_changes(bus, name, _ByKey(name, changed).told, caught_up)


async def watch_changes(bus: Bus, name: str, told: Told, caught_up: asyncio.Event | None = None) -> None:
    """Call `told` for what is there, and for what has changed since, until cancelled. An error in it is raised.

    `caught_up` is set when everything that was there at the start has been told.
    """
    watch = _Watch(bus, name, told)

    def heard(_: Msg) -> None:
        watch.due.set()

    async with bus.listening((f"$KV.{name}.>", heard)):
        bus.on_reconnect.append(watch.start_anew)
        try:
            while True:
                try:
                    await watch.look()
                    if caught_up is not None:
                        caught_up.set()
                    with anyio.move_on_after(LOOK_EVERY_S):
                        await watch.due.wait()
                except BusError as error:
                    log.warning("bucket.not_read", bucket=name, error=str(error))
                    await asyncio.sleep(RETRY_S)
        finally:
            bus.on_reconnect.remove(watch.start_anew)


class _Watch:
    """Up to which place a bucket was read. due: something was heard that is to be read."""

    def __init__(self, bus: Bus, name: str, told: Told) -> None:
        self.due = asyncio.Event()
        self._bus = bus
        self._name = name
        self._told = told
        self._read_to = 0
        self._looks = 0
        self._made: object = None

    def start_anew(self) -> None:
        """The server may be another one: find out whether the bucket is."""
        self._looks = 0
        self.due.set()

    async def look(self) -> None:
        """Tell what has changed. Raises BusError."""
        self.due.clear()
        is_anew = self._looks % CHECK_LOOKS == 0 and await self._is_anew()
        self._looks += 1
        changes = await read_changes(self._bus, self._name, 0 if is_anew else self._read_to)
        if changes or is_anew:
            self._read_to = changes[-1].place if changes else 0
            await self._told(changes, is_anew)

    async def _is_anew(self) -> bool:
        with named(f"looking at the bucket {self._name}"):
            info = await self._bus.jetstream.stream_info(f"KV_{self._name}")
        before, self._made = self._made, info.created
        return bool(before != info.created or info.state.last_seq < self._read_to)


class _ByKey:
    """Tells of each key by itself what is new."""

    def __init__(self, bucket: str, changed: Changed) -> None:
        self._bucket = bucket
        self._changed = changed
        self._known: dict[str, bytes] = {}

    async def told(self, changes: Sequence[Change], is_anew: bool) -> None:
        for number, change in enumerate(changes, 1):
            self._tell(change.key, change.value)
            if number % TURN_CHANGES == 0:
                await asyncio.sleep(0)
        if is_anew:
            for key in self._known.keys() - {change.key for change in changes}:
                self._tell(key, b"")

    def _tell(self, key: str, value: bytes) -> None:
        if self._known.get(key, b"") == value:
            return
        if value:
            self._known[key] = value
        else:
            del self._known[key]
        try:
            self._changed(key, value)
        except Exception:  # one entry, whatever is in it, ends nobody who reads the bucket
            log.exception("bucket.entry_not_taken_in", bucket=self._bucket, key=key)

"""Watching a key-value bucket through reconnections: every key that is there, and every change of one."""

import asyncio
from collections.abc import Callable

from services.bus.connection import Bus
from services.bus.errors import BusError, named
from services.process.logs import get_logger

log = get_logger("buckets")

RETRY_S = 0.5
Changed = Callable[[str, bytes], None]
"""Called with a key and its new value; b"" when it was removed."""


async def watch_bucket(bus: Bus, name: str, changed: Changed, caught_up: asyncio.Event | None = None) -> None:
    """Call `changed` for every key and every change, until cancelled; never twice for the same value.

    `caught_up` is set when everything that was there at the start has been told.
    """
    known: dict[str, bytes] = {}

    def tell(key: str, value: bytes) -> None:
        if known.get(key, b"") != value:
            if value:
                known[key] = value
            else:
                del known[key]
            changed(key, value)

    while True:
        try:
            with named(f"watching the bucket {name}"):
                await _watch(bus, name, tell, known, caught_up)
        except BusError as error:
            log.warning("bucket.not_read", bucket=name, error=str(error))
            await asyncio.sleep(RETRY_S)


async def _watch(
    bus: Bus, name: str, tell: Changed, known: dict[str, bytes], caught_up: asyncio.Event | None
) -> None:
    """One watch, until it breaks. Keys that are known and not there any more have been removed meanwhile."""
    bucket = await bus.jetstream.key_value(name)
    watcher = await bucket.watchall()
    seen: set[str] = set()
    is_initial = True
    async for entry in watcher:
        if entry is None:  # end of what was there already
            for key in known.keys() - seen:
                tell(key, b"")
            is_initial = False
            if caught_up is not None:
                caught_up.set()
            continue
        if is_initial:
            seen.add(entry.key)
        tell(entry.key, (entry.operation is None and entry.value) or b"")

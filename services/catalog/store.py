"""The catalog in the bucket `stoker_catalog`: one model per key, watched by every service."""

import asyncio
from collections.abc import Callable, Iterable

import nats.errors
from nats.js.errors import Error as JetStreamError
from nats.js.errors import NoKeysError

from schemas import wire
from schemas.catalog import Model
from schemas.subjects import CATALOG_BUCKET, from_token, to_token
from services.bus.connection import Bus
from services.bus.logs import get_logger

log = get_logger("catalog")

Changed = Callable[[str, Model | None], None]
"""Called with a model's name and its new content; None when it was removed."""


async def publish(bus: Bus, models: Iterable[Model]) -> None:
    """Make the catalog these models and no others; unchanged ones are not written again."""
    bucket = await bus.jetstream.key_value(CATALOG_BUCKET)
    wanted = {to_token(model.name): wire.encode(model) for model in models}
    try:
        present = await bucket.keys()
    except NoKeysError:
        present = []
    for key in present:
        if key not in wanted:
            await bucket.delete(key)
    for key, value in wanted.items():
        if key not in present or (await bucket.get(key)).value != value:
            await bucket.put(key, value)


async def watch(bus: Bus, changed: Changed, caught_up: asyncio.Event | None = None) -> None:
    """Call `changed` for every model and every change of one, until cancelled.

    `caught_up` is set when everything that was there at the start has been told.
    """
    known: dict[str, bytes] = {}
    while True:
        try:
            bucket = await bus.jetstream.key_value(CATALOG_BUCKET)
            watcher = await bucket.watchall()
            seen: set[str] = set()
            is_initial = True
            async for entry in watcher:
                if entry is None:  # end of what was there already
                    for key in known.keys() - seen:
                        del known[key]
                        changed(from_token(key), None)
                    is_initial = False
                    if caught_up is not None:
                        caught_up.set()
                    continue
                if is_initial:
                    seen.add(entry.key)
                _take(entry.key, entry.value, entry.operation, known, changed)
        except (nats.errors.Error, JetStreamError, TimeoutError) as error:
            log.warning("catalog.not_read", error=str(error) or type(error).__name__)
            await asyncio.sleep(0.5)


def _take(
    key: str, value: bytes | None, operation: str | None, known: dict[str, bytes], changed: Changed
) -> None:
    name = from_token(key)
    if operation in ("DEL", "PURGE") or value is None:
        if known.pop(key, None) is not None:
            changed(name, None)
        return
    if known.get(key) == value:
        return
    try:
        model = wire.decode(Model, value)
    except wire.UnreadableMessage as error:
        log.error("catalog.unreadable", model=name, error=str(error))
        return
    known[key] = value
    changed(name, model)

"""The catalog in the bucket `stoker_catalog`: one model per key, watched by every service.

Beside the models lie notes, under keys of two tokens: `schema.<model>` (what it takes, found by a worker),
`profile.<name>` (a resource profile) and `modes.current` (the mode that requests without one use).
"""

import asyncio
from collections.abc import Callable, Iterable

from schemas import wire
from schemas.catalog import Model, ResourceProfile
from schemas.subjects import CATALOG_BUCKET, from_token, to_token
from services.bus.buckets import open_bucket
from services.bus.connection import Bus
from services.bus.errors import BusError
from services.bus.watching import watch_bucket
from services.process.logs import get_logger

log = get_logger("catalog")

Changed = Callable[[str, Model | None], None]
"""Called with a model's name and its new content; None when it was removed."""
Noted = Callable[[str, str, bytes], None]
"""Called with the kind, the name and the content of a note; b"" when it was removed."""
SCHEMA_NOTE = "schema"
MODES_NOTE = "modes"
PROFILE_NOTE = "profile"
CURRENT, DEFAULT = "current", "default"


async def publish(
    bus: Bus,
    models: Iterable[Model],
    profiles: Iterable[ResourceProfile] = (),
    default_mode: str = "",
) -> None:
    """Make the catalog these and no others; what is unchanged is not written again. Raises BusError."""
    bucket = await open_bucket(bus, CATALOG_BUCKET)
    wanted = {f"{PROFILE_NOTE}.{to_token(profile.name)}": wire.encode(profile) for profile in profiles}
    wanted |= {to_token(model.name): wire.encode(model) for model in models}
    present = await bucket.keys()
    for key in present:
        if key not in wanted and (not _is_note(key) or key.startswith(f"{PROFILE_NOTE}.")):
            await bucket.delete(key)
    for key, value in wanted.items():
        known = await bucket.get(key) if key in present else None
        if known is None or known.value != value:
            await bucket.put(key, value)
    if default_mode or f"{MODES_NOTE}.{DEFAULT}" in present:
        await note(bus, MODES_NOTE, DEFAULT, default_mode)


async def add(bus: Bus, models: Iterable[Model]) -> None:
    """Add these models, or change them, and leave the others as they are."""
    bucket = await open_bucket(bus, CATALOG_BUCKET)
    for model in models:
        await bucket.put(to_token(model.name), wire.encode(model))


def _is_note(key: str) -> bool:
    return "." in key


async def note(bus: Bus, kind: str, name: str, content: object) -> None:
    """Keep a note, unless it is there already."""
    bucket = await open_bucket(bus, CATALOG_BUCKET)
    key, value = f"{kind}.{to_token(name)}", wire.encode(content)
    known = await bucket.get(key)
    if known is None or known.value != value:
        await bucket.put(key, value)


async def publish_schema(bus: Bus, model: str, schema: object) -> None:
    """Keep what a model takes; a failure is logged, the next worker will tell it again."""
    try:
        await note(bus, SCHEMA_NOTE, model, schema)
    except BusError as error:
        log.warning("schema.not_stored", model=model, error=str(error))


async def watch(
    bus: Bus, changed: Changed, caught_up: asyncio.Event | None = None, noted: Noted | None = None
) -> None:
    """Call `changed` for every model and every change of one, `noted` for every note, until cancelled.

    `caught_up` is set when everything that was there at the start has been told.
    """

    def take(key: str, value: bytes) -> None:
        if _is_note(key):
            if noted is not None:
                kind, name = key.split(".", 1)
                noted(kind, from_token(name), value)
        else:
            _take_model(from_token(key), value, changed)

    await watch_bucket(bus, CATALOG_BUCKET, take, caught_up)


def _take_model(name: str, value: bytes, changed: Changed) -> None:
    try:
        model = wire.decode(Model, value) if value else None
    except wire.UnreadableMessage as error:
        log.error("catalog.unreadable", model=name, error=str(error))
        return
    changed(name, model)

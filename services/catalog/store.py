"""The catalog in the bucket `stoker_catalog`, watched by every service.

What is published is one revision, a single value (contents.py), so that whoever watches goes from one to the
next in one step. Each model also lies under its own name, for people, for services of the version before, and
so that others may add one. Notes lie under keys of two tokens: `schema.<model>` (what it takes, found by a
worker), `possible.<model>` (the model as it was when some worker could run it), `profile.<name>` (a resource
profile), `modes.current` (the mode that requests without one use) and `revision.failed` (why the configuration
was last not taken).
"""

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping, Sequence

from stoker.schemas import wire
from stoker.schemas.catalog import Model, ResourceProfile
from stoker.schemas.configuration import ReloadFailure, Revision, RevisionHead
from stoker.schemas.subjects import CATALOG_BUCKET, from_token, to_token
from stoker.services.bus.buckets import Bucket, open_bucket
from stoker.services.bus.changes import Change
from stoker.services.bus.connection import Bus
from stoker.services.bus.errors import BusError, Conflict
from stoker.services.bus.watching import watch_changes
from stoker.services.catalog.contents import (
    DEFAULT_MODE_KEY,
    REVISION_KEY,
    Contents,
    is_part,
    pack,
    revision_of,
)
from stoker.services.process.logs import get_logger

log = get_logger("catalog")

Changed = Callable[[str, Model | None], None]
"""Called with a model's name and its new content; None when it was removed."""
Noted = Callable[[str, str, bytes], None]
"""Called with the kind, the name and the content of a note; b"" when it was removed."""
SCHEMA_NOTE = "schema"
POSSIBLE_NOTE = "possible"
MODES_NOTE = "modes"
PROFILE_NOTE = "profile"
REVISION_NOTE = "revision"
CURRENT, DEFAULT, FAILED = "current", "default", "failed"
PUBLISH_TRIES = 10
"""Publishers that come at the same time take turns; each of these turns went to another."""
TURN_ENTRIES = 50
"""After so many that were read the loop lets others run."""


async def publish(
    bus: Bus,
    models: Iterable[Model],
    profiles: Iterable[ResourceProfile] = (),
    default_mode: str = "",
) -> RevisionHead:
    """Make the catalog these and no others, as one revision; the revision. What is so already stays that one.

    Raises BusError; TooLarge where the server does not take a message of that size.
    """
    bucket = await open_bucket(bus, CATALOG_BUCKET)
    wanted = {f"{PROFILE_NOTE}.{to_token(profile.name)}": wire.encode(profile) for profile in profiles}
    wanted |= {DEFAULT_MODE_KEY: wire.encode(default_mode)}
    wanted |= {to_token(model.name): wire.encode(model) for model in models}
    for _ in range(PUBLISH_TRIES):
        contents = Contents()
        contents.take(await bucket.changes(), is_anew=True)
        before, written = contents.revision, contents.written(REVISION_KEY)
        place = written.place if written is not None else 0
        if before is not None and not contents.unreadable and contents.parts() == wanted:
            revision = before
        else:
            revision = revision_of(before.number + 1 if before is not None else 1, time.time(), wanted)
            try:
                place = await bucket.update(REVISION_KEY, pack(revision), place)
            except Conflict:
                continue
        await _copy(bucket, contents, wanted, place)
        return RevisionHead(revision.number, revision.at)
    raise BusError(f"publishing the configuration: others did at the same time, {PUBLISH_TRIES} times")


async def _copy(bucket: Bucket, contents: Contents, wanted: Mapping[str, bytes], place: int) -> None:
    """Repeat the parts of a revision under their own keys. What others wrote after its place stays."""
    present = {change.key: change for change in contents.written_parts()}
    orders = {change.key: b"" for change in present.values() if change.value and change.key not in wanted}
    for key, value in (orders | dict(wanted)).items():
        known = present.get(key)
        if known is None and (key, value) == (DEFAULT_MODE_KEY, wire.encode("")):
            continue
        if known is not None and (known.value == value or known.place > place):
            continue
        try:
            await bucket.copy(key, value, known.place if known is not None else 0)
        except Conflict:
            log.info("catalog.written_by_another", key=key)


async def add(bus: Bus, models: Iterable[Model]) -> None:
    """Add these models, or change them, and leave the others as they are."""
    bucket = await open_bucket(bus, CATALOG_BUCKET)
    for model in models:
        await bucket.put(to_token(model.name), wire.encode(model))


async def note(bus: Bus, kind: str, name: str, content: object) -> None:
    """Keep a note, unless it is there already; None: none is to be there."""
    bucket = await open_bucket(bus, CATALOG_BUCKET)
    key, value = f"{kind}.{to_token(name)}", wire.encode(content)
    known = await bucket.get(key)
    if content is None and known is not None:
        await bucket.delete(key)
    elif content is not None and (known is None or known.value != value):
        await bucket.put(key, value)


async def note_failure(bus: Bus, failure: ReloadFailure | None) -> None:
    """Keep why the configuration was not taken; None: it was."""
    await note(bus, REVISION_NOTE, FAILED, failure)


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

    All that one revision changes is told without letting anything else run in between, profiles first and the
    revision's number (the note `revision.current`) last. An error in `changed` or `noted` is logged.
    `caught_up` is set when everything that was there at the start has been told.
    """
    await watch_changes(bus, CATALOG_BUCKET, _Telling(changed, noted).told, caught_up)


class _Telling:
    """What was told of the catalog, by keys, and what is to be told."""

    def __init__(self, changed: Changed, noted: Noted | None) -> None:
        self._changed = changed
        self._noted = noted
        self._contents = Contents()
        self._told: dict[str, bytes] = {}

    async def told(self, changes: Sequence[Change], is_anew: bool) -> None:
        """Tell what follows from what was read."""
        self._contents.take(changes, is_anew=is_anew)
        if self._contents.unreadable and any(change.key == REVISION_KEY for change in changes):
            log.error("catalog.unreadable", key=REVISION_KEY, error=self._contents.unreadable)
        parts = self._contents.parts()
        notes = {change.key: change.value for change in changes if not is_part(change.key)}
        if is_anew:
            notes |= {key: b"" for key in self._told if not is_part(key) and key not in notes}
        if notes.pop(REVISION_KEY, None) is not None:  # at once after the parts
            notes = {REVISION_KEY: _head(self._contents.revision)} | notes
        gone = {key: b"" for key in self._told if is_part(key) and key not in parts}
        fresh = {key: value for key, value in parts.items() if self._told.get(key) != value}
        models = await _decoded({key: value for key, value in fresh.items() if "." not in key})
        for key, value in sorted((gone | fresh).items(), key=lambda item: "." not in item[0]):
            self._tell(key, value, models.get(key))
        for number, (key, value) in enumerate(notes.items(), 1):
            if self._told.get(key, b"") != value:
                self._tell(key, value, None)
            if number % TURN_ENTRIES == 0:
                await asyncio.sleep(0)

    def _tell(self, key: str, value: bytes, model: Model | None) -> None:
        if value:
            self._told[key] = value
        else:
            self._told.pop(key, None)
        try:
            if "." in key:
                if self._noted is not None:
                    kind, name = key.split(".", 1)
                    self._noted(kind, from_token(name), value)
            elif model is not None or not value:
                self._changed(from_token(key), model)
        except Exception:  # one entry, whatever is in it, ends nobody who reads the bucket
            log.exception("catalog.entry_not_taken_in", key=key)


def _head(revision: Revision | None) -> bytes:
    return wire.encode(RevisionHead(revision.number, revision.at)) if revision is not None else b""


async def _decoded(values: Mapping[str, bytes]) -> dict[str, Model]:
    """The models of their keys, without those that cannot be read: they are left as they were known."""
    found: dict[str, Model] = {}
    for number, (key, value) in enumerate(values.items(), 1):
        try:
            found[key] = wire.decode(Model, value)
        except wire.UnreadableMessage as error:
            log.error("catalog.unreadable", model=from_token(key), error=str(error))
        if number % TURN_ENTRIES == 0:
            await asyncio.sleep(0)
    return found

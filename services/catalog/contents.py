"""What is valid of the catalog bucket. Pure: it is given what was read of the bucket, and says what follows.

A reading of the configuration is one revision: a single value that has all parts (models, profiles, the default
mode). The bucket also has a copy of each part, written one after the other; a copy carries a mark, and is never
read as an order where there is a revision. What others write after a revision counts from then on: a model that
a worker's function project adds, one that an operator deletes, and whatever a publisher of the version before
writes, which knows no revisions. The next revision replaces all of that.
"""

import zlib
from collections.abc import Iterable, Mapping

import msgspec

from stoker.schemas import wire
from stoker.schemas.configuration import Revision
from stoker.services.bus.changes import Change

REVISION_KEY = "revision.current"
PROFILES = "profile."
DEFAULT_MODE_KEY = "modes.default"
ZIP_FROM_BYTES = 256 * 1024
"""A smaller revision is JSON that people can read."""
MAX_REVISION_BYTES = 256 * 1024 * 1024
"""Of a revision that is unpacked."""


def is_part(key: str) -> bool:
    """Whether a key is of a configuration; the others are notes: schemas, the current mode."""
    return "." not in key or key == DEFAULT_MODE_KEY or key.startswith(PROFILES)


def pack(revision: Revision) -> bytes:
    """A revision as it is stored."""
    plain = wire.encode(revision)
    return plain if len(plain) < ZIP_FROM_BYTES else zlib.compress(plain)


def unpack(value: bytes) -> Revision:
    """The revision of a stored value. Raises UnreadableMessage."""
    if not value.startswith(b"{"):
        unpacking = zlib.decompressobj()
        try:
            value = unpacking.decompress(value, MAX_REVISION_BYTES)
        except zlib.error as error:
            raise wire.UnreadableMessage(str(error)) from error
        if unpacking.unconsumed_tail:
            raise wire.UnreadableMessage(f"over {MAX_REVISION_BYTES} bytes")
    revision: Revision = wire.decode(Revision, value)
    return revision


def revision_of(number: int, at: float, parts: Mapping[str, bytes]) -> Revision:
    """A revision of these parts, by their keys."""
    return Revision(number, at, {key: msgspec.Raw(value) for key, value in parts.items()})


class Contents:
    """What was last written to each key. revision: the one in use, None: there is none. unreadable: why the
    newest one is not in use, "" where it is.
    """

    def __init__(self) -> None:
        self.revision: Revision | None = None
        self.unreadable = ""
        self._latest: dict[str, Change] = {}
        self._place = 0

    def take(self, changes: Iterable[Change], *, is_anew: bool = False) -> None:
        """Take in what was written, in order. is_anew: these are all keys of a bucket that was made anew."""
        if is_anew:
            self._latest, self.revision, self._place = {}, None, 0
        for change in changes:
            self._latest[change.key] = change
            if change.key == REVISION_KEY:
                self._take_revision(change)

    def _take_revision(self, change: Change) -> None:
        try:
            self.revision = unpack(change.value) if change.value else None
        except wire.UnreadableMessage as error:  # of a later version: the one before stays
            self.unreadable = str(error)
            return
        self.unreadable = ""
        self._place = change.place

    def written(self, key: str) -> Change | None:
        """The last write of a key; None: nobody has written it."""
        return self._latest.get(key)

    def written_parts(self) -> list[Change]:
        """The last write of every key that is of a configuration."""
        return [change for key, change in self._latest.items() if is_part(key)]

    def parts(self) -> dict[str, bytes]:
        """What is valid now: the parts by their keys, those of the revision first and in its order."""
        if self.revision is None:
            return {change.key: change.value for change in self.written_parts() if change.value}
        found = {key: bytes(raw) for key, raw in self.revision.parts.items() if is_part(key)}
        for change in self.written_parts():
            if change.is_copy or change.place < self._place:
                continue
            if change.value:
                found[change.key] = change.value
            else:
                found.pop(change.key, None)
        return found

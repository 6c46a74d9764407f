"""A key-value bucket. Every method raises BusError where it could not find out; `None` means: not there."""

from dataclasses import dataclass

from nats.js.kv import KeyValue

from stoker.services.bus.bucket_feed import read_changes
from stoker.services.bus.changes import COPY_MARK, Change
from stoker.services.bus.connection import Bus
from stoker.services.bus.errors import Missing, named

MAX_KEY_CHARS = 1024
"""NATS takes no line of more than 4,096 with a subject in it: nothing can be kept under a longer key."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A value and its revision, which grows with every write to the bucket."""

    value: bytes
    revision: int


class Bucket:
    """One bucket of `bus`. Made by `open_bucket`."""

    def __init__(self, bus: Bus, name: str, store: KeyValue) -> None:
        self._bus = bus
        self._name = name
        self._store = store

    async def keys(self) -> list[str]:
        """Every key that has a value."""
        return [change.key for change in await read_changes(self._bus, self._name) if change.value]

    async def changes(self) -> list[Change]:
        """The last write of every key, in order; of removed ones too."""
        return await read_changes(self._bus, self._name)

    async def copy(self, key: str, value: bytes, revision: int) -> None:
        """Write, or remove (b""), with the mark of a copy, if nobody has written since `revision` (0: never).

        Raises Conflict when somebody has.
        """
        headers = {COPY_MARK: "1"} | ({} if value else {"KV-Operation": "DEL"})
        with named(f"copying to {key} of the bucket {self._name}"):
            await self._bus.publish_stored(f"$KV.{self._name}.{key}", value, expected=revision, headers=headers)

    async def get(self, key: str) -> Entry | None:
        """A key's value; None: it has none."""
        if len(key) > MAX_KEY_CHARS:
            return None
        try:
            with named(f"reading {key} of the bucket {self._name}"):
                found = await self._store.get(key)
        except Missing:
            return None
        return Entry(found.value or b"", int(found.revision or 0))

    async def put(self, key: str, value: bytes) -> int:
        """Write whatever was there; the new revision."""
        with named(f"writing {key} of the bucket {self._name}"):
            return int(await self._store.put(key, value))

    async def create(self, key: str, value: bytes) -> int:
        """Write if the key has no value; the revision. Raises Conflict when it has one."""
        with named(f"creating {key} of the bucket {self._name}"):
            return int(await self._store.create(key, value))

    async def update(self, key: str, value: bytes, revision: int) -> int:
        """Write if nobody has written since `revision`; the new one. Raises Conflict when somebody has."""
        with named(f"updating {key} of the bucket {self._name}"):
            return int(await self._store.update(key, value, last=revision))

    async def delete(self, key: str, revision: int | None = None) -> None:
        """Remove a key; with a revision only if nobody has written since. Raises Conflict."""
        with named(f"deleting {key} of the bucket {self._name}"):
            await self._store.delete(key, last=revision)


async def open_bucket(bus: Bus, name: str) -> Bucket:
    """A bucket that is declared (streams.py). Raises Missing when it is not, BusError."""
    with named(f"opening the bucket {name}"):
        return Bucket(bus, name, await bus.jetstream.key_value(name))

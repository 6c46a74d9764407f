"""Which weights a worker keeps where: device memory (hot), RAM (parked), disk (warm).

Pure: no clock, no torch. Weights go by their key (schemas.catalog.weights_key): models that differ only in
LoRAs share them. `plan` says what must be done so that weights are hot; the loader does it and reports back.

- weights in use (pinned) are never evicted, and those being loaded are not either;
- memory is reserved when the plan is made, before it is used, so two loads at once cannot both count on it;
- eviction takes the weights named as unneeded first, then the least recently used, and no more than needed;
- evicted weights are parked in RAM where the engine can do that and RAM has room, else dropped to disk.
"""

from collections.abc import Collection
from dataclasses import dataclass, field

from schemas.workers import Tier


class DoesNotFit(Exception):
    """Weights can never fit this worker; says by how much."""


class NoRoomNow(Exception):
    """Weights fit, but what is loaded is in use; try again when something ends."""


@dataclass(slots=True)
class Entry:
    """Weights that the worker knows. memory_bytes: reserved estimate, then measured."""

    key: str
    engine: str
    tier: Tier
    memory_bytes: int
    used_at: float
    can_park: bool = False
    pins: int = 0
    load_s: float | None = None
    loaded_from: Tier = "warm"


@dataclass(frozen=True, slots=True)
class Eviction:
    """Move weights out of device memory: to RAM (parked) or to disk."""

    key: str
    to: Tier


@dataclass(slots=True)
class ModelCache:
    """Budgets in bytes. ram_bytes 0: nothing is parked."""

    memory_bytes: int
    ram_bytes: int = 0
    entries: dict[str, Entry] = field(default_factory=dict)

    @property
    def used_bytes(self) -> int:
        """Device memory that is taken or reserved."""
        return sum(e.memory_bytes for e in self.entries.values() if e.tier in ("hot", "loading"))

    @property
    def parked_bytes(self) -> int:
        return sum(e.memory_bytes for e in self.entries.values() if e.tier == "parked")

    def tier(self, key: str) -> Tier:
        entry = self.entries.get(key)
        return entry.tier if entry is not None else "cold"

    def plan(
        self, key: str, engine: str, needed_bytes: int, now: float, unneeded: Collection[str] = ()
    ) -> list[Eviction]:
        """Evictions that make room for the weights, which are then `loading` with their memory reserved.

        Raises DoesNotFit, NoRoomNow.
        """
        known = self.entries.get(key)
        needed = known.memory_bytes if known is not None and known.memory_bytes else needed_bytes
        if needed > self.memory_bytes:
            raise DoesNotFit(
                f"it needs {needed / 1e6:.0f} MB and this worker has {self.memory_bytes / 1e6:.0f} MB"
            )
        chosen = self._victims(needed - (self.memory_bytes - self.used_bytes), unneeded)
        evictions = [self._evict(victim) for victim in chosen]
        self.entries[key] = Entry(
            key=key,
            engine=engine,
            tier="loading",
            memory_bytes=needed,
            used_at=now,
            can_park=known.can_park if known is not None else False,
            loaded_from=known.tier if known is not None else "cold",
            pins=known.pins if known is not None else 0,
        )
        return evictions

    def evict_idle(self) -> list[Eviction]:
        """Evict all that is hot and not in use: what is left to try when the device itself ran out."""
        return [self._evict(entry) for entry in self._idle()]

    def _idle(self) -> list[Entry]:
        return [e for e in self.entries.values() if e.tier == "hot" and not e.pins]

    def _evict(self, victim: Entry) -> Eviction:
        fits = self.parked_bytes + victim.memory_bytes <= self.ram_bytes
        victim.tier = "parked" if victim.can_park and fits else "warm"
        return Eviction(victim.key, victim.tier)

    def _victims(self, missing_bytes: int, unneeded: Collection[str]) -> list[Entry]:
        if missing_bytes <= 0:
            return []
        chosen: list[Entry] = []
        for entry in sorted(self._idle(), key=lambda e: (e.key not in unneeded, e.used_at)):
            chosen.append(entry)
            missing_bytes -= entry.memory_bytes
            if missing_bytes <= 0:
                return _without_surplus(chosen, -missing_bytes)
        raise NoRoomNow("everything that is loaded here is in use")

    def loaded(self, key: str, memory_bytes: int, load_s: float, can_park: bool, now: float) -> None:
        """The weights are hot; their memory is measured now."""
        entry = self.entries[key]
        entry.tier, entry.memory_bytes = "hot", memory_bytes
        entry.load_s, entry.can_park, entry.used_at = load_s, can_park, now

    def not_loaded(self, key: str) -> None:
        """A load failed: its reservation is void."""
        entry = self.entries.get(key)
        if entry is not None and entry.tier == "loading":
            entry.tier = "warm"

    def note(self, key: str, engine: str, tier: Tier, memory_bytes: int = 0) -> None:
        """Enter weights that are not known yet: they are on this disk (warm), or not (cold)."""
        if key not in self.entries:
            self.entries[key] = Entry(key, engine, tier, memory_bytes, 0.0)

    def dropped(self, key: str) -> None:
        """The weights are in no memory any more, only on disk."""
        if key in self.entries:
            self.entries[key].tier = "warm"

    def all_dropped(self) -> None:
        """The process that held the weights is gone."""
        for entry in self.entries.values():
            if entry.tier in ("hot", "loading", "parked"):
                entry.tier = "warm"
                entry.pins = 0

    def pin(self, key: str, now: float) -> None:
        entry = self.entries[key]
        entry.pins += 1
        entry.used_at = now

    def unpin(self, key: str, now: float) -> None:
        entry = self.entries.get(key)
        if entry is not None and entry.pins:
            entry.pins -= 1
            entry.used_at = now


def _without_surplus(chosen: list[Entry], spare_bytes: int) -> list[Entry]:
    """Leave out victims that were taken before a larger one made them unnecessary."""
    kept: list[Entry] = []
    for entry in chosen:
        if entry.memory_bytes <= spare_bytes and entry is not chosen[-1]:
            spare_bytes -= entry.memory_bytes
        else:
            kept.append(entry)
    return kept

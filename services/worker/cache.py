"""Which models a worker keeps where: device memory (hot), RAM (parked), disk (warm).

Pure: no clock, no torch. `plan` says what must be done so that a model is hot; the agent does it and
reports back with `loaded`, `parked`, `unloaded`. Rules:

- a model in use (pinned) is never evicted, and one that is being loaded is not either;
- memory is reserved when the plan is made, before it is used, so two loads at once cannot both count on it;
- eviction takes the models named as unneeded first, then the least recently used, and no more than needed;
- an evicted model is parked in RAM where the engine can do that and RAM has room, else dropped to disk.
"""

from dataclasses import dataclass, field

from schemas.workers import Tier


class DoesNotFit(Exception):
    """A model can never fit this worker; says by how much."""


class NoRoomNow(Exception):
    """A model fits, but what is loaded is in use; try again when something ends."""


@dataclass(slots=True)
class Entry:
    """One model that the worker knows. memory_bytes: reserved estimate, then measured."""

    model: str
    spec: str
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
    """Move a model out of device memory: to RAM (parked) or to disk."""

    model: str
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

    def tier(self, model: str, spec: str) -> Tier:
        entry = self.entries.get(model)
        return entry.tier if entry is not None and entry.spec == spec else "cold"

    def plan(
        self,
        model: str,
        spec: str,
        engine: str,
        needed_bytes: int,
        now: float,
        unneeded: tuple[str, ...] = (),
    ) -> list[Eviction]:
        """Evictions that make room for the model, which is then `loading` with its memory reserved.

        Raises DoesNotFit, NoRoomNow.
        """
        known = self.entries.get(model)
        measured = known.memory_bytes if known is not None and known.spec == spec else 0
        needed = measured or needed_bytes
        if needed > self.memory_bytes:
            raise DoesNotFit(
                f"{model} needs {needed / 1e6:.0f} MB and this worker has {self.memory_bytes / 1e6:.0f} MB"
            )
        chosen = self._victims(needed - (self.memory_bytes - self.used_bytes), unneeded)
        evictions: list[Eviction] = []
        for victim in chosen:  # one after the other: each takes of the RAM that the next one looks at
            victim.tier = self._where_to(victim)
            evictions.append(Eviction(victim.model, victim.tier))
        self.entries[model] = Entry(
            model=model,
            spec=spec,
            engine=engine,
            tier="loading",
            memory_bytes=needed,
            used_at=now,
            loaded_from=known.tier if known is not None and known.spec == spec else "cold",
            pins=known.pins if known is not None else 0,
        )
        return evictions

    def _victims(self, missing_bytes: int, unneeded: tuple[str, ...]) -> list[Entry]:
        if missing_bytes <= 0:
            return []
        idle = [e for e in self.entries.values() if e.tier == "hot" and not e.pins]
        idle.sort(key=lambda e: (e.model not in unneeded, e.used_at))
        chosen: list[Entry] = []
        for entry in idle:
            chosen.append(entry)
            missing_bytes -= entry.memory_bytes
            if missing_bytes <= 0:
                return _without_surplus(chosen, -missing_bytes)
        raise NoRoomNow("everything that is loaded here is in use")

    def _where_to(self, victim: Entry) -> Tier:
        fits = self.parked_bytes + victim.memory_bytes <= self.ram_bytes
        return "parked" if victim.can_park and fits else "warm"

    def loaded(self, model: str, memory_bytes: int, load_s: float, can_park: bool, now: float) -> None:
        """The model is hot; its memory is measured now."""
        entry = self.entries[model]
        entry.tier, entry.memory_bytes = "hot", memory_bytes
        entry.load_s, entry.can_park, entry.used_at = load_s, can_park, now

    def not_loaded(self, model: str) -> None:
        """A load failed: its reservation is void."""
        entry = self.entries.get(model)
        if entry is not None and entry.tier == "loading":
            entry.tier = "warm"

    def note(self, model: str, spec: str, engine: str, tier: Tier, memory_bytes: int = 0) -> None:
        """Enter a model that is not known yet: its weights are on this disk (warm), or not (cold)."""
        if model not in self.entries:
            self.entries[model] = Entry(model, spec, engine, tier, memory_bytes, 0.0)

    def dropped(self, model: str) -> None:
        """The model is in no memory any more, only on disk."""
        if model in self.entries:
            self.entries[model].tier = "warm"

    def all_dropped(self) -> None:
        """The process that held the models is gone."""
        for entry in self.entries.values():
            if entry.tier in ("hot", "loading", "parked"):
                entry.tier = "warm"
                entry.pins = 0

    def pin(self, model: str, now: float) -> None:
        entry = self.entries[model]
        entry.pins += 1
        entry.used_at = now

    def unpin(self, model: str, now: float) -> None:
        entry = self.entries.get(model)
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

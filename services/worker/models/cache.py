"""Which weights a worker keeps where, as a state machine. Pure: no clock, no torch.

Weights go by their key (schemas.catalog.weights_key): models that differ only in LoRAs share them. They are
`cold` (not on this machine), `warm` (on its disk), `loading` (on the way into device memory, which is
reserved), `hot`, or `parked` in RAM.

    cold ──▶ warm ──▶ loading ──▶ hot ──▶ parked        every way back ends in warm
      └──────────────▶┘ ▲◀────────────────────┘

- weights in use (pinned) are never evicted, and those being loaded are not either;
- memory is reserved when the plan is made, before it is used, so two loads at once cannot both count on it;
- whether weights fit is judged by what they are estimated to take, as the scheduler judges it. Weights that
  turn out to take more than the worker has are served where they run: what was measured decides what goes for
  them, which is all else at most;
- eviction takes the weights named as unneeded first, then the least recently used, and no more than needed;
- evicted weights are parked in RAM where the engine can do that and RAM has room, else dropped to disk.

`plan` says what must be done so that weights are hot; the loader does it and reports back. `_move` is the only
writer of a tier. Pins outlive the weights' stay in memory: who pinned lets go, whatever happened meanwhile.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from stoker.schemas.workers import CapabilityCard, Tier

TRANSITIONS: dict[Tier, frozenset[Tier]] = {
    "cold": frozenset({"warm", "loading"}),
    "warm": frozenset({"loading", "cold"}),
    "loading": frozenset({"hot", "warm"}),
    "hot": frozenset({"parked", "warm"}),
    "parked": frozenset({"loading", "warm"}),
}
IN_DEVICE: frozenset[Tier] = frozenset({"loading", "hot"})
"""The tiers that take device memory."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """Weights that are needed together with others. needed_bytes: the estimate, by which they fit or do not."""

    key: str
    engine: str
    needed_bytes: int


class DoesNotFit(Exception):
    """Weights can never fit this worker; says by how much."""


class NoRoomNow(Exception):
    """Weights fit, but what is loaded is in use; try again when something ends."""


class IllegalMove(Exception):
    """Weights were to go from a tier to one that the table does not allow; nothing was changed."""


@dataclass(slots=True)
class Entry:
    """Weights that the worker knows. memory_bytes: reserved estimate, then measured (is_measured). fetch_s: of
    load_s, that the download took.
    """

    key: str
    engine: str
    tier: Tier
    memory_bytes: int
    used_at: float
    can_park: bool = False
    pins: int = 0
    load_s: float | None = None
    fetch_s: float = 0.0
    loaded_from: Tier = "warm"
    card: CapabilityCard | None = None
    is_measured: bool = False

    def takes_bytes(self, estimate_bytes: int) -> int:
        """What room is made for. estimate_bytes: as it is now; 0: there is none."""
        return self.memory_bytes if self.is_measured else estimate_bytes or self.memory_bytes


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
        return sum(e.memory_bytes for e in self.entries.values() if e.tier in IN_DEVICE)

    @property
    def free_bytes(self) -> int:
        """Device memory that nobody has."""
        return max(self.memory_bytes - self.used_bytes, 0)

    @property
    def parked_bytes(self) -> int:
        return sum(e.memory_bytes for e in self.entries.values() if e.tier == "parked")

    def tier(self, key: str) -> Tier:
        entry = self.entries.get(key)
        return entry.tier if entry is not None else "cold"

    @staticmethod
    def _move(entry: Entry, to: Tier) -> None:
        if to not in TRANSITIONS.get(entry.tier, frozenset()):
            raise IllegalMove(f"weights {entry.key}: {entry.tier} -> {to}")
        entry.tier = to

    def plan(
        self, key: str, engine: str, needed_bytes: int, now: float, unneeded: Collection[str] = ()
    ) -> list[Eviction]:
        """Evictions that make room for the weights, which are then `loading` with their memory reserved.

        Raises DoesNotFit, NoRoomNow.
        """
        entry = self.entries.get(key)
        if entry is None:
            entry = self.entries[key] = Entry(key, engine, "cold", 0, now)
        needed = entry.takes_bytes(needed_bytes)
        if needed > self.memory_bytes and not entry.is_measured:
            raise DoesNotFit(
                f"it needs {needed / 1e6:.0f} MB and this worker has {self.memory_bytes / 1e6:.0f} MB"
            )
        chosen = self._victims(self.used_bytes - max(self.memory_bytes - needed, 0), unneeded)
        came_from = entry.tier
        self._move(entry, "loading")
        entry.engine = engine
        entry.loaded_from, entry.memory_bytes, entry.used_at = came_from, needed, now
        return [self._evict(victim) for victim in chosen]

    def reserve(
        self, wanted: Sequence[Wanted], now: float, unneeded: Collection[str] = ()
    ) -> tuple[list[Eviction], list[str]]:
        """All of these weights or none: they are pinned, and those that are not in device memory are `loading`
        with their memory reserved. The evictions that make room, and the keys that are to be loaded.

        Raises DoesNotFit, NoRoomNow; then nothing is held.
        """
        entries = [self.entries.get(one.key) or Entry(one.key, one.engine, "cold", 0, now) for one in wanted]
        pairs = list(zip(wanted, entries, strict=True))
        self._check_fit(pairs)
        needed = {entry.key: entry.takes_bytes(one.needed_bytes) for one, entry in pairs}
        to_load = [entry for entry in entries if entry.tier not in IN_DEVICE]
        here_bytes = sum(entry.memory_bytes for entry in entries if entry.tier in IN_DEVICE)
        missing = here_bytes + sum(needed[entry.key] for entry in to_load)
        surplus = self.used_bytes - here_bytes - max(self.memory_bytes - missing, 0)
        for entry in entries:
            entry.pins += 1  # none of them makes room for another
        try:
            chosen = self._victims(surplus, unneeded) if to_load else []
        except NoRoomNow:
            for entry in entries:
                entry.pins -= 1
            raise
        for one, entry in pairs:
            self.entries[entry.key] = entry
            entry.used_at = now
            if entry in to_load:
                came_from = entry.tier
                self._move(entry, "loading")
                entry.engine, entry.loaded_from, entry.memory_bytes = one.engine, came_from, needed[entry.key]
        return [self._evict(victim) for victim in chosen], [entry.key for entry in to_load]

    def _check_fit(self, pairs: Sequence[tuple[Wanted, Entry]]) -> None:
        sizes = {one.key: one.needed_bytes or (0 if e.is_measured else e.memory_bytes) for one, e in pairs}
        if sum(sizes.values()) > self.memory_bytes:
            terms = " + ".join(f"{key} {size / 1e6:.0f} MB" for key, size in sizes.items())
            total, here = sum(sizes.values()) / 1e6, self.memory_bytes / 1e6
            raise DoesNotFit(f"they need {terms} = {total:.0f} MB together, and this worker has {here:.0f} MB")

    def evict_idle(self) -> list[Eviction]:
        """Evict all that is hot and not in use: what is left to try when the device itself ran out."""
        return [self._evict(entry) for entry in self._idle()]

    def _idle(self) -> list[Entry]:
        return [e for e in self.entries.values() if e.tier == "hot" and not e.pins]

    def _evict(self, victim: Entry) -> Eviction:
        fits = self.parked_bytes + victim.memory_bytes <= self.ram_bytes
        self._move(victim, "parked" if victim.can_park and fits else "warm")
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
        """The weights are hot; their memory is measured now. Also for LoRAs that came onto hot weights."""
        entry = self.entries[key]
        if entry.tier != "hot":
            self._move(entry, "hot")
        entry.memory_bytes, entry.is_measured = memory_bytes, True
        entry.load_s, entry.can_park, entry.used_at = load_s, can_park, now

    def not_loaded(self, key: str) -> None:
        """A load failed: its reservation is void."""
        entry = self.entries.get(key)
        if entry is not None and entry.tier == "loading":
            self._move(entry, "warm")

    def note(self, key: str, engine: str, tier: Tier, memory_bytes: int = 0) -> None:
        """Enter weights that are not known yet: they are on this disk (warm), or not (cold)."""
        if key not in self.entries:
            self.entries[key] = Entry(key, engine, tier, memory_bytes, 0.0)

    def drop(self, key: str) -> bool:
        """Take idle weights out of memory, RAM included; whether they were there and idle."""
        entry = self.entries.get(key)
        if entry is None or entry.pins or entry.tier not in ("hot", "parked"):
            return False
        self._move(entry, "warm")
        return True

    def forget(self, key: str) -> None:
        """No model of the catalog needs the weights: nothing is known of them, once they are in no memory."""
        entry = self.entries.get(key)
        if entry is not None and not entry.pins and entry.tier in ("cold", "warm"):
            del self.entries[key]

    def all_dropped(self, engines: Collection[str]) -> None:
        """The process that held the weights of these engines is gone. What is loading keeps its room: its load
        ends it.
        """
        for entry in self.entries.values():
            if entry.engine not in engines:
                continue
            if entry.tier in ("hot", "parked"):
                self._move(entry, "warm")
            elif entry.tier == "loading" and entry.loaded_from == "parked":
                entry.loaded_from = "warm"

    def pin(self, key: str, now: float) -> None:
        """Somebody needs the weights; for each pin one unpin."""
        entry = self.entries[key]
        entry.pins += 1
        entry.used_at = now

    def unpin(self, key: str, now: float) -> None:
        entry = self.entries[key]
        assert entry.pins > 0, f"{key} was let go more often than it was pinned"
        entry.pins -= 1
        entry.used_at = now

    def validate(self) -> None:
        """Raise AssertionError where budgets or counts do not hold."""
        for key, entry in self.entries.items():
            assert key == entry.key
            assert entry.tier in TRANSITIONS
            assert entry.pins >= 0
        assert self.parked_bytes <= self.ram_bytes, "more is parked than RAM is given"


def _without_surplus(chosen: list[Entry], spare_bytes: int) -> list[Entry]:
    """Leave out victims that were taken before a larger one made them unnecessary."""
    kept: list[Entry] = []
    for entry in chosen:
        if entry.memory_bytes <= spare_bytes and entry is not chosen[-1]:
            spare_bytes -= entry.memory_bytes
        else:
            kept.append(entry)
    return kept

"""Bringing models into memory: resolve, make room, load; one load of the same weights at a time.

The cache decides, the runner does, this file waits for it. Whoever waits for a model is told when it is hot, or
why it could not be loaded; every wait here has a limit with a name, and ends with an error otherwise:

- for room in memory: woken by every change that may make some (a job that ends, a load that fails or is done,
  weights that were dropped, a runner that died);
- for weights that were evicted to have left the device, as another process may have them;
- for a runner, while one is being started;
- for the runner's answer: when that does not come, the runner hangs, and is ended.

Models that share weights differ in their LoRAs, which are attached once the weights are there: until then such
a model's tier is `base`.
"""

import asyncio
import time
from collections.abc import Callable, Collection, Sequence
from functools import partial
from pathlib import Path

import anyio.to_thread
import msgspec

from stoker.schemas.catalog import MEMORY_PER_FILE_BYTE, Adapter, Model, Spec, weights_key
from stoker.schemas.workers import ResidentModel, Tier
from stoker.services.process.logs import get_logger
from stoker.services.process.tasks import LimitExceeded, TaskOwner, limit
from stoker.services.process.telemetry import counter, histogram
from stoker.services.worker.models.asking import EngineRunners, LoadError, OutOfMemory, RunnerAnswers
from stoker.services.worker.models.cache import DoesNotFit, Eviction, ModelCache, NoRoomNow, Wanted
from stoker.services.worker.models.failures import LoadFailures
from stoker.services.worker.models.spec_files import placed
from stoker.services.worker.models.under_way import Attached, LoadUnderWay, Release, once, resident_model, warn
from stoker.services.worker.models.weights.resolve import WeightsError, is_cached, resolve, size_bytes
from stoker.services.worker.runner.messages import Load, Loaded, Unpark

log = get_logger("loader")

TIERS: tuple[Tier, ...] = ("hot", "loading", "base", "parked", "warm", "cold")
LOADS = counter("stoker_model_loads_total", "Loads by the tier they came from", "tier", known=TIERS[2:])
LOAD_TIME = histogram("stoker_model_load_seconds", "Loading a model into device memory", "model")
EVICTIONS = counter("stoker_evictions_total", "Models that left device memory", "to", known=("parked", "warm"))
ROOM_LIMIT_S = 900.0
"""A load that found no room for this long is given up: as long as a job may wait to be started."""


class Loader:
    """Makes models hot. `report(model, percent)` is told of downloads, `changed()` of every change."""

    def __init__(
        self,
        cache: ModelCache,
        runners: EngineRunners,
        tasks: TaskOwner,
        report: Callable[[str, float | None], None],
        changed: Callable[[], None],
    ) -> None:
        self.cache = cache
        self.answers = RunnerAnswers(runners, lambda: self.room.set())
        self._tasks = tasks
        self._report = report
        self._tell_change = changed
        self._specs: dict[str, dict[str, Spec]] = {}
        self._attached: dict[str, dict[tuple[Adapter, ...], Attached]] = {}
        self._loads: dict[str, LoadUnderWay] = {}
        self.room = asyncio.Event()
        """Set when there may be more room than before; who waits for it clears it first."""
        self.failures = LoadFailures()
        self._percents: dict[str, float | None] = {}

    # Looking --------------------------------------------------------------------------------------

    def tier(self, model: str, spec: Spec) -> Tier:
        """Where a model is; one that is being fetched, or waits for room, is loading too."""
        key = weights_key(model, spec)
        tier = self.cache.tier(key)
        if tier == "hot" and (not spec.loras or spec.loras in self._attached.get(key, {})):
            return "hot"
        if key in self._loads:
            return "loading"
        return "base" if tier == "hot" else tier

    def is_loading(self, engines: Collection[str]) -> bool:
        """Whether any load for these engines is under way."""
        return any(load.engine in engines for load in self._loads.values())

    def has_other_than(self, model: str, spec: Spec, engines: Collection[str]) -> bool:
        """Whether other weights of these engines are in memory, or on their way there."""
        key = weights_key(model, spec)
        entries = (entry for entry in self.cache.entries.values() if entry.tier in ("hot", "parked"))
        others = {entry.key for entry in entries if entry.engine in engines}
        others |= {other for other, load in self._loads.items() if load.engine in engines}
        return bool(others - {key})

    def is_hot(self, model: str, spec: Spec) -> bool:
        return self.tier(model, spec) == "hot"

    def spec_of(self, model: str) -> Spec | None:
        """The first spec of a model that this worker serves."""
        return next(iter(self._specs.get(model, {}).values()), None)

    def attached(self, model: str, spec: Spec) -> tuple[Adapter, ...]:
        """The LoRAs of a hot model, with paths on this machine as their urls."""
        found = self._attached.get(weights_key(model, spec), {}).get(spec.loras)
        return found.loras if found is not None else ()

    def residents(self) -> list[ResidentModel]:
        """Every model that is somewhere on this worker, each in the spec that is nearest to the device."""
        found: list[ResidentModel] = []
        for model, specs in self._specs.items():
            placed = [(self.tier(model, spec), spec) for spec in specs.values()]
            tier, spec = min(placed, key=lambda pair: TIERS.index(pair[0]))
            key = weights_key(model, spec)
            if (entry := self.cache.entries.get(key)) is not None:
                skipped = self._attached.get(key, {}).get(spec.loras, Attached(())).skipped
                found.append(resident_model(model, spec, tier, entry, self._percents.get(key), skipped))
        return found

    # Changes --------------------------------------------------------------------------------------

    def _changed(self) -> None:
        """Something is different: there may be room now, and the scheduler should know."""
        self.room.set()
        self._tell_change()

    def model_changed(self, name: str, model: Model | None) -> None:
        """The catalog has changed: learn which of a model's weights are on this machine's disk."""
        before = self._specs.pop(name, {}).values()
        if model is not None:
            self._specs[name] = {spec.name: spec for spec in model.specs}
        for stale in {weights_key(name, spec) for spec in before} - self._wanted():
            self._drop_idle(stale)
            self.cache.forget(stale)
        if model is None:
            return
        for spec in model.specs:
            path = is_cached(spec.url) if spec.url else None
            if path is not None or not spec.url:
                size = size_bytes(path) if path is not None else 0
                memory = spec.memory_bytes or int(size * MEMORY_PER_FILE_BYTE)
                self.cache.note(weights_key(name, spec), spec.engine, "warm", memory)

    def _wanted(self) -> set[str]:
        """Keys of the weights that some model of the catalog needs."""
        return {weights_key(one, spec) for one, found in self._specs.items() for spec in found.values()}

    def pin(self, model: str, spec: Spec) -> Callable[[], None]:
        """A job needs the model from now on, until it calls what this gives, once."""
        key = weights_key(model, spec)
        self.cache.pin(key, time.time())
        return lambda: self._unpin(key)

    def _unpin(self, *keys: str) -> None:
        for key in keys:
            self.cache.unpin(key, time.time())
            if key not in self._wanted():
                self._drop_idle(key)
                self.cache.forget(key)
        self.room.set()

    def unload(self, model: str) -> str:
        """Drop a model's weights from memory; the reason when that cannot be."""
        for spec in self._specs.get(model, {}).values():
            entry = self.cache.entries.get(weights_key(model, spec))
            if entry is not None and entry.tier in ("hot", "parked"):
                return "" if self._drop_idle(entry.key) else f"{model} is in use"
        return f"{model} is not loaded"

    def _drop_idle(self, key: str) -> bool:
        """Free weights that no job needs; whether that was so."""
        if not self.cache.drop(key):
            return False
        self._attached.pop(key, None)
        self._send_unload(key, park=False)
        self._changed()
        return True

    def _send_unload(self, key: str, *, park: bool) -> None:
        entry = self.cache.entries[key]
        self.answers.unload(key, entry.engine, entry.memory_bytes, park=park)

    def _evict(self, evictions: list[Eviction], room_for: str) -> None:
        for eviction in evictions:
            EVICTIONS.labels(eviction.to).inc()
            log.info("model.evicted", model=eviction.key, to=eviction.to, room_for=room_for)
            if eviction.to != "parked":
                self._attached.pop(eviction.key, None)
            self._send_unload(eviction.key, park=eviction.to == "parked")

    def evict_idle(self, room_for: str) -> bool:
        """The device ran out of memory: free what is not in use; whether that was anything."""
        evictions = self.cache.evict_idle()
        self._evict(evictions, room_for)
        return bool(evictions)

    def runner_died(self, engines: Collection[str], *, was_killed: bool = False) -> None:
        """Nothing of these engines is in memory any more; their loads under way fail.

        was_killed: from outside.
        """
        self.cache.all_dropped(engines)
        for key in list(self._attached):
            entry = self.cache.entries.get(key)
            if entry is None or entry.engine in engines:
                del self._attached[key]
        self.answers.runner_died(engines, was_killed=was_killed)
        self._changed()

    def progressed(self, key: str, percent: float) -> None:
        """An engine downloads what it loads."""
        self._percents[key] = percent
        for model, specs in self._specs.items():
            if any(weights_key(model, spec) == key for spec in specs.values()):
                self._report(model, percent)

    # Loading --------------------------------------------------------------------------------------

    async def make_hot(self, model: str, spec: Spec, unneeded: tuple[str, ...], limit_s: float) -> None:
        """Return when the model is in device memory, its LoRAs attached. Raises LoadError, LimitExceeded.

        Who waits no longer leaves the load to those who still do.
        """
        key = weights_key(model, spec)
        with limit(f"bringing {model} into memory", limit_s):
            while not self.is_hot(model, spec):
                self.begin(model, spec, unneeded)
                await self.ended(key)

    def reserve(
        self, models: Sequence[tuple[str, Spec]], wanted: Sequence[Wanted], unneeded: tuple[str, ...]
    ) -> Release:
        """Room for all of the models, which are pinned and on their way into memory; what lets go of them.

        Raises DoesNotFit, NoRoomNow: then nothing is held.
        """
        evictions, to_load = self.cache.reserve(wanted, time.time(), self._keys_of(unneeded))
        self._evict(evictions, ", ".join(to_load))
        for model, spec in models:
            self.begin(model, spec, unneeded)
        self._changed()
        return once(partial(self._unpin, *(one.key for one in wanted)))

    async def wanted(self, model: str, spec: Spec) -> Wanted:
        """What a model takes, as far as that is known; its files are fetched where only they can say."""
        key = weights_key(model, spec)
        known = self.cache.entries.get(key)
        needed = spec.memory_bytes or (known.memory_bytes if known and not known.is_measured else 0)
        if not needed:
            needed = await self._estimate(spec, await self._fetch(model, spec.url))
        return Wanted(key, spec.engine, needed)

    async def ended(self, key: str) -> None:
        """Wait for the load of these weights, if one goes on. Raises LoadError."""
        if (load := self._loads.get(key)) is not None:
            await load.done.wait()
            if load.error is not None:
                raise load.error

    async def _estimate(self, spec: Spec, path: Path) -> int:
        """Bytes that the weights will take."""
        size = await anyio.to_thread.run_sync(size_bytes, path) if spec.url else 0
        return spec.memory_bytes or int(size * MEMORY_PER_FILE_BYTE)

    def begin(self, model: str, spec: Spec, unneeded: tuple[str, ...] = ()) -> None:
        """Start to load a model, if it is not hot yet, ahead of need."""
        key = weights_key(model, spec)
        if not self.is_hot(model, spec) and key not in self._loads:
            load = self._loads[key] = LoadUnderWay(spec.engine)
            self._tasks.start(self._run_load, load, model, spec, self._keys_of(unneeded))

    def _keys_of(self, models: tuple[str, ...]) -> set[str]:
        return {weights_key(model, spec) for model in models for spec in self._specs.get(model, {}).values()}

    async def _run_load(self, load: LoadUnderWay, model: str, spec: Spec, unneeded: Collection[str]) -> None:
        """A load from beginning to end: whatever happens, those who wait are told, and its reservation goes."""
        key = weights_key(model, spec)
        load.error = LoadError(
            f"{model}: the worker stopped while it was loaded", is_lost=True, was_killed=True
        )
        try:
            await self._load(model, spec, unneeded)
            load.error = None
            self.failures.loaded(model)
        except LoadError as error:
            load.error = error
        except (WeightsError, DoesNotFit, LimitExceeded, OSError) as error:
            load.error = LoadError(str(error) if isinstance(error, WeightsError) else f"{model}: {error}")
        except Exception as error:
            log.exception("load.broken", model=model)
            load.error = LoadError(f"{model}: {type(error).__name__}: {error}")
        finally:
            self.cache.not_loaded(key)
            del self._loads[key]
            self._percents.pop(key, None)
            if load.error is not None:
                self.failures.note(model, load.error, time.monotonic())
                log.warning("model.not_loaded", model=model, reason=str(load.error))
            load.done.set()
            self._changed()

    async def _load(self, model: str, spec: Spec, unneeded: Collection[str]) -> None:
        key = weights_key(model, spec)
        self.cache.note(key, spec.engine, "cold")
        self._changed()
        began = time.monotonic()
        path = await self._fetch(model, spec.url)
        loras, adapters = [await self.fetch_all(model, some) for some in (spec.loras, spec.adapters)]
        fetch_s = time.monotonic() - began
        own = await anyio.to_thread.run_sync(placed, spec)
        load = Load(key, spec.engine, str(path), spec.options, adapters, loras, *own, slots=spec.slots)
        if self.cache.tier(key) == "hot":
            loaded = await self._attach(key, load)
            source: Tier = "base"
        else:
            needed = await self._estimate(spec, path)
            await self._make_room(key, spec, needed, unneeded)
            self._changed()
            await self.answers.wait_ready(spec.engine)
            source = self.cache.entries[key].loaded_from
            before_s = self.cache.entries[key].fetch_s = fetch_s if source == "cold" else 0.0
            if source == "parked":
                before_s = (await self.answers.ask(key, spec.engine, Unpark(key))).load_s
            load = msgspec.structs.replace(load, memory_bytes=needed + self.cache.free_bytes)
            loaded = await self._ask_twice(key, load)
            loaded = msgspec.structs.replace(loaded, load_s=before_s + loaded.load_s)
        self._attached.setdefault(key, {})[spec.loras] = Attached(loras, loaded.skipped)
        self._note_loaded(model, spec, loaded, source)

    def _note_loaded(self, model: str, spec: Spec, loaded: Loaded, source: Tier) -> None:
        key = weights_key(model, spec)
        entry = self.cache.entries[key]
        memory = loaded.memory_bytes or entry.memory_bytes
        self.cache.loaded(key, memory, loaded.load_s, loaded.can_park, time.time())
        entry.loaded_from, entry.card = source, loaded.card or entry.card
        warn(model, loaded.skipped, memory, self.cache.memory_bytes)
        LOADS.labels(source).inc()
        LOAD_TIME.labels(model).observe(loaded.load_s)
        log.info("model.loaded", model=model, seconds=round(loaded.load_s, 3), source=source)

    async def _attach(self, key: str, load: Load) -> Loaded:
        """Ask for LoRAs on weights that are hot, and keep those hot meanwhile."""
        self.cache.pin(key, time.time())
        try:
            return await self.answers.ask(key, load.engine, load)
        finally:
            self.cache.unpin(key, time.time())

    async def _ask_twice(self, key: str, load: Load) -> Loaded:
        """Ask for a load; when the device turns out to be full, evict what is idle and ask once more."""
        try:
            return await self.answers.ask(key, load.engine, load)
        except OutOfMemory:
            if not self.evict_idle(key):
                raise
            await self._wait_until_left(0)
            return await self.answers.ask(key, load.engine, load)

    async def _make_room(self, key: str, spec: Spec, needed: int, unneeded: Collection[str]) -> None:
        with limit(f"making room of {needed / 1e6:.0f} MB", ROOM_LIMIT_S):
            while self.cache.tier(key) != "loading":  # else it is reserved already, with others
                self.room.clear()
                try:
                    self._evict(self.cache.plan(key, spec.engine, needed, time.time(), unneeded), key)
                except NoRoomNow:
                    await self.room.wait()
        await self._wait_until_left(self.cache.free_bytes)

    async def _wait_until_left(self, spare_bytes: int) -> None:
        """Return when the weights that are to leave the device take no more of it than so much.

        Their runner may be another, and busy.
        """
        with limit("unloading what was evicted", ROOM_LIMIT_S):
            while self.answers.leaving_bytes > spare_bytes:
                self.room.clear()
                await self.room.wait()

    async def _fetch(self, model: str, url: str) -> Path:
        """A path on this machine. A download that nobody waits for any more goes on in its thread."""
        if not url:
            return Path()
        loop = asyncio.get_running_loop()

        def report(percent: float) -> None:
            loop.call_soon_threadsafe(self._downloaded, model, percent)

        return await anyio.to_thread.run_sync(resolve, url, report, abandon_on_cancel=True)

    def _downloaded(self, model: str, percent: float) -> None:
        keys = {weights_key(model, spec) for spec in self._specs.get(model, {}).values()}
        self._percents.update(dict.fromkeys(keys & self._loads.keys(), percent))
        self._report(model, percent)

    async def fetch_all(self, model: str, adapters: tuple[Adapter, ...]) -> tuple[Adapter, ...]:
        """The same adapters with paths on this machine as their urls. Raises WeightsError."""
        return tuple(
            [msgspec.structs.replace(one, url=str(await self._fetch(model, one.url))) for one in adapters]
        )

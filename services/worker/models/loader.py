"""Bringing models into memory for the agent: resolve, make room, load; one load of the same weights at a time.

The cache decides, the runner does, this file waits for it. Whoever waits for a model hears when it is hot or
why it could not be loaded. Models that share weights differ in their LoRAs, which are attached once the weights
are there: until then such a model's tier is `base`.
"""

import asyncio
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

import msgspec

from schemas.catalog import MEMORY_PER_FILE_BYTE, Adapter, Model, Spec, weights_key
from schemas.workers import ResidentModel, Tier
from services.process.logs import get_logger
from services.process.telemetry import counter, histogram
from services.worker.models.cache import DoesNotFit, Eviction, ModelCache, NoRoomNow
from services.worker.models.weights.resolve import WeightsError, is_cached, local_path, resolve, size_bytes
from services.worker.runner.messages import Load, Loaded, LoadFailed, Message, Unload, Unpark

log = get_logger("loader")

LOADS = counter("stoker_model_loads_total", "Loads of models by the tier they came from", "tier")
LOAD_TIME = histogram("stoker_model_load_seconds", "Loading a model into device memory", "model")
EVICTIONS = counter("stoker_evictions_total", "Models moved out of device memory", "to")
FAILED_LOAD_MEMORY_S = 30.0
"""How long a failed load is reported, so that the scheduler tries other workers first."""
TIERS: tuple[Tier, ...] = ("hot", "loading", "base", "parked", "warm", "cold")


class LoadError(Exception):
    """A model could not be made hot; the message is for the client."""


class OutOfMemory(LoadError):
    """The device has less room than was counted on."""


@dataclass(frozen=True, slots=True)
class Attached:
    """LoRAs on hot weights: those that fit, with paths on this machine; those that do not, and why."""

    loras: tuple[Adapter, ...]
    skipped: tuple[str, ...] = ()


class Loader:
    """Makes models hot. `report(model, percent)` hears of downloads, `changed()` of every change."""

    def __init__(
        self,
        cache: ModelCache,
        send: Callable[[Message], None],
        report: Callable[[str, float | None], None],
        changed: Callable[[], None],
    ) -> None:
        self.cache = cache
        self._send = send
        self._report = report
        self._changed = changed
        self._specs: dict[str, dict[str, Spec]] = {}
        self._attached: dict[str, dict[tuple[Adapter, ...], Attached]] = {}
        self._loads: dict[str, asyncio.Task[None]] = {}
        self._answers: dict[str, asyncio.Future[Loaded]] = {}
        self._room = asyncio.Event()
        self._failures: dict[str, tuple[float, str]] = {}

    def tier(self, model: str, spec: Spec) -> Tier:
        """Where a model is; one that is being fetched, or waits for room, is loading too."""
        key = weights_key(model, spec)
        tier = self.cache.tier(key)
        if tier == "hot" and (not spec.loras or spec.loras in self._attached.get(key, {})):
            return "hot"
        if key in self._loads:
            return "loading"
        return "base" if tier == "hot" else tier

    def is_hot(self, model: str, spec: Spec) -> bool:
        return self.tier(model, spec) == "hot"

    def spec_of(self, model: str) -> Spec | None:
        """The first spec of a model that this worker serves."""
        return next(iter(self._specs.get(model, {}).values()), None)

    def failures(self) -> dict[str, str]:
        """Models whose load failed lately, with the reason."""
        now = time.monotonic()
        self._failures = {
            model: found for model, found in self._failures.items() if now - found[0] < FAILED_LOAD_MEMORY_S
        }
        return {model: reason for model, (_, reason) in self._failures.items()}

    def residents(self) -> list[ResidentModel]:
        """Every model that is somewhere on this worker, each in the spec that is nearest to the device."""
        found: list[ResidentModel] = []
        for model, specs in self._specs.items():
            placed = [(self.tier(model, spec), spec) for spec in specs.values()]
            tier, spec = min(placed, key=lambda pair: TIERS.index(pair[0]))
            key = weights_key(model, spec)
            entry = self.cache.entries.get(key)
            if entry is not None:
                found.append(
                    ResidentModel(
                        model=model,
                        spec=spec.name,
                        engine=spec.engine,
                        tier=tier,
                        memory_bytes=entry.memory_bytes,
                        load_s=entry.load_s,
                        loaded_from=entry.loaded_from,
                        weights=key,
                        path=str(local_path(spec.url) or spec.url),
                        skipped=self._attached.get(key, {}).get(spec.loras, Attached(())).skipped,
                    )
                )
        return found

    def model_changed(self, name: str, model: Model | None) -> None:
        """The catalog has changed: learn which of a model's weights are on this machine's disk."""
        before = self._specs.pop(name, {}).values()
        if model is not None:
            self._specs[name] = {spec.name: spec for spec in model.specs}
        wanted = {weights_key(one, spec) for one, found in self._specs.items() for spec in found.values()}
        for stale in {weights_key(name, spec) for spec in before} - wanted:
            self._drop_idle(stale)
        if model is None:
            return
        for spec in model.specs:
            path = is_cached(spec.url) if spec.url else None
            if path is not None or not spec.url:
                size = size_bytes(path) if path is not None else 0
                memory = spec.memory_bytes or int(size * MEMORY_PER_FILE_BYTE)
                self.cache.note(weights_key(name, spec), spec.engine, "warm", memory)

    async def make_hot(self, model: str, spec: Spec, unneeded: tuple[str, ...]) -> None:
        """Return when the model is in device memory, its LoRAs attached. Raises LoadError."""
        key = weights_key(model, spec)
        while not self.is_hot(model, spec):
            load = self._loads.get(key)
            if load is None:
                load = asyncio.create_task(self._load(model, spec, self._keys_of(unneeded)))
                self._loads[key] = load
                load.add_done_callback(lambda _: self._loads.pop(key, None))
            await asyncio.shield(load)

    def _keys_of(self, models: tuple[str, ...]) -> set[str]:
        return {weights_key(model, spec) for model in models for spec in self._specs.get(model, {}).values()}

    async def _load(self, model: str, spec: Spec, unneeded: Collection[str]) -> None:
        key = weights_key(model, spec)
        try:
            self.cache.note(key, spec.engine, "cold")
            self._changed()
            path = await self._fetch(model, spec.url)
            loras = await self.fetch_all(model, spec.loras)
            adapters = await self.fetch_all(model, spec.adapters)
            load = Load(key, spec.engine, str(path), spec.options, adapters, loras, spec.args, spec.env)
            began_as = self.cache.tier(key)
            if began_as != "hot":
                size = await asyncio.to_thread(size_bytes, path) if spec.url else 0
                needed = spec.memory_bytes or int(size * MEMORY_PER_FILE_BYTE)
                await self._make_room(key, spec, needed, unneeded)
                self._changed()
            unparked_s = (await self._ask(key, Unpark(key))).load_s if began_as == "parked" else 0.0
            loaded = await (self._attach(key, load) if began_as == "hot" else self._ask_twice(key, load))
            loaded = msgspec.structs.replace(loaded, load_s=unparked_s + loaded.load_s)
        except (WeightsError, DoesNotFit, LoadError) as error:
            self.cache.not_loaded(key)
            reason = f"{model}: {error}" if isinstance(error, DoesNotFit) else str(error)
            self._failures[model] = (time.monotonic(), reason)
            self._changed()
            log.warning("model.not_loaded", model=model, reason=reason)
            raise LoadError(reason) from None
        self._failures.pop(model, None)
        self._attached.setdefault(key, {})[spec.loras] = Attached(loras, loaded.skipped)
        self._note_loaded(model, spec, loaded, "base" if began_as == "hot" else began_as)
        self._changed()

    def _note_loaded(self, model: str, spec: Spec, loaded: Loaded, source: Tier) -> None:
        key = weights_key(model, spec)
        entry = self.cache.entries[key]
        memory = loaded.memory_bytes or entry.memory_bytes
        self.cache.loaded(key, memory, loaded.load_s, loaded.can_park, time.time())
        entry.loaded_from = source
        for skipped in loaded.skipped:
            log.warning("lora.skipped", model=model, lora=skipped)
        LOADS.labels(source).inc()
        LOAD_TIME.labels(model).observe(loaded.load_s)
        log.info("model.loaded", model=model, seconds=round(loaded.load_s, 3), source=source)

    async def _attach(self, key: str, load: Load) -> Loaded:
        """Ask for LoRAs on weights that are hot, and keep those hot meanwhile."""
        self.cache.pin(key, time.time())
        try:
            return await self._ask(key, load)
        finally:
            self.cache.unpin(key, time.time())

    def attached(self, model: str, spec: Spec) -> tuple[Adapter, ...]:
        """The LoRAs of a hot model, with paths on this machine as their urls."""
        found = self._attached.get(weights_key(model, spec), {}).get(spec.loras)
        return found.loras if found is not None else ()

    async def _fetch(self, model: str, url: str) -> Path:
        if not url:
            return Path()
        loop = asyncio.get_running_loop()

        def report(percent: float) -> None:
            loop.call_soon_threadsafe(self._report, model, percent)

        return await asyncio.to_thread(resolve, url, report)

    async def fetch_all(self, model: str, adapters: tuple[Adapter, ...]) -> tuple[Adapter, ...]:
        """The same adapters with paths on this machine as their urls. Raises WeightsError."""
        return tuple(
            [msgspec.structs.replace(one, url=str(await self._fetch(model, one.url))) for one in adapters]
        )

    async def _make_room(self, key: str, spec: Spec, needed: int, unneeded: Collection[str]) -> None:
        while True:
            self._room.clear()
            try:
                evictions = self.cache.plan(key, spec.engine, needed, time.time(), unneeded)
                break
            except NoRoomNow:
                await self._room.wait()
        self._evict(evictions, key)

    def _evict(self, evictions: list[Eviction], room_for: str) -> None:
        for eviction in evictions:
            EVICTIONS.labels(eviction.to).inc()
            log.info("model.evicted", model=eviction.key, to=eviction.to, room_for=room_for)
            if eviction.to != "parked":
                self._attached.pop(eviction.key, None)
            self._send(Unload(eviction.key, park=eviction.to == "parked"))

    def evict_idle(self, room_for: str) -> bool:
        """The device ran out of memory: free what is not in use; whether that was anything."""
        evictions = self.cache.evict_idle()
        self._evict(evictions, room_for)
        return bool(evictions)

    def unload(self, model: str) -> str:
        """Drop a model's weights from memory; the reason when that cannot be."""
        for spec in self._specs.get(model, {}).values():
            entry = self.cache.entries.get(weights_key(model, spec))
            if entry is not None and entry.tier in ("hot", "parked"):
                return "" if self._drop_idle(entry.key) else f"{model} is in use"
        return f"{model} is not loaded"

    def _drop_idle(self, key: str) -> bool:
        """Free weights that no job needs; whether that was so."""
        entry = self.cache.entries.get(key)
        if entry is None or entry.pins or entry.tier not in ("hot", "parked"):
            return False
        self.cache.dropped(entry.key)
        self._attached.pop(entry.key, None)
        self._send(Unload(entry.key, park=False))
        self._changed()
        return True

    async def _ask_twice(self, key: str, load: Load) -> Loaded:
        """Ask for a load; when the device turns out to be full, evict what is idle and ask once more."""
        try:
            return await self._ask(key, load)
        except OutOfMemory:
            if not self.evict_idle(key):
                raise
            return await self._ask(key, load)

    async def _ask(self, key: str, message: Message) -> Loaded:
        answer: asyncio.Future[Loaded] = asyncio.get_running_loop().create_future()
        self._answers[key] = answer
        try:
            self._send(message)
            return await answer
        finally:
            self._answers.pop(key, None)

    def take(self, message: Loaded | LoadFailed) -> None:
        """The runner's answer to a load."""
        answer = self._answers.get(message.model)
        if answer is None or answer.done():
            return
        if isinstance(message, Loaded):
            answer.set_result(message)
        else:
            kind = OutOfMemory if message.is_out_of_memory else LoadError
            answer.set_exception(kind(message.reason))

    def progressed(self, key: str, percent: float) -> None:
        """An engine downloads what it loads."""
        for model, specs in self._specs.items():
            if any(weights_key(model, spec) == key for spec in specs.values()):
                self._report(model, percent)

    def runner_died(self) -> None:
        """Nothing is in memory any more; loads under way fail."""
        self.cache.all_dropped()
        self._attached.clear()
        for key, answer in self._answers.items():
            if not answer.done():
                answer.set_exception(LoadError(f"the runner died while it loaded {key}"))
        self.room_made()

    def pin(self, model: str, spec: Spec) -> None:
        """A job needs the model from now on."""
        self.cache.pin(weights_key(model, spec), time.time())

    def unpin(self, model: str, spec: Spec) -> None:
        """A job needs it no more: who waits for room may try again."""
        self.cache.unpin(weights_key(model, spec), time.time())
        self.room_made()

    def room_made(self) -> None:
        self._room.set()

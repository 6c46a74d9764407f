"""Bringing models into memory for the agent: resolve, make room, load; one load of a model at a time.

The cache decides, the runner does, this file waits for it. Whoever waits for a model hears when it is hot or
why it could not be loaded.
"""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

from schemas.catalog import MEMORY_PER_FILE_BYTE, Model, Spec
from schemas.workers import Tier
from services.bus.logs import get_logger
from services.bus.telemetry import counter, histogram
from services.worker.cache import DoesNotFit, Entry, ModelCache, NoRoomNow
from services.worker.runner_messages import Load, Loaded, LoadFailed, Message, Unload, Unpark
from services.worker.weights.resolve import WeightsError, is_cached, resolve, size_bytes

log = get_logger("loader")

LOADS = counter("stoker_model_loads_total", "Loads of models by the tier they came from", "tier")
LOAD_TIME = histogram("stoker_model_load_seconds", "Loading a model into device memory", "model")
EVICTIONS = counter("stoker_evictions_total", "Models moved out of device memory", "to")
FAILED_LOAD_MEMORY_S = 30.0
"""How long a failed load is reported, so that the scheduler tries other workers first."""


class LoadError(Exception):
    """A model could not be made hot; the message is for the client."""


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
        self._loads: dict[str, asyncio.Task[None]] = {}
        self._answers: dict[str, asyncio.Future[Loaded]] = {}
        self._room = asyncio.Event()
        self._failures: dict[str, tuple[float, str]] = {}
        self._paths: dict[str, Path] = {}

    def is_hot(self, model: str, spec: Spec) -> bool:
        return self.cache.tier(model, spec.name) == "hot"

    def tier_of(self, entry: Entry) -> Tier:
        """As heartbeats show it: a model that is being fetched, or waits for room, is loading too."""
        return "loading" if entry.model in self._loads else entry.tier

    def failures(self) -> dict[str, str]:
        """Models whose load failed lately, with the reason."""
        now = time.monotonic()
        self._failures = {
            model: found for model, found in self._failures.items() if now - found[0] < FAILED_LOAD_MEMORY_S
        }
        return {model: reason for model, (_, reason) in self._failures.items()}

    def note_disk(self, model: Model) -> None:
        """Learn which of a model's weights are on this machine's disk."""
        for spec in model.specs:
            path = is_cached(spec.url) if spec.url else None
            if path is not None or not spec.url:
                size = size_bytes(path) if path is not None else 0
                memory = spec.memory_bytes or int(size * MEMORY_PER_FILE_BYTE)
                self.cache.note(model.name, spec.name, spec.engine, "warm", memory)

    async def make_hot(self, model: str, spec: Spec, unneeded: tuple[str, ...]) -> None:
        """Return when the model is in device memory. Raises LoadError."""
        while not self.is_hot(model, spec):
            load = self._loads.get(model)
            if load is None:
                load = asyncio.create_task(self._load(model, spec, unneeded))
                self._loads[model] = load
                load.add_done_callback(lambda _: self._loads.pop(model, None))
            await asyncio.shield(load)

    async def _load(self, model: str, spec: Spec, unneeded: tuple[str, ...]) -> None:
        try:
            self.cache.note(model, spec.name, spec.engine, "cold")
            self._changed()
            path = await self._fetch(model, spec)
            needed = spec.memory_bytes or int(size_bytes(path) * MEMORY_PER_FILE_BYTE)
            tier = await self._make_room(model, spec, needed, unneeded)
            self._changed()
            if tier == "parked":
                loaded = await self._ask(model, Unpark(model))
            else:
                load = Load(model, spec.engine, str(path), spec.options, spec.adapters)
                loaded = await self._ask(model, load)
        except (WeightsError, DoesNotFit, LoadError) as error:
            self.cache.not_loaded(model)
            self._failures[model] = (time.monotonic(), str(error))
            self._changed()
            log.warning("model.not_loaded", model=model, reason=str(error))
            raise LoadError(str(error)) from None
        self._failures.pop(model, None)
        memory = loaded.memory_bytes or needed
        self.cache.loaded(model, memory, loaded.load_s, loaded.can_park, time.time())
        LOADS.labels(tier).inc()
        LOAD_TIME.labels(model).observe(loaded.load_s)
        log.info("model.loaded", model=model, seconds=round(loaded.load_s, 3), source=tier)
        self._changed()

    async def _fetch(self, model: str, spec: Spec) -> Path:
        if not spec.url:
            return Path()
        loop = asyncio.get_running_loop()

        def report(percent: float) -> None:
            loop.call_soon_threadsafe(self._report, model, percent)

        return await asyncio.to_thread(resolve, spec.url, report)

    async def _make_room(self, model: str, spec: Spec, needed: int, unneeded: tuple[str, ...]) -> str:
        while True:
            self._room.clear()
            before = self.cache.tier(model, spec.name)
            try:
                evictions = self.cache.plan(model, spec.name, spec.engine, needed, time.time(), unneeded)
                break
            except NoRoomNow:
                await self._room.wait()
        for eviction in evictions:
            EVICTIONS.labels(eviction.to).inc()
            log.info("model.evicted", model=eviction.model, to=eviction.to, room_for=model)
            self._send(Unload(eviction.model, park=eviction.to == "parked"))
        return before

    async def _ask(self, model: str, message: Message) -> Loaded:
        answer: asyncio.Future[Loaded] = asyncio.get_running_loop().create_future()
        self._answers[model] = answer
        try:
            self._send(message)
            return await answer
        finally:
            self._answers.pop(model, None)

    def take(self, message: Loaded | LoadFailed) -> None:
        """The runner's answer to a load."""
        answer = self._answers.get(message.model)
        if answer is None or answer.done():
            return
        if isinstance(message, Loaded):
            answer.set_result(message)
        else:
            answer.set_exception(LoadError(message.reason))

    def runner_died(self) -> None:
        """Nothing is in memory any more; loads under way fail."""
        self.cache.all_dropped()
        for model, answer in self._answers.items():
            if not answer.done():
                answer.set_exception(LoadError(f"the runner died while it loaded {model}"))
        self.room_made()

    def room_made(self) -> None:
        """Something was unpinned: who waits for room may try again."""
        self._room.set()

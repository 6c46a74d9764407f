"""Loads under way, what lies over hot weights, and what is said of them: the loader's books."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from stoker.schemas.catalog import Adapter, Spec
from stoker.schemas.workers import ResidentModel, Tier
from stoker.services.process.logs import get_logger
from stoker.services.worker.models.asking import LoadError
from stoker.services.worker.models.cache import Entry
from stoker.services.worker.models.weights.resolve import local_path

log = get_logger("loader")


@dataclass(frozen=True, slots=True)
class Attached:
    """LoRAs on hot weights: those that fit, with paths on this machine; those that do not, and why."""

    loras: tuple[Adapter, ...]
    skipped: tuple[str, ...] = ()


@dataclass(slots=True)
class LoadUnderWay:
    """A load that several may wait for. error: why it failed; None while it goes on, and when it is done."""

    engine: str
    done: asyncio.Event = field(default_factory=asyncio.Event)
    error: LoadError | None = None


Release = Callable[[], object]
"""Lets go of something that is held."""


def once(release: Release) -> Release:
    """The same, which does nothing when it is called again."""
    left = [release]

    def call() -> None:
        while left:
            left.pop()()

    return call


def resident_model(
    model: str, spec: Spec, tier: Tier, entry: Entry, percent: float | None, skipped: tuple[str, ...]
) -> ResidentModel:
    """What a heartbeat says of a model. percent: of its download. skipped: LoRAs that do not fit."""
    return ResidentModel(
        model=model,
        spec=spec.name,
        engine=spec.engine,
        tier=tier,
        memory_bytes=entry.memory_bytes,
        load_s=entry.load_s,
        fetch_s=round(entry.fetch_s, 4),
        loaded_from=entry.loaded_from,
        weights=entry.key,
        percent=percent,
        path=str(local_path(spec.url) or spec.url),
        card=entry.card if tier == "hot" else None,
        skipped=skipped,
    )


def warn(model: str, skipped: tuple[str, ...], memory_bytes: int, limit_bytes: int) -> None:
    """Say what an operator should know of a model that was loaded. limit_bytes: of its worker."""
    for lora in skipped:
        log.warning("lora.skipped", model=model, lora=lora)
    if memory_bytes > limit_bytes:
        log.warning("model.over_limit", model=model, mb=memory_bytes // 10**6, limit_mb=limit_bytes // 10**6)

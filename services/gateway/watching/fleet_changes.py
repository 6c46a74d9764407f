"""The fleet for people who watch it: everything once, then what has changed: a thousand workers can be shown.

Of a worker only what is shown is said, and its models on disk are counted: each of its heartbeats would
otherwise bring everything anew. One `FleetChanges` for each watcher.
"""

import msgspec

from stoker.schemas.configuration import ConfigurationState
from stoker.schemas.workers import Heartbeat, Tier
from stoker.services.gateway.fleet_view import FleetView
from stoker.services.gateway.gateway import Gateway
from stoker.services.gateway.routes.fleet import FleetModel, models_of

MB = 1_000_000
SHOWN_REASON_CHARS = 300


class ShownWorker(msgspec.Struct, frozen=True, omit_defaults=True):
    """state: live, draining, silent (it has missed a heartbeat), gone. memory: models by tier, but for those on
    disk. failed: why models could not be loaded lately.
    """

    worker: str
    state: str
    device: str
    host: str
    profile: str
    used_mb: int
    total_mb: int
    jobs: int = 0
    memory: dict[str, Tier] = {}
    on_disk: int = 0
    failed: dict[str, str] = {}


class Changes(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is new or another, and the names of what is no longer there."""

    workers: tuple[ShownWorker, ...] = ()
    workers_gone: tuple[str, ...] = ()
    models: tuple[FleetModel, ...] = ()
    models_gone: tuple[str, ...] = ()
    configuration: ConfigurationState | None = None


class FleetChanges:
    """What one watcher was told."""

    def __init__(self) -> None:
        self._beats: dict[str, tuple[Heartbeat, str]] = {}
        self._workers: dict[str, ShownWorker] = {}
        self._models: dict[str, FleetModel] = {}
        self._configuration: ConfigurationState | None = None

    def take(self, gateway: Gateway) -> Changes | None:
        """What has changed since the last call; None: nothing."""
        workers, gone = self._workers_changed(gateway.fleet)
        found = {model.name: model for model in models_of(gateway)}
        models = tuple(model for name, model in found.items() if self._models.get(name) != model)
        models_gone = tuple(name for name in self._models if name not in found)
        self._models = found
        configuration = gateway.configuration()
        is_same = self._configuration == configuration
        self._configuration = configuration
        if is_same and not (workers or gone or models or models_gone):
            return None
        return Changes(workers, gone, models, models_gone, None if is_same else configuration)

    def _workers_changed(self, view: FleetView) -> tuple[tuple[ShownWorker, ...], tuple[str, ...]]:
        silent = view.silent_workers()
        now = {beat.worker: (beat, "draining" if beat.is_draining else "live") for beat in view.live_workers()}
        now |= {name: (beat, "silent" if counts else "gone") for name, (beat, counts) in silent.items()}
        changed: list[ShownWorker] = []
        for name, (beat, state) in now.items():
            before = self._beats.get(name)
            if before is not None and before[0] is beat and before[1] == state:
                continue
            shown = shown_worker(beat, state)
            if shown != self._workers.get(name):
                changed.append(shown)
                self._workers[name] = shown
        gone = tuple(name for name in self._workers if name not in now)
        for name in gone:
            del self._workers[name]
        self._beats = now
        return tuple(changed), gone


def shown_worker(beat: Heartbeat, state: str) -> ShownWorker:
    """What is shown of a worker."""
    memory = {one.model: one.tier for one in beat.models if one.tier not in ("warm", "cold")}
    return ShownWorker(
        worker=beat.worker,
        state=state,
        device=beat.device,
        host=beat.host,
        profile=beat.profile,
        used_mb=beat.memory_used_bytes // MB,
        total_mb=beat.memory_total_bytes // MB,
        jobs=len(beat.running),
        memory=memory,
        on_disk=sum(one.tier == "warm" for one in beat.models),
        failed={model: reason[:SHOWN_REASON_CHARS] for model, reason in beat.failed_loads.items()},
    )

"""What one gateway knows of the others: the catalog, queues, workers and replicas, as they last said.

Reports come from NATS subscriptions and bucket watches (gateway.py) and are read by routes; nothing here
decides. A report counts for as long as its sender is not silent, by the monotonic clock: a step of the wall
clock ends no worker. What has been silent for FORGET_AFTER_S is removed, so that names which come and go leave
nothing behind.
"""

import asyncio
import time
from collections.abc import Callable, Iterator

from nats.aio.msg import Msg

from stoker.schemas import wire
from stoker.schemas.catalog import Model
from stoker.schemas.configuration import ReloadFailure, RevisionHead
from stoker.schemas.discovery import Schema
from stoker.schemas.fleet import DiskRoom, ModelReplicas, QueueDepth
from stoker.schemas.subjects import last_name
from stoker.schemas.workers import CapabilityCard, Heartbeat
from stoker.services.catalog import store
from stoker.services.gateway.modes import Modes
from stoker.services.process.logs import get_logger
from stoker.services.process.telemetry import gauge

log = get_logger("fleet")

WORKER_SILENT_S = 6.0
"""A worker that has not reported for this long does not count."""
HEARTBEAT_MISSED_S = 2.0
"""A worker that has not reported for this long is shown as silent: it does so every second."""
DISK_SILENT_S = 5.0
"""What was said of the disk counts for so long."""
FORGET_AFTER_S = 60.0
"""What has not reported for this long is removed."""
TIDY_EVERY_S = 5.0


NO_CARD = CapabilityCard()
DISK_FREE = gauge("stoker_nats_disk_free_bytes", "Room on the disk of the NATS server")


class FleetView:
    """models, schemas: the catalog. depths: queues by model. replicas: the autoscaler's records by model.

    revision: which configuration the catalog is; failure: why some gateway did not take the files as they are.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.models: dict[str, Model] = {}
        self.schemas: dict[str, Schema] = {}
        self.depths: dict[str, QueueDepth] = {}
        self.replicas: dict[str, ModelReplicas] = {}
        self.modes = Modes(self.models)
        self.catalog_read = asyncio.Event()
        self.revision = RevisionHead()
        self.failure: ReloadFailure | None = None
        self._noted = asyncio.Event()
        self._disk: tuple[DiskRoom, float] | None = None
        self._clock = clock
        self._workers: dict[str, tuple[Heartbeat, float]] = {}
        self._cards: dict[str, CapabilityCard] = {}
        self._depths_at: dict[str, float] = {}

    @property
    def known_workers(self) -> int:
        """Workers that are remembered, silent ones too."""
        return len(self._workers)

    def model_changed(self, name: str, model: Model | None) -> None:
        """A model of the catalog is new, another, or gone."""
        if model is not None:
            self.models[name] = model
            return
        self.models.pop(name, None)
        self.schemas.pop(name, None)
        self._cards.pop(name, None)
        self._forget_depth(name)

    def replicas_changed(self, model: str, replicas: ModelReplicas | None) -> None:
        """The autoscaler has recorded something new."""
        if replicas is not None:
            self.replicas[model] = replicas
        else:
            self.replicas.pop(model, None)

    def noted(self, kind: str, name: str, content: bytes) -> None:
        """A note in the catalog: a model's schema, the current mode, the revision. Empty: it was removed."""
        try:
            if kind == store.SCHEMA_NOTE and not content:
                self.schemas.pop(name, None)
            elif kind == store.SCHEMA_NOTE:
                self.schemas[name] = wire.decode(Schema, content)
            elif kind == store.MODES_NOTE and content:
                self.modes.noted(name, wire.decode(str, content))
            elif kind == store.REVISION_NOTE:
                self._revision_noted(name, content)
        except wire.UnreadableMessage as error:
            log.warning("note.unreadable", kind=kind, name=name, error=str(error))

    def _revision_noted(self, name: str, content: bytes) -> None:
        if name == store.CURRENT:
            self.revision = wire.decode(RevisionHead, content) if content else RevisionHead()
            self._noted.set()
        elif name == store.FAILED:
            self.failure = wire.decode(ReloadFailure, content) if content else None

    async def until_revision(self, number: int) -> None:
        """Wait until the catalog is this revision, or a later one."""
        while self.revision.number < number:
            self._noted.clear()
            await self._noted.wait()

    def on_depth(self, message: Msg) -> None:
        """The scheduler reports a queue."""
        try:
            depth: QueueDepth = wire.decode(QueueDepth, message.data)
        except wire.UnreadableMessage as error:
            log.warning("message.unreadable", subject=message.subject, error=str(error))
            return
        name = last_name(message.subject)
        self.depths[name] = depth
        self._depths_at[name] = self._clock()

    def on_disk(self, message: Msg) -> None:
        """Who runs the NATS server reports the room on its disk."""
        try:
            room: DiskRoom = wire.decode(DiskRoom, message.data)
        except wire.UnreadableMessage as error:
            log.warning("message.unreadable", subject=message.subject, error=str(error))
            return
        DISK_FREE.set(room.free)
        self._disk = (room, self._clock())

    def why_disk_full(self) -> str:
        """How little room the disk of the NATS server has; "" where there is enough, or nobody says."""
        if self._disk is None or self._clock() - self._disk[1] >= DISK_SILENT_S:
            return ""
        room, _ = self._disk
        return f"{room.free / 1e6:,.0f} of {room.total / 1e6:,.0f} MB free" if room.is_low else ""

    def on_heartbeat(self, heartbeat: Heartbeat) -> None:
        """A worker reports itself."""
        if heartbeat.is_leaving:
            self._workers.pop(heartbeat.worker, None)
            return
        known = self._workers.get(heartbeat.worker)
        self._workers[heartbeat.worker] = (heartbeat, self._clock())
        if known is not None and known[0].models is heartbeat.models:  # as they are where nothing has changed
            return
        for resident in heartbeat.models:
            if resident.card is not None and resident.model in self.models:
                self._cards[resident.model] = resident.card

    def _live(self) -> Iterator[Heartbeat]:
        """Workers that have reported lately, in no order."""
        now = self._clock()
        return (beat for beat, seen_at in self._workers.values() if now - seen_at < WORKER_SILENT_S)

    def live_workers(self) -> list[Heartbeat]:
        """Workers that have reported lately, by name."""
        return sorted(self._live(), key=lambda beat: beat.worker)

    def silent_workers(self) -> dict[str, tuple[Heartbeat, bool]]:
        """The last report of workers that have missed some, until they are forgotten; and whether they still
        count."""
        now = self._clock()
        return {
            worker: (beat, now - seen_at < WORKER_SILENT_S)
            for worker, (beat, seen_at) in self._workers.items()
            if now - seen_at >= HEARTBEAT_MISSED_S
        }

    def has(self, worker: str, model: str) -> bool:
        """Whether a live worker has the model in memory, or is loading it."""
        return any(
            beat.worker == worker and any(one.model == model for one in beat.models) for beat in self._live()
        )

    def image_workers(self) -> list[Heartbeat]:
        """Live workers that draw images, now or in a moment."""
        return [beat for beat in self.live_workers() if "diffusers" in beat.engines | beat.coming]

    def card(self, model: str) -> CapabilityCard:
        """What a model can do, as the last worker that loaded it said; an empty card before that."""
        return self._cards.get(model, NO_CARD)

    def is_hot(self, model: str) -> bool:
        """Whether some worker has the model in device memory."""
        return any(model in beat.vram_models for beat in self._live())

    def hot_models(self) -> set[str]:
        """Models that are in device memory of some worker."""
        return {model for beat in self._live() for model in beat.vram_models}

    def forget_silent(self) -> None:
        """Remove the workers and the queues that have not reported for FORGET_AFTER_S."""
        now = self._clock()
        for worker, (_, seen_at) in list(self._workers.items()):
            if now - seen_at >= FORGET_AFTER_S:
                del self._workers[worker]
        for model, seen_at in list(self._depths_at.items()):
            if now - seen_at >= FORGET_AFTER_S:
                self._forget_depth(model)

    def _forget_depth(self, model: str) -> None:
        self.depths.pop(model, None)
        self._depths_at.pop(model, None)

    async def tidy(self) -> None:
        """Remove what is silent, until cancelled."""
        while True:
            await asyncio.sleep(TIDY_EVERY_S)
            self.forget_silent()

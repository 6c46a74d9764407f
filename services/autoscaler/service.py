"""The shell around the autoscaler's core: heartbeats and depths in, records out. No policy here."""

import asyncio
import time

import nats.errors
from nats.aio.msg import Msg
from nats.js.errors import Error as JetStreamError

from schemas import wire
from schemas.catalog import Model
from schemas.fleet import QueueDepth
from schemas.subjects import ANY, REPLICAS_BUCKET, to_token
from schemas.workers import Heartbeat
from services.autoscaler.core import (
    Autoscaler,
    Command,
    DepthSeen,
    Event,
    ForgetModel,
    HeartbeatSeen,
    ModelChanged,
    RecordReplicas,
    Ticked,
)
from services.bus.connection import Bus
from services.bus.discovery import register
from services.bus.leases import Lease, hold
from services.bus.logs import get_logger
from services.bus.running import until
from services.catalog import store

log = get_logger("autoscaler")

OFFICE = "autoscaler"
TICK_S = 0.5
INBOX_LIMIT = 100_000


class AutoscalerService:
    """One time in office."""

    def __init__(self, bus: Bus, lease: Lease) -> None:
        self.bus = bus
        self.lease = lease
        self.core = Autoscaler()
        self._inbox: asyncio.Queue[Event] = asyncio.Queue(INBOX_LIMIT)

    async def serve(self) -> None:
        """Observe until cancelled or the lease is lost."""
        subscriptions = [
            await self.bus.listen(self.bus.subjects.every("heartbeat", ANY), self._on_heartbeat),
            await self.bus.listen(self.bus.subjects.every("queue", ANY), self._on_depth),
        ]
        try:
            await until(self.lease.lost, self._work(), self._tick(), store.watch(self.bus, self._on_model))
        finally:
            for subscription in subscriptions:
                if self.bus.is_connected:
                    await subscription.unsubscribe()

    def _on_heartbeat(self, message: Msg) -> None:
        try:
            self._inbox.put_nowait(HeartbeatSeen(wire.decode(Heartbeat, message.data)))
        except wire.UnreadableMessage as error:
            log.warning("message.unreadable", subject=message.subject, error=str(error))

    def _on_depth(self, message: Msg) -> None:
        try:
            self._inbox.put_nowait(DepthSeen(wire.decode(QueueDepth, message.data)))
        except wire.UnreadableMessage as error:
            log.warning("message.unreadable", subject=message.subject, error=str(error))

    def _on_model(self, name: str, model: Model | None) -> None:
        self._inbox.put_nowait(ModelChanged(name, model))

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            self._inbox.put_nowait(Ticked())

    async def _work(self) -> None:
        while True:
            event = await self._inbox.get()
            for command in self.core.handle(event, time.time()):
                await self._carry_out(command)

    async def _carry_out(self, command: Command) -> None:
        bucket = await self.bus.jetstream.key_value(REPLICAS_BUCKET)
        match command:
            case RecordReplicas(replicas):
                await bucket.put(to_token(replicas.model), wire.encode(replicas))
            case ForgetModel(name):
                await bucket.delete(to_token(name))


async def serve(bus: Bus, identity: str, stopping: asyncio.Event) -> None:
    """Stand for office again and again until `stopping`."""
    await register(bus, "autoscaler", "decides how many replicas of each spec run", {"id": identity})

    async def terms() -> None:
        while True:
            async with hold(bus, OFFICE, identity) as lease:
                try:
                    await AutoscalerService(bus, lease).serve()
                except (nats.errors.Error, JetStreamError, TimeoutError) as error:
                    log.warning("office.left", error=str(error) or type(error).__name__)

    await until(stopping, terms())

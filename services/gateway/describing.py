"""What models take: workers find it out by loading them, and a gateway notes it in the catalog.

A worker may not write into the catalog itself; it is believed about the models that it has in memory.
"""

import asyncio

from nats.aio.msg import Msg

from stoker.schemas import wire
from stoker.schemas.subjects import last_name
from stoker.schemas.workers import ModelSchema
from stoker.services.bus.connection import Bus
from stoker.services.catalog import store
from stoker.services.gateway.fleet_view import FleetView
from stoker.services.process.logs import get_logger
from stoker.services.process.tasks import TaskOwner

log = get_logger("catalog")

SEEN_WITHIN_S, LOOK_EVERY_S = 5.0, 0.25
"""How long the heartbeat that shows the model may come later than its description."""
AT_ONCE = 32


class Describing:
    """Notes descriptions; what comes while AT_ONCE of them are under way is left to the next worker to tell."""

    def __init__(self, bus: Bus, fleet: FleetView, tasks: TaskOwner) -> None:
        self._bus = bus
        self._fleet = fleet
        self._tasks = tasks
        self._under_way = 0

    def on_described(self, message: Msg) -> None:
        try:
            described: ModelSchema = wire.decode(ModelSchema, message.data)
        except wire.UnreadableMessage as error:
            log.warning("message.unreadable", subject=message.subject, error=str(error))
            return
        if self._under_way < AT_ONCE and self._tasks.is_open:
            self._tasks.start_contained(self._note, last_name(message.subject), described)

    async def _note(self, worker: str, described: ModelSchema) -> None:
        self._under_way += 1
        try:
            deadline = asyncio.get_running_loop().time() + SEEN_WITHIN_S
            while not self._fleet.has(worker, described.model):
                if asyncio.get_running_loop().time() > deadline:
                    log.warning("schema.not_believed", worker=worker, model=described.model)
                    return
                await asyncio.sleep(LOOK_EVERY_S)
            await store.publish_schema(self._bus, described.model, described.schema)
        finally:
            self._under_way -= 1

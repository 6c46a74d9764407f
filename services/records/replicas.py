"""What the autoscaler has recorded, for who reads along: the bucket `stoker_replicas`, one model per key."""

from collections.abc import Callable

from stoker.schemas import wire
from stoker.schemas.fleet import ModelReplicas
from stoker.schemas.subjects import REPLICAS_BUCKET, from_token
from stoker.services.bus.connection import Bus
from stoker.services.bus.watching import watch_bucket
from stoker.services.process.logs import get_logger

log = get_logger("replicas")

Changed = Callable[[str, ModelReplicas | None], None]
"""Called with a model's name and its record; None when that was removed."""


async def watch_replicas(bus: Bus, changed: Changed) -> None:
    """Call `changed` for every record and every change of one, until cancelled."""

    def take(key: str, value: bytes) -> None:
        name = from_token(key)
        try:
            changed(name, wire.decode(ModelReplicas, value) if value else None)
        except wire.UnreadableMessage as error:
            log.warning("record.unreadable", model=name, error=str(error))

    await watch_bucket(bus, REPLICAS_BUCKET, take)

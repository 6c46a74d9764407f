"""What keys have used by day: one key of the bucket `stoker_usage` for each day and API key."""

from stoker.schemas import wire
from stoker.schemas.subjects import USAGE_BUCKET, to_token
from stoker.schemas.usage import DayUse, ModelUse
from stoker.services.bus.buckets import open_bucket
from stoker.services.bus.connection import Bus
from stoker.services.bus.errors import Conflict

ATTEMPTS = 5


def _key_of(use: DayUse) -> str:
    return f"{use.day}.t{to_token(use.key) if use.key else ''}"


async def add_use(bus: Bus, use: DayUse) -> None:
    """Add to what is written of the day. Raises BusError, wire.UnreadableMessage; nothing is added then."""
    bucket = await open_bucket(bus, USAGE_BUCKET)
    key = _key_of(use)
    for attempt in range(ATTEMPTS):
        entry = await bucket.get(key)
        try:
            if entry is None or not entry.value:
                await bucket.create(key, wire.encode(use))
            else:
                known = wire.decode(DayUse, entry.value)
                models = dict(known.models)
                for name, one in use.models.items():
                    models[name] = models.get(name, ModelUse()) + one
                await bucket.update(key, wire.encode(DayUse(use.day, use.key, models)), entry.revision)
            return
        except Conflict:  # another leader, for a moment
            if attempt == ATTEMPTS - 1:
                raise


async def read_uses(bus: Bus) -> list[DayUse]:
    """All that is kept, by day and key. Raises BusError, wire.UnreadableMessage."""
    bucket = await open_bucket(bus, USAGE_BUCKET)
    found = [wire.decode(DayUse, one.value) for one in await bucket.changes() if one.value]
    return sorted(found, key=lambda use: (use.day, use.key))

"""The bucket `stoker_conversations`: what responses were asked, for as long as their results are kept."""

import msgspec

from stoker.schemas import wire
from stoker.schemas.responses import KeptResponse
from stoker.schemas.subjects import CONVERSATIONS_BUCKET, to_token
from stoker.services.bus.buckets import open_bucket
from stoker.services.bus.connection import Bus
from stoker.services.records.blobs import read_blob, write_blob

MAX_INLINE_BYTES = 128 * 1024
"""A longer conversation lies in a blob."""


async def keep(bus: Bus, job: str, kept: KeptResponse) -> None:
    """Raises BusError."""
    if len(wire.encode(kept.messages)) > MAX_INLINE_BYTES:
        blob = await write_blob(bus, f"{job}/conversation", wire.encode(kept), is_sealed=bus.seals.are_there)
        asked = msgspec.structs.replace(kept.asked, input="")
        kept = KeptResponse(asked, kept.tenant, blob=blob)
    bucket = await open_bucket(bus, CONVERSATIONS_BUCKET)
    await bucket.put(to_token(job), wire.encode(kept))


async def kept_response(bus: Bus, job: str) -> KeptResponse | None:
    """None: there is none, or none any more. Raises BusError, BlobGone, wire.UnreadableMessage."""
    bucket = await open_bucket(bus, CONVERSATIONS_BUCKET)
    entry = await bucket.get(to_token(job))
    if entry is None or not entry.value:
        return None
    kept: KeptResponse = wire.decode(KeptResponse, entry.value)
    if kept.blob:
        whole: KeptResponse = wire.decode(KeptResponse, await read_blob(bus, kept.blob))
        return whole
    return kept


async def forget(bus: Bus, job: str) -> None:
    """Raises BusError."""
    bucket = await open_bucket(bus, CONVERSATIONS_BUCKET)
    await bucket.delete(to_token(job))

"""Bytes on their way to become files: the bucket `stoker_uploads`, and what is given up of it.

Whatever is written is noted before (`PartRecord`), and struck out when a file names it; so what a client or a
gateway has left in the middle is found, and its room is given back (`keep_tidy`). Every gateway may do that:
it does no harm twice.

    pending ──▶ completed, cancelled, expired
"""

import asyncio
import hashlib
import math
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterable
from contextlib import aclosing

import msgspec

from stoker.schemas import wire
from stoker.schemas.subjects import UPLOADS_BUCKET, to_token
from stoker.schemas.uploads import PartRecord, UploadRecord, UploadStatus
from stoker.services.bus.bucket_feed import read_changes
from stoker.services.bus.buckets import open_bucket
from stoker.services.bus.connection import Bus
from stoker.services.bus.errors import BusError, Conflict
from stoker.services.process.logs import get_logger
from stoker.services.process.tasks import LimitExceeded, cleanup, limit
from stoker.services.records.files import PREFIX, empty, kept_file, new_segment, write
from stoker.services.records.parts import parts_in

log = get_logger("uploads")

UPLOAD_TTL_S = 3600
"""An upload in parts that is not completed this long after its creation is given up."""
SENDING_TTL_S = 6 * 3600
"""Of bytes that are sent in one request: the longest that it may take, and when what it left is given up."""
TIDY_EVERY_S = 60.0
GIVE_UP_LIMIT_S = 30.0
"""The longest that giving up what a client has left waits; later it is found again."""
TRANSITIONS: dict[UploadStatus, frozenset[UploadStatus]] = {
    "pending": frozenset({"completed", "cancelled", "expired"}),
    "completed": frozenset(),
    "cancelled": frozenset(),
    "expired": frozenset(),
}
_Record = UploadRecord | PartRecord


class IllegalMove(Exception):
    """An upload was to go from a state to one that the table does not allow; nothing was changed."""


def new_upload_id() -> str:
    return "upload_" + secrets.token_hex(12)


def file_of(upload: str) -> str:
    """The id of the file that an upload becomes: however often it is completed, one file."""
    return PREFIX + hashlib.blake2b(upload.encode(), digest_size=12).hexdigest()


async def put(bus: Bus, record: _Record) -> None:
    """Raises BusError."""
    bucket = await open_bucket(bus, UPLOADS_BUCKET)
    await bucket.put(to_token(record.id), wire.encode(record))


async def forget(bus: Bus, record: PartRecord) -> None:
    """Raises BusError."""
    bucket = await open_bucket(bus, UPLOADS_BUCKET)
    await bucket.delete(to_token(record.id))


async def find_upload(bus: Bus, upload: str) -> tuple[UploadRecord, int] | None:
    """An upload and its revision; None: there is none, or none any more. Raises BusError, UnreadableMessage."""
    bucket = await open_bucket(bus, UPLOADS_BUCKET)
    entry = await bucket.get(to_token(upload))
    if entry is None or not entry.value:
        return None
    record = wire.decode(_Record, entry.value)
    return (record, entry.revision) if isinstance(record, UploadRecord) else None


async def choose(bus: Bus, record: UploadRecord, revision: int, part_ids: tuple[str, ...]) -> int:
    """Note what an upload is completed with; its revision then. Raises Conflict, BusError."""
    bucket = await open_bucket(bus, UPLOADS_BUCKET)
    chosen = msgspec.structs.replace(record, part_ids=part_ids)
    return await bucket.update(to_token(record.id), wire.encode(chosen), revision)


async def move(bus: Bus, record: UploadRecord, revision: int, to: UploadStatus) -> UploadRecord:
    """The upload in another state; one writer alone brings it there. Raises Conflict, IllegalMove, BusError."""
    if to not in TRANSITIONS[record.status]:
        raise IllegalMove(f"upload {record.id}: {record.status} -> {to}")
    moved = msgspec.structs.replace(record, status=to)
    bucket = await open_bucket(bus, UPLOADS_BUCKET)
    await bucket.update(to_token(record.id), wire.encode(moved), revision)
    return moved


async def _list(bus: Bus) -> list[_Record]:
    found: list[_Record] = []
    for change in await read_changes(bus, UPLOADS_BUCKET):
        try:
            if change.value:
                found.append(wire.decode(_Record, change.value))
        except wire.UnreadableMessage as error:
            log.warning("upload.unreadable", key=change.key, error=str(error))
    return found


async def parts_of(bus: Bus, upload: str) -> dict[str, PartRecord]:
    """The parts of an upload, by id. Raises BusError."""
    found = await _list(bus)
    return {one.id: one for one in found if isinstance(one, PartRecord) and one.upload == upload}


async def receive(
    bus: Bus, chunks: AsyncIterable[bytes], most: int, now: float, file: str, upload: UploadRecord | None = None
) -> PartRecord:
    """Store what comes, `most` bytes at most; noted before its first byte. Where that fails nothing is left.

    file: that it will belong to. now: Unix seconds. Raises BusError, LimitExceeded, and what `chunks` raises.
    """
    part = "part_" + secrets.token_hex(12)
    segment = new_segment(part)
    noted = PartRecord(
        id=part,
        segment=msgspec.structs.replace(segment, parts=parts_in(most)),
        created_at=int(now),
        expires_at=math.ceil(now + SENDING_TTL_S) if upload is None else upload.expires_at,
        file=file,
        upload="" if upload is None else upload.id,
    )
    await put(bus, noted)
    came = 0

    async def counted() -> AsyncGenerator[bytes]:
        nonlocal came
        async for chunk in chunks:
            came += len(chunk)
            yield chunk

    try:
        with limit("sending a file in one request", noted.expires_at - now):
            async with aclosing(counted()) as content:
                written = await write(bus, segment, content)
        whole = msgspec.structs.replace(noted, segment=written, is_whole=True)
        if upload is not None:
            await put(bus, whole)
    except BaseException:
        async with cleanup("giving up what was sent", GIVE_UP_LIMIT_S):
            sent = msgspec.structs.replace(noted.segment, parts=parts_in(came))
            await give_up(bus, msgspec.structs.replace(noted, segment=sent))
        raise
    return whole


async def give_up(bus: Bus, part: PartRecord) -> None:
    """Give the room of bytes back that no file names. What cannot be done now is done later: the note stays."""
    try:
        kept = await kept_file(bus, part.file)
        if kept is None or all(one.token != part.segment.token for one in kept.segments):
            await empty(bus, [part.segment])
        await forget(bus, part)
    except (BusError, wire.UnreadableMessage) as error:
        log.warning("upload.not_given_up", part=part.id, error=str(error))


async def give_up_parts(bus: Bus, upload: str) -> None:
    """The same for all parts of an upload. Raises BusError, wire.UnreadableMessage."""
    for part in (await parts_of(bus, upload)).values():
        await give_up(bus, part)


async def give_up_old(bus: Bus, now: float) -> None:
    """Uploads that nobody has completed in their time expire; their parts, and what was sent in a request that
    is over, are given up. now: Unix seconds. Raises BusError, wire.UnreadableMessage.
    """
    for record in await _list(bus):
        if record.expires_at > now:
            continue
        if isinstance(record, PartRecord):
            await give_up(bus, record)
        elif record.status == "pending":
            await _expire(bus, record.id)


async def _expire(bus: Bus, upload: str) -> None:
    found = await find_upload(bus, upload)
    if found is None or found[0].status != "pending":
        return
    has_file = await kept_file(bus, file_of(upload)) is not None
    try:
        await move(bus, *found, "completed" if has_file else "expired")
        log.info("upload.over", upload=upload, has_file=has_file)
    except Conflict:
        pass  # somebody has completed or cancelled it in this moment


async def keep_tidy(bus: Bus) -> None:
    """Give up what is old, again and again, until cancelled."""
    while True:
        try:
            await give_up_old(bus, time.time())
        except (BusError, LimitExceeded, wire.UnreadableMessage) as error:
            log.warning("uploads.not_tidied", error=str(error))
        await asyncio.sleep(TIDY_EVERY_S)

"""Files of clients: bytes in parts in the stream STOKER_FILES, what they are in the bucket `stoker_files`.

A file is a list of segments, each a run of parts under one token, so that the results of a batch become a file
without being copied. Parts are written before anything names them. A deleted file's parts are emptied: the
stream keeps the last message of a subject only, and no service may delete from a stream.
"""

import asyncio
import secrets
from collections.abc import AsyncGenerator, Sequence

from schemas import wire
from schemas.batches import FileRecord, Purpose, Segment
from schemas.subjects import FILES_BUCKET, FILES_STREAM, to_token
from services.bus.bucket_feed import read_changes
from services.bus.buckets import open_bucket
from services.bus.connection import Bus
from services.bus.errors import Missing, named
from services.bus.publishing import PubAck, into
from services.bus.streams import FILES_TTL_S
from services.process.tasks import limit, together

PART_BYTES = 512 * 1024
AT_ONCE = 8
"""Parts under way at a time."""
PART_LIMIT_S = 20.0
"""The longest that reading or writing `AT_ONCE` parts may take."""
BEHIND_S, LOOK_AGAIN_S = 1.0, 0.1
"""How long a server of a cluster may be behind with what was stored just now."""
PREFIX = "file-"


class FileGone(LookupError):
    """The bytes are no longer kept."""


def new_id() -> str:
    return PREFIX + secrets.token_hex(12)


def record_of(
    file: str, filename: str, purpose: Purpose, now: float, tenant: str, segments: Sequence[Segment]
) -> FileRecord:
    """A file that is made now. now: Unix seconds."""
    return FileRecord(
        id=file,
        filename=filename,
        purpose=purpose,
        size=sum(segment.size for segment in segments),
        created_at=int(now),
        expires_at=int(now + FILES_TTL_S),
        tenant=tenant,
        segments=tuple(segments),
    )


# Bytes --------------------------------------------------------------------------------------------


async def append(bus: Bus, segment: Segment, content: bytes) -> Segment:
    """The segment with more parts. Raises BusError, LimitExceeded: then it is as it was.

    What is written twice under the same numbers is there as it was written last.
    """
    parts = [content[at : at + PART_BYTES] for at in range(0, len(content), PART_BYTES)]
    for first in range(0, len(parts), AT_ONCE):
        with limit("storing parts of a file", PART_LIMIT_S):
            number = segment.parts + first
            await _write(bus, segment.token, number, parts[first : first + AT_ONCE])
    return Segment(segment.token, segment.parts + len(parts), segment.size + len(content))


async def _write(bus: Bus, token: str, first: int, parts: Sequence[bytes]) -> None:
    stored: list[asyncio.Future[PubAck]] = []
    for number, part in enumerate(parts, first):
        stored.append(asyncio.get_running_loop().create_future())
        bus.post_stored(bus.subjects.file(token, number), part, into(stored[-1]))
    if stored:
        await asyncio.wait(stored)
    for one in stored:
        one.result()


async def read(bus: Bus, segments: Sequence[Segment]) -> AsyncGenerator[bytes]:
    """The bytes of a file, a few parts at a time. Raises FileGone, BusError, LimitExceeded."""
    for segment in segments:
        for first in range(0, segment.parts, AT_ONCE):
            numbers = range(first, min(first + AT_ONCE, segment.parts))
            yield await _read(bus, segment.token, numbers)


async def _read(bus: Bus, token: str, numbers: range) -> bytes:
    found: dict[int, bytes] = {}
    left = iter(numbers)

    async def read_next() -> None:
        for number in left:
            found[number] = await _read_part(bus, token, number)

    with limit("reading parts of a file", PART_LIMIT_S):
        await together([read_next] * len(numbers))
    return b"".join(found[number] for number in numbers)


async def _read_part(bus: Bus, token: str, number: int) -> bytes:
    deadline = asyncio.get_running_loop().time() + BEHIND_S
    while True:
        try:
            with named("reading a part of a file"):
                message = await bus.jetstream.get_last_msg(
                    FILES_STREAM, bus.subjects.file(token, number), direct=True
                )
        except Missing:
            if asyncio.get_running_loop().time() > deadline:
                raise FileGone("the file is no longer kept") from None
            await asyncio.sleep(LOOK_AGAIN_S)
            continue
        if not message.data:
            raise FileGone("the file was deleted")
        return bytes(message.data)


async def empty(bus: Bus, segments: Sequence[Segment]) -> None:
    """Give the room of a file's bytes back. Raises BusError, LimitExceeded."""
    for segment in segments:
        for first in range(0, segment.parts, AT_ONCE):
            with limit("emptying parts of a file", PART_LIMIT_S):
                await _write(bus, segment.token, first, [b""] * min(AT_ONCE, segment.parts - first))


# What they are ------------------------------------------------------------------------------------


async def keep_file(bus: Bus, record: FileRecord) -> None:
    """Raises BusError."""
    bucket = await open_bucket(bus, FILES_BUCKET)
    await bucket.put(to_token(record.id), wire.encode(record))


async def kept_file(bus: Bus, file: str) -> FileRecord | None:
    """None: there is none, or none any more. Raises BusError, wire.UnreadableMessage."""
    bucket = await open_bucket(bus, FILES_BUCKET)
    entry = await bucket.get(to_token(file))
    if entry is None or not entry.value:
        return None
    record: FileRecord = wire.decode(FileRecord, entry.value)
    return record


async def list_files(bus: Bus) -> list[FileRecord]:
    """Every file. Raises BusError, wire.UnreadableMessage."""
    changes = await read_changes(bus, FILES_BUCKET)
    return [wire.decode(FileRecord, change.value) for change in changes if change.value]


async def forget_file(bus: Bus, record: FileRecord) -> None:
    """From now on nobody finds it; its room is given back. Raises BusError, LimitExceeded."""
    bucket = await open_bucket(bus, FILES_BUCKET)
    await bucket.delete(to_token(record.id))
    await empty(bus, record.segments)

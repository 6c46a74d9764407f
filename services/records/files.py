"""Files of clients: bytes in parts in the stream STOKER_FILES, what they are in the bucket `stoker_files`.

A file is a list of segments, each a run of parts (parts.py) under one token, so that the results of a batch and
the parts of an upload become a file without being copied. Parts are encrypted with the key of their segment,
which stands in the file's record and in jobs that take the file: workers may read the stream. Parts are written
before anything names them. A deleted file's parts are emptied: the stream keeps the last message of a subject
only, and no service may delete from a stream.
"""

import secrets
from collections.abc import AsyncGenerator, AsyncIterable, Sequence
from functools import partial

from nacl.secret import SecretBox

from stoker.schemas import wire
from stoker.schemas.batches import FileRecord, Purpose, Segment
from stoker.schemas.jobs import Attachment
from stoker.schemas.subjects import FILES_BUCKET, FILES_STREAM, to_token
from stoker.services.bus.bucket_feed import read_changes
from stoker.services.bus.buckets import open_bucket
from stoker.services.bus.connection import Bus
from stoker.services.bus.streams import FILES_TTL_S
from stoker.services.records import parts as parts_of
from stoker.services.records.blobs import piece_of_blob
from stoker.services.records.parts import PartsGone, Piece, Place

PREFIX = "file-"


class FileGone(PartsGone):
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


def new_segment(token: str) -> Segment:
    """One with nothing in it yet, and a key of its own: who has it can read what will be."""
    return Segment(token, 0, 0, secrets.token_bytes(SecretBox.KEY_SIZE))


def _place(bus: Bus, segment: Segment) -> Place:
    subject = partial(bus.subjects.file, segment.token)
    return Place(FILES_STREAM, subject, "file", FileGone, segment.key, is_written_once=False)


async def append(bus: Bus, segment: Segment, content: bytes) -> Segment:
    """The segment with more parts. Raises BusError: then it is as it was.

    What is written twice under the same numbers is there as it was written last.
    """
    parts, size = await parts_of.write(bus, _place(bus, segment), parts_of.once(content), segment.parts)
    return Segment(segment.token, segment.parts + parts, segment.size + size, segment.key)


async def write(bus: Bus, segment: Segment, chunks: AsyncIterable[bytes]) -> Segment:
    """A new segment with what comes. Raises BusError, and what `chunks` raises: then a part of it is stored."""
    parts, size = await parts_of.write(bus, _place(bus, segment), chunks)
    return Segment(segment.token, parts, size, segment.key, is_even=True)


def pieces(bus: Bus, segments: Sequence[Segment]) -> list[Piece]:
    """A file, to be read by ranges."""
    return [Piece(_place(bus, one), one.parts, one.size, one.is_even) for one in segments]


def read(bus: Bus, segments: Sequence[Segment]) -> AsyncGenerator[bytes]:
    """The bytes of a file, a part at a time. Raises FileGone, BusError."""
    return parts_of.read(bus, pieces(bus, segments))


async def content_of(bus: Bus, file: Attachment) -> list[Piece] | bytes:
    """What comes with an input, to be read by ranges. Raises BlobGone, BusError."""
    if file.segments:
        return pieces(bus, file.segments)
    if not file.blob:
        return file.content
    found = await piece_of_blob(bus, file.blob)
    return found if isinstance(found, bytes) else [found]


async def chunks_of(bus: Bus, file: Attachment) -> AsyncGenerator[bytes]:
    """The bytes of what comes with an input, to be read a part at a time. Raises BlobGone, BusError."""
    content = await content_of(bus, file)
    return parts_of.once(content) if isinstance(content, bytes) else parts_of.read(bus, content)


async def empty(bus: Bus, segments: Sequence[Segment]) -> None:
    """Give the room of a file's bytes back. Raises BusError."""
    for segment in segments:
        await parts_of.empty(bus, _place(bus, segment), segment.parts)


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
    """From now on nobody finds it; its room is given back. Raises BusError."""
    bucket = await open_bucket(bus, FILES_BUCKET)
    await bucket.delete(to_token(record.id))
    await empty(bus, record.segments)

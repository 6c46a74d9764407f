"""Pictures and other raw bytes: behind the JSON of a message where they fit, else in the stream STOKER_BLOBS.

A blob is kept in parts (parts.py), each under a subject of its own, encrypted with a key that is part of the
blob's name. The name travels in the job or in its result: who has it can read the blob and
notices whatever was done to it; whoever may read the stream, as workers may, sees nothing without it.

Blobs of jobs that have no seal (services/bus/seals.py) lie in the object store of the version before.
"""

import asyncio
import base64
import secrets
from collections.abc import AsyncIterable, Sequence
from contextlib import aclosing
from functools import partial
from pathlib import Path

import msgspec
from nacl.secret import SecretBox

from stoker.schemas import wire
from stoker.schemas.job_events import Completed, ImageOutput, Picture, SavedFile, Terminal, ValueOutput
from stoker.schemas.jobs import Attachment
from stoker.schemas.ranges import Count
from stoker.schemas.subjects import BLOBS_STREAM
from stoker.services.bus.connection import Bus
from stoker.services.bus.errors import Missing, named
from stoker.services.process.tasks import limit
from stoker.services.records.parts import PartsGone, Piece, Place, of_file, once, parts_in, read, write

MAX_INLINE_INPUT_BYTES = 256 * 1024
"""A larger file of an input goes to the object store instead of into the job."""
BLOB_LIMIT_S = 60.0
"""The longest that reading or writing a blob of the version before may take."""
STORE_OF_BEFORE = "stoker_blobs"
MESSAGE_MARGIN_BYTES = 160 * 1024
"""Left free in a message for its JSON part and headers."""


class BlobGone(PartsGone):
    """The bytes are no longer kept."""


async def put_large(
    bus: Bus, job: str, images: Sequence[bytes | Path], *, is_sealed: bool
) -> tuple[list[str], list[bytes]]:
    """Blob names for the images that do not fit a message ("" for the others), and the others' bytes.

    job: names the attempt. images: bytes, or files on this disk. is_sealed: its job is.
    Raises BusError, OSError.
    """
    room = bus.max_payload - MESSAGE_MARGIN_BYTES
    names: list[str] = []
    inline: list[bytes] = []
    for index, image in enumerate(images):
        if isinstance(image, Path):
            names.append(await write_blob_file(bus, f"{job}/{index}", image, is_sealed=is_sealed))
        elif len(image) <= room:
            room -= len(image)
            names.append("")
            inline.append(image)
        else:
            names.append(await write_blob(bus, f"{job}/{index}", image, is_sealed=is_sealed))
    return names, inline


def attachments(output: ImageOutput | ValueOutput) -> tuple[Picture | SavedFile, ...]:
    """The pictures or files of an output."""
    return output.pictures if isinstance(output, ImageOutput) else output.files


def attachment_of(output: ImageOutput | ValueOutput, attached: bytes, index: int) -> Attachment:
    """A picture or file of an output: its bytes where they came with it, else its blob."""
    there = attachments(output)
    if there[index].blob:
        return Attachment(blob=there[index].blob)
    offset = sum(one.image_bytes for one in there[:index] if not one.blob)
    return Attachment(attached[offset : offset + there[index].image_bytes])


async def get_pictures(bus: Bus, output: ImageOutput | ValueOutput, attached: bytes) -> list[bytes]:
    """The bytes of every picture or file of an output. Raises BlobGone when one is no longer kept."""
    files = [attachment_of(output, attached, index) for index in range(len(attachments(output)))]
    return [await read_blob(bus, file.blob) if file.blob else file.content for file in files]


async def store_value(bus: Bus, job: str, output: ValueOutput, *, is_sealed: bool) -> ValueOutput:
    """The same output; a value that would fill more than half a message becomes a blob."""
    content = wire.encode(output.value)
    if len(content) <= bus.max_payload // 2:
        return output
    name = await write_blob(bus, f"{job}/value", content, is_sealed=is_sealed)
    return msgspec.structs.replace(output, value=None, blob=name)


async def with_value(bus: Bus, event: Terminal) -> Terminal:
    """The same event with its value, wherever that lies. Raises BlobGone."""
    if not isinstance(event, Completed) or not isinstance(event.output, ValueOutput) or not event.output.blob:
        return event
    value = msgspec.json.decode(await read_blob(bus, event.output.blob))
    return msgspec.structs.replace(event, output=msgspec.structs.replace(event.output, value=value))


async def attach(bus: Bus, name: str, content: bytes) -> Attachment:
    """A file of an input as it travels: with the job where it is small, else as a blob."""
    if len(content) <= MAX_INLINE_INPUT_BYTES:
        return Attachment(content)
    return Attachment(blob=await write_blob(bus, name, content, is_sealed=bus.seals.are_there))


class _Name(msgspec.Struct, frozen=True, array_like=True):
    """A blob's name, apart. size: of the blob, bytes."""

    token: str
    key: bytes
    size: Count


_OF_TODAY = "blob:"


def _written(name: _Name) -> str:
    return _OF_TODAY + base64.urlsafe_b64encode(msgspec.msgpack.encode(name)).decode()


def _read(name: str) -> _Name | None:
    """A name, apart; None where it is none of today's. Raises BlobGone."""
    if not name.startswith(_OF_TODAY):
        return None
    try:
        return msgspec.msgpack.decode(base64.urlsafe_b64decode(name.removeprefix(_OF_TODAY)), type=_Name)
    except (ValueError, msgspec.DecodeError) as error:
        raise BlobGone(f"{name[:80]} is not the name of a blob") from error


def _place(bus: Bus, token: str, key: bytes) -> Place:
    return Place(BLOBS_STREAM, partial(bus.subjects.blob, token), "blob", BlobGone, key)


async def write_blob(bus: Bus, name: str, content: bytes, *, is_sealed: bool) -> str:
    """Keep bytes for as long as results are kept; under which name. Raises BusError.

    name: for the log, and in the object store, where the job is not sealed.
    """
    if is_sealed:
        return await write_blob_of(bus, once(content))
    with named(f"storing {name}"), limit(f"storing {name}", BLOB_LIMIT_S):
        store = await bus.jetstream.object_store(STORE_OF_BEFORE)
        await store.put(name, content)
        return name


async def write_blob_of(bus: Bus, chunks: AsyncIterable[bytes]) -> str:
    """As `write_blob`, for bytes that come in chunks. Raises BusError, and what `chunks` raises."""
    token, key = secrets.token_hex(16), secrets.token_bytes(SecretBox.KEY_SIZE)
    _, size = await write(bus, _place(bus, token, key), chunks)
    return _written(_Name(token, key, size))


async def write_blob_file(bus: Bus, name: str, path: Path, *, is_sealed: bool) -> str:
    """As `write_blob`, for a file on this disk. Raises BusError, OSError."""
    if is_sealed:
        async with aclosing(of_file(path)) as chunks:
            return await write_blob_of(bus, chunks)
    return await write_blob(bus, name, await asyncio.to_thread(path.read_bytes), is_sealed=False)


async def piece_of_blob(bus: Bus, name: str) -> Piece | bytes:
    """A blob, to be read by ranges; the bytes of one of the version before. Raises BlobGone, BusError."""
    found = _read(name)
    if found is None:
        return await read_blob(bus, name)
    return Piece(_place(bus, found.token, found.key), parts_in(found.size), found.size)


async def read_blob(bus: Bus, name: str) -> bytes:
    """The bytes of a blob. Raises BlobGone when it is certain that they are not kept, BusError otherwise."""
    if _read(name) is None:
        try:
            with named("reading a blob"), limit("reading a blob", BLOB_LIMIT_S):
                store = await bus.jetstream.object_store(STORE_OF_BEFORE)
                return (await store.get(name)).data or b""
        except Missing as error:
            raise BlobGone(f"the blob {name[:80]} is no longer kept") from error
    piece = await piece_of_blob(bus, name)
    assert isinstance(piece, Piece)
    return b"".join([part async for part in read(bus, [piece])])

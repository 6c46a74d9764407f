"""Pictures and other raw bytes: behind the JSON of a message where they fit, else in the stream STOKER_BLOBS.

A blob is kept in parts, each under a subject of its own, encrypted with a key that is part of the blob's name
(XSalsa20 and Poly1305, of NaCl). The name travels in the job or in its result: who has it can read the blob and
notices whatever was done to it; whoever may read the stream, as workers may, sees nothing without it.

Blobs of jobs that have no seal (services/bus/seals.py) lie in the object store of the version before.
"""

import asyncio
import base64
import secrets
from collections.abc import Sequence

import msgspec
from nacl.exceptions import CryptoError
from nacl.secret import SecretBox

from schemas import wire
from schemas.job_events import Completed, ImageOutput, Picture, SavedFile, Terminal, ValueOutput
from schemas.jobs import Attachment
from schemas.ranges import Count
from schemas.subjects import BLOBS_STREAM
from services.bus.connection import Bus
from services.bus.errors import Missing, named
from services.bus.publishing import PubAck, into
from services.process.tasks import limit

MAX_INLINE_INPUT_BYTES = 256 * 1024
"""A larger file of an input goes to the object store instead of into the job."""
BLOB_LIMIT_S = 60.0
"""The longest that reading or writing a blob may take."""
PART_BYTES = 512 * 1024
AT_ONCE = 8
"""Parts under way at a time."""
BEHIND_S, LOOK_AGAIN_S = 1.0, 0.1
"""How long a server of a cluster may be behind with what was stored just now."""
STORE_OF_BEFORE = "stoker_blobs"
MESSAGE_MARGIN_BYTES = 160 * 1024
"""Left free in a message for its JSON part and headers."""


class BlobGone(LookupError):
    """The bytes are no longer kept."""


async def put_large(
    bus: Bus, job: str, images: Sequence[bytes], *, is_sealed: bool
) -> tuple[list[str], list[bytes]]:
    """Blob names for the images that do not fit a message ("" for the others), and the others' bytes.

    job: names the attempt. is_sealed: its job is. Raises BusError.
    """
    room = bus.max_payload - MESSAGE_MARGIN_BYTES
    names: list[str] = []
    inline: list[bytes] = []
    for index, image in enumerate(images):
        if len(image) <= room:
            room -= len(image)
            names.append("")
            inline.append(image)
        else:
            names.append(await write_blob(bus, f"{job}/{index}", image, is_sealed=is_sealed))
    return names, inline


def attachments(output: ImageOutput | ValueOutput) -> tuple[Picture | SavedFile, ...]:
    """The pictures or files of an output."""
    return output.pictures if isinstance(output, ImageOutput) else output.files


async def get_pictures(bus: Bus, output: ImageOutput | ValueOutput, attached: bytes) -> list[bytes]:
    """The bytes of every picture or file of an output. Raises BlobGone when one is no longer kept."""
    found: list[bytes] = []
    offset = 0
    for picture in attachments(output):
        if picture.blob:
            found.append(await read_blob(bus, picture.blob))
        else:
            found.append(attached[offset : offset + picture.image_bytes])
            offset += picture.image_bytes
    return found


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

    def parts(self) -> range:
        return range(max(1, -(-self.size // PART_BYTES)))


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


async def write_blob(bus: Bus, name: str, content: bytes, *, is_sealed: bool) -> str:
    """Keep bytes for as long as results are kept; under which name. Raises BusError.

    name: for the log, and in the object store, where the job is not sealed.
    """
    with named(f"storing {name}"), limit(f"storing {name}", BLOB_LIMIT_S):
        if not is_sealed:
            store = await bus.jetstream.object_store(STORE_OF_BEFORE)
            await store.put(name, content)
            return name
        made = _Name(secrets.token_hex(16), secrets.token_bytes(SecretBox.KEY_SIZE), len(content))
        for first in made.parts()[::AT_ONCE]:
            await _write_parts(bus, made, content, made.parts()[first : first + AT_ONCE])
        return _written(made)


async def _write_parts(bus: Bus, name: _Name, content: bytes, parts: Sequence[int]) -> None:
    stored: list[asyncio.Future[PubAck]] = []
    box = SecretBox(name.key)
    for part in parts:
        plain = content[part * PART_BYTES : (part + 1) * PART_BYTES]
        stored.append(asyncio.get_running_loop().create_future())
        bus.post_stored(
            bus.subjects.blob(name.token, part), box.encrypt(plain, _nonce(part)).ciphertext, into(stored[-1])
        )
    for one in stored:
        await one


def _nonce(part: int) -> bytes:
    """Never twice with one key, as each blob has its own; and it notices parts that have changed places."""
    return part.to_bytes(SecretBox.NONCE_SIZE, "big")


async def read_blob(bus: Bus, name: str) -> bytes:
    """The bytes of a blob. Raises BlobGone when it is certain that they are not kept, BusError otherwise."""
    found = _read(name)
    try:
        with named("reading a blob"), limit("reading a blob", BLOB_LIMIT_S):
            if found is None:
                store = await bus.jetstream.object_store(STORE_OF_BEFORE)
                return (await store.get(name)).data or b""
            return b"".join([await _read_part(bus, found, part) for part in found.parts()])
    except Missing as error:
        raise BlobGone(f"the blob {name[:80]} is no longer kept") from error


async def _read_part(bus: Bus, name: _Name, part: int) -> bytes:
    """Raises Missing, BlobGone, BusError."""
    subject = bus.subjects.blob(name.token, part)
    deadline = asyncio.get_running_loop().time() + BEHIND_S
    while True:
        try:
            with named("reading a part of a blob"):
                message = await bus.jetstream.get_last_msg(BLOBS_STREAM, subject, direct=True)
            return SecretBox(name.key).decrypt(message.data or b"", _nonce(part))
        except Missing:
            if asyncio.get_running_loop().time() > deadline:
                raise
            await asyncio.sleep(LOOK_AGAIN_S)
        except CryptoError as error:
            raise BlobGone("a part of a blob is not what was stored") from error

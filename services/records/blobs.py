"""Pictures and other raw bytes: behind the JSON of a message where they fit, else in the object store."""

from collections.abc import Sequence

import msgspec

from schemas import wire
from schemas.job_events import Completed, ImageOutput, Picture, SavedFile, Terminal, ValueOutput
from schemas.jobs import Attachment
from schemas.subjects import BLOBS_BUCKET
from services.bus.connection import Bus
from services.bus.errors import Missing, named
from services.process.tasks import limit

MAX_INLINE_INPUT_BYTES = 256 * 1024
"""A larger file of an input goes to the object store instead of into the job."""
BLOB_LIMIT_S = 60.0
"""The longest that a blob may take: nats-py itself waits for ever for a chunk that is not there."""
MESSAGE_MARGIN_BYTES = 64 * 1024
"""Left free in a message for its JSON part and headers."""


class BlobGone(LookupError):
    """The bytes are no longer kept."""


async def put_large(bus: Bus, job: str, images: Sequence[bytes]) -> tuple[list[str], list[bytes]]:
    """Blob names for the images that do not fit a message ("" for the others), and the others' bytes.

    Raises BusError.
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
            names.append(f"{job}/{index}")
            await write_blob(bus, names[-1], image)
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


async def store_value(bus: Bus, job: str, output: ValueOutput) -> ValueOutput:
    """The same output; a value that would fill more than half a message is put into the object store."""
    content = wire.encode(output.value)
    if len(content) <= bus.max_payload // 2:
        return output
    await write_blob(bus, f"{job}/value", content)
    return msgspec.structs.replace(output, value=None, blob=f"{job}/value")


async def with_value(bus: Bus, event: Terminal) -> Terminal:
    """The same event with its value, wherever that lies. Raises BlobGone."""
    if not isinstance(event, Completed) or not isinstance(event.output, ValueOutput) or not event.output.blob:
        return event
    value = msgspec.json.decode(await read_blob(bus, event.output.blob))
    return msgspec.structs.replace(event, output=msgspec.structs.replace(event.output, value=value))


async def attach(bus: Bus, name: str, content: bytes) -> Attachment:
    """A file of an input as it travels: with the job where it is small, else by its name."""
    if len(content) <= MAX_INLINE_INPUT_BYTES:
        return Attachment(content)
    await write_blob(bus, name, content)
    return Attachment(blob=name)


async def write_blob(bus: Bus, name: str, content: bytes) -> None:
    """Keep bytes under a name for as long as results are kept. Raises BusError."""
    with named(f"storing {name}"), limit(f"storing {name}", BLOB_LIMIT_S):
        store = await bus.jetstream.object_store(BLOBS_BUCKET)
        await store.put(name, content)


async def read_blob(bus: Bus, name: str) -> bytes:
    """The bytes of a blob. Raises BlobGone when it is certain that they are not kept, BusError otherwise."""
    try:
        with named(f"reading {name}"), limit(f"reading {name}", BLOB_LIMIT_S):
            store = await bus.jetstream.object_store(BLOBS_BUCKET)
            return (await store.get(name)).data or b""
    except Missing as error:
        raise BlobGone(f"{name} is no longer kept") from error

"""Texts and vectors that fit no message: they lie as a blob, and the result has the blob's name in their place.

What is counted of them (usage, the finish reason) stays in the result, so that who counts need not read them.
"""

import msgspec

from stoker.schemas import wire
from stoker.schemas.job_events import Completed, EmbeddingOutput, Output, Terminal, TextOutput
from stoker.services.bus.connection import Bus
from stoker.services.bus.errors import BusError
from stoker.services.records.blobs import BlobGone, read_blob, with_value, write_blob
from stoker.services.records.results import Result, Stored, Unknown, Unreadable

MAX_OUTPUT_BYTES = 128 * 1024 * 1024
"""The largest text or vectors of a job, as JSON, with what is told of them: a gateway has them in memory."""


class OutputTooLarge(ValueError):
    """An output is larger than any that is kept; says so with both numbers."""


async def apart(bus: Bus, event: Completed) -> Completed | None:
    """The same end with its text or vectors as a blob; None where it has none.

    Raises OutputTooLarge, BusError.
    """
    output = event.output
    if not isinstance(output, TextOutput | EmbeddingOutput) or output.blob:
        return None
    content = wire.encode(output)
    if len(content) > MAX_OUTPUT_BYTES:
        raise OutputTooLarge(
            f"the answer has {len(content)} bytes as JSON; {MAX_OUTPUT_BYTES} are stored at most: ask for less"
        )
    blob = await write_blob(bus, event.job, content, is_sealed=True)
    if isinstance(output, TextOutput):
        rest: Output = TextOutput("", output.finish_reason, output.usage, blob=blob)
    else:
        rest = EmbeddingOutput((), output.prompt_tokens, blob=blob)
    return msgspec.structs.replace(event, output=rest)


def is_apart(event: Terminal) -> bool:
    """Whether the text or the vectors of an end lie as a blob."""
    return (
        isinstance(event, Completed)
        and isinstance(event.output, TextOutput | EmbeddingOutput)
        and bool(event.output.blob)
    )


async def with_output(bus: Bus, event: Terminal) -> Terminal:
    """The same end with its text, vectors or value, wherever they lie. Raises BlobGone, BusError."""
    if not is_apart(event):
        return await with_value(bus, event)
    assert isinstance(event, Completed) and isinstance(event.output, TextOutput | EmbeddingOutput)
    whole: Output = wire.decode(Output, await read_blob(bus, event.output.blob))
    return msgspec.structs.replace(event, output=whole)


async def whole(bus: Bus, found: Stored) -> Stored | Unreadable | Unknown:
    """A stored end with its text or vectors. Raises nothing."""
    result = found.result
    if not is_apart(result.event):
        return found
    try:
        return Stored(Result(await with_output(bus, result.event), result.attached))
    except (BlobGone, wire.UnreadableMessage) as error:
        return Unreadable(f"the result of {result.event.job} cannot be read: {error}")
    except BusError as error:
        return Unknown(str(error))

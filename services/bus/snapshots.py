"""Streams as files and back: JetStream's own snapshots, which `nats stream backup` and `restore` use too.

A snapshot is what the stream held at one moment, whatever is written meanwhile. It comes in chunks, each of
which is acknowledged, so no more than the server's window is on its way; a stream is restored likewise.
The content is nats-server's (a compressed tar): it is kept as it is.
"""

import asyncio
from contextlib import suppress
from typing import IO, Any

import msgspec
from nats.aio.msg import Msg

from stoker.services.bus.connection import Bus
from stoker.services.bus.errors import BusError, Missing, NoAnswer, named, of_code

API_TIMEOUT_S = 30.0
CHUNK_TIMEOUT_S = 60.0
RESTORED_TIMEOUT_S = 300.0
"""A server that has got everything reads it all once more before it says that the stream is there."""
CHUNK_BYTES = 256 * 1024
WINDOW_CHUNKS = 64
NOT_FOUND = 10059
"""JetStream's code for a stream that is not there."""


class StreamForm(msgspec.Struct, frozen=True):
    """What a snapshot says of a stream, as backup.json of the `nats` command does."""

    config: dict[str, Any]
    state: dict[str, Any]

    @property
    def messages(self) -> int:
        return int(self.state.get("messages", 0))

    @property
    def size_bytes(self) -> int:
        return int(self.state.get("bytes", 0))


async def _api(bus: Bus, ask: str, asked: object, timeout_s: float = API_TIMEOUT_S) -> dict[str, Any]:
    """A request to JetStream. Raises Missing, Refused, NoAnswer."""
    with named(f"asking JetStream {ask}"):
        answer = await bus.client.request(f"$JS.API.{ask}", msgspec.json.encode(asked), timeout=timeout_s)
    return _checked(ask, answer.data)


def _checked(ask: str, content: bytes) -> dict[str, Any]:
    try:
        found: dict[str, Any] = msgspec.json.decode(content, type=dict[str, Any])
    except msgspec.DecodeError as error:
        raise BusError(f"{ask}: JetStream answered {content[:100]!r}") from error
    if refusal := found.get("error"):
        said = f"{ask}: {refusal.get('description')}"
        code = refusal.get("err_code", 0)
        raise Missing(said) if code == NOT_FOUND else of_code(code, said)
    return found


async def snapshot(bus: Bus, stream: str, file: IO[bytes]) -> StreamForm:
    """Write a stream's snapshot; consumers are left out. Raises Missing, BusError."""
    chunks: asyncio.Queue[Msg] = asyncio.Queue()  # bounded by the window: what is not acknowledged
    inbox = bus.client.new_inbox()
    size = min(CHUNK_BYTES, bus.max_payload // 2)
    end = bus.listen_now(inbox, chunks.put_nowait)
    try:
        asked = {
            "deliver_subject": inbox, "no_consumers": True, "chunk_size": size,
            "window_size": size * WINDOW_CHUNKS,
        }  # fmt: skip
        told = await _api(bus, f"STREAM.SNAPSHOT.{stream}", asked)
        while True:
            chunk = await _next(chunks, stream)
            if not chunk.data:  # the end, or why there is no more
                status = (chunk.headers or {}).get("Status", "")
                if status and status != "204":
                    raise BusError(f"{stream}: the server broke its snapshot off ({dict(chunk.headers or {})})")
                return StreamForm(told["config"], told["state"])
            await asyncio.to_thread(file.write, chunk.data)
            if chunk.reply:
                bus.post(chunk.reply, b"")
    finally:
        end()


async def _next(chunks: asyncio.Queue[Msg], stream: str) -> Msg:
    try:
        async with asyncio.timeout(CHUNK_TIMEOUT_S):
            return await chunks.get()
    except TimeoutError as error:
        raise NoAnswer(f"{stream}: nothing more of its snapshot came in {CHUNK_TIMEOUT_S:g} s") from error


async def restore(bus: Bus, form: StreamForm, file: IO[bytes]) -> None:
    """Make a stream from a snapshot; there must be none of its name. Raises Refused, NoAnswer, BusError."""
    stream = form.config["name"]
    told = await _api(bus, f"STREAM.RESTORE.{stream}", form)
    subject = told["deliver_subject"]
    size = min(CHUNK_BYTES, bus.max_payload // 2)
    while chunk := await asyncio.to_thread(file.read, size):
        with named(f"restoring {stream}"):
            answer = await bus.client.request(subject, chunk, timeout=CHUNK_TIMEOUT_S)
        if answer.data.startswith(b"{"):
            _checked(f"restoring {stream}", answer.data)
    with named(f"restoring {stream}"):
        answer = await bus.client.request(subject, b"", timeout=RESTORED_TIMEOUT_S)
    _checked(f"restoring {stream}", answer.data)


async def remove(bus: Bus, stream: str) -> None:
    """Delete a stream and all that it holds. Raises BusError."""
    with suppress(Missing):
        await _api(bus, f"STREAM.DELETE.{stream}", {})


async def messages_in(bus: Bus, stream: str) -> int | None:
    """How many messages a stream has; None where there is none of this name. Raises BusError."""
    try:
        told = await _api(bus, f"STREAM.INFO.{stream}", {})
    except Missing:
        return None
    return int(told["state"]["messages"])

"""Bytes in parts in a stream: the one way in and the one way out, for blobs and for clients' files.

What is written comes in chunks of any size and is never in memory as a whole: `AT_ONCE` parts are on their way
at a time, in both directions. A part that was not answered is sent or asked for again. Each part may be
encrypted (XSalsa20 and Poly1305, of NaCl) with the key of its place.
"""

import asyncio
import secrets
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import anyio
from nacl.exceptions import CryptoError
from nacl.secret import SecretBox

from stoker.services.bus.connection import Bus
from stoker.services.bus.errors import BusError, Missing, NoAnswer, named
from stoker.services.bus.publishing import PubAck, into
from stoker.services.process.tasks import limit, unwrapped

PART_BYTES = 512 * 1024
AT_ONCE = 8
"""Parts under way at a time."""
PART_TRIES = 4
"""How often a part is sent or asked for, each within PUBLISH_TIMEOUT_S of services/bus/publishing.py."""
PART_LIMIT_S = 20.0
"""The longest that reading one part may take."""
BEHIND_S, LOOK_AGAIN_S = 1.0, 0.1
"""How long a server of a cluster may be behind with what was stored just now."""
DISK_BYTES = 4 * 1024 * 1024
"""That are read from a disk or written to it at a time."""
_HEAD_BYTES = 16


class PartsGone(LookupError):
    """The bytes are no longer kept."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where parts lie. subject: of each. key: that they are encrypted with; b"": they are not.

    is_written_once: a part is never written with other bytes; else what was written last counts. what: for
    errors. gone: what is raised where bytes are not kept any more.
    """

    stream: str
    subject: Callable[[int], str]
    what: str
    gone: type[PartsGone]
    key: bytes = b""
    is_written_once: bool = True

    def sealed(self, number: int, part: bytes) -> bytes:
        """A part as it is stored."""
        if not self.key:
            return part
        head = b"" if self.is_written_once else secrets.token_bytes(_HEAD_BYTES)
        return head + SecretBox(self.key).encrypt(part, _nonce(head, number)).ciphertext

    def opened(self, number: int, stored: bytes) -> bytes:
        """A part as it was given. Raises PartsGone."""
        if not stored:
            raise self.gone(f"the {self.what} was deleted")
        if not self.key:
            return stored
        size = 0 if self.is_written_once else _HEAD_BYTES
        try:
            return SecretBox(self.key).decrypt(stored[size:], _nonce(stored[:size], number))
        except CryptoError as error:
            raise self.gone(f"a part of the {self.what} is not what was stored") from error


def _nonce(head: bytes, number: int) -> bytes:
    """Never twice with one key: each place has its own, and what may be written twice begins with chance.

    It notices parts that have changed places.
    """
    return head + number.to_bytes(SecretBox.NONCE_SIZE - len(head), "big")


@dataclass(frozen=True, slots=True)
class Piece:
    """Parts 0 to parts - 1 of a place, `size` bytes. is_even: each but the last has PART_BYTES."""

    place: Place
    parts: int
    size: int
    is_even: bool = True


def parts_in(size: int) -> int:
    """How many even parts `size` bytes are."""
    return -(-size // PART_BYTES)


# In -----------------------------------------------------------------------------------------------


async def write(bus: Bus, place: Place, chunks: AsyncIterable[bytes], first: int = 0) -> tuple[int, int]:
    """Store what comes, from part `first` on; how many parts and bytes that were.

    Raises BusError, and what `chunks` raises: then some of the parts are stored.
    """
    parts, size = 0, 0
    room = asyncio.Semaphore(AT_ONCE)
    with unwrapped():
        async with anyio.create_task_group() as group, aclosing(_cut(chunks)) as cut:
            async for part in cut:
                await room.acquire()
                group.start_soon(_store, bus, place, first + parts, part, room)
                parts += 1
                size += len(part)
    return parts, size


async def _cut(chunks: AsyncIterable[bytes]) -> AsyncGenerator[bytes]:
    """The same bytes in parts."""
    waiting: list[memoryview] = []
    size = 0
    async for chunk in chunks:
        view = memoryview(chunk)
        while size + len(view) >= PART_BYTES:
            taken = PART_BYTES - size
            yield b"".join([*waiting, view[:taken]])
            waiting, size, view = [], 0, view[taken:]
        if view:
            waiting.append(view)
            size += len(view)
    if waiting:
        yield b"".join(waiting)


async def _store(bus: Bus, place: Place, number: int, part: bytes, room: asyncio.Semaphore) -> None:
    subject = place.subject(number)
    message_id = subject if place.is_written_once else ""  # sent again, the server knows it
    last: BusError = NoAnswer("not tried")
    stored = place.sealed(number, part)
    for _ in range(PART_TRIES):
        answer: asyncio.Future[PubAck] = asyncio.get_running_loop().create_future()
        bus.post_stored(subject, stored, into(answer), message_id=message_id)
        try:
            await answer
            room.release()
            return
        except NoAnswer as error:
            last = error
    raise last


async def once(content: bytes) -> AsyncGenerator[bytes]:
    """Bytes that are here, as chunks."""
    yield content


async def empty(bus: Bus, place: Place, parts: int) -> None:
    """Give the room of parts back. Raises BusError."""
    room = asyncio.Semaphore(AT_ONCE)
    bare = Place(place.stream, place.subject, place.what, place.gone, is_written_once=False)
    with unwrapped():
        async with anyio.create_task_group() as group:
            for number in range(parts):
                await room.acquire()
                group.start_soon(_store, bus, bare, number, b"", room)


# Out ----------------------------------------------------------------------------------------------


async def read(
    bus: Bus, pieces: Sequence[Piece], start: int = 0, end: int | None = None
) -> AsyncGenerator[bytes]:
    """Bytes `start` to `end` - 1 of the pieces together, a part at a time.

    Raises PartsGone, BusError, LimitExceeded.
    """
    left = sum(piece.size for piece in pieces) - start if end is None else end - start
    skip, wanted = _wanted(pieces, start, left)
    under_way: deque[asyncio.Task[bytes]] = deque()
    try:
        while left > 0:
            while len(under_way) < AT_ONCE and (following := next(wanted, None)) is not None:
                under_way.append(asyncio.create_task(_fetch(bus, *following)))
            if not under_way:
                raise pieces[0].place.gone("there is less of it than it was said to have")
            part = await under_way.popleft()
            kept = part[skip : skip + left]
            skip = max(skip - len(part), 0)
            left -= len(kept)
            if kept:
                yield kept
    finally:
        for task in under_way:  # bare tasks, which end here: a group cannot be left open while its parts go out
            task.cancel()
            task.add_done_callback(lambda done: done.cancelled() or done.exception())


def _wanted(pieces: Sequence[Piece], start: int, size: int) -> tuple[int, Iterator[tuple[Place, int]]]:
    """What to leave out of the first part that is wanted, and the parts that are, as far as that is known."""
    index = 0
    while index < len(pieces) and start >= pieces[index].size:
        start -= pieces[index].size
        index += 1
    from_part = start // PART_BYTES if index < len(pieces) and pieces[index].is_even else 0
    skip = start - from_part * PART_BYTES

    def parts() -> Iterator[tuple[Place, int]]:
        need, first = skip + size, from_part
        for piece in pieces[index:]:
            for number in range(first, piece.parts):
                if need <= 0:
                    return
                yield piece.place, number
                if piece.is_even:
                    need -= min(PART_BYTES, piece.size - number * PART_BYTES)
            if not piece.is_even:
                need -= piece.size
            first = 0

    return skip, parts()


async def _fetch(bus: Bus, place: Place, number: int) -> bytes:
    with limit(f"reading a part of the {place.what}", PART_LIMIT_S):
        return await _asked(bus, place, number)


async def _asked(bus: Bus, place: Place, number: int) -> bytes:
    deadline = asyncio.get_running_loop().time() + BEHIND_S
    tries = 0
    while True:
        try:
            with named(f"reading a part of the {place.what}"):
                subject = place.subject(number)
                message = await bus.jetstream.get_last_msg(place.stream, subject, direct=True)
            return place.opened(number, message.data or b"")
        except Missing:
            if asyncio.get_running_loop().time() > deadline:
                raise place.gone(f"the {place.what} is no longer kept") from None
            await asyncio.sleep(LOOK_AGAIN_S)
        except NoAnswer:
            tries += 1
            if tries == PART_TRIES:
                raise


# Files on a disk ----------------------------------------------------------------------------------


async def of_file(path: Path) -> AsyncGenerator[bytes]:
    """The bytes of a file. Raises OSError."""
    with path.open("rb") as file:
        while chunk := await asyncio.to_thread(file.read, DISK_BYTES):
            yield chunk


async def into_file(path: Path, chunks: AsyncIterable[bytes]) -> int:
    """Write what comes into a new file; how many bytes that were. Raises OSError, and what `chunks` raises."""
    waiting: list[bytes] = []
    size = written = 0
    with path.open("xb") as file:
        async for chunk in chunks:
            waiting.append(chunk)
            size += len(chunk)
            if size - written >= DISK_BYTES:
                await asyncio.to_thread(_write_lines, file, waiting)
                waiting, written = [], size
        await asyncio.to_thread(_write_lines, file, waiting)
    return size


def _write_lines(file: BinaryIO, lines: list[bytes]) -> None:
    file.writelines(lines)

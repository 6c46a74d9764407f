"""Bytes in parts on a real NATS server: one way in, one way out, by ranges, and nothing as a whole in memory."""

import os
import tracemalloc
from collections.abc import AsyncGenerator
from pathlib import Path
from random import Random

import pytest

from stoker.schemas.batches import Segment
from stoker.schemas.jobs import Attachment
from stoker.schemas.subjects import BLOBS_STREAM
from stoker.services.bus.connection import Bus
from stoker.services.bus.streams import declare
from stoker.services.records import files, parts
from stoker.services.records.blobs import (
    BlobGone,
    piece_of_blob,
    put_large,
    read_blob,
    write_blob,
    write_blob_of,
)
from stoker.services.records.files import FileGone, chunks_of, new_segment
from stoker.services.records.parts import AT_ONCE, PART_BYTES, Piece, into_file, of_file, once, parts_in
from tests.contract.conftest import Connect

MANY = PART_BYTES * (AT_ONCE + 2) + 7


async def in_chunks(content: bytes, *sizes: int) -> AsyncGenerator[bytes]:
    """The same bytes in chunks of these sizes, again and again."""
    at, number = 0, 0
    while at < len(content):
        size = sizes[number % len(sizes)]
        yield content[at : at + size]
        at, number = at + size, number + 1


async def ranged(bus: Bus, pieces: list[Piece], start: int = 0, end: int | None = None) -> bytes:
    return b"".join([part async for part in parts.read(bus, pieces, start, end)])


async def test_chunks_of_any_size_come_back_by_any_range(connected: Connect) -> None:
    async with connected() as bus:
        await declare(bus)
        content = os.urandom(MANY)
        segment = await files.write(bus, new_segment("t"), in_chunks(content, 1000, 0, PART_BYTES * 3, 1))
        assert (segment.parts, segment.size, segment.is_even) == (parts_in(MANY), MANY, True)
        pieces = files.pieces(bus, [segment])
        assert await ranged(bus, pieces) == content
        chance = Random(1)
        edges = [0, 1, PART_BYTES - 1, PART_BYTES, PART_BYTES + 1, MANY - 1, MANY, chance.randrange(MANY)]
        for start in edges:
            for end in edges:
                if start <= end:
                    assert await ranged(bus, pieces, start, end) == content[start:end], (start, end)


async def test_files_of_several_runs_come_back_by_ranges_too(connected: Connect) -> None:
    """Results of batches are made of parts of every size, those of uploads of several segments."""
    async with connected() as bus:
        await declare(bus)
        contents = [os.urandom(size) for size in (PART_BYTES + 3, 10, 2 * PART_BYTES)]
        uneven = await files.append(bus, new_segment("u"), b"first,")
        uneven = await files.append(bus, uneven, b"second")
        written = [await files.write(bus, new_segment(str(n)), once(one)) for n, one in enumerate(contents)]
        assert not uneven.is_even
        segments = [written[0], uneven, *written[1:]]
        whole = contents[0] + b"first,second" + contents[1] + contents[2]
        pieces = files.pieces(bus, segments)
        for start in (
            0,
            PART_BYTES,
            PART_BYTES + 2,
            PART_BYTES + 5,
            PART_BYTES + 14,
            PART_BYTES + 30,
            len(whole),
        ):
            for size in (0, 1, 12, 40, PART_BYTES, len(whole)):
                end = min(start + size, len(whole))
                assert await ranged(bus, pieces, start, end) == whole[start:end], (start, end)


async def test_a_small_range_asks_for_no_more_than_it_needs(connected: Connect) -> None:
    async with connected() as bus:
        await declare(bus)
        segment = await files.write(bus, new_segment("t"), once(os.urandom(MANY)))
        await parts.empty(bus, files.pieces(bus, [segment])[0].place, 1)
        pieces = files.pieces(bus, [segment])
        assert len(await ranged(bus, pieces, PART_BYTES, PART_BYTES + 10)) == 10
        with pytest.raises(FileGone, match="deleted"):
            await ranged(bus, pieces, PART_BYTES - 1, PART_BYTES + 10)


async def test_a_file_that_has_less_than_it_says_is_an_error(connected: Connect) -> None:
    async with connected() as bus:
        await declare(bus)
        segment = await files.append(bus, new_segment("t"), b"abc")
        longer = Segment("t", segment.parts, 10, segment.key)
        with pytest.raises(FileGone, match="less of it"):
            await ranged(bus, files.pieces(bus, [longer]))


async def test_who_may_read_the_stream_sees_nothing_without_the_key(connected: Connect) -> None:
    async with connected() as bus:
        await declare(bus)
        segment = await files.write(bus, new_segment("t"), once(b"secret" * 100))
        stored = await bus.jetstream.get_last_msg("STOKER_FILES", bus.subjects.file("t", 0))
        assert b"secret" not in stored.data and len(segment.key) == 32
        with pytest.raises(FileGone, match="not what was stored"):
            await ranged(bus, files.pieces(bus, [Segment("t", 1, 600, os.urandom(32), True)]))
        plain = await files.append(bus, Segment("of-before", 0, 0), b"secret")
        assert await ranged(bus, files.pieces(bus, [plain])) == b"secret"


async def test_what_fails_in_the_middle_is_told_and_nothing_goes_on(connected: Connect) -> None:
    class Broken(Exception):
        pass

    async def chunks() -> AsyncGenerator[bytes]:
        yield b"x" * PART_BYTES * 2
        raise Broken

    async with connected() as bus:
        await declare(bus)
        with pytest.raises(Broken):
            await write_blob_of(bus, chunks())
        await bus.jetstream.delete_stream(BLOBS_STREAM)
        with pytest.raises(Exception, match="does not answer"):
            await write_blob(bus, "b", b"x" * MANY, is_sealed=True)


async def test_a_part_whose_answer_was_lost_is_sent_again(connected: Connect) -> None:
    async with connected() as bus:
        await declare(bus)

        async def chunks() -> AsyncGenerator[bytes]:
            for _ in range(3):
                yield b"x" * PART_BYTES
                bus.give_up()  # what is under way is answered with "nobody knows"

        name = await write_blob_of(bus, chunks())
        assert await read_blob(bus, name) == b"x" * PART_BYTES * 3


async def test_a_large_file_takes_no_memory_of_its_size(connected: Connect, tmp_path: Path) -> None:
    size = 128 * PART_BYTES
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(os.urandom(size))
    async with connected() as bus:
        await declare(bus)
        tracemalloc.start()
        try:
            [name], inline = await put_large(bus, "j", [source], is_sealed=True)
            assert await into_file(target, await chunks_of(bus, Attachment(blob=name))) == size
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert target.read_bytes() == source.read_bytes() and inline == []
        assert peak < size * 0.6, f"{peak} of {size} bytes"
        piece = await piece_of_blob(bus, name)
        assert isinstance(piece, Piece) and await ranged(bus, [piece], 5, 9) == source.read_bytes()[5:9]
        await bus.jetstream.purge_stream(BLOBS_STREAM)
        with pytest.raises(BlobGone, match="no longer kept"):
            await read_blob(bus, name)


async def test_what_comes_with_an_input_is_read_wherever_it_lies(connected: Connect) -> None:
    async with connected() as bus:
        await declare(bus)
        segment = await files.write(bus, new_segment("t"), once(b"file"))
        blob = await write_blob(bus, "b", b"blob", is_sealed=True)
        for attached, wanted in (
            (Attachment(b"here"), b"here"),
            (Attachment(blob=blob), b"blob"),
            (Attachment(segments=(segment, segment)), b"filefile"),
        ):
            assert b"".join([part async for part in await chunks_of(bus, attached)]) == wanted


async def test_a_disk_file_is_read_in_chunks_and_never_written_over(tmp_path: Path) -> None:
    path = tmp_path / "f"
    content = os.urandom(parts.DISK_BYTES + 5)
    assert await into_file(path, once(content)) == len(content)
    assert [len(chunk) async for chunk in of_file(path)] == [parts.DISK_BYTES, 5]
    with pytest.raises(FileExistsError):
        await into_file(path, once(b"other"))

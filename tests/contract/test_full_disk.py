"""A disk that is full, really: what is refused, with what words, and that all goes on by itself when there is room."""

import asyncio
import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from stoker.services.bus import streams
from stoker.services.bus.connection import open_bus
from stoker.services.bus.errors import BusError, CannotConnect, DiskFull, StreamFull, of_code
from stoker.services.bus.streams import MIN_RESULTS_BYTES, declare
from stoker.services.process import embedded
from stoker.services.process.disk import LOW_BYTES, Room, room_at
from stoker.services.process.embedded import embedded_server
from stoker.services.process.settings import BusSettings
from tests.waiting import eventually


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 160 MB. Only root may mount one."""
    folder = tmp_path / "small"
    folder.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=160m", "tmpfs", str(folder)], capture_output=True
    )
    if made.returncode:
        pytest.skip("no file system can be mounted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder: Path) -> Path:
    """Leave no byte."""
    filler = folder / "filler"
    with filler.open("wb") as file, contextlib.suppress(OSError):
        while True:
            file.write(b"0" * 1024 * 1024)
            file.flush()
    with filler.open("ab") as file, contextlib.suppress(OSError):
        while True:
            os.write(file.fileno(), b"0" * 512)
    return filler


async def test_after_a_full_disk_all_goes_on_as_soon_as_there_is_room(small_disk: Path) -> None:
    async with embedded_server(small_disk) as url, open_bus(BusSettings(nats=url), "test") as bus:
        await declare(bus)

        async def is_stored() -> bool:
            with contextlib.suppress(BusError):
                await bus.publish_stored(bus.subjects.job("m"), b"x" * 100_000)
                return True
            return False

        assert await is_stored()
        filler = fill(small_disk)
        assert not await is_stored()
        assert room_at(small_disk).is_low
        filler.unlink()
        assert await eventually(is_stored, 30), "without anybody's hand"
        info = await bus.jetstream.stream_info("STOKER_JOBS")
        assert info.state.messages >= 2, "what was stored before is there"


async def test_on_a_small_disk_the_results_get_what_there_is_and_keep_it(small_disk: Path) -> None:
    async with embedded_server(small_disk) as url, open_bus(BusSettings(nats=url), "test") as bus:
        await declare(bus)
        first = (await bus.jetstream.stream_info("STOKER_RESULTS")).config.max_bytes
        assert first is not None and MIN_RESULTS_BYTES <= first < 160 * 1024**2
        await declare(bus)
        assert (await bus.jetstream.stream_info("STOKER_RESULTS")).config.max_bytes == first


async def test_with_no_room_for_the_least_the_error_says_what_to_do(
    small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "MIN_RESULTS_BYTES", 1024**3)
    async with embedded_server(small_disk) as url, open_bus(BusSettings(nats=url), "test") as bus:
        with pytest.raises(
            CannotConnect, match=r"too full for the stream STOKER_RESULTS, which needs 1024 MB.*make room"
        ):
            await declare(bus)


async def test_a_server_whose_log_tells_of_no_full_disk_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded, "LOOK_AT_DISK_S", 0.02)
    async with embedded_server(tmp_path):
        before = (tmp_path / "nats" / "pid").read_text()
        with (tmp_path / "nats" / "nats.log").open("ab") as log:
            log.write(b"something else\n")
        await asyncio.sleep(0.2)
        assert (tmp_path / "nats" / "pid").read_text() == before
        with (tmp_path / "nats" / "nats.log").open("ab") as log:
            log.write(b"write x: no space left on device\n")
        await eventually(lambda: (tmp_path / "nats" / "pid").read_text() != before)


def test_a_disk_is_low_by_its_share_or_by_bytes_whichever_is_less() -> None:
    assert Room(free=4, total=100).is_low and not Room(free=5, total=100).is_low
    huge = 10**13
    assert Room(free=LOW_BYTES - 1, total=huge).is_low and not Room(free=LOW_BYTES, total=huge).is_low


def test_no_room_is_another_error_than_a_full_stream() -> None:
    assert isinstance(of_code(10047, "insufficient storage resources available"), DiskFull)
    full = of_code(10077, "maximum messages exceeded")
    assert isinstance(full, StreamFull) and not isinstance(full, DiskFull)

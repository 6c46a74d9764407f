"""Weights are read before they can be loaded: bounded, in the background, and no further than a load."""

from pathlib import Path

import msgspec
import pytest

from stoker.schemas.catalog import Spec
from stoker.services.worker.models import read_ahead
from stoker.services.worker.models.read_ahead import BLOCK_BYTES, ReadAhead
from tests.contract.conftest import Connect
from tests.contract.worker.agents import spec_of, working
from tests.waiting import eventually

BLOCKS = 5


def read_bytes() -> float:
    return read_ahead.READ._value.get()  # type: ignore[no-any-return]  # untyped


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A folder of a file of several blocks, and one of a few bytes."""
    folder = tmp_path / "weights"
    (folder / "unet").mkdir(parents=True)
    with (folder / "unet" / "big.safetensors").open("wb") as file:
        file.truncate(BLOCKS * BLOCK_BYTES)
    (folder / "vae.json").write_text("{}")
    return folder


async def test_a_folder_is_read_whole_and_a_missing_one_not_at_all(weights: Path) -> None:
    ahead, before = ReadAhead(), read_bytes()
    ahead.begin(f"file://{weights}-gone")
    ahead.begin(f"file://{weights}")
    await eventually(lambda: read_bytes() - before >= BLOCKS * BLOCK_BYTES + 2, what="all to be read")
    assert read_bytes() - before == BLOCKS * BLOCK_BYTES + 2


async def test_reading_ends_when_it_is_told_to_and_when_another_begins(
    weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(read_ahead, "SHARE_OF_DISK", 1e-9)  # the longest pause after each block
    ahead, before = ReadAhead(), read_bytes()
    ahead.begin(f"file://{weights}")
    await eventually(lambda: read_bytes() > before, what="the first block")
    ahead.begin(str(weights / "vae.json"))
    await eventually(lambda: read_bytes() - before == BLOCK_BYTES + 2, what="the other file")
    ahead.end()
    assert ahead._stop.is_set()


async def test_no_more_is_read_than_a_share_of_what_is_free(
    weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(read_ahead, "SHARE_OF_MEMORY", 0.0)
    ahead, before = ReadAhead(), read_bytes()
    ahead.begin(f"file://{weights}")
    await eventually(lambda: read_bytes() > before, what="the first block")
    assert read_bytes() - before == BLOCK_BYTES


async def test_a_worker_reads_what_is_on_its_disk_and_stops_when_it_loads(
    connected: Connect, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(read_ahead, "SHARE_OF_DISK", 1e-9)
    next_up: Spec = msgspec.structs.replace(spec_of(), url=f"file://{weights}")
    async with connected() as bus, working(bus, models={"m": spec_of(), "next": next_up}) as worker:
        before = read_bytes()
        worker.agent.read("m", spec_of())
        assert not worker.agent._read_ahead._stop.is_set()
        worker.agent.read("next", next_up)
        await eventually(lambda: read_bytes() > before, what="the first block")
        reading = worker.agent._read_ahead._stop
        worker.agent.load("next", next_up)
        await eventually(lambda: reading.is_set(), what="the end of the reading")
        await eventually(lambda: worker.agent.loader.is_hot("next", next_up))
        worker.agent.read("next", next_up)
        assert worker.agent._read_ahead._stop is reading, "it is in memory already"

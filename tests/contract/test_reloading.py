"""The configuration is read again when its files change; what is wrong with one changes nothing and ends nothing."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from schemas.catalog import Model
from services.bus.connection import Bus
from services.bus.streams import declare
from services.catalog import store
from services.catalog.documents import ConfigurationError
from services.gateway.reloading import Reloading
from services.process.tasks import TaskOwner
from tests.contract.conftest import Connect
from tests.fixtures.gateway_app import soon

ONE = "models:\n  one: {engine: synthetic}\n"
TWO = "models:\n  one: {engine: synthetic}\n  two: {engine: synthetic}\n"


@asynccontextmanager
async def reloaded(bus: Bus, *paths: Path) -> AsyncIterator[dict[str, Model | None]]:
    """The catalog as a service sees it, while the files are watched."""
    await declare(bus)
    seen: dict[str, Model | None] = {}
    reloading = Reloading(bus, paths)
    await reloading.reload()
    async with TaskOwner("test") as tasks:
        tasks.start(store.watch, bus, seen.__setitem__, asyncio.Event(), lambda *_: None)
        tasks.start(reloading.watch)
        await soon(lambda: seen)
        await asyncio.sleep(0.3)  # until the folders are watched: the watcher says nothing of that
        yield seen


def names(seen: dict[str, Model | None]) -> set[str]:
    return {name for name, model in seen.items() if model is not None}


async def test_a_change_and_an_atomic_rename_are_taken(connected: Connect, tmp_path: Path) -> None:
    file = tmp_path / "stoker.yaml"
    file.write_text(ONE)
    async with connected() as bus, reloaded(bus, file) as seen:
        file.write_text(TWO)
        await soon(lambda: names(seen) == {"one", "two"})
        (tmp_path / "new").write_text(ONE)
        (tmp_path / "new").rename(file)
        await soon(lambda: names(seen) == {"one"})
        assert seen["two"] is None, "it was told that it is gone"


@pytest.mark.parametrize(
    "spoil",
    [
        lambda file: file.write_text("models: [half-writ"),
        lambda file: file.write_text(""),
        lambda file: file.write_text("null\n"),
        lambda file: file.write_text("# nothing yet\n---\n"),
        lambda file: file.write_bytes(b"\xff\xfe\x00models"),
        lambda file: file.write_text("models:\n  one: {engine: no-such-engine}\n"),
        lambda file: file.unlink(),
        lambda file: (file.unlink(), file.mkdir()),
    ],
    ids=["half-written", "empty", "null", "comments", "binary", "wrong", "deleted", "a folder"],
)
async def test_a_file_that_is_wrong_changes_nothing_and_the_next_is_taken(
    connected: Connect, tmp_path: Path, spoil: Callable[[Path], object]
) -> None:
    file = tmp_path / "stoker.yaml"
    file.write_text(ONE)
    async with connected() as bus, reloaded(bus, file) as seen:
        spoil(file)
        await asyncio.sleep(0.5)
        assert names(seen) == {"one"}
        if file.is_dir():
            file.rmdir()
        file.write_text(TWO)
        await soon(lambda: names(seen) == {"one", "two"})


async def test_a_hangup_reads_again_and_the_handler_goes_with_the_watch(
    connected: Connect, tmp_path: Path
) -> None:
    file = tmp_path / "stoker.yaml"
    file.write_text(ONE)
    async with connected() as bus:
        async with reloaded(bus, file) as seen:
            await (await bus.jetstream.key_value("stoker_catalog")).delete("one")
            await soon(lambda: names(seen) == set())
            os.kill(os.getpid(), signal.SIGHUP)
            await soon(lambda: names(seen) == {"one"})
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_DFL


async def test_other_files_of_the_folder_mean_nothing(connected: Connect, tmp_path: Path) -> None:
    file = tmp_path / "stoker.yaml"
    file.write_text(ONE)
    async with connected() as bus, reloaded(bus, file) as seen:
        (tmp_path / "other.yaml").write_text(TWO)
        await asyncio.sleep(0.4)
        assert names(seen) == {"one"}


async def test_a_folder_is_read_whole(connected: Connect, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(ONE)
    async with connected() as bus, reloaded(bus, tmp_path) as seen:
        (tmp_path / "b.yml").write_text("models:\n  three: {engine: synthetic}\n")
        await soon(lambda: names(seen) == {"one", "three"})
        assert None not in seen.values(), "nothing was gone meanwhile"


async def test_reloading_by_hand_says_what_is_wrong(connected: Connect, tmp_path: Path) -> None:
    file = tmp_path / "stoker.yaml"
    file.write_text("models:\n  one: {engine: no-such-engine}\n")
    async with connected() as bus:
        await declare(bus)
        with pytest.raises(ConfigurationError, match="no-such-engine"):
            await Reloading(bus, [file]).reload()

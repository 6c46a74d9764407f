"""The configuration is read again when its files change; what is wrong with one changes nothing and ends nothing."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from stoker.schemas.catalog import Model
from stoker.services.bus.connection import Bus
from stoker.services.bus.errors import BusError
from stoker.services.bus.streams import declare
from stoker.services.catalog import store
from stoker.services.catalog.documents import MAX_FILE_BYTES, ConfigurationError
from stoker.services.gateway import reloading as module
from stoker.services.gateway.reloading import SETTLE_S, SETTLE_TRIES, Reloading
from stoker.services.process.tasks import TaskOwner
from stoker.services.records.platform_events import read_events
from tests.contract.conftest import Connect
from tests.fixtures.gateway_app import soon

BOMB = Path(__file__).parent.parent / "fixtures" / "yaml_bomb.yaml"
ONE = "models:\n  one: {engine: synthetic}\n"
TWO = "models:\n  one: {engine: synthetic}\n  two: {engine: synthetic}\n"


@asynccontextmanager
async def reloaded(
    bus: Bus, *paths: Path, made: list[Reloading] | None = None, is_watched: bool = True
) -> AsyncIterator[dict[str, Model | None]]:
    """The catalog as a service sees it, while the files are watched, or looked at if they cannot be. made: gets what
    watches them.
    """
    await declare(bus)
    seen: dict[str, Model | None] = {}
    before = watches()
    reloading = Reloading(bus, paths, name="gw")
    if made is not None:
        made.append(reloading)
    await reloading.reload()
    async with TaskOwner("test") as tasks:
        tasks.start(store.watch, bus, seen.__setitem__, asyncio.Event(), lambda *_: None)
        tasks.start(reloading.watch)
        await soon(lambda: seen)
        await soon(
            lambda: watches() > before or not is_watched, "the folders to be watched"
        )  # the watcher says nothing of that
        yield seen


def watches() -> int:
    """How many files and folders this process has asked the kernel to tell of."""
    found = 0
    for file in Path("/proc/self/fdinfo").iterdir():
        with suppress(FileNotFoundError):  # closed meanwhile
            found += file.read_text().count("inotify wd:")
    return found


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
        lambda file: file.write_text("{}\n"),
        lambda file: file.write_text("models:\n"),
        lambda file: file.write_text("x-anchors: {a: &a 1}\n"),
        lambda file: file.write_text(BOMB.read_text()),
        lambda file: file.write_text("#" * (MAX_FILE_BYTES + 1)),
        lambda file: file.write_text('models:\n  one: {engine: synthetic, options: {a: "\\uD800"}}\n'),
        lambda file: (file.unlink(), file.symlink_to(file)),
        lambda file: file.write_bytes(b"\xff\xfe\x00models"),
        lambda file: file.write_text("models:\n  one: {engine: no-such-engine}\n"),
        lambda file: file.unlink(),
        lambda file: (file.unlink(), file.mkdir()),
    ],
    ids=[
        "half-written",
        "empty",
        "null",
        "comments",
        "nothing said",
        "cut off",
        "anchors only",
        "aliases",
        "too large",
        "half a character",
        "a link to itself",
        "binary",
        "wrong",
        "deleted",
        "a folder",
    ],
)
async def test_a_file_that_is_wrong_changes_nothing_and_the_next_is_taken(
    connected: Connect, tmp_path: Path, spoil: Callable[[Path], object]
) -> None:
    file = tmp_path / "stoker.yaml"
    file.write_text(ONE)
    made: list[Reloading] = []
    async with connected() as bus, reloaded(bus, file, made=made) as seen:
        spoil(file)
        await soon(lambda: made[0].failure, "the report")
        assert names(seen) == {"one"}
        if file.is_dir():
            file.rmdir()
        elif file.is_symlink():
            file.unlink()
        file.write_text(TWO)
        await soon(lambda: names(seen) == {"one", "two"})
        await soon(lambda: made[0].failure is None, "the report to go")


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
        reloading = Reloading(bus, [file], name="gw")
        with pytest.raises(ConfigurationError, match="no-such-engine"):
            await reloading.reload()
        failed = reloading.failure
        assert failed is not None
        assert (failed.gateway, failed.file, failed.line) == ("gw", str(file), 2)
        assert failed.field == "models.one.engine"
        assert "no-such-engine" in failed.reason


def swap(folder: Path, version: str, content: str) -> None:
    """As Kubernetes swaps a ConfigMap: ..data is a link to a folder, and the files are links through it."""
    (folder / version).mkdir(parents=True)
    (folder / version / "stoker.yaml").write_text(content)
    (folder / "..data_tmp").symlink_to(version)
    (folder / "..data_tmp").rename(folder / "..data")
    if not (folder / "stoker.yaml").is_symlink():
        (folder / "stoker.yaml").symlink_to("..data/stoker.yaml")


@pytest.mark.parametrize("watched", ["stoker.yaml", ""], ids=["the file", "its folder"])
async def test_the_swap_of_a_config_map_is_taken(connected: Connect, tmp_path: Path, watched: str) -> None:
    folder = tmp_path / "conf"
    swap(folder, "..1", ONE)
    async with connected() as bus, reloaded(bus, folder / watched) as seen:
        swap(folder, "..2", TWO)
        await soon(lambda: names(seen) == {"one", "two"})
        for file in (folder / "..1").iterdir():
            file.unlink()
        (folder / "..1").rmdir()
        swap(folder, "..3", ONE)
        await soon(lambda: names(seen) == {"one"})


async def test_what_a_link_names_is_watched_where_it_lies(connected: Connect, tmp_path: Path) -> None:
    for name in ("conf", "elsewhere"):
        (tmp_path / name).mkdir()
    real, link = tmp_path / "elsewhere" / "real.yaml", tmp_path / "conf" / "stoker.yaml"
    real.write_text(ONE)
    link.symlink_to(real)
    async with connected() as bus, reloaded(bus, link) as seen:
        real.write_text(TWO)
        await soon(lambda: names(seen) == {"one", "two"})
        (tmp_path / "elsewhere" / "new").write_text(ONE)
        (tmp_path / "elsewhere" / "new").rename(real)
        await soon(lambda: names(seen) == {"one"})


async def test_a_folder_that_is_a_link_and_is_turned_to_another_is_found_by_looking(
    connected: Connect, tmp_path: Path
) -> None:
    """Nothing happens in the folder, nor in the one that it was: only looking tells."""
    for name, content in (("v1", ONE), ("v2", TWO)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "stoker.yaml").write_text(content)
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "now").symlink_to(tmp_path / "v1")
    async with connected() as bus, reloaded(bus, tmp_path / "deep" / "now" / "stoker.yaml") as seen:
        (tmp_path / "deep" / "new").symlink_to(tmp_path / "v2")
        (tmp_path / "deep" / "new").rename(tmp_path / "deep" / "now")
        await soon(lambda: names(seen) == {"one", "two"})


def vim(file: Path, content: str) -> None:
    """Backup and a new file: the name is away for a moment."""
    (file.parent / "4913").touch()
    (file.parent / "4913").unlink()
    file.rename(f"{file}~")
    file.write_text(content)
    Path(f"{file}~").unlink()


def vs_code(file: Path, content: str) -> None:
    """Truncates, then writes."""
    with file.open("w") as opened:
        opened.flush()
        os.fsync(opened.fileno())
        opened.write(content)


def emacs(file: Path, content: str) -> None:
    """A lock that is a link to nowhere lies beside the file while it is edited."""
    lock = file.parent / f".#{file.name}"
    lock.symlink_to("somebody@somewhere.1")
    file.write_text(content)
    lock.unlink()


@pytest.mark.parametrize("edit", [vim, vs_code, emacs])
@pytest.mark.parametrize("watched", ["stoker.yaml", ""], ids=["the file", "its folder"])
async def test_editors_are_understood_and_nothing_is_said_of_their_steps(
    connected: Connect, tmp_path: Path, edit: Callable[[Path, str], None], watched: str
) -> None:
    folder, made = tmp_path / "conf", list[Reloading]()
    folder.mkdir()
    (folder / "stoker.yaml").write_text(ONE)
    with capture_logs() as logged:
        async with connected() as bus, reloaded(bus, folder / watched, made=made) as seen:
            for content, found in ((TWO, {"one", "two"}), (ONE, {"one"}), (TWO, {"one", "two"})):
                edit(folder / "stoker.yaml", content)
                await soon(lambda found=found: names(seen) == found)
    assert [one for one in logged if one["event"] == "configuration.invalid"] == []


async def test_a_file_that_is_empty_for_a_moment_is_read_again_before_anything_is_said(
    connected: Connect, tmp_path: Path
) -> None:
    file, made = tmp_path / "stoker.yaml", list[Reloading]()
    file.write_text(ONE)
    with capture_logs() as logged:
        async with connected() as bus, reloaded(bus, file, made=made) as seen:
            file.write_text("")
            asking = asyncio.ensure_future(made[0].reload())
            await asyncio.sleep(SETTLE_S * SETTLE_TRIES / 4)
            file.write_text(TWO)
            reloaded_now = await asking
            assert reloaded_now.revision.number == 2
            await soon(lambda: names(seen) == {"one", "two"})
    assert [one for one in logged if one["event"] == "configuration.invalid"] == []


async def test_what_was_read_while_nats_was_away_is_published_later(connected: Connect, tmp_path: Path) -> None:
    file, seen = tmp_path / "stoker.yaml", dict[str, Model | None]()
    file.write_text(ONE)
    async with connected() as bus, TaskOwner("test") as tasks:
        reloading = Reloading(bus, [file], name="gw")
        with pytest.raises(BusError):
            await reloading.reload()  # nothing was declared: there is no bucket
        assert reloading.failure is not None
        await declare(bus)
        tasks.start(reloading.watch)
        tasks.start(store.watch, bus, seen.__setitem__, None, None)
        await soon(lambda: names(seen) == {"one"})
        await soon(lambda: reloading.failure is None)


async def test_the_watcher_may_fail_and_looking_goes_on(
    connected: Connect, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where the system has no more watches to give."""

    def refuse(*_: object, **__: object) -> object:
        raise OSError("OS file watch limit reached")

    monkeypatch.setattr(module, "awatch", refuse)
    file = tmp_path / "stoker.yaml"
    file.write_text(ONE)
    async with connected() as bus, reloaded(bus, file, is_watched=False) as seen:
        file.write_text(TWO)
        await soon(lambda: names(seen) == {"one", "two"})


async def test_each_revision_and_each_refusal_is_an_event(connected: Connect, tmp_path: Path) -> None:
    file = tmp_path / "stoker.yaml"
    file.write_text(ONE)
    async with connected() as bus, reloaded(bus, file) as seen:
        file.write_text(TWO)
        await soon(lambda: names(seen) == {"one", "two"})
        file.write_text("models: {one: {engine: nothing}}\n")

        async def told() -> list[tuple[str, str]]:
            events = [item[1] async for item in read_events(bus, 0, follow=False) if item is not None]
            found = [(event.kind, event.reason) for event in events]
            return found if any(kind == "not_configured" for kind, _ in found) else []

        first, second, *_, refused = await soon(told)
        assert first == ("configured", "revision 1: 1 models")
        assert second == ("configured", "revision 2: 2 models")
        assert "nothing" in refused[1]

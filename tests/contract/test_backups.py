"""Everything that is stored as one archive, and a system made from it, on a real NATS server."""

import asyncio
import io
import tarfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest

from stoker.schemas import subjects as names
from stoker.schemas.subjects import of_bucket
from stoker.services.bus.connection import Bus, open_bus
from stoker.services.bus.discovery import register
from stoker.services.bus.errors import BusError, Missing, Refused
from stoker.services.bus.snapshots import messages_in, remove, restore, snapshot
from stoker.services.bus.streams import stream_configs
from stoker.services.process.embedded import embedded_server
from stoker.services.process.settings import BusSettings
from stoker.services.records import backups
from stoker.services.records.backups import (
    ORDER,
    Archive,
    CannotRestore,
    Manifest,
    RestoreBrokenOff,
    load,
    save,
)
from stoker.services.records.installation import install
from tests.contract.conftest import Connect
from tests.waiting import eventually, in_own_task

LARGE = 3 * 1024**2


def quiet(_: str) -> None:
    pass


async def saved(bus: Bus) -> bytes:
    target = io.BytesIO()
    await save(bus, target, None, quiet)
    return target.getvalue()


def archive_of(content: bytes) -> Archive:
    return Archive(io.BytesIO(content))


@asynccontextmanager
async def elsewhere(folder: Path, **settings: str) -> AsyncIterator[Bus]:
    """Another server, with nothing on it."""
    async with AsyncExitStack() as running:
        url = await running.enter_async_context(in_own_task(embedded_server(folder)))
        yield await running.enter_async_context(open_bus(BusSettings(nats=url, **settings), "elsewhere"))


@pytest.fixture
async def installed(connected: Connect) -> AsyncIterator[Bus]:
    async with in_own_task(connected()) as bus:
        await install(bus)
        yield bus


def result_of(bus: Bus, job: str) -> str:
    return f"{bus.subjects.prefix}.result.{names.ANY_GATEWAY}.{job}"


async def put(bus: Bus, stream: str, count: int) -> None:
    for number in range(count):
        await bus.publish_stored(f"{bus.subjects.prefix}.{stream}.{number}", f"{stream} {number}".encode())


async def test_every_stream_is_saved_and_no_other() -> None:
    declared = {config.name for config in stream_configs(names.Subjects("stoker"))}
    buckets = {of_bucket(bucket) for name, bucket in vars(names).items() if name.endswith("_BUCKET")}
    assert set(ORDER) == declared | buckets
    assert len(ORDER) == len(set(ORDER))


async def test_all_that_was_stored_is_there_again_under_the_same_numbers(
    installed: Bus, tmp_path: Path
) -> None:
    await put(installed, "jobs", 5)
    await installed.jetstream.delete_msg(names.JOBS_STREAM, 2)  # as a job that has ended
    await installed.publish_stored("stoker.blob.b.0", b"\xfe" * LARGE)
    keys = await installed.jetstream.key_value(names.KEYS_BUCKET)
    for value in (b"old", b"new"):
        await keys.put("k", value)
    before = {stream: (await installed.jetstream.stream_info(stream)).state for stream in ORDER}
    content = await saved(installed)
    async with elsewhere(tmp_path / "other") as other:
        told: list[str] = []
        await load(other, archive_of(content), told.append)
        assert told[-1] == "STOKER_JOBS: 4 messages" and len(told) == len(ORDER)
        for stream in ORDER:
            state = (await other.jetstream.stream_info(stream)).state
            assert (state.messages, state.last_seq) == (before[stream].messages, before[stream].last_seq), (
                stream
            )
        jobs = [await other.jetstream.get_msg(names.JOBS_STREAM, number) for number in (1, 3, 4, 5)]
        assert [job.data for job in jobs] == [b"jobs 0", b"jobs 2", b"jobs 3", b"jobs 4"]
        [blob] = [await other.jetstream.get_last_msg(names.BLOBS_STREAM, "stoker.blob.b.0")]
        assert blob.data == b"\xfe" * LARGE
        assert (await (await other.jetstream.key_value(names.KEYS_BUCKET)).get("k")).value == b"new"
        await put(other, "jobs", 1)  # and it goes on
        assert (await other.jetstream.stream_info(names.JOBS_STREAM)).state.last_seq == 6


async def test_terms_of_leaders_go_on_above_those_that_were(installed: Bus, tmp_path: Path) -> None:
    """A lease's term is its number in the stream: leases end within seconds, the numbers stay."""
    leases = await installed.jetstream.key_value(names.LEASES_BUCKET)
    for _ in range(7):
        last = await leases.put("scheduler", b"x")
    await asyncio.sleep(1.5)
    assert await messages_in(installed, of_bucket(names.LEASES_BUCKET)) == 0
    content = await saved(installed)
    async with elsewhere(tmp_path / "other") as other:
        await load(other, archive_of(content), quiet)
        assert await (await other.jetstream.key_value(names.LEASES_BUCKET)).put("scheduler", b"y") > last


@dataclass
class Working:
    """Jobs on their way through a system: accepted, ended, and taken out."""

    bus: Bus
    accepted: int = 0

    async def more(self, count: int) -> None:
        wanted = self.accepted + count
        await eventually(lambda: self.accepted >= wanted)

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            while True:
                answer = await self.bus.publish_stored("stoker.jobs.m", f"{self.accepted}".encode())
                tasks.create_task(self._end(self.accepted, answer.seq))
                self.accepted += 1
                await asyncio.sleep(0)

    async def _end(self, job: int, number: int) -> None:
        await asyncio.sleep(0.002 * (job % 20))
        await self.bus.publish_stored(result_of(self.bus, f"{job}"), b"result")
        await self.bus.jetstream.delete_msg(names.JOBS_STREAM, number)


async def test_each_job_that_was_accepted_before_is_there_whatever_goes_on(
    installed: Bus, tmp_path: Path
) -> None:
    """Waiting, or with its result; in this order, while jobs are accepted and end all the time."""
    working = Working(installed)
    task = asyncio.create_task(working.run())
    contents: list[tuple[int, bytes]] = []
    for _ in range(5):
        await working.more(50)
        contents.append((working.accepted, await saved(installed)))
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    assert working.accepted > contents[-1][0]
    async with elsewhere(tmp_path / "other") as other:
        for accepted, content in contents:
            await load(other, archive_of(content), quiet, is_forced=True)
            found = {int(name.rpartition(".")[2]) for name in await subjects_of(other, names.RESULTS_STREAM)}
            state = (await other.jetstream.stream_info(names.JOBS_STREAM)).state
            for number in range(state.first_seq, state.last_seq + 1):
                with suppress(Exception):  # taken out
                    found.add(int((await other.jetstream.get_msg(names.JOBS_STREAM, number)).data))
            assert set(range(accepted)) <= found


async def subjects_of(bus: Bus, stream: str) -> set[str]:
    info = await bus.jetstream.stream_info(stream, subjects_filter=">")
    return set(info.state.subjects or ())


async def test_an_archive_that_was_cut_short_says_what_is_missing(installed: Bus) -> None:
    content = await saved(installed)
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        ends = {entry.name: entry.offset_data + entry.size for entry in archive}
    with pytest.raises(CannotRestore, match="it has nothing"):
        archive_of(b"")
    with pytest.raises(CannotRestore, match=r"missing are: .*STOKER_RESULTS"):
        archive_of(content[: -(-ends["STOKER_JOBS/stream.tar.s2"] // 512) * 512])
    for cut in (700, ends["STOKER_JOBS/backup.json"] - 1, ends["manifest.json"] - 1, len(content) // 2):
        with pytest.raises(CannotRestore, match=r"cut short|cannot be read|damaged"):
            archive_of(content[:cut])


async def test_an_archive_that_is_damaged_is_refused(installed: Bus) -> None:
    content = await saved(installed)
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        places = {entry.name: entry.offset_data for entry in archive}
    for name in ("KV_stoker_secrets/stream.tar.s2", "STOKER_JOBS/backup.json"):
        wrong = bytearray(content)
        wrong[places[name] + 20] ^= 1
        with pytest.raises(CannotRestore, match=f"damaged: {name}|cannot be read"):
            archive_of(bytes(wrong))
    other = io.BytesIO()
    with tarfile.open(fileobj=other, mode="w") as made:
        made.add(__file__, "x/y")
        folder = tarfile.TarInfo("folder")
        folder.type = tarfile.DIRTYPE
        made.addfile(folder)
    with pytest.raises(CannotRestore, match="no archive of `stoker backup`"):
        archive_of(other.getvalue())


def changed(content: bytes, **more: object) -> bytes:
    """The same archive with another manifest."""
    made = io.BytesIO()
    with tarfile.open(fileobj=io.BytesIO(content)) as old, tarfile.open(fileobj=made, mode="w") as new:
        for entry in old:
            file = old.extractfile(entry)
            assert file is not None
            text = file.read()
            if entry.name == backups.MANIFEST:
                manifest = msgspec.json.decode(text, type=Manifest)
                text = msgspec.json.encode(msgspec.structs.replace(manifest, **more))
                entry.size = len(text)
            new.addfile(entry, io.BytesIO(text))
    return made.getvalue()


async def test_what_does_not_fit_together_is_refused_and_nothing_is_changed(
    installed: Bus, tmp_path: Path
) -> None:
    await put(installed, "jobs", 1)
    content = await saved(installed)
    with pytest.raises(CannotRestore, match=r"is of Stoker 9\.9, which is newer"):
        archive_of(changed(content, format=backups.FORMAT + 1, stoker="9.9"))
    with pytest.raises(CannotRestore, match=r"the system is not empty: STOKER_JOBS \(1\); --force"):
        await load(installed, archive_of(content), quiet)
    async with elsewhere(tmp_path / "other", prefix="theirs") as other:
        with pytest.raises(CannotRestore, match="set STOKER_PREFIX"):
            await load(other, archive_of(content), quiet)
    async with elsewhere(tmp_path / "third") as third:
        with pytest.raises(CannotRestore, match=r"nats-server 99\.1\.0, this one is"):
            await load(third, archive_of(changed(content, nats_server="99.1.0")), quiet)
        service = await register(third, "gateway", "x", {})
        with pytest.raises(CannotRestore, match=r"services are running \(stoker-gateway\): stop them"):
            await load(third, archive_of(content), quiet, is_forced=True)
        await service.stop()
        assert await messages_in(third, names.JOBS_STREAM) is None
        await install(third)  # streams with nothing in them are in nobody's way
        await load(third, archive_of(content), quiet)
        assert await messages_in(third, names.JOBS_STREAM) == 1


async def test_a_restore_that_is_broken_off_says_what_is_missing_and_is_done_again(
    installed: Bus, tmp_path: Path
) -> None:
    await put(installed, "jobs", 3)
    content = await saved(installed)
    async with elsewhere(tmp_path / "other") as other:

        def stop(told: str) -> None:
            if told.startswith(names.BLOBS_STREAM):
                raise KeyboardInterrupt

        with pytest.raises(
            RestoreBrokenOff, match=r"it was interrupted; not restored yet: (STOKER_BLOBS|KV_stoker_files)"
        ):
            await load(other, archive_of(content), stop)
        assert await messages_in(other, names.JOBS_STREAM) is None  # so that no service starts
        with pytest.raises(CannotRestore, match=r"only a part of the streams is there, without .*STOKER_JOBS"):
            await load(other, archive_of(content), quiet)
        await load(other, archive_of(content), quiet, is_forced=True)
        assert await messages_in(other, names.JOBS_STREAM) == 3


async def test_a_stream_that_is_there_or_is_not_is_said(installed: Bus) -> None:
    with pytest.raises(Missing, match="stream not found"):
        await snapshot(installed, "NOBODY", io.BytesIO())
    content = io.BytesIO()
    form = await snapshot(installed, names.JOBS_STREAM, content)
    content.seek(0)
    with pytest.raises(Refused, match="already in use"):
        await restore(installed, form, content)
    await remove(installed, names.JOBS_STREAM)
    await remove(installed, names.JOBS_STREAM)
    with pytest.raises(BusError):
        await restore(installed, form, io.BytesIO(b"no snapshot"))
    with pytest.raises(Missing):
        await save(installed, io.BytesIO(), None, quiet)

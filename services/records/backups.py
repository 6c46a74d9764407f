"""All that a running system has stored, as one tar archive; and a system made from one.

The archive has a folder for each stream, with backup.json and stream.tar.s2 as `nats stream backup` writes them
(unpacked, `nats stream restore` reads them), and last manifest.json: versions, sizes and SHA-256 of everything.
An archive without it was cut short.

Each stream is as it was at one moment, one stream after the other. The order keeps the promise: a job that was
acknowledged before the backup began is there after a restore, waiting or with its result.

- What says that jobs were handed in (schedules, batches, uploads) comes before the jobs: such a job that is not
  in the archive is handed in again, under the same id.
- Jobs come before their results: a job leaves STOKER_JOBS only once its result is stored. One that is in both
  is not run again.
- What points (files) comes before what it points to (their parts).
- Leases come last: terms of leaders only grow, and the next one must be above all that are written.

A restore puts STOKER_JOBS last: services wait for it, so none starts on what is only half there.
"""

import asyncio
import hashlib
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from io import BytesIO
from pathlib import Path
from typing import IO

import msgspec

from stoker.schemas import subjects as names
from stoker.schemas.subjects import of_bucket
from stoker.services.bus.connection import Bus
from stoker.services.bus.errors import DiskFull
from stoker.services.bus.snapshots import StreamForm, messages_in, remove, restore, snapshot
from stoker.services.bus.streams import least_bytes
from stoker.services.records.installation import install

FORMAT = 1
"""Of the archive; a higher one is of a later version, which has to read it."""
MANIFEST, FORM, CONTENT = "manifest.json", "backup.json", "stream.tar.s2"
MAX_JSON_BYTES = 16 * 1024**2
COPY_BYTES = 1024**2
PING_S = 1.0

ORDER = (
    *map(of_bucket, (names.SCHEDULES_BUCKET, names.BATCHES_BUCKET, names.UPLOADS_BUCKET)),
    names.JOBS_STREAM,
    names.RESULTS_STREAM,
    names.RETRIES_STREAM,
    names.WEBHOOKS_STREAM,
    names.QUARANTINE_STREAM,
    names.BLOBS_STREAM,
    of_bucket(names.FILES_BUCKET),
    names.FILES_STREAM,
    *map(
        of_bucket, (names.CONVERSATIONS_BUCKET, names.KEYS_BUCKET, names.SECRETS_BUCKET, names.CATALOG_BUCKET)
    ),
    *map(of_bucket, (names.USAGE_BUCKET, names.REPLICAS_BUCKET)),
    names.EVENTS_STREAM,
    names.HISTORY_STREAM,
    of_bucket(names.LEASES_BUCKET),
)
"""Every stream, in the order in which it is saved (see the file's opening)."""
OWN_WORDS = {names.EVENTS_STREAM, of_bucket(names.LEASES_BUCKET), of_bucket(names.SECRETS_BUCKET)}
"""What a system that has never been asked anything holds as well."""

Progress = Callable[[str], None]


class CannotRestore(Exception):
    """The archive or the system is not right for it; nothing was changed. Says what to do."""


class RestoreBrokenOff(Exception):
    """Some streams are there and others are not; says which. No service starts until it is done again."""


class Saved(msgspec.Struct, frozen=True):
    """One stream of an archive. sha256: of its two files, hexadecimal."""

    stream: str
    messages: int
    size_bytes: int
    sha256_form: str
    sha256_content: str


class Manifest(msgspec.Struct, frozen=True):
    """What an archive has. began_at: seconds since 1970; jobs acknowledged before that are in it."""

    format: int
    stoker: str
    nats_server: str
    prefix: str
    began_at: float
    ended_at: float
    streams: tuple[Saved, ...]


async def save(bus: Bus, target: IO[bytes], folder: Path | None, progress: Progress) -> Manifest:
    """Write the archive of a running system. folder: for one stream at a time, before it is in the archive.

    Raises Missing where a stream is not there, BusError, OSError.
    """
    began_at = time.time()
    saved: list[Saved] = []
    with tarfile.open(fileobj=target, mode="w|", format=tarfile.PAX_FORMAT) as archive:
        for stream in ORDER:
            with tempfile.TemporaryFile(dir=folder) as content:
                form = await snapshot(bus, stream, content)
                one = await asyncio.to_thread(_add, archive, stream, form, content)
            saved.append(one)
            progress(f"{stream}: {one.messages} messages, {one.size_bytes} bytes")
        manifest = Manifest(
            FORMAT,
            version("stoker"),
            _server_version(bus),
            bus.subjects.prefix,
            began_at,
            time.time(),
            tuple(saved),
        )
        _add_bytes(archive, MANIFEST, msgspec.json.encode(manifest))
    return manifest


def _add(archive: tarfile.TarFile, stream: str, form: StreamForm, content: IO[bytes]) -> Saved:
    said = msgspec.json.encode(form)
    _add_bytes(archive, f"{stream}/{FORM}", said)
    entry = _entry(f"{stream}/{CONTENT}", content.tell())
    content.seek(0)
    sha256 = _sha256(content)
    content.seek(0)
    archive.addfile(entry, content)
    return Saved(stream, form.messages, entry.size, hashlib.sha256(said).hexdigest(), sha256)


def _add_bytes(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    archive.addfile(_entry(name, len(content)), BytesIO(content))


def _entry(name: str, size: int) -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.size, made.mode, made.mtime = size, 0o600, int(time.time())
    return made


def _sha256(content: IO[bytes]) -> str:
    digest = hashlib.sha256()
    while part := content.read(COPY_BYTES):
        digest.update(part)
    return digest.hexdigest()


def _server_version(bus: Bus) -> str:
    return str(bus.client.connected_server_version)


# Reading ------------------------------------------------------------------------------------------


class Archive:
    """An archive that was read once from end to end and is whole. Raises CannotRestore."""

    def __init__(self, source: IO[bytes]) -> None:
        self._source = source
        self.forms: dict[str, StreamForm] = {}
        self._contents: dict[str, tarfile.TarInfo] = {}
        digests: dict[str, str] = {}
        manifest: Manifest | None = None
        try:
            with tarfile.open(fileobj=source, mode="r:") as archive:
                for entry in archive:
                    content = archive.extractfile(entry)
                    if content is None:
                        raise CannotRestore(f"{entry.name} is no file: this is no archive of `stoker backup`")
                    stream, _, kind = entry.name.partition("/")
                    if entry.name == MANIFEST:
                        manifest = msgspec.json.decode(content.read(MAX_JSON_BYTES), type=Manifest)
                    elif kind == FORM:
                        said = content.read(MAX_JSON_BYTES)
                        digests[entry.name] = hashlib.sha256(said).hexdigest()
                        self.forms[stream] = msgspec.json.decode(said, type=StreamForm)
                    else:
                        digests[entry.name] = _sha256(content)
                        self._contents[stream] = entry
        except (tarfile.TarError, EOFError, msgspec.DecodeError) as error:
            raise CannotRestore(f"the archive cannot be read: {error}; it has {self._has()}") from error
        if manifest is None:
            missing = ", ".join(stream for stream in ORDER if stream not in self._contents) or "none"
            raise CannotRestore(f"the archive was cut short: it has {self._has()}; missing are: {missing}")
        self.manifest = manifest
        self._check(digests)

    def _has(self) -> str:
        return ", ".join(self._contents) or "nothing"

    def _check(self, digests: dict[str, str]) -> None:
        wanted = {f"{one.stream}/{FORM}": one.sha256_form for one in self.manifest.streams}
        wanted |= {f"{one.stream}/{CONTENT}": one.sha256_content for one in self.manifest.streams}
        if wrong := sorted(
            name for name in wanted.keys() | digests.keys() if wanted.get(name) != digests.get(name)
        ):
            raise CannotRestore(f"the archive is damaged: {', '.join(wrong)} are not what was saved")
        if self.manifest.format > FORMAT:
            raise CannotRestore(
                f"the archive is of Stoker {self.manifest.stoker}, which is newer: restore with that"
            )
        if others := sorted(self.forms.keys() - set(ORDER)):
            raise CannotRestore(
                f"this version has no {', '.join(others)}: restore with Stoker {self.manifest.stoker}"
            )

    def content(self, stream: str) -> Iterator[IO[bytes]]:
        """The content of a stream, open while it is iterated: once."""
        entry = self._contents[stream]
        with tarfile.open(fileobj=self._source, mode="r:") as archive:
            found = archive.extractfile(entry)
            assert found is not None  # it was read before
            yield found


# Restoring ----------------------------------------------------------------------------------------


async def load(bus: Bus, archive: Archive, progress: Progress, *, is_forced: bool = False) -> None:
    """Make the system what the archive has. is_forced: whatever the system has stored is deleted.

    Raises CannotRestore, with nothing changed; RestoreBrokenOff; BusError.
    """
    await _check_target(bus, archive.manifest, is_forced=is_forced)
    streams = [stream for stream in ORDER if stream in archive.forms and stream != names.JOBS_STREAM]
    streams.append(names.JOBS_STREAM)
    left = list(streams)
    try:
        for stream in reversed(streams):
            await remove(bus, stream)
        for stream in streams:
            for content in archive.content(stream):
                await _restore_fitting(bus, archive.forms[stream], content)
            left.remove(stream)
            progress(f"{stream}: {archive.forms[stream].messages} messages")
        await install(bus)  # in today's form, with the streams that the archive's version had not
    except BaseException as error:
        if left:
            raise RestoreBrokenOff(
                f"{_why(error)}; not restored yet: {', '.join(left)}. "
                "No service starts until `stoker restore --force` has done it all"
            ) from error
        raise


def _why(error: BaseException) -> str:
    if isinstance(error, KeyboardInterrupt | asyncio.CancelledError):
        return "it was interrupted"
    return str(error) or type(error).__name__


async def _check_target(bus: Bus, manifest: Manifest, *, is_forced: bool) -> None:
    if bus.subjects.prefix != manifest.prefix:
        raise CannotRestore(f"the archive's subjects begin with {manifest.prefix!r}: set STOKER_PREFIX to that")
    if _numbers(_server_version(bus)) < _numbers(manifest.nats_server):
        raise CannotRestore(
            f"the archive is of nats-server {manifest.nats_server}, this one is {_server_version(bus)}: "
            "restore on the same version or a newer one"
        )
    services = await _services(bus)
    if services:
        raise CannotRestore(f"services are running ({', '.join(services)}): stop them first")
    there = {stream: await messages_in(bus, stream) for stream in ORDER}
    full = [f"{stream} ({count})" for stream, count in there.items() if count and stream not in OWN_WORDS]
    gaps = [stream for stream, count in there.items() if count is None]
    if is_forced:
        return
    if full:
        raise CannotRestore(f"the system is not empty: {', '.join(full)}; --force deletes what it has")
    if gaps and len(gaps) < len(ORDER):
        raise CannotRestore(
            f"only a part of the streams is there, without {', '.join(gaps)}; --force makes all anew"
        )


async def _services(bus: Bus) -> list[str]:
    """Services of Stoker that are there."""
    found = await bus.ask_all("$SRV.PING", {}, dict, PING_S)
    return sorted({one.get("name", "") for one in found if str(one.get("name", "")).startswith("stoker-")})


def _numbers(text: str) -> tuple[int, ...]:
    """Major and minor of a version."""
    return tuple(int(part) for part in text.lstrip("v").split(".")[:2] if part.isdigit())


async def _restore_fitting(bus: Bus, form: StreamForm, content: IO[bytes]) -> None:
    """On as many servers as this installation has; a stream that reserves more than the disk has gets less.

    Raises DiskFull when there is no room for what it holds.
    """
    config = form.config | {"num_replicas": bus.replicas}
    while True:
        try:
            await restore(bus, StreamForm(config, form.state), content)
            return
        except DiskFull:
            smaller = int(config.get("max_bytes") or -1) // 2
            if smaller < max(form.size_bytes, least_bytes(config["name"])):
                raise
            config = config | {"max_bytes": smaller}
            content.seek(0)

"""`stoker backup`, `stoker restore`: all that a system has stored, as one archive. For operators, over NATS."""

import asyncio
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated

import typer

from stoker.cli.app import app, errors, fail
from stoker.cli.on_bus import Data, with_bus

if TYPE_CHECKING:
    from stoker.services.bus.connection import Bus
    from stoker.services.records.backups import Archive, Manifest

HERE = Path(".stoker")
STANDARD = "-"
PARTIAL = ".partial"
COPY_BYTES = 1024**2
CONNECT_S = 10.0


def _said(text: str) -> None:
    errors.print(text, style="dim", highlight=False, soft_wrap=True)


@app.command()
def backup(
    target: Annotated[
        str, typer.Argument(metavar="DIR|-", help="The archive's folder; - writes it to the output.")
    ],
    data: Data = HERE,
) -> None:
    """Save all that a running system has stored, as one archive.

    Jobs that were accepted before it began are in it, waiting or with their results; so are the keys of seals
    and hashes of API keys: keep the archive where secrets are kept.
    """
    from stoker.services.bus.errors import BusError
    from stoker.services.records.backups import save

    try:
        with _output(target) as (file, folder):

            async def run(bus: "Bus") -> "Manifest":
                return await save(bus, file, folder, _said)

            manifest = with_bus("stoker backup", data, run, "saved a backup")
    except (BusError, OSError) as error:
        fail(f"the backup was broken off, and there is no archive: {error}", 1)
    seconds = manifest.ended_at - manifest.began_at
    _said(f"{sum(one.messages for one in manifest.streams)} messages in {seconds:.1f} s")


@contextmanager
def _output(target: str) -> Iterator[tuple[IO[bytes], Path | None]]:
    """Where the archive goes, and a folder for what is not in it yet. A file gets its name once it is whole."""
    if target == STANDARD:
        if sys.stdout.isatty():
            fail("the archive is not for a terminal: give a folder, or send it to a file with >", 2)
        yield sys.stdout.buffer, None
        sys.stdout.buffer.flush()
        return
    folder = Path(target)
    path = folder / time.strftime("stoker-%Y%m%dT%H%M%SZ.tar", time.gmtime())
    partial = path.with_name(path.name + PARTIAL)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        fail(f"{error.filename}: {error.strerror}", 2)
    try:
        with os.fdopen(handle, "wb") as file:
            yield file, folder
            file.flush()
            os.fsync(handle)
        partial.rename(path)
    finally:
        partial.unlink(missing_ok=True)
    typer.echo(path)


@app.command()
def restore(
    source: Annotated[
        str, typer.Argument(metavar="FILE|-", help="An archive of `stoker backup`; - reads the input.")
    ],
    force: Annotated[bool, typer.Option("--force", help="Delete what the system has stored.")] = False,
    data: Data = HERE,
) -> None:
    """Make a system what an archive has: on STOKER_NATS, or in the --data of the next `stoker up`.

    The services must be stopped. The archive is read once before anything is changed.
    """
    from stoker.services.bus.errors import BusError
    from stoker.services.process.embedded import EmbeddedServerError
    from stoker.services.records.backups import Archive, CannotRestore, RestoreBrokenOff

    try:
        with _input(source) as file:
            archive = Archive(file)
            made = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(archive.manifest.began_at))
            _said(f"an archive of Stoker {archive.manifest.stoker}, begun {made}; it is whole")
            asyncio.run(_restored(archive, data, is_forced=force))
    except (CannotRestore, EmbeddedServerError) as error:
        fail(f"nothing was changed: {error}", 2)
    except OSError as error:
        fail(f"{error.filename or source}: {error.strerror}", 2)
    except (RestoreBrokenOff, BusError) as error:
        fail(str(error), 1)
    typer.echo("restored; the services can be started")


@contextmanager
def _input(source: str) -> Iterator[IO[bytes]]:
    """The archive, from which can be read twice."""
    if source != STANDARD:
        with Path(source).open("rb") as file:
            yield file
        return
    with tempfile.TemporaryFile() as copy:
        while chunk := sys.stdin.buffer.read(COPY_BYTES):
            copy.write(chunk)
        copy.seek(0)
        yield copy


async def _restored(archive: "Archive", data: Path, *, is_forced: bool) -> None:
    from contextlib import AsyncExitStack

    from stoker.services.bus.connection import open_bus
    from stoker.services.process.embedded import embedded_server
    from stoker.services.process.settings import BusSettings, read_settings
    from stoker.services.records.backups import load

    settings = read_settings(BusSettings, "stoker restore", [])
    async with AsyncExitStack() as running:
        if settings.nats == BusSettings().nats:
            url = await running.enter_async_context(embedded_server(data))
            settings = BusSettings(nats=url, prefix=settings.prefix)
        bus = await running.enter_async_context(open_bus(settings, "stoker-restore", CONNECT_S))
        await load(bus, archive, _said, is_forced=is_forced)

"""Reloading the configuration: when a file changes, on SIGHUP, and by a call; checked before it applies.

What is read becomes one revision of the catalog in NATS (services/catalog/store.py), so that every service on
every machine goes from one configuration to the next in one step. Whatever is wrong with the files, the
revision that is there stays, and why is kept (`failure`, and a note for the other gateways).

Events of the system only say that it is time to look: whether a file has changed, its identity and its content
say (services/catalog/seen_files.py). Events come from the folders of the files and of what they link to; beside
them the files are looked at every LOOK_EVERY_S, for folders that tell nothing, as on some networks. A file that
changes while it is read, is empty, or is away, is read again after SETTLE_S, for editors write in several
steps; only when it stays so for SETTLE_TRIES is that what it says.
"""

import asyncio
import signal
import time
from collections.abc import Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import anyio
from watchfiles import awatch

from stoker.functions.manifest import located
from stoker.schemas import wire
from stoker.schemas.configuration import ReloadFailure, RevisionHead
from stoker.schemas.fleet import EventKind, PlatformEvent
from stoker.services.bus.connection import Bus
from stoker.services.bus.errors import BusError
from stoker.services.catalog import store
from stoker.services.catalog.documents import ConfigurationError
from stoker.services.catalog.load import Configuration, load
from stoker.services.catalog.seen_files import Folders, State, folders, look
from stoker.services.process.logs import get_logger
from stoker.services.process.tasks import until

log = get_logger("configuration")

QUIET_MS = 100
"""Events in quick succession are one, this long after the last."""
STOP_MS = 200
"""The watcher waits in a thread that cannot be interrupted: it looks this often whether it was cancelled, and
whether the folders are still the same.
"""
LOOK_EVERY_S = 2.0
"""The files are looked at this often though nothing was told."""
SETTLE_S = 0.1
SETTLE_TRIES = 10


@dataclass(frozen=True, slots=True)
class Reloaded:
    """What was read, and the revision that it is."""

    found: Configuration
    revision: RevisionHead


class Reloading:
    """The configuration files of the gateway `name`, and function projects. projects are watched only if asked.

    failure: why the files as they were last read were not taken; None: they were.
    """

    def __init__(
        self,
        bus: Bus,
        paths: Sequence[Path],
        projects: Sequence[Path] = (),
        *,
        watch_projects: bool = False,
        name: str = "",
    ) -> None:
        self.failure: ReloadFailure | None = None
        self.name = name
        self._bus = bus
        self._projects = tuple(located(path) for path in projects)
        self._watched_projects = tuple(one for one in self._projects if watch_projects and one.is_absolute())
        self._paths = tuple(path.absolute() for path in paths)
        self._turn = asyncio.Lock()
        self._due = asyncio.Event()
        self._read_last: State | None = None
        self._is_left_over = False
        """What was read last is well, and could not be published."""

    @property
    def has_files(self) -> bool:
        return bool(self._paths)

    async def reload(self) -> Reloaded:
        """Read the files and make them the catalog. Raises ConfigurationError, BusError; why is kept."""
        async with self._turn:
            try:
                found = await self._read()
                self._is_left_over = True
                revision = await store.publish(self._bus, found.models, found.profiles, found.default_mode)
                self._is_left_over = False
            except ConfigurationError as error:
                await self._failed("configuration.invalid", str(error), error)
                raise
            except BusError as error:
                await self._failed("configuration.not_published", str(error))
                raise
            self.failure = None
            await self._tell_others()
            self._note("configured", f"revision {revision.number}: {len(found.models)} models")
        for warning in found.warnings:
            log.warning("configuration.warning", warning=warning)
        log.info(
            "configuration.reloaded",
            revision=revision.number,
            models=len(found.models),
            default_mode=found.default_mode,
        )
        return Reloaded(found, revision)

    async def _look(self) -> State:
        return await asyncio.to_thread(look, self._paths, self._watched_projects)

    async def _read(self) -> Configuration:
        """What the files say, once they have stopped changing. Raises ConfigurationError."""
        state = await self._look()
        for tries_left in reversed(range(SETTLE_TRIES)):
            if state != self._read_last:  # whoever changed it may still be writing
                await asyncio.sleep(SETTLE_S)
                again = await self._look()
                is_settled = again == state and not any(file.may_be_unfinished for file in state)
                state = again
                if not is_settled and tries_left:
                    continue
            outcome = await asyncio.to_thread(self._load)
            before, state = state, await self._look()
            if before == state:
                self._read_last = state
                if isinstance(outcome, ConfigurationError):
                    raise outcome
                return outcome
        raise ConfigurationError(
            f"{(*self._paths, *self._projects)[0]}: it did not stop changing for {SETTLE_TRIES * SETTLE_S:g} s"
        )

    def _load(self) -> Configuration | ConfigurationError:
        try:
            return load(self._paths, projects=self._projects)
        except ConfigurationError as error:
            return error

    async def _failed(self, event: str, reason: str, error: ConfigurationError | None = None) -> None:
        """Keep why the files were not taken, for people and for the other gateways."""
        self.failure = ReloadFailure(
            at=time.time(),
            gateway=self.name,
            reason=reason,
            file=error.file if error is not None else "",
            line=error.line if error is not None else 0,
            field=(error.field or "") if error is not None else "",
        )
        log.error(event, reason=reason)
        await self._tell_others()
        self._note("not_configured", reason)

    async def _tell_others(self) -> None:
        try:
            await store.note_failure(self._bus, self.failure)
        except BusError as error:
            log.warning("configuration.failure_not_noted", error=str(error))

    def _note(self, kind: EventKind, reason: str) -> None:
        """Tell people when the configuration was taken, and when and why it was not."""
        event = PlatformEvent(kind, "configuration", time.time(), reason)
        self._bus.post(self._bus.subjects.event(kind, event.subject), wire.encode(event))

    async def _reload_or_say_why(self) -> None:
        with suppress(ConfigurationError, BusError):  # they are logged and kept
            await self.reload()

    async def watch(self) -> None:
        """Reload on every change of a file and on SIGHUP, until cancelled."""
        loop = asyncio.get_running_loop()
        hangups = asyncio.Event()
        loop.add_signal_handler(signal.SIGHUP, hangups.set)
        try:
            if self._paths or self._watched_projects:
                if self._read_last is None:
                    self._read_last = await self._look()
                await until(
                    asyncio.Event(), self._listen, self._keep_looking, partial(self._on_hangup, hangups)
                )
            else:
                await self._on_hangup(hangups)
        finally:
            loop.remove_signal_handler(signal.SIGHUP)

    async def _on_hangup(self, hangups: asyncio.Event) -> None:
        while True:
            await hangups.wait()
            hangups.clear()
            await self._reload_or_say_why()

    async def _keep_looking(self) -> None:
        """Reload when what is there is not what was read last, until cancelled."""
        while True:
            with anyio.move_on_after(LOOK_EVERY_S):
                await self._due.wait()
            self._due.clear()
            if self._is_left_over or await self._look() != self._read_last:
                await self._reload_or_say_why()

    async def _listen(self) -> None:
        """Say when something happens in a folder of the files, until cancelled. They are looked at anyway."""
        while True:
            try:
                await self._listen_to(await self._folders())
            except (OSError, RuntimeError) as error:  # a folder went, or there are no more watches
                log.warning("configuration.folders_not_watched", error=str(error))
                await asyncio.sleep(LOOK_EVERY_S)

    async def _folders(self) -> Folders:
        return await asyncio.to_thread(folders, self._paths, self._watched_projects)

    async def _listen_to(self, watched: Folders) -> None:
        """Until the folders are others. Raises OSError, RuntimeError where they cannot be watched."""
        if not watched:
            await asyncio.sleep(LOOK_EVERY_S)
            return
        telling = awatch(
            *(folder for folder, _ in watched), watch_filter=None, debounce=QUIET_MS, step=QUIET_MS // 2,
            rust_timeout=STOP_MS, yield_on_timeout=True, recursive=False,
        )  # fmt: skip
        async with aclosing(telling) as told:
            self._due.set()  # what happened before they were watched
            async for changes in told:
                if changes:
                    self._due.set()
                if await self._folders() != watched:
                    return

"""Reloading the configuration: when a file changes, on SIGHUP, and by a call; validated before it applies.

What is read becomes the catalog in NATS, so that every service on every machine sees one version. An invalid
file changes nothing and is reported. File events come from the system (inotify and the like, by watchfiles);
folders are watched, so an editor's atomic rename is a change like any other.
"""

import asyncio
import signal
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from watchfiles import awatch

from services.bus.connection import Bus
from services.bus.errors import BusError
from services.catalog import store
from services.catalog.documents import ConfigurationError
from services.catalog.load import Configuration, load
from services.process.logs import get_logger
from services.process.tasks import until

log = get_logger("configuration")

QUIET_MS = 100
"""Writes in quick succession are read once, this long after the last."""
STOP_MS = 200
"""The watcher waits in a thread that cannot be interrupted: it looks this often whether it was cancelled."""


class Reloading:
    """The configuration files of this gateway, and function projects. projects are watched only if asked."""

    def __init__(
        self, bus: Bus, paths: Sequence[Path], projects: Sequence[Path] = (), *, watch_projects: bool = False
    ) -> None:
        self._bus = bus
        self._projects = tuple(path.absolute() for path in projects)
        self._watched_projects = self._projects if watch_projects else ()
        self._paths = tuple(path.absolute() for path in paths)
        self._turn = asyncio.Lock()

    @property
    def has_files(self) -> bool:
        return bool(self._paths)

    async def reload(self) -> Configuration:
        """Read the files and make them the catalog. Raises ConfigurationError, BusError."""
        async with self._turn:
            found = await asyncio.to_thread(load, self._paths, projects=self._projects)
            await store.publish(self._bus, found.models, found.profiles, found.default_mode)
        for warning in found.warnings:
            log.warning("configuration.warning", warning=warning)
        log.info("configuration.reloaded", models=len(found.models), default_mode=found.default_mode)
        return found

    async def _reload_or_say_why(self) -> None:
        try:
            await self.reload()
        except ConfigurationError as error:
            log.error("configuration.invalid", reason=str(error))
        except BusError as error:
            log.error("configuration.not_published", reason=str(error))

    async def watch(self) -> None:
        """Reload on every change of a file and on SIGHUP, until cancelled."""
        loop = asyncio.get_running_loop()
        hangups = asyncio.Event()
        loop.add_signal_handler(signal.SIGHUP, hangups.set)
        try:
            if self._paths or self._watched_projects:
                await until(asyncio.Event(), self._on_change, partial(self._on_hangup, hangups))
            else:
                await self._on_hangup(hangups)
        finally:
            loop.remove_signal_handler(signal.SIGHUP)

    async def _on_hangup(self, hangups: asyncio.Event) -> None:
        while True:
            await hangups.wait()
            hangups.clear()
            await self._reload_or_say_why()

    async def _on_change(self) -> None:
        folders = {path if path.is_dir() else path.parent for path in self._paths}
        folders |= set(self._watched_projects)
        watching = awatch(
            *folders, debounce=QUIET_MS, step=QUIET_MS // 2, rust_timeout=STOP_MS, recursive=False
        )
        async for changes in watching:
            if any(self._is_ours(Path(path)) for _, path in changes):
                await self._reload_or_say_why()

    def _is_ours(self, path: Path) -> bool:
        if path.parent in self._watched_projects and path.suffix in (".py", ".toml"):
            return True
        is_yaml = path.suffix in (".yaml", ".yml")
        return path in self._paths or (is_yaml and path.parent in self._paths)

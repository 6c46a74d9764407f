"""`stoker up`: the embedded NATS server, the four services and the configured workers, each a process.

Every process writes to this terminal behind its name. One that dies is started again, with a pause that
doubles while it keeps dying. One Ctrl-C (or SIGTERM) stops all: workers finish what they run.
"""

import asyncio
import contextlib
import os
import signal
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from zlib import crc32

from rich.console import Console

from services.bus.connection import open_bus
from services.bus.streams import declare
from services.catalog import store
from services.catalog.load import Configuration
from services.process.embedded import embedded_server
from services.process.running import die_with_parent
from services.process.settings import BusSettings, read_settings
from services.process.tasks import TaskOwner

FIRST_PAUSE_S = 0.1
MAX_PAUSE_S = 10.0
CALM_AFTER_S = 10.0
"""A process that lived this long starts with a short pause again."""
STOP_TIMEOUT_S = 130.0
COLOURS = ("cyan", "green", "magenta", "yellow", "blue", "red")
READY_TIMEOUT_S = 60.0


@dataclass(slots=True)
class Child:
    """One process that is kept running."""

    name: str
    module: str
    arguments: list[str]
    colour: str
    process: asyncio.subprocess.Process | None = None
    restarts: int = 0


@dataclass(slots=True)
class Up:
    """A whole system on this machine."""

    configuration: Configuration
    data: Path
    host: str = "127.0.0.1"
    port: int = 8000
    nats: str = ""
    nats_port: int = 0
    paths: list[Path] = field(default_factory=list)
    projects: list[Path] = field(default_factory=list)
    reload: bool = False
    insecure: bool = False
    require_keys: bool = False
    log_level: str = "info"
    _console: Console = field(default_factory=lambda: Console(stderr=True, highlight=False))
    _children: list[Child] = field(default_factory=list)
    _is_stopping: bool = False

    async def run(self, started: asyncio.Event | None = None) -> None:
        """Run until SIGINT or SIGTERM."""
        stopping = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stopping.set)
        self.data.mkdir(parents=True, exist_ok=True)
        if self.nats:
            await self._serve(self.nats, stopping, started)
            return
        async with embedded_server(self.data, self.nats_port) as url:
            await self._serve(url, stopping, started)

    async def _serve(self, url: str, stopping: asyncio.Event, started: asyncio.Event | None) -> None:
        began = time.monotonic()
        self._children = self._plan(url)
        async with TaskOwner("up") as tasks:
            for child in self._children:
                tasks.start(self._keep, child)
            async with open_bus(read_settings(BusSettings, "stoker up", ["--nats", url]), "stoker-up") as bus:
                await declare(bus)
                found = self.configuration
                await store.publish(bus, found.models, found.profiles, found.default_mode)
            tasks.start(self._announce, began, started)
            await stopping.wait()
            self._say("stopping …")
            self._is_stopping = True
            await self._stop_children()

    def _plan(self, url: str) -> list[Child]:
        common = ["--nats", url, "--log-level", self.log_level]
        gateway = ["--host", self.host, "--port", str(self.port)]
        if self.paths:
            gateway += ["--config", ",".join(str(path.absolute()) for path in self.paths)]
        if self.projects:
            gateway += ["--functions", ",".join(str(path.absolute()) for path in self.projects)]
        for flag in ("reload", "insecure", "require_keys"):
            if getattr(self, flag):
                gateway += ["--" + flag.replace("_", "-")]
        cluster = f"up-{crc32(str(self.data).encode()):08x}"
        autoscaler = ["--data", str(self.data), "--cluster", cluster, "--stop-replicas"]
        handlers = ",".join(self.configuration.handlers())
        plan = [
            ("scheduler", "services.scheduler", []),
            ("gateway", "services.gateway", gateway),
            ("autoscaler", "services.autoscaler", autoscaler),
        ]
        for entry in self.configuration.workers:
            for _ in range(entry.count):
                name = f"worker-{len(plan) - 2}"
                arguments = ["--name", name, "--profile", entry.profile, "--ram", str(entry.ram)]
                if entry.memory:
                    arguments += ["--memory", str(entry.memory)]
                if entry.engines:
                    arguments += ["--engines", ",".join(entry.engines)]
                if handlers:
                    arguments += ["--handlers", handlers]
                plan.append((name, "services.worker", arguments))
        return [
            Child(name, module, common + arguments, COLOURS[index % len(COLOURS)])
            for index, (name, module, arguments) in enumerate(plan)
        ]

    async def _keep(self, child: Child) -> None:
        pause_s = FIRST_PAUSE_S
        while not self._is_stopping:
            began = time.monotonic()
            child.process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-P",
                "-m",
                child.module,
                *child.arguments,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                preexec_fn=die_with_parent,
                start_new_session=True,
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
            )
            (self.data / f"{child.name}.pid").write_text(str(child.process.pid))
            await self._print_lines(child)
            status = await child.process.wait()
            (self.data / f"{child.name}.pid").unlink(missing_ok=True)
            if self._is_stopping:
                return
            child.restarts += 1
            self._say(f"{child.name} ended with status {status}; starting it again")
            if time.monotonic() - began > CALM_AFTER_S:
                pause_s = FIRST_PAUSE_S
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, MAX_PAUSE_S)

    async def _print_lines(self, child: Child) -> None:
        assert child.process is not None and child.process.stdout is not None
        while True:
            try:
                line = await child.process.stdout.readline()
            except ValueError:  # a line longer than the buffer
                continue
            if not line:
                return
            text = line.decode(errors="replace").rstrip()
            self._console.print(f"[{child.colour}]{child.name:<11}[/] ", end="")
            self._console.print(text, markup=False, soft_wrap=True)

    async def _announce(self, began: float, started: asyncio.Event | None) -> None:
        import httpx

        base = f"http://{self.host}:{self.port}"
        async with httpx.AsyncClient() as client:
            while time.monotonic() - began < READY_TIMEOUT_S:
                with contextlib.suppress(httpx.HTTPError):
                    answer = await client.get(f"{base}/health/ready", timeout=2)
                    if answer.status_code == 200:
                        break
                await asyncio.sleep(0.05)
            else:
                self._say(f"not ready after {READY_TIMEOUT_S:g} s: see the lines above")
                return
        seconds = time.monotonic() - began
        self._say(
            f"ready on {base} (dashboard) after {seconds:.1f} s; API page: {base}/schema; Ctrl-C stops all"
        )
        if started is not None:
            started.set()

    async def _stop_children(self) -> None:
        """Workers first, so that what they finish still reaches a gateway; the autoscaler stops its own."""
        runs_work = {child.name for child in self._children if child.name.startswith(("worker-", "autoscaler"))}
        for is_first in (True, False):
            chosen = [child for child in self._children if (child.name in runs_work) is is_first]
            for child in chosen:
                if child.process is not None and child.process.returncode is None:
                    with contextlib.suppress(ProcessLookupError):
                        child.process.terminate()
            await asyncio.gather(*(self._wait(child) for child in chosen))

    async def _wait(self, child: Child) -> None:
        if child.process is None:
            return
        try:
            await asyncio.wait_for(child.process.wait(), STOP_TIMEOUT_S)
        except TimeoutError:
            self._say(f"{child.name} did not stop; ending it")
            child.process.kill()

    def _say(self, text: str) -> None:
        self._console.print(f"[bold]stoker[/]      {text}", soft_wrap=True)

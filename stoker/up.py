"""`stoker up`: the embedded NATS server, the four services and the configured workers, each a process.

Every process writes to this terminal behind its name. One that dies is started again, with a pause that
doubles while it keeps dying. One Ctrl-C (or SIGTERM) stops all: workers finish what they run.
"""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from zlib import crc32

import anyio
from rich.console import Console
from rich.control import strip_control_codes

from stoker import servers
from stoker.child import Child
from stoker.functions.manifest import located
from stoker.idle import until_idle
from stoker.schemas import wire
from stoker.schemas.fleet import DiskRoom, PlatformEvent
from stoker.services.bus.connection import Bus, open_bus
from stoker.services.catalog import store
from stoker.services.catalog.load import Configuration
from stoker.services.process.devices import find_device
from stoker.services.process.disk import room_at
from stoker.services.process.embedded import embedded_server, free_port, why_taken
from stoker.services.process.printing import Printer
from stoker.services.process.running import die_with_parent
from stoker.services.process.settings import BusSettings, read_settings
from stoker.services.process.tasks import LimitExceeded, TaskOwner, cleanup, limit
from stoker.services.records.installation import install

DISK_EVERY_S = 1.0
FIRST_PAUSE_S = 0.1
MAX_PAUSE_S = 10.0
CALM_AFTER_S = 10.0
"""A process that lived this long starts with a short pause again."""
STOP_TIMEOUT_S = 130.0
COLOURS = ("cyan", "green", "magenta", "yellow", "blue", "red")
READY_TIMEOUT_S = 60.0
PORT_TRIES, PORT_AGAIN_S = 30, 0.1
NOTHING_SERVED = (
    'it serves no model, as there is no configuration: `stoker run FILE.gguf "hi"` needs none, '
    "`stoker init chat` writes one to begin with, `stoker up --config FILE` takes yours"
)
REACHED = {"0.0.0.0": "127.0.0.1", "::": "[::1]", "localhost": "127.0.0.1"}
"""How this machine reaches a gateway that listens on all addresses, or on a name."""


GATEWAY = "stoker.services.gateway"


class PortTaken(Exception):
    """Another program listens where the gateway should."""


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
    allowed_hosts: str = ""
    cors_origin: str = ""
    gateways: int = 1
    log_level: str = "info"
    end_when_idle_s: float = 0.0
    _console: Console = field(default_factory=lambda: Console(stderr=True, highlight=False))
    _printer: Printer | None = None
    _children: list[Child] = field(default_factory=list)

    @property
    def address(self) -> str:
        """The gateway's URL on this machine."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{REACHED.get(self.host, host)}:{self.port}"

    async def run(self, started: asyncio.Event | None = None) -> None:
        """Run until SIGINT or SIGTERM."""
        stopping = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stopping.set)
        self.data.mkdir(parents=True, exist_ok=True)
        try:
            if self.nats:
                await self._serve(self.nats, stopping, started)
                return
            async with embedded_server(self.data, self.nats_port) as url:
                await self._serve(url, stopping, started)
        finally:
            if self._printer is not None:
                self._printer.close()

    async def _serve(self, url: str, stopping: asyncio.Event, started: asyncio.Event | None) -> None:
        began = time.monotonic()
        self.port = self.port or free_port()
        await self._wait_for_port()
        self._children = self._plan(url)
        async with TaskOwner("up") as tasks:
            for child in self._children:
                tasks.start(self._kept, child)
            try:
                await self._tell(url, stopping, began, started)
            finally:  # whatever has happened: no child is left behind
                self._say("stopping …")
                if not self.nats and not self.data.exists():
                    self._say(f"{self.data} was removed: jobs, results, files and keys in it are not saved")
                async with cleanup("stopping all processes", 3 * STOP_TIMEOUT_S):
                    await self._stop_children()
                with contextlib.suppress(OSError):
                    servers.retract(self.data)

    async def _wait_for_port(self) -> None:
        """Gateways that share a port share it with those of any other system too, and neither is told: the
        requests of one would come to the other. Raises PortTaken; one that is just ending is waited for.
        """
        for _ in range(PORT_TRIES):
            reason = why_taken(self.host, self.port)
            if not reason:
                return
            await asyncio.sleep(PORT_AGAIN_S)
        raise PortTaken(f"port {self.port} of {self.host} cannot be had ({reason}): choose another --port")

    async def _tell(
        self, url: str, stopping: asyncio.Event, began: float, started: asyncio.Event | None
    ) -> None:
        """Write the catalog, and tell what concerns the machine, until all is to stop."""
        settings = read_settings(BusSettings, "stoker up", ["--nats", url])
        async with open_bus(settings, "stoker-up") as bus, TaskOwner("disk") as telling:
            await install(bus)
            found = self.configuration
            await store.publish(bus, found.models, found.profiles, found.default_mode)
            telling.start(self._attend, bus, stopping, began, started)
            if not self.nats:
                telling.start(self._tell_disk, bus)
            await stopping.wait()

    async def _attend(
        self, bus: Bus, stopping: asyncio.Event, began: float, started: asyncio.Event | None
    ) -> None:
        """Say that it is ready. Stop all once nothing was asked or run for so long since then."""
        await self._announce(began, started)
        if not self.end_when_idle_s:
            return
        await until_idle(bus, self.end_when_idle_s)
        self._say(f"nothing was asked for {self.end_when_idle_s:g} s: ending, as --end-when-idle says")
        stopping.set()

    async def _tell_disk(self, bus: Bus) -> None:
        """Tell the gateways how much room the NATS server has, until cancelled, and people when it is low."""
        was_low = False
        while True:
            try:
                room = room_at(self.data)
            except OSError as error:
                self._say(f"how much room {self.data} has cannot be told: {error}")
                await asyncio.sleep(DISK_EVERY_S)
                continue
            bus.tell(bus.subjects.disk(), DiskRoom(room.free, room.total, room.is_low))
            if room.is_low != was_low:
                was_low = room.is_low
                found = f"{room.free / 1e6:,.0f} of {room.total / 1e6:,.0f} MB free at {self.data}"
                self._say(
                    f"the disk is nearly full: {found}" if was_low else f"the disk has room again: {found}"
                )
                event = PlatformEvent(
                    kind="disk_low" if was_low else "disk_ok", subject="nats", at=time.time(), reason=found
                )
                bus.post(bus.subjects.event(event.kind, event.subject), wire.encode(event))
            await asyncio.sleep(DISK_EVERY_S)

    def _plan(self, url: str) -> list[Child]:
        common = ["--log-level", self.log_level]
        gateway = ["--host", self.host, "--port", str(self.port)]
        if self.paths:
            gateway += ["--config", ",".join(str(path.absolute()) for path in self.paths)]
        if self.projects:
            gateway += ["--functions", ",".join(str(located(path)) for path in self.projects)]
        for setting in ("allowed_hosts", "cors_origin"):
            if value := getattr(self, setting):
                gateway += ["--" + setting.replace("_", "-"), value]
        for flag in ("reload", "insecure", "require_keys"):
            if getattr(self, flag):
                gateway += ["--" + flag.replace("_", "-")]
        if self.gateways > 1:
            gateway += ["--share-port"]
        cluster = f"up-{crc32(str(self.data).encode()):08x}"
        autoscaler = ["--data", str(self.data), "--cluster", cluster, "--stop-replicas"]
        plan = [
            ("scheduler", "stoker.services.scheduler", []),
            ("gateway", GATEWAY, [*gateway]),
            ("autoscaler", "stoker.services.autoscaler", autoscaler),
        ]
        for number in range(2, self.gateways + 1):
            plan.append((f"gateway-{number}", GATEWAY, [*gateway]))
        plan += self._workers()
        exposed = {name: free_port() for name, _, _ in plan}
        addresses = ",".join(f"{name}=http://127.0.0.1:{port}" for name, port in exposed.items())
        for name, module, arguments in plan:
            arguments += ["--metrics-port", str(exposed[name])]
            arguments += ["--metrics-of", addresses] if module == GATEWAY else []
        return [
            Child(name, module, common + arguments, COLOURS[index % len(COLOURS)], nats=url)
            for index, (name, module, arguments) in enumerate(plan)
        ]

    def _workers(self) -> list[tuple[str, str, list[str]]]:
        """Name, module and arguments of each configured worker. Those of which nothing is said share the memory
        of this machine; of a GPU each has all that its driver gives it.
        """
        handlers = ",".join(self.configuration.handlers())
        sharing = sum(entry.count for entry in self.configuration.workers if not entry.memory)
        device = find_device() if sharing > 1 else None
        share = device.memory_bytes // sharing if device is not None and not device.is_gpu else 0
        plan: list[tuple[str, str, list[str]]] = []
        for entry in self.configuration.workers:
            for _ in range(entry.count):
                name = f"worker-{len(plan) + 1}"
                arguments = ["--name", name, "--profile", entry.profile, "--ram", str(entry.ram)]
                if memory := entry.memory or share:
                    arguments += ["--memory", str(memory)]
                if entry.engines:
                    arguments += ["--engines", ",".join(entry.engines)]
                if handlers:
                    arguments += ["--handlers", handlers]
                plan.append((name, "stoker.services.worker", arguments))
        return plan

    async def _kept(self, child: Child) -> None:
        """As `_keep`, whatever else has failed: who stops all waits for its end."""
        with anyio.CancelScope(shield=True):
            await self._keep(child)

    async def _keep(self, child: Child) -> None:
        """Start a child again and again, until it is not wanted any more."""
        pause_s = FIRST_PAUSE_S
        while child.is_wanted:
            began = time.monotonic()
            ended = await self._run(child)
            if not child.is_wanted:
                break
            child.restarts += 1
            self._say(f"{child.name} {ended}; starting it again")
            if time.monotonic() - began > CALM_AFTER_S:
                pause_s = FIRST_PAUSE_S
            with contextlib.suppress(LimitExceeded), limit("pausing", pause_s):
                await child.stop_wanted.wait()
            if child.is_wanted:
                child.move("starting")
            pause_s = min(pause_s * 2, MAX_PAUSE_S)
        child.move("ended")

    async def _run(self, child: Child) -> str:
        """One process of a child, from its start to its end; how it ended, in words."""
        try:
            process = child.process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-P",
                "-m",
                child.module,
                *child.arguments,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                preexec_fn=die_with_parent,
                start_new_session=True,
                env={**os.environ, "PYTHONUNBUFFERED": "1", "STOKER_NATS": child.nats},
            )
        except (OSError, subprocess.SubprocessError) as error:  # no memory, too many processes or open files
            child.move("pausing")
            return f"could not be started: {error}"
        child.move("running")
        if not child.is_wanted:  # it was told to stop while its process was being made
            child.stop()
        with self._noted_pid(child.name, process.pid):
            await self._print_lines(child)
            status = await process.wait()
        if child.state == "running":
            child.move("pausing")
        return f"ended with status {status}"

    @contextlib.contextmanager
    def _noted_pid(self, name: str, pid: int) -> Iterator[None]:
        """The process's number is in a file for those who look for it; where none can be written, it is not."""
        file = self.data / f"{name}.pid"
        try:
            file.write_text(str(pid))
        except OSError as error:
            self._say(f"{name} runs as process {pid}, which cannot be written down: {error}")
        yield
        with contextlib.suppress(OSError):
            file.unlink(missing_ok=True)

    async def _print_lines(self, child: Child) -> None:
        """Each line as it comes. Not by rich, which takes a millisecond for one: a process that says much would
        wait, and a leader lose its lease."""
        assert child.process is not None and child.process.stdout is not None
        with self._console.capture() as name:
            self._console.print(f"[{child.colour}]{child.name:<11}[/] ", end="")
        while True:
            try:
                line = await child.process.stdout.readline()
            except ValueError:  # a line longer than the buffer
                continue
            if not line:
                return
            text = strip_control_codes(line.decode(errors="replace").rstrip())
            self._write(f"{name.get()}{text}\n")

    async def _announce(self, began: float, started: asyncio.Event | None) -> None:
        import httpx

        from stoker.services.process.http_clients import async_client

        base = self.address
        async with async_client(base) as client:
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
        try:
            servers.announce(self.data, base)
        except OSError as error:
            self._say(f"commands find this server by --url {base} only: {error}")
        self._say(
            f"ready on {base} (dashboard) after {seconds:.1f} s; API page: {base}/schema; Ctrl-C stops all"
        )
        if not self.configuration.models and not self.projects:
            self._say(NOTHING_SERVED)
        if started is not None:
            started.set()

    async def _stop_children(self) -> None:
        """Workers first, so that what they finish still reaches a gateway; the autoscaler stops its own."""
        for child in self._children:
            if child.state != "running":
                child.stop()  # what is not there yet is not started any more
        runs_work = {child.name for child in self._children if child.name.startswith(("worker-", "autoscaler"))}
        for is_first in (True, False):
            chosen = [child for child in self._children if (child.name in runs_work) is is_first]
            for child in chosen:
                child.stop()
            await self._ended(chosen)

    async def _ended(self, children: list[Child]) -> None:
        """Wait until they have; those that do not stop in time are ended."""
        try:
            with limit("stopping", STOP_TIMEOUT_S):
                for child in children:
                    await child.has_ended.wait()
        except LimitExceeded:
            for child in children:
                if not child.has_ended.is_set():
                    self._say(f"{child.name} did not stop; ending it")
                    child.kill()

    def _say(self, text: str) -> None:
        with self._console.capture() as said:
            self._console.print(f"[bold]stoker[/]      {text}", soft_wrap=True)
        self._write(said.get())

    def _write(self, text: str) -> None:
        """Whether somebody reads it or not: nothing here waits for that."""
        if self._printer is None:
            self._printer = Printer(self._console.file)
        self._printer.write(text)

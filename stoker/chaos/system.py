"""The processes that chaos happens to: NATS, two schedulers, two gateways, workers, each with its own proxies.

What dies is started again, as `stoker up` or a supervisor would do it. Everything ends with the block.
"""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Protocol

import httpx
import psutil

from stoker.chaos.plan import CUTTABLE, Role
from stoker.chaos.proxy import Proxy
from stoker.chaos.servers import Server, cluster
from stoker.services.bus.connection import Bus, open_bus
from stoker.services.bus.errors import BusError
from stoker.services.catalog import store
from stoker.services.catalog.load import Configuration, WorkerEntry
from stoker.services.process.embedded import embedded_server, free_port
from stoker.services.process.http_clients import async_client
from stoker.services.process.running import die_with_parent
from stoker.services.process.settings import BusSettings
from stoker.services.process.tasks import TaskOwner, cleanup
from stoker.services.records.installation import install

die_even_when_paused = partial(die_with_parent, signal.SIGKILL)
"""What SIGSTOP has stopped hears of SIGTERM once it goes on; nobody is there then who has it go on."""
READY_S = 60.0
STOP_S = 5.0
POLL_S = 0.05
MIN_WORKERS = 2


class CannotStart(RuntimeError):
    """The installation did not come up; says where the logs are."""


@dataclass(slots=True)
class Service:
    """One process and the proxies around it. away_s: how long it stays away when it is killed next.

    is_to_end: somebody is about to end it.
    """

    name: str
    role: Role
    command: list[str]
    lines: list[Proxy]
    away_s: float = 0.0
    is_to_end: bool = False
    process: asyncio.subprocess.Process | None = None
    starts: int = 0

    @property
    def pid(self) -> int:
        return self.process.pid if self.process is not None and self.process.returncode is None else 0


class Installation(Protocol):
    """What faults and traffic need to know. gateways: URLs. cuttable: who can be cut off.

    crashes: processes that ended by themselves, with the times of the loop's clock.
    """

    gateways: list[str]
    cuttable: Sequence[Role]
    crashes: list[tuple[float, str]]

    def pids(self, role: Role) -> list[int]: ...

    def lines(self, role: Role) -> list[list[Proxy]]:
        """Of each process of a role, the proxies through which it reaches others."""
        ...

    def stay_away(self, pid: int, seconds: float) -> None: ...


@dataclass(slots=True)
class System:
    """Made by `started`."""

    configuration: Configuration
    data: Path
    services: list[Service] = field(default_factory=list)
    gateways: list[str] = field(default_factory=list)
    cuttable: Sequence[Role] = CUTTABLE
    crashes: list[tuple[float, str]] = field(default_factory=list)

    def pids(self, role: Role) -> list[int]:
        """Processes of a role that are there now; a runner is the child of a worker."""
        if role == "nats" and "nats" not in self.cuttable:
            with contextlib.suppress(OSError, ValueError):
                return [int((self.data / "nats" / "pid").read_text())]
            return []
        if role == "runner":
            return [pid for worker in self.pids("worker") for pid in children_of(worker)]
        return [service.pid for service in self.services if service.role == role and service.pid]

    def lines(self, role: Role) -> list[list[Proxy]]:
        return [service.lines for service in self.services if service.role == role]

    def stay_away(self, pid: int, seconds: float) -> None:
        """This process is about to be ended: start it again so long after it has died."""
        for service in self.services:
            if service.pid == pid:
                service.away_s = seconds
                service.is_to_end = True

    async def keep(self, service: Service) -> None:
        """Run a process again and again, until cancelled; it is ended then."""
        with (self.data / f"{service.name}.log").open("ab") as log:
            try:
                while True:
                    service.starts += 1
                    service.process = await asyncio.create_subprocess_exec(
                        *service.command,
                        stdout=log,
                        stderr=log,
                        preexec_fn=die_even_when_paused,
                        start_new_session=True,
                        cwd=self.data,
                    )
                    status = await service.process.wait()
                    if not service.is_to_end:
                        now = asyncio.get_running_loop().time()
                        self.crashes.append((now, f"{service.name} ended by itself with status {status}"))
                    service.is_to_end = False
                    await asyncio.sleep(service.away_s)
            finally:
                await _end(service)


async def _end(service: Service) -> None:
    process = service.process
    if process is None or process.returncode is not None:
        return
    for number in (signal.SIGCONT, signal.SIGTERM):
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(number)
    async with cleanup(f"stopping {service.name}", STOP_S):
        await process.wait()
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            process.kill()


def children_of(pid: int) -> list[int]:
    with contextlib.suppress(psutil.Error):
        return [child.pid for child in psutil.Process(pid).children()]
    return []


def planned(configuration: Configuration) -> list[tuple[str, Role, str, list[str]]]:
    """What runs: name, role, module, arguments without those of the connection."""
    rows: list[tuple[str, Role, str, list[str]]] = []
    for number in (1, 2):
        rows.append((f"scheduler-{number}", "scheduler", "stoker.services.scheduler", []))
        rows.append((f"gateway-{number}", "gateway", "stoker.services.gateway", ["--insecure"]))
    handlers = ",".join(configuration.handlers())
    for number, entry in enumerate(_workers(configuration.workers), 1):
        name = f"worker-{number}"
        arguments = ["--name", name, "--profile", entry.profile, "--ram", str(entry.ram)]
        arguments += ["--memory", str(entry.memory)] if entry.memory else []
        arguments += ["--engines", ",".join(entry.engines)] if entry.engines else []
        arguments += ["--handlers", handlers] if handlers else []
        rows.append((name, "worker", "stoker.services.worker", arguments))
    return rows


def _workers(entries: Sequence[WorkerEntry]) -> list[WorkerEntry]:
    """Those of the configuration; each twice where that would be a single worker."""
    wanted = [entry for entry in entries or (WorkerEntry(),) for _ in range(entry.count)]
    return wanted if len(wanted) >= MIN_WORKERS else wanted * MIN_WORKERS


@asynccontextmanager
async def started(configuration: Configuration, data: Path, servers: int = 1) -> AsyncIterator[System]:
    """The whole installation, ready, for as long as the block lasts; `servers` of NATS. Raises CannotStart."""
    system = System(configuration, data)
    async with AsyncExitStack() as stack:
        if servers == 1:
            url = await stack.enter_async_context(embedded_server(data))
            who, _, address = url.removeprefix("nats://").rpartition("@")
            nats = [Server("nats", int(address.rpartition(":")[2]), 0, who=f"{who}@")]
        else:
            nats = await stack.enter_async_context(cluster(data / "nats", servers))
            system.cuttable = (*CUTTABLE, "nats")
        tasks = await stack.enter_async_context(TaskOwner("chaos"))

        def start(service: Service) -> None:
            system.services.append(service)
            tasks.start(system.keep, service)

        for server in nats:
            if server.command:
                start(Service(server.name, "nats", server.command, server.lines))
        urls = ",".join(server.url() for server in nats)
        async with open_bus(BusSettings(nats=urls, nats_replicas=servers), "stoker-chaos") as bus:
            await _declared(bus, system)
        for name, role, module, arguments in planned(configuration):
            lines = [await stack.enter_async_context(Proxy(server.port).running()) for server in nats]
            for server, line in zip(nats, lines, strict=True):
                server.lines.append(line)
            urls = ",".join(server.url(line.port) for server, line in zip(nats, lines, strict=True))
            options = ["--nats", urls, "--nats-replicas", str(servers), "--log-level", "warning"]
            if role == "gateway":
                port = free_port()
                system.gateways.append(f"http://127.0.0.1:{port}")
                options += ["--port", str(port)]
            start(Service(name, role, [sys.executable, "-P", "-m", module, *options, *arguments], lines))
        await _until_ready(system)
        yield system


async def _declared(bus: Bus, system: System) -> None:
    """Streams and the catalog; a cluster chooses its leaders first, which takes seconds. Raises CannotStart."""
    found = system.configuration
    deadline = asyncio.get_running_loop().time() + READY_S
    while True:
        try:
            await install(bus)
            await store.publish(bus, found.models, found.profiles, found.default_mode)
            return
        except BusError as error:
            if asyncio.get_running_loop().time() > deadline:
                raise CannotStart(f"NATS is not ready: {error}; the logs are in {system.data}") from error
            await asyncio.sleep(POLL_S)


async def _until_ready(system: System) -> None:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + READY_S
    for gateway in system.gateways:
        async with async_client(gateway, timeout=2.0) as client:
            while True:
                with contextlib.suppress(httpx.HTTPError):
                    if (await client.get("/health/ready")).status_code == 200:
                        break
                if loop.time() > deadline:
                    raise CannotStart(f"the gateway at {gateway} is not ready; the logs are in {system.data}")
                await asyncio.sleep(POLL_S)


@dataclass(slots=True)
class Attached:
    """An installation that `stoker up` runs: its processes by their pid files. It starts again what dies."""

    data: Path
    gateways: list[str]
    cuttable: Sequence[Role] = ()
    crashes: list[tuple[float, str]] = field(default_factory=list)

    def pids(self, role: Role) -> list[int]:
        if role == "nats":
            files = [self.data / "nats" / "pid"]
        elif role == "runner":
            return [pid for worker in self.pids("worker") for pid in children_of(worker)]
        else:
            files = sorted(self.data.glob(f"{role}*.pid"))
        found: list[int] = []
        for file in files:
            with contextlib.suppress(OSError, ValueError):
                pid = int(file.read_text())
                os.kill(pid, 0)
                found.append(pid)
        return found

    def lines(self, role: Role) -> list[list[Proxy]]:
        return []

    def stay_away(self, pid: int, seconds: float) -> None:
        """Who runs it decides when it is started again."""

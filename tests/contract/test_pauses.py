"""A NATS server that is paused, alone and as one of three: clients go on as soon as they can."""

import asyncio
import contextlib
import os
import signal
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from stoker.chaos.servers import Server, cluster
from stoker.schemas.subjects import EVENTS_STREAM
from stoker.services.bus.connection import Bus, open_bus
from stoker.services.bus.errors import BusError, NoAnswer
from stoker.services.bus.streams import declare
from stoker.services.process.embedded import embedded_server
from stoker.services.process.settings import BusSettings
from stoker.services.records.results import last_endings
from tests.waiting import eventually

ASK_EVERY_S = 0.05
MARGIN_S = 3.0


async def silences(bus: Bus, until: asyncio.Event) -> list[float]:
    """Publishes all the time; the seconds between publications that were stored."""
    gaps: list[float] = []
    last = time.monotonic()
    while not until.is_set():
        with contextlib.suppress(BusError):
            await bus.publish_stored(bus.subjects.event("lost", "x"), b"{}")
            now = time.monotonic()
            gaps.append(now - last)
            last = now
        await asyncio.sleep(ASK_EVERY_S)
    return gaps


async def stop(pid: int) -> None:
    """Returns when the process has stopped: the signal takes a moment to reach all its threads."""
    os.kill(pid, signal.SIGSTOP)
    await eventually(lambda: psutil.Process(pid).status() == psutil.STATUS_STOPPED)


async def longest_silence(bus: Bus, pid: int, seconds: float) -> float:
    """While the server `pid` is paused, and for a while after."""
    over = asyncio.Event()
    asking = asyncio.create_task(silences(bus, over))
    await asyncio.sleep(0.5)
    os.kill(pid, signal.SIGSTOP)
    await asyncio.sleep(seconds)
    os.kill(pid, signal.SIGCONT)
    await asyncio.sleep(MARGIN_S + 2.0)
    over.set()
    return max(await asking)


@pytest.mark.parametrize("seconds", [1.0, pytest.param(7.0, marks=pytest.mark.slow)])
async def test_after_a_pause_of_the_only_server_all_goes_on(tmp_path: Path, seconds: float) -> None:
    async with embedded_server(tmp_path) as url, open_bus(BusSettings(nats=url), "test") as bus:
        await declare(bus)
        pid = int((tmp_path / "nats" / "pid").read_text())
        heard: list[bytes] = []
        async with bus.listening(("x.y", lambda message: heard.append(message.data))):
            silent_s = await longest_silence(bus, pid, seconds)
            assert seconds < silent_s + 1.0
            assert silent_s < seconds + MARGIN_S
            bus.post("x.y", b"still subscribed")
            await eventually(lambda: heard == [b"still subscribed"])


async def test_a_ping_that_nobody_waits_for_any_more_ends_nothing(tmp_path: Path) -> None:
    """The error of before: its answer set a future that was cancelled, which ended the read loop."""
    async with embedded_server(tmp_path) as url, open_bus(BusSettings(nats=url), "test") as bus:
        await declare(bus)
        pid = int((tmp_path / "nats" / "pid").read_text())
        await stop(pid)
        with pytest.raises(Exception, match="flush"):
            await bus.client.flush(timeout=1)
        os.kill(pid, signal.SIGCONT)
        await bus.publish_stored(bus.subjects.event("lost", "x"), b"{}")
        assert bus.is_connected and bus.client.stats["reconnects"] == 0


async def test_what_was_under_way_when_the_server_died_is_answered_at_once(tmp_path: Path) -> None:
    """It waited for its whole time, five seconds, though the answer could come no more."""
    async with embedded_server(tmp_path) as url, open_bus(BusSettings(nats=url), "test") as bus:
        await declare(bus)
        pid = int((tmp_path / "nats" / "pid").read_text())
        await stop(pid)
        waiting = [
            asyncio.create_task(bus.publish_stored(bus.subjects.event("lost", "x"), b"{}")),
            asyncio.create_task(bus.ask("x.y", None, object, 30.0)),
            asyncio.create_task(last_endings(bus, 10)),
        ]
        await eventually(lambda: bus._publisher._waiting and len(bus.client._resp_map) == 2)
        os.kill(pid, signal.SIGKILL)
        found = await asyncio.wait_for(asyncio.gather(*waiting, return_exceptions=True), 2.0)
        assert [type(one) for one in found] == [NoAnswer] * 3, found
        await bus.publish_stored(bus.subjects.event("lost", "x"), b"{}")


@dataclass
class Running:
    """Three servers with JetStream: the port and the process of each."""

    ports: list[int]
    processes: list[subprocess.Popen[bytes]]


def start(server: Server) -> subprocess.Popen[bytes]:
    return subprocess.Popen(server.command, stderr=subprocess.DEVNULL)


@asynccontextmanager
async def clustered(folder: Path) -> AsyncIterator[tuple[Bus, Running]]:
    async with cluster(folder, 3) as servers:
        found = Running([server.port for server in servers], [])
        try:
            found.processes += [start(server) for server in servers]
            urls = ",".join(f"nats://127.0.0.1:{port}" for port in found.ports)
            async with open_bus(BusSettings(nats=urls, nats_replicas=3), "test") as bus:
                await declare(bus)
                yield bus, found
        finally:
            for process in found.processes:
                process.kill()
                process.wait()


async def chosen(bus: Bus, running: Running, whose: str) -> subprocess.Popen[bytes]:
    if whose == "the client's":
        return running.processes[running.ports.index(bus.client.connected_url.port)]
    info = await bus.jetstream.stream_info(EVENTS_STREAM)
    assert info.cluster is not None and info.cluster.leader is not None
    return running.processes[int(info.cluster.leader.removeprefix("nats-")) - 1]


@pytest.mark.slow
@pytest.mark.parametrize("whose", ["the client's", "the stream's leader"])
async def test_a_pause_of_one_of_three_servers_is_no_longer_than_itself(tmp_path: Path, whose: str) -> None:
    async with clustered(tmp_path) as (bus, running):
        victim = await chosen(bus, running, whose)
        assert await longest_silence(bus, victim.pid, 10.0) < 10.0 + MARGIN_S


@pytest.mark.slow
@pytest.mark.parametrize("whose", ["the client's", "the stream's leader"])
async def test_the_death_of_one_of_three_servers_costs_seconds(tmp_path: Path, whose: str) -> None:
    async with clustered(tmp_path) as (bus, running):
        victim = await chosen(bus, running, whose)
        over = asyncio.Event()
        asking = asyncio.create_task(silences(bus, over))
        await asyncio.sleep(0.5)
        victim.kill()
        await asyncio.sleep(12.0)
        over.set()
        assert max(await asking) < 10.0

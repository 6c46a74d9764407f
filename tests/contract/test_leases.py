"""Leader leases on a real server: one holder at a time, whatever pauses."""

import asyncio
import os
import random
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest

from stoker.services.bus import leases
from stoker.services.bus.buckets import open_bucket
from stoker.services.bus.connection import Bus, open_bus
from stoker.services.bus.leases import Lease, hold
from stoker.services.bus.streams import LEASE_TTL_S, declare
from stoker.services.process.embedded import embedded_server
from stoker.services.process.settings import BusSettings
from stoker.services.process.tasks import TaskOwner
from tests.contract.conftest import Connect
from tests.waiting import eventually

PATIENCE_S = 10.0
ROLE = "role"


class Contender:
    """Leads whenever it can. `lease`: the one that it holds, or held last."""

    def __init__(self, bus: Bus, name: str) -> None:
        self.bus = bus
        self.name = name
        self.lease: Lease | None = None
        self.terms: list[int] = []

    def leads(self) -> bool:
        return self.lease is not None and self.lease.is_trusted()

    async def contend(self) -> None:
        while True:
            async with hold(self.bus, ROLE, self.name) as lease:
                self.lease = lease
                self.terms.append(lease.term)
                await lease.lost.wait()


@asynccontextmanager
async def paused(pid: int) -> AsyncIterator[None]:
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


@pytest.mark.slow
async def test_two_never_lead_at_once_though_the_server_is_paused_again_and_again(tmp_path: Path) -> None:
    chance = random.Random(5)
    async with embedded_server(tmp_path) as url:
        pid = int((tmp_path / "nats" / "pid").read_text())
        async with open_bus(BusSettings(nats=url), "a") as one, open_bus(BusSettings(nats=url), "b") as two:
            await declare(one)
            contenders = [Contender(one, "a"), Contender(two, "b")]
            both = 0

            async def watch() -> None:
                nonlocal both
                while True:
                    both += all(contender.leads() for contender in contenders)
                    await asyncio.sleep(0.002)

            async with TaskOwner("test") as tasks:
                for contender in contenders:
                    tasks.start(contender.contend)
                tasks.start(watch)
                for _ in range(5):
                    async with paused(pid):
                        await asyncio.sleep(chance.uniform(0.1, LEASE_TTL_S * 1.5))
                    await asyncio.sleep(chance.uniform(0.1, LEASE_TTL_S))
                await eventually(lambda: any(contender.leads() for contender in contenders))
            assert both == 0
            terms = sorted(contenders[0].terms + contenders[1].terms)
            assert len(terms) == len(set(terms)), "each holder has a term of its own"


async def test_a_holder_that_cannot_reach_the_server_stops_before_its_lease_is_over(tmp_path: Path) -> None:
    async with embedded_server(tmp_path) as url, open_bus(BusSettings(nats=url), "a") as bus:
        await declare(bus)
        loop = asyncio.get_running_loop()
        async with hold(bus, ROLE, "a") as lease:
            async with paused(int((tmp_path / "nats" / "pid").read_text())):
                began = loop.time()
                await asyncio.wait_for(lease.lost.wait(), PATIENCE_S)
                assert loop.time() - began < LEASE_TTL_S
            assert not lease.is_trusted()


async def test_a_renewal_whose_answer_was_lost_is_recognised_as_our_own(connected: Connect) -> None:
    """The server has a later revision than we know, and it is ours: the lease goes on."""
    async with connected("one") as bus, connected("two") as other:
        await declare(bus)
        async with hold(bus, ROLE, "one") as lease:
            bucket = await open_bucket(other, "stoker_leases")
            await bucket.put(ROLE, b"one")
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(lease.lost.wait(), 2 * LEASE_TTL_S)
            assert lease.is_trusted()


async def test_a_holder_that_is_busy_for_longer_than_its_lease_keeps_it(connected: Connect) -> None:
    async with connected("one") as one, connected("two") as two:
        await declare(one)
        async with hold(one, ROLE, "one") as lease:
            time.sleep(1.5 * LEASE_TTL_S)  # noqa: ASYNC251 - as a loop that has too much to do
            assert lease.is_trusted()
            bucket = await open_bucket(two, "stoker_leases")
            found = await bucket.get(ROLE)
            assert found is not None and found.value == b"one"


async def test_a_holder_that_shows_no_life_gives_its_lease_up(
    connected: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "STALLED_S", 0.5)
    async with connected("one") as one, connected("two") as two:
        await declare(one)
        async with hold(one, ROLE, "one") as lease:
            time.sleep(0.5 + 1.5 * LEASE_TTL_S)  # noqa: ASYNC251 - as a loop that hangs
            assert not lease.is_trusted()
            await asyncio.wait_for(lease.lost.wait(), PATIENCE_S)
            async with asyncio.timeout(PATIENCE_S), hold(two, ROLE, "two") as next_one:
                assert next_one.term > lease.term


async def test_a_clean_stop_leaves_the_lease_to_the_next_at_once(connected: Connect) -> None:
    async with connected("one") as one, connected("two") as two:
        await declare(one)
        loop = asyncio.get_running_loop()
        async with hold(one, ROLE, "one"):
            pass
        began = loop.time()
        async with hold(two, ROLE, "two"):
            assert loop.time() - began < LEASE_TTL_S / 2


@pytest.mark.parametrize("turns", [0, 1, 3, 8, 20, 60])
async def test_one_that_is_cancelled_while_it_waits_or_leads_leaves_nothing_behind(
    connected: Connect, turns: int
) -> None:
    async with connected("one") as one, connected("two") as two:
        await declare(one)
        contender = Contender(one, "one")
        before = asyncio.all_tasks()
        scope = (
            anyio.CancelScope()
        )  # as services do: one bare cancellation may be lost in Python 3.11's wait_for

        async def contend() -> None:
            with scope:
                await contender.contend()

        task = asyncio.create_task(contend())
        for _ in range(turns):
            await asyncio.sleep(0)
        scope.cancel()
        await task
        assert asyncio.all_tasks() == before
        async with asyncio.timeout(PATIENCE_S), hold(two, ROLE, "two") as lease:
            assert lease.term > 0

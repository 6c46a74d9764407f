"""Starting and stopping gateway and autoscaler, in every order and cancelled at each await (river's startstoptest).

Whatever happens, a service leaves no task, no subscription and no handler of its connection behind.
"""

import asyncio
import math
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from stoker.client import AsyncClient, CallFailed
from stoker.services.autoscaler.__main__ import Settings as AutoscalerSettings
from stoker.services.autoscaler.__main__ import main as autoscaler_main
from stoker.services.autoscaler.service import AutoscalerService
from stoker.services.bus.connection import Bus, open_bus
from stoker.services.bus.leases import Lease
from stoker.services.bus.streams import declare
from stoker.services.catalog import store
from stoker.services.gateway.__main__ import Settings as GatewaySettings
from stoker.services.gateway.__main__ import main as gateway_main
from stoker.services.gateway.gateway import Gateway
from stoker.services.process.running import StoppedAtStart
from stoker.services.process.settings import BusSettings
from stoker.services.process.tasks import OwnerClosed
from stoker.services.records.installation import install
from tests.conftest import free_port
from tests.contract.conftest import Connect
from tests.contract.test_autoscaler_service import PROFILE, model
from tests.fixtures.cancelling import cancel_at_each_await
from tests.fixtures.gateway_app import ECHO, soon

Left = tuple[int, int, int]


def left(bus: Bus) -> Left:
    """Handlers, subscriptions and tasks that there are."""
    return len(bus.client._direct), len(bus.client._subs), len(asyncio.all_tasks())


async def nothing_is_left(bus: Bus, before: Left) -> None:
    def is_so() -> bool:
        now = left(bus)
        return all(count <= most for count, most in zip(now, before, strict=True))

    await soon(is_so, "nothing left")


@asynccontextmanager
async def gateway_of(bus: Bus) -> AsyncIterator[None]:
    gateway = Gateway(bus, "gw", 10, 10)
    async with gateway.running():
        gateway.model_changed("m", ECHO)
        gateway.loading.start(ECHO)  # something under way
        yield


@asynccontextmanager
async def autoscaler_of(bus: Bus, folder: Path) -> AsyncIterator[None]:
    stopping = asyncio.Event()
    stopping.set()
    service = AutoscalerService(bus, Lease(1, math.inf), f"test-{folder.name}", folder, {})
    try:
        await service.serve(stopping)
        yield
    finally:
        await service.close()


async def test_cancelled_at_each_await_of_its_start_and_stop_a_gateway_leaves_nothing(
    connected: Connect,
) -> None:
    async with connected() as bus:
        await declare(bus)
        before = left(bus)

        async def once() -> None:
            async with gateway_of(bus):
                await asyncio.sleep(0)

        awaits = await cancel_at_each_await(once, lambda _: nothing_is_left(bus, before))
        await nothing_is_left(bus, before)
        assert awaits >= 2
        assert bus.on_reconnect == []


async def test_cancelled_at_each_await_an_autoscaler_leaves_nothing(connected: Connect, tmp_path: Path) -> None:
    async with connected() as bus:
        await declare(bus)
        await store.publish(bus, [model("m")], [PROFILE])
        before = left(bus)

        async def once() -> None:
            async with autoscaler_of(bus, tmp_path):
                pass

        awaits = await cancel_at_each_await(once, lambda _: nothing_is_left(bus, before))
        await nothing_is_left(bus, before)
        assert awaits >= 2


async def test_started_and_stopped_many_times_a_gateway_is_as_new(connected: Connect) -> None:
    async with connected() as bus:
        await declare(bus)
        before = left(bus)
        for _ in range(20):
            async with gateway_of(bus):
                pass
        await nothing_is_left(bus, before)
        assert bus.on_reconnect == []


async def installed(server: str) -> None:
    """What `stoker install-streams` does."""
    async with open_bus(BusSettings(nats=server), "init") as bus:
        await install(bus)


async def test_told_to_stop_while_there_are_no_streams_a_service_stops(server: str) -> None:
    stopping, has_asked = asyncio.Event(), asyncio.Event()
    async with (
        asyncio.timeout(20),
        open_bus(BusSettings(nats=server), "test") as bus,
        bus.listening(("$JS.API.STREAM.INFO.STOKER_JOBS", lambda _: has_asked.set())),
        asyncio.TaskGroup() as tasks,
    ):
        running = tasks.create_task(
            stopped_at_start(gateway_main(GatewaySettings(nats=server, port=0), stopping))
        )
        await has_asked.wait()
        assert not running.done(), "it waits for them"
        stopping.set()
    assert "stoker install-streams" in running.result()


async def stopped_at_start(service: Awaitable[None]) -> str:
    with pytest.raises(StoppedAtStart) as stopped:
        await service
    return str(stopped.value)


async def test_a_gateway_cannot_run_twice_at_once(connected: Connect) -> None:
    async with connected() as bus:
        await declare(bus)
        gateway = Gateway(bus, "gw", 10, 10)
        async with gateway.running():
            before = left(bus)
            with pytest.raises(OwnerClosed, match="entered twice"):
                async with gateway.running():
                    pass
            await nothing_is_left(bus, before)
            assert gateway.tasks.is_open


async def test_told_to_stop_before_they_start_whole_services_stop(server: str, tmp_path: Path) -> None:
    stopping = asyncio.Event()
    stopping.set()
    async with asyncio.timeout(30):
        with pytest.raises(StoppedAtStart):
            await gateway_main(GatewaySettings(nats=server, port=0), stopping)
        with pytest.raises(StoppedAtStart):
            await autoscaler_main(AutoscalerSettings(nats=server, data=str(tmp_path)), stopping)


async def test_an_autoscaler_that_waits_for_the_lease_stops_at_once(server: str, tmp_path: Path) -> None:
    first, second = asyncio.Event(), asyncio.Event()
    settings = AutoscalerSettings(nats=server, data=str(tmp_path))
    await installed(server)
    async with asyncio.timeout(40), asyncio.TaskGroup() as both:
        leader = both.create_task(autoscaler_main(settings, first))
        await asyncio.sleep(0.5)
        waits = both.create_task(autoscaler_main(settings, second))
        await asyncio.sleep(0.5)
        second.set()
        await asyncio.wait([waits], timeout=10)
        assert waits.done() and not leader.done()
        first.set()


async def test_cancelled_at_each_await_a_client_leaves_its_connection_usable(server: str) -> None:
    """Against a real gateway without a scheduler: what it knows itself is answered."""
    stopping = asyncio.Event()
    port = free_port()
    settings = GatewaySettings(nats=server, port=port)
    await installed(server)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(gateway_main(settings, stopping))
        async with AsyncClient(f"http://127.0.0.1:{port}") as client:

            async def is_up() -> bool:
                try:
                    return await client.functions() == []
                except (httpx.HTTPError, CallFailed):
                    return False

            await soon(is_up)

            async def check(_: int) -> None:
                assert await client.functions() == []

            await cancel_at_each_await(client.functions, check)
        stopping.set()

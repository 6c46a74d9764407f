"""A real NATS server for each test, on a port and a folder of its own."""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Protocol

import pytest

from stoker.services.bus.connection import Bus, open_bus
from stoker.services.process.embedded import embedded_server
from stoker.services.process.settings import BusSettings
from tests.waiting import in_own_task


class Connect(Protocol):
    def __call__(self, name: str = ...) -> AbstractAsyncContextManager[Bus]: ...


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[str]:
    async with in_own_task(embedded_server(tmp_path)) as url:
        yield url


@pytest.fixture
def connected(server: str) -> Connect:
    @asynccontextmanager
    async def connecting(name: str = "test") -> AsyncIterator[Bus]:
        async with open_bus(BusSettings(nats=server), name) as bus:
            yield bus

    return connecting

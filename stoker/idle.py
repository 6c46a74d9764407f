"""When a system has nothing to do: nobody has asked it for anything, and nothing runs, for some time."""

import asyncio
from typing import TYPE_CHECKING

from anyio import move_on_after

from stoker.schemas.subjects import ANY
from stoker.schemas.workers import Heartbeat
from stoker.services.bus.connection import Bus
from stoker.services.bus.heartbeats import HeartbeatReader

if TYPE_CHECKING:  # else NATS is imported before services/bus, and aiohttp with it
    from nats.aio.msg import Msg


async def until_idle(bus: Bus, seconds: float) -> None:
    """Return when no job was accepted and no worker has run any for so long."""
    active = asyncio.Event()

    def asked(_: "Msg") -> None:
        active.set()

    def told(heartbeat: Heartbeat) -> None:
        if heartbeat.running:
            active.set()

    workers = HeartbeatReader(bus, told, not_known=active.set).subscriptions()
    async with bus.listening((bus.subjects.every("jobs", ANY), asked), *workers):
        is_idle = False
        while not is_idle:
            active.clear()
            with move_on_after(seconds) as waited:
                await active.wait()
            is_idle = waited.cancelled_caught

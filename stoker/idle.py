"""When a system has nothing to do: nobody has asked it for anything, and nothing runs, for some time."""

import asyncio
from typing import TYPE_CHECKING

from anyio import move_on_after

from stoker.schemas import wire
from stoker.schemas.subjects import ANY
from stoker.schemas.workers import Heartbeat
from stoker.services.bus.connection import Bus

if TYPE_CHECKING:  # else NATS is imported before services/bus, and aiohttp with it
    from nats.aio.msg import Msg


def is_at_work(heartbeat: bytes) -> bool:
    """Whether a worker's heartbeat tells of a job; one that cannot be read might."""
    try:
        return bool(wire.decode(Heartbeat, heartbeat).running)
    except wire.UnreadableMessage:
        return True


async def until_idle(bus: Bus, seconds: float) -> None:
    """Return when no job was accepted and no worker has run any for so long."""
    active = asyncio.Event()

    def asked(_: "Msg") -> None:
        active.set()

    def told(message: "Msg") -> None:
        if is_at_work(message.data):
            active.set()

    jobs, workers = bus.subjects.every("jobs", ANY), bus.subjects.every("heartbeat", ANY)
    async with bus.listening((jobs, asked), (workers, told)):
        is_idle = False
        while not is_idle:
            active.clear()
            with move_on_after(seconds) as waited:
                await active.wait()
            is_idle = waited.cancelled_caught

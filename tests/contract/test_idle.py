"""When a system is idle: no job for some time, and no worker that runs one."""

import asyncio

from stoker.idle import is_at_work, until_idle
from stoker.schemas import wire
from stoker.schemas.workers import Heartbeat, RunningJob
from stoker.services.bus.connection import open_bus
from stoker.services.process.settings import BusSettings

IDLE_S = 1.5


def heartbeat(*running: RunningJob) -> Heartbeat:
    return Heartbeat(
        worker="w", started_at=0.0, spec="", seq=1, profile="cpu", device="cpu", host="h", engines={}, memory_total_bytes=1,
        memory_used_bytes=0, running=running,
    )  # fmt: skip


RUNNING = RunningJob("j", "m", "default", 1)


def test_a_worker_is_at_work_while_it_tells_of_a_job() -> None:
    assert not is_at_work(wire.encode(heartbeat()))
    assert is_at_work(wire.encode(heartbeat(RUNNING)))
    assert is_at_work(b"of another version"), "what is not known is not idle"


async def test_a_worker_at_work_puts_the_end_off(server: str) -> None:
    async with asyncio.timeout(30), open_bus(BusSettings(nats=server), "test") as bus:
        loop = asyncio.get_running_loop()
        idle = asyncio.create_task(until_idle(bus, IDLE_S))
        await asyncio.sleep(IDLE_S / 8)
        bus.tell(bus.subjects.heartbeat("w"), heartbeat(RUNNING))
        told_at = loop.time()
        await idle
        assert loop.time() - told_at >= IDLE_S * 0.9

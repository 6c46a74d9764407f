"""When a system is idle: no job for some time, and no worker that runs one."""

import asyncio

import pytest

from stoker.idle import until_idle
from stoker.schemas import wire
from stoker.schemas.heartbeats import HeartbeatChange
from stoker.schemas.workers import Heartbeat, RunningJob
from stoker.services.bus.connection import open_bus
from stoker.services.process.settings import BusSettings

IDLE_S = 1.5


def heartbeat(*running: RunningJob, seq: int = 1) -> Heartbeat:
    return Heartbeat(
        worker="w", started_at=0.0, spec="", seq=seq, profile="cpu", device="cpu", host="h", engines={}, memory_total_bytes=1,
        memory_used_bytes=0, running=running,
    )  # fmt: skip


RUNNING = RunningJob("j", "m", "default", 1)


SAID = {
    "heartbeat": wire.encode(heartbeat(RUNNING, seq=2)),
    "change": wire.encode(HeartbeatChange("w", 0.0, seq=3, base=2)),
    "unreadable": b"of another version",
}


@pytest.mark.parametrize("said", SAID)
async def test_a_worker_at_work_puts_the_end_off_and_what_is_not_known_is_not_idle(
    said: str, server: str
) -> None:
    async with asyncio.timeout(30), open_bus(BusSettings(nats=server), "test") as bus:
        loop = asyncio.get_running_loop()
        idle = asyncio.create_task(until_idle(bus, IDLE_S))
        await asyncio.sleep(IDLE_S / 8)
        bus.tell(bus.subjects.heartbeat("w"), heartbeat())
        subject = bus.subjects.change("w") if said == "change" else bus.subjects.heartbeat("w")
        bus.post(subject, SAID[said])
        told_at = loop.time()
        await idle
        assert loop.time() - told_at >= IDLE_S * 0.9

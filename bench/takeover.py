"""How long nobody is given a job when the leading scheduler is killed, by the length of the queue.

python -m bench.takeover [10000 200000]

Two schedulers, one worker that is scripted here: it has one slot, so that the queue stays as long as it is.
"""

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import uvloop
from nats.aio.msg import Msg

from bench.arguments import numbers
from stoker.schemas import wire
from stoker.schemas.catalog import Model, Spec
from stoker.schemas.job_events import Cancelled
from stoker.schemas.jobs import CompletionInput, Job
from stoker.schemas.subjects import LEASES_BUCKET
from stoker.schemas.workers import (
    Accepted,
    Assignment,
    EngineCapability,
    Finished,
    Heartbeat,
    ResidentModel,
    RunningJob,
)
from stoker.services.bus.buckets import Bucket, open_bucket
from stoker.services.bus.connection import Bus, open_bus
from stoker.services.bus.streams import declare
from stoker.services.catalog import store
from stoker.services.process.embedded import embedded_server
from stoker.services.process.running import die_with_parent
from stoker.services.process.settings import BusSettings
from stoker.services.records.results import of_attempt, publish_terminal

SPEC = Spec("default", "text", "file:///x", memory_bytes=1)
COUNTS = (1_000, 10_000, 199_000)
STORE_AT_ONCE = 2_000
LIMIT_S = 120.0


class Worker:
    """Takes one job at a time and ends it after `RUN_S`; notes when each was given."""

    RUN_S = 0.02

    def __init__(self, bus: Bus) -> None:
        self.bus = bus
        self.began = time.time()
        self.seq = 0
        self.given: list[float] = []
        self.running: dict[str, RunningJob] = {}
        self.tasks: set[asyncio.Task[None]] = set()

    def beat(self) -> None:
        self.seq += 1
        engines = {"text": EngineCapability(1, 0, ("TextGeneration",))}
        models = (ResidentModel("m", "default", "text", "hot", 1),)
        heartbeat = Heartbeat(
            "w", self.began, self.seq, "", "", "cpu", "h", engines, 10**9, 1, models=models,
            vram_models=("m",), running=tuple(self.running.values()),
        )  # fmt: skip
        self.bus.tell(self.bus.subjects.heartbeat("w"), heartbeat)

    def take(self, assignment: Assignment) -> Accepted:
        job = assignment.job
        self.given.append(time.monotonic())
        self.running[job.id] = RunningJob(job.id, "m", "default", assignment.attempt, assignment.term)
        task = asyncio.get_running_loop().create_task(self._run(assignment))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        return Accepted(1)

    async def _run(self, assignment: Assignment) -> None:
        await asyncio.sleep(self.RUN_S)
        job = assignment.job
        event = Cancelled(job=job.id, model="m", created_at=job.created_at, finished_at=time.time())
        await publish_terminal(self.bus, of_attempt(self.bus, assignment), event)
        self.running.pop(job.id, None)
        told = Finished(job.id, "m", assignment.attempt, "completed", term=assignment.term, run_s=self.RUN_S)
        self.bus.tell(self.bus.subjects.finished("w"), told)

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        def on_assign(message: Msg) -> None:
            self.bus.tell(message.reply, self.take(wire.decode(Assignment, message.data)))

        async def beat() -> None:
            while True:
                self.beat()
                await asyncio.sleep(0.5)

        pairs = (
            (self.bus.subjects.worker("w", "assign"), on_assign),
            (self.bus.subjects.solicit(), lambda _: self.beat()),
        )
        async with self.bus.listening(*pairs):
            beating = asyncio.create_task(beat())
            try:
                yield
            finally:
                for task in (beating, *self.tasks):
                    task.cancel()


def scheduler(url: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-P", "-m", "stoker.services.scheduler", "--nats", url]
    return subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, preexec_fn=die_with_parent
    )


def job(number: int) -> Job:
    return Job(
        f"j{number}", "m", CompletionInput("x"), "gw", time.time(), admission_timeout_s=1e6, has_one_result=True
    )


async def submit(bus: Bus, count: int, first: int = 0) -> None:
    """So many jobs, numbered from `first`."""
    for start in range(first, first + count, STORE_AT_ONCE):
        jobs = [job(number) for number in range(start, min(start + STORE_AT_ONCE, first + count))]
        await asyncio.gather(
            *(bus.publish_stored(bus.subjects.job("m"), wire.encode(one), message_id=one.id) for one in jobs)
        )


async def measure(count: int) -> tuple[float, float]:
    """Seconds from the kill to the next assignment, and from the new leader's lease to it."""
    with tempfile.TemporaryDirectory() as folder:
        async with embedded_server(Path(folder)) as url, open_bus(BusSettings(nats=url), "bench") as bus:
            await declare(bus)
            await store.add(bus, [Model("m", ("TextGeneration",), (SPEC,))])
            await submit(bus, count)
            worker = Worker(bus)
            async with worker.serving():
                first = scheduler(url)
                second: subprocess.Popen[bytes] | None = None
                try:
                    await _until(lambda: len(worker.given) > 20)
                    second = scheduler(url)
                    await asyncio.sleep(3.0)
                    leases = await open_bucket(bus, LEASES_BUCKET)
                    killed_at = time.monotonic()
                    os.kill(first.pid, signal.SIGKILL)
                    await asyncio.sleep(0.1)  # what was on its way
                    before = len(worker.given)
                    led_at = await _led_since(leases, killed_at)
                    await _until(lambda: len(worker.given) > before)
                    next_at = worker.given[before]
                    return next_at - killed_at, next_at - led_at
                finally:
                    for one in filter(None, (first, second)):
                        one.kill()
                        one.wait()


async def _led_since(leases: Bucket, killed_at: float) -> float:
    """When another scheduler has the lease."""
    held = await leases.get("scheduler")
    while True:
        found = await leases.get("scheduler")
        if found is not None and held is not None and found.value != held.value:
            return time.monotonic()
        if time.monotonic() - killed_at > LIMIT_S:
            raise TimeoutError("nobody leads")
        await asyncio.sleep(0.005)


async def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError("the scheduler does not assign")
        await asyncio.sleep(0.005)


async def main(counts: Sequence[int]) -> list[str]:
    rows = ["| jobs in the queue | s from the kill to the next assignment | since the lease |", "|---|---|---|"]
    for count in counts:
        since_kill, since_lease = await measure(count)
        rows.append(f"| {count:,} | {since_kill:.2f} | {since_lease:.2f} |")
    return rows


if __name__ == "__main__":
    print("\n".join(uvloop.run(main(numbers(__doc__, COUNTS)))))

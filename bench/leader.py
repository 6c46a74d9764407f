"""How many jobs a second one leading scheduler carries, by the CPU that it takes for each.

    python -m bench.leader

The scheduler and the NATS server are real. Gateways and workers are scripted here, in one process: each job is
stored, assigned, ended at once with a stored end, told as finished, and acknowledged. So that the scheduler is
asked as it is under load, IN_FLIGHT jobs are under way at any time.
"""

import asyncio
import tempfile
import time
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import psutil
import uvloop
from nats.aio.msg import Msg

from bench.arguments import nothing
from bench.floor import server_process
from bench.takeover import scheduler
from stoker.schemas import wire
from stoker.schemas.catalog import Model, Spec
from stoker.schemas.job_events import Cancelled
from stoker.schemas.jobs import CompletionInput, Job
from stoker.schemas.subjects import ANY
from stoker.schemas.workers import Assignment, EngineCapability, Finished, Heartbeat, ResidentModel
from stoker.services.bus.connection import Bus, open_bus
from stoker.services.bus.errors import BusError
from stoker.services.bus.publishing import PubAck
from stoker.services.bus.streams import declare
from stoker.services.catalog import store
from stoker.services.process.embedded import embedded_server
from stoker.services.process.settings import BusSettings
from stoker.services.records.results import of_attempt, post_terminal

JOBS, WARM = 30_000, 3_000
IN_FLIGHT = 256
SLOTS = 64
SIZES = ((1, 1), (10, 10), (100, 50), (1_000, 50))
"""Workers, and models: each worker has one in memory."""
LIMIT_S = 180.0


class Fleet:
    """So many scripted workers, and what gateways do: IN_FLIGHT jobs are under way until all are done."""

    def __init__(self, bus: Bus, workers: int, models: int) -> None:
        self.bus = bus
        self.workers = [f"w{number}" for number in range(workers)]
        self.models = [f"m{number}" for number in range(models)]
        self.done = asyncio.Event()
        self._began = time.time()
        self._seq = 0
        self._left_to_end = self._left_to_store = 0
        self._next = 0

    def beat(self) -> None:
        self._seq += 1
        engines = {"text": EngineCapability(SLOTS, 0, ("TextGeneration",))}
        for number, worker in enumerate(self.workers):
            model = self.models[number % len(self.models)]
            hot = ResidentModel(model, "default", "text", "hot", 1)
            heartbeat = Heartbeat(
                worker, self._began, self._seq, "", "", "cpu", "h", engines, 10**9, 1, models=(hot,),
                vram_models=(model,), running=(),
            )  # fmt: skip
            self.bus.tell(self.bus.subjects.heartbeat(worker), heartbeat)

    async def beat_always(self) -> None:
        while True:
            self.beat()
            await asyncio.sleep(1.0)

    def serving(self) -> AbstractAsyncContextManager[None]:
        subjects = self.bus.subjects
        return self.bus.listening((subjects.every("worker", ANY, "assign"), self._assigned))

    async def carry(self, count: int) -> None:
        """Store so many jobs, no more than IN_FLIGHT ahead of their ends, and wait until all have ended."""
        self._left_to_end = self._left_to_store = count
        self.done.clear()
        for _ in range(min(IN_FLIGHT, count)):
            self._store()
        await asyncio.wait_for(self.done.wait(), LIMIT_S)

    def _store(self) -> None:
        if not self._left_to_store:
            return
        self._left_to_store -= 1
        self._next += 1
        model = self.models[self._next % len(self.models)]
        job = Job(f"j{self._next}", model, CompletionInput("x"), "gw", time.time(), has_one_result=True)
        self.bus.post_stored(self.bus.subjects.job(model), wire.encode(job), _must_be_stored, message_id=job.id)

    def _assigned(self, message: Msg) -> None:
        assignment: Assignment = wire.decode(Assignment, message.data)
        worker, job = message.subject.split(".")[2], assignment.job
        event = Cancelled(job=job.id, model=job.model, created_at=job.created_at, finished_at=time.time())

        def stored(found: PubAck | BusError) -> None:
            _must_be_stored(found)
            finished = Finished(
                job.id, job.model, assignment.attempt, "completed", term=assignment.term, run_s=0.01
            )
            self.bus.tell(self.bus.subjects.finished(worker), finished)
            self._left_to_end -= 1
            self._store()
            if not self._left_to_end:
                self.done.set()

        post_terminal(self.bus, of_attempt(self.bus, assignment), event, [], stored)


def _must_be_stored(found: PubAck | BusError) -> None:
    if isinstance(found, BusError):
        raise found


def _cpu_s(processes: Sequence[psutil.Process]) -> list[float]:
    return [sum(process.cpu_times()[:2]) for process in processes]


async def row(workers: int, models: int) -> str:
    with tempfile.TemporaryDirectory() as folder:
        async with embedded_server(Path(folder)) as url, open_bus(BusSettings(nats=url), "bench") as bus:
            await declare(bus)
            spec = Spec("default", "text", "file:///x", memory_bytes=1, slots=SLOTS)
            fleet = Fleet(bus, workers, models)
            await store.add(bus, [Model(name, ("TextGeneration",), (spec,)) for name in fleet.models])
            leader = scheduler(url)
            beating = asyncio.create_task(fleet.beat_always())
            try:
                async with fleet.serving():
                    await fleet.carry(WARM)
                    measured = [psutil.Process(leader.pid), server_process(Path(folder))]
                    before, began = _cpu_s(measured), time.perf_counter()
                    await fleet.carry(JOBS)
                    seconds = time.perf_counter() - began
                    ours, nats = (
                        1e6 * (now - then) / JOBS for now, then in zip(_cpu_s(measured), before, strict=True)
                    )
            finally:
                beating.cancel()
                leader.kill()
                leader.wait()
    return f"| {workers:,} | {models} | {JOBS / seconds:,.0f} | {ours:.0f} | {1e6 / ours:,.0f} | {nats:.0f} |"


def report() -> list[str]:
    return [
        "| workers | models | jobs/s here | scheduler, CPU µs each | jobs/s of a core | NATS, CPU µs each |",
        "|---|---|---|---|---|---|",
        *(uvloop.run(row(workers, models)) for workers, models in SIZES),
    ]


if __name__ == "__main__":
    nothing(__doc__)
    print("\n".join(report()))

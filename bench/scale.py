"""Long and wide: how memory and times grow with open streams, with jobs that wait, and with kept results.

    python -m bench.scale                       # all, four sizes each
    python -m bench.scale jobs 25000 199000

Open streams are in open_streams.py, heartbeats in heartbeats.py.
"""

import argparse
import asyncio
import tempfile
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import uvloop

from bench import heartbeats, open_streams
from bench.arguments import positive
from bench.takeover import SPEC, Worker, scheduler, submit
from stoker.schemas import wire
from stoker.schemas.catalog import Model
from stoker.schemas.fleet import JobQuery, JobsPage, JobsQuery, JobView
from stoker.schemas.job_events import Completed, TextOutput
from stoker.schemas.openai import Usage
from stoker.services.bus.connection import Bus, open_bus
from stoker.services.bus.errors import BusError
from stoker.services.bus.streams import declare
from stoker.services.catalog import store
from stoker.services.process.embedded import embedded_server
from stoker.services.process.settings import BusSettings

JOB_SIZES = (25_000, 50_000, 100_000, 199_000)
RESULT_SIZES = (125_000, 250_000, 500_000, 1_000_000)
AT_ONCE = 5000
PATIENCE_S = 120.0


async def _with_bus(work: Callable[[Bus, str], Coroutine[Any, Any, str]]) -> str:
    with tempfile.TemporaryDirectory() as folder:
        async with embedded_server(Path(folder)) as url, open_bus(BusSettings(nats=url), "bench") as bus:
            await declare(bus)
            return await work(bus, url)


async def _jobs(bus: Bus, url: str, count: int) -> str:
    """One scheduler, one worker with one slot."""
    await store.add(bus, [Model("m", ("TextGeneration",), (SPEC,))])
    worker = Worker(bus)
    async with worker.serving():
        process = scheduler(url)
        try:
            await submit(bus, 1)
            await _until(lambda: worker.given)
            empty = psutil.Process(process.pid).memory_info().rss
            began = time.monotonic()
            await submit(bus, count, first=1)
            stored_s = time.monotonic() - began
            await _in_books(bus, f"j{count}")
            full = psutil.Process(process.pid).memory_info().rss
            began = time.monotonic()
            page: JobsPage = await bus.ask(bus.subjects.scheduler("jobs"), JobsQuery(limit=100), JobsPage, 30.0)
            listed_s = time.monotonic() - began
        finally:
            process.kill()
            process.wait()
    assert len(page.jobs) == 100
    return (
        f"| {count:,} | {count / stored_s:,.0f} | {(full - empty) / count / 1000:.2f} | {1000 * listed_s:.0f} |"
    )


def jobs(sizes: tuple[int, ...] = JOB_SIZES) -> list[str]:
    rows = [
        "| jobs that wait | stored a second | kB of the scheduler each | a page of 100 ms |",
        "|---|---|---|---|",
    ]
    for count in sizes:
        rows.append(uvloop.run(_with_bus(partial(_jobs, count=count))))
        print(rows[-1], flush=True)
    return rows


async def _results(bus: Bus, url: str, count: int) -> str:
    """Results as workers store them; a scheduler is started, and a gateway's lookup is made."""
    began = time.monotonic()
    for start in range(0, count, AT_ONCE):
        await asyncio.gather(*(_store(bus, number) for number in range(start, min(start + AT_ONCE, count))))
    stored_s = time.monotonic() - began
    info = await bus.jetstream.stream_info("STOKER_RESULTS")
    await store.add(bus, [Model("m", ("TextGeneration",), (SPEC,))])
    worker = Worker(bus)
    async with worker.serving():
        began = time.monotonic()
        process = scheduler(url)
        try:
            await submit(bus, 1, first=count)
            await _until(lambda: worker.given)
            started_s = time.monotonic() - began
        finally:
            process.kill()
            process.wait()
    began = time.monotonic()
    lookups = 200
    for number in range(lookups):
        await bus.jetstream.get_last_msg(
            "STOKER_RESULTS", bus.subjects.result(f"r{number * (count // lookups)}")
        )
    looked_s = (time.monotonic() - began) / lookups
    return (
        f"| {count:,} | {count / stored_s:,.0f} | {(info.state.bytes or 0) / count:,.0f} | {started_s:.2f} "
        f"| {1000 * looked_s:.2f} |"
    )


async def _store(bus: Bus, number: int) -> None:
    output = TextOutput("x" * 200, "stop", Usage(10, 50, 60))
    event = Completed(job=f"r{number}", model="m", created_at=1.0, finished_at=2.0, output=output)
    await bus.publish_stored(bus.subjects.result(event.job), wire.encode(event))


def results(sizes: tuple[int, ...] = RESULT_SIZES) -> list[str]:
    rows = [
        "| results kept | stored a second | bytes each | s from a scheduler's start to its first assignment "
        "| a lookup ms |",
        "|---|---|---|---|---|",
    ]
    for count in sizes:
        rows.append(uvloop.run(_with_bus(partial(_results, count=count))))
        print(rows[-1], flush=True)
    return rows


async def _in_books(bus: Bus, job: str) -> None:
    """Wait until the scheduler has taken in a job."""
    subject = bus.subjects.scheduler("job")
    deadline = time.monotonic() + PATIENCE_S
    while True:
        with suppress(BusError):  # nobody leads just now
            if await bus.ask(subject, JobQuery(job), JobView | None, 5.0) is not None:
                return
        if time.monotonic() > deadline:
            raise TimeoutError(f"{job} is not in the scheduler's books")
        await asyncio.sleep(0.05)


async def _until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError("the scheduler does not assign")
        await asyncio.sleep(0.005)


PARTS: dict[str, Callable[..., list[str]]] = {
    "streams": open_streams.report,
    "heartbeats": heartbeats.report,
    "jobs": jobs,
    "results": results,
}


def report() -> dict[str, list[str]]:
    return {name: part() for name, part in PARTS.items()}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", nargs="?", choices=PARTS)
    parser.add_argument("size", nargs="*", type=positive, help="of the part, one row each")
    given = parser.parse_args()
    if given.part:
        print("\n".join(PARTS[given.part](*filter(None, [tuple(given.size)]))))
    else:
        print("\n\n".join("\n".join(rows) for rows in report().values()))

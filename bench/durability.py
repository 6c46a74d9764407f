"""What it costs that an accepted job is on the disk: publications into the stream of jobs, by `sync_interval`.

python -m bench.durability
"""

import asyncio
import contextlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import uvloop

from bench.arguments import nothing
from stoker.schemas import wire
from stoker.schemas.jobs import CompletionInput, Job
from stoker.services.bus.connection import Bus, open_bus
from stoker.services.bus.streams import declare
from stoker.services.process.embedded import find_binary, free_port
from stoker.services.process.running import die_with_parent
from stoker.services.process.settings import BusSettings

SETTINGS = {"2 minutes (the default of NATS)": "2m", "1 s (ours)": "1s", "always": "always"}
AT_ONCE, SECONDS, ROUNDS = 64, 3.0, 3


@contextlib.contextmanager
def server(folder: Path, sync: str) -> Iterator[str]:
    port = free_port()
    config = folder / "nats.conf"
    config.write_text(
        f'listen: "127.0.0.1:{port}"\njetstream {{ store_dir: "{folder}/js", sync_interval: {sync} }}\n'
    )
    process = subprocess.Popen(
        [find_binary(), "-c", str(config)], stderr=subprocess.DEVNULL, preexec_fn=die_with_parent
    )
    try:
        yield f"nats://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


async def rates(bus: Bus) -> tuple[float, float]:
    """Jobs stored a second with `AT_ONCE` at a time, and milliseconds for one alone (median)."""
    payload = wire.encode(Job("j", "m", CompletionInput("x" * 500), "gw", time.time()))
    subject = bus.subjects.job("m")
    until = time.monotonic() + SECONDS
    stored = 0

    async def one() -> None:
        nonlocal stored
        while time.monotonic() < until:
            await bus.publish_stored(subject, payload)
            stored += 1

    await asyncio.gather(*(one() for _ in range(AT_ONCE)))
    alone: list[float] = []
    for _ in range(200):
        began = time.perf_counter()
        await bus.publish_stored(subject, payload)
        alone.append(time.perf_counter() - began)
    return stored / SECONDS, 1000 * statistics.median(alone)


async def measure(sync: str) -> tuple[float, float]:
    with tempfile.TemporaryDirectory() as name, server(Path(name), sync) as url:
        async with open_bus(BusSettings(nats=url), "bench") as bus:
            await declare(bus)
            return await rates(bus)


async def main() -> list[str]:
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in SETTINGS}
    for _ in range(ROUNDS):  # in turn: the machine changes
        for name, sync in SETTINGS.items():
            found[name].append(await measure(sync))
    first = statistics.median(rate for rate, _ in next(iter(found.values())))
    rows = [
        "| sync_interval | jobs stored/s | of the default | scatter | one alone, ms |",
        "|---|---|---|---|---|",
    ]
    for name, runs in found.items():
        speeds = [rate for rate, _ in runs]
        rate, alone = statistics.median(speeds), statistics.median(ms for _, ms in runs)
        scatter = max(speeds) / min(speeds)
        rows.append(f"| {name} | {rate:,.0f} | {rate / first:.2f} | {scatter:.2f} | {alone:.2f} |")
    return rows


if __name__ == "__main__":
    nothing(__doc__)
    print("\n".join(uvloop.run(main())), file=sys.stdout)

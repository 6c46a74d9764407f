"""A system under steady mixed traffic for as long as you like: memory, descriptors and streams over time.

python -m bench.soak --minutes 60

The traffic is that of `stoker chaos` without any fault: answers that are waited for, streams that are cut and
go on, jobs, repeats, cancels, clients that leave. What is compared is the median of the second quarter of the
run with that of the last: by then caches and bounded books are full. `STOKER_RESULTS` keeps the ends of the
last hour, so it grows for an hour by design, and the server's memory with it.
"""

import argparse
import asyncio
import statistics
from collections import defaultdict

from bench.system import Running, running
from stoker.chaos.ledger import Ledger
from stoker.chaos.run import prompts_of
from stoker.chaos.traffic import Traffic, learn
from stoker.schemas.catalog import Model
from stoker.services.bus.connection import Bus, open_bus
from stoker.services.process.settings import BusSettings
from stoker.services.process.tasks import together

CONFIG = """\
models:
  echo: {engine: synthetic, options: {tokens: 16}}
  slow: {engine: synthetic, options: {token_interval_s: 0.02}, slots: 8}
workers:
  - {count: 2, engines: [synthetic]}
"""
CLIENTS = 8
PACE_S = 0.2
SAMPLE_EVERY_S = 15.0

Samples = dict[str, list[float]]


async def sample(system: Running, bus: Bus, into: Samples) -> None:
    """One more figure of everything."""
    for name, process in system.processes().items():
        into[f"{name}, MB"].append(process.memory_info().rss / 1e6)
        into[f"{name}, descriptors"].append(process.num_fds())
    for info in await bus.jetstream.streams_info():
        into[f"{info.config.name}, messages"].append(info.state.messages)
        into[f"{info.config.name}, kB"].append(info.state.bytes / 1e3)


async def soak(system: Running, nats: str, seconds: float) -> tuple[Samples, Ledger]:
    """Traffic for so long; the samples that were taken, and what the clients were told."""
    loop = asyncio.get_running_loop()
    url = f"http://127.0.0.1:{system.port}"
    models = [Model(name, ("TextGeneration",), ()) for name in ("echo", "slow")]
    traffic = Traffic([url], await learn(url, prompts_of(models)), Ledger(), 1, loop.time(), pace_s=PACE_S)
    samples: Samples = defaultdict(list)

    async def watch() -> None:
        async with open_bus(BusSettings(nats=nats), "soak") as bus:
            while traffic.now() < seconds:
                await asyncio.sleep(SAMPLE_EVERY_S)
                await sample(system, bus, samples)
        traffic.is_over.set()

    await together((watch, lambda: traffic.run(CLIENTS)))
    return samples, traffic.ledger


def table(samples: Samples, seconds: float, ledger: Ledger) -> list[str]:
    """What changed between the second quarter and the last one, the largest change first."""
    rows = []
    for name, values in samples.items():
        quarter = max(len(values) // 4, 1)
        early = statistics.median(values[quarter : 2 * quarter] or values)
        late = statistics.median(values[-quarter:])
        rows.append((late / early if early else float(late > 0), name, early, late))
    lines = [
        f"{seconds / 60:.0f} minutes, {ledger.requests} requests, {len(ledger.jobs)} jobs; "
        f"{len(ledger.refusals)} refusals.",
        "",
        "| | second quarter | last quarter | ratio |",
        "|---|---|---|---|",
    ]
    return lines + [
        f"| {name} | {early:,.1f} | {late:,.1f} | {ratio:.3f} |"
        for ratio, name, early, late in sorted(rows, reverse=True)
    ]


def report(minutes: float) -> list[str]:
    with running(CONFIG) as system:
        nats = (system.data / "nats.url").read_text()
        samples, ledger = asyncio.run(soak(system, nats, minutes * 60))
    return table(samples, minutes * 60, ledger)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, default=60.0)
    print("\n".join(report(parser.parse_args().minutes)))

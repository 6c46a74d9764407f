"""What heartbeats of many workers with many models cost those who read them.

    python -m bench.heartbeats                       # 125 to 1,000 workers of 500 models each
    python -m bench.heartbeats --whole 125 1000      # all of it, each second, as the version before says it
    python -m bench.heartbeats --every 60 1000       # all of it each minute

Made-up workers: one process posts what real ones would, each second, a running job, memory and processor time
different each time; a model changes its tier now and then. Scheduler, gateway and autoscaler are real.
"""

import argparse
import asyncio
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import msgspec
import psutil
import uvloop
from nats.aio.msg import Msg

from bench.takeover import SPEC
from stoker.schemas import wire
from stoker.schemas.catalog import Model
from stoker.schemas.heartbeats import FULL_EVERY_S, HeartbeatChange, Solicitation, in_tiers
from stoker.schemas.subjects import last_name
from stoker.schemas.workers import EngineCapability, Heartbeat, ResidentModel, Resources, RunningJob
from stoker.services.bus.connection import Bus, open_bus
from stoker.services.bus.streams import declare
from stoker.services.catalog import store
from stoker.services.process.embedded import embedded_server, free_port
from stoker.services.process.running import die_with_parent
from stoker.services.process.settings import BusSettings
from stoker.services.worker.saying import Saying

SIZES = (125, 250, 500, 1000)
MODELS = 500
WARM_UP_S, SECONDS, TICK_S = 10.0, 20.0, 0.01
CHANGES_EACH_S = 10
"""After so many heartbeats of a worker another of its models is hot."""
READY_S = 60.0

HEAD = [
    "| workers of 500 models | bytes a worker and second | of them whole | heartbeats/s "
    "| CPU %: scheduler, gateway, autoscaler, NATS | the generator | workers that the gateway knows |",
    "|---|---|---|---|---|---|---|",
]
RESIDENT = tuple(
    ResidentModel(f"model-{number}", "default", "text", "warm", 4_000_000_000, path=f"/models/{number}.gguf")
    for number in range(MODELS)
)


class Worker:
    """One that is made up."""

    def __init__(self, number: int, full_every_s: float) -> None:
        self.name = f"worker-{number}"
        self.saying = Saying(full_every_s)
        self._seq = 0
        self._began = time.time()

    def beat(self) -> Heartbeat:
        self._seq += 1
        hot = self._seq // CHANGES_EACH_S % MODELS
        models = (
            *RESIDENT[:hot],
            msgspec.structs.replace(RESIDENT[hot], tier="hot", load_s=1.5),
            *RESIDENT[hot + 1 :],
        )
        return Heartbeat(
            worker=self.name,
            started_at=self._began,
            seq=self._seq,
            spec="",
            profile="",
            device="cuda",
            host="host",
            engines={"text": EngineCapability(8, 2, ("TextGeneration",))},
            memory_total_bytes=80_000_000_000,
            memory_used_bytes=4_000_000_000,
            models=models,
            **in_tiers(models),
            running=(RunningJob(f"{self.name}-{self._seq // 3}", models[hot].model, "default", 1, 1),),
            rss_bytes=1_000_000_000 + 4096 * self._seq,
            resources=Resources(cpu_percent=self._seq % 100, rss_bytes=10**9),
            may_change=self.saying.waits,
        )


class Generator:
    """Says what all workers say. whole: none of them is told that it may say changes only."""

    def __init__(self, bus: Bus, count: int, full_every_s: float, *, whole: bool) -> None:
        self._bus = bus
        self._workers = {one.name: one for one in (Worker(number, full_every_s) for number in range(count))}
        self._whole = whole
        self._next = 0
        self.said = self.bytes = self.whole_said = 0

    def solicited(self, message: Msg) -> None:
        asked = Solicitation(None) if self._whole else wire.decode(Solicitation, message.data)
        name = last_name(message.subject)
        for worker in [self._workers[name]] if name in self._workers else self._workers.values():
            worker.saying.solicited(asked)

    def _say(self, worker: Worker) -> None:
        kind, said = worker.saying.next(worker.beat(), time.monotonic())
        subjects = self._bus.subjects
        self._bus.post(
            subjects.change(worker.name) if kind is HeartbeatChange else subjects.heartbeat(worker.name), said
        )
        self.said += 1
        self.bytes += len(said)
        self.whole_said += kind is Heartbeat

    async def run(self, seconds: float) -> None:
        """Each worker once a second, one after the other."""
        workers = list(self._workers.values())
        began, done = time.monotonic(), 0
        while (passed := time.monotonic() - began) < seconds:
            while done < passed * len(workers):
                self._say(workers[done % len(workers)])
                done += 1
            await asyncio.sleep(TICK_S)


@contextmanager
def services(url: str, port: int) -> Iterator[dict[str, psutil.Process]]:
    with ExitStack() as running:
        found: dict[str, psutil.Process] = {}
        for name, more in (("scheduler", []), ("gateway", ["--port", str(port)]), ("autoscaler", [])):
            command = [sys.executable, "-P", "-m", f"stoker.services.{name}", "--nats", url, *more]
            process = subprocess.Popen(
                command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, preexec_fn=die_with_parent
            )
            running.callback(process.wait)
            running.callback(process.kill)
            found[name] = psutil.Process(process.pid)
        yield found


async def _ready(port: int) -> None:
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
        deadline = time.monotonic() + READY_S
        while True:
            try:
                if (await client.get("/health/ready")).status_code == 200:
                    return
            except httpx.HTTPError:
                pass
            if time.monotonic() > deadline:
                raise TimeoutError("the gateway is not ready")
            await asyncio.sleep(0.1)


async def _known(port: int) -> int:
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=120) as client:
        return len((await client.get("/v1/fleet")).json()["workers"])


async def measured(count: int, full_every_s: float, *, whole: bool) -> str:
    """The row of so many workers."""
    with tempfile.TemporaryDirectory() as folder:
        async with embedded_server(Path(folder)) as url, open_bus(BusSettings(nats=url), "bench") as bus:
            await declare(bus)
            await store.add(bus, [Model("m", ("TextGeneration",), (SPEC,))])
            generator = Generator(bus, count, full_every_s, whole=whole)
            port = free_port()
            heard = (
                (subject, generator.solicited)
                for subject in (bus.subjects.solicit(), f"{bus.subjects.solicit()}.*")
            )
            with services(url, port) as processes:
                processes["nats"] = psutil.Process(int((Path(folder) / "nats" / "pid").read_text()))
                processes["generator"] = psutil.Process()
                async with bus.listening(*heard):
                    await _ready(port)
                    await generator.run(WARM_UP_S)
                    generator.said = generator.bytes = generator.whole_said = 0
                    before = {name: sum(one.cpu_times()[:2]) for name, one in processes.items()}
                    await generator.run(SECONDS)
                    spent = {
                        name: 100 * (sum(one.cpu_times()[:2]) - before[name]) / SECONDS
                        for name, one in processes.items()
                    }
                    known = await _known(port)
    whole_share = generator.whole_said / generator.said
    shares = ", ".join(f"{spent[name]:.0f}" for name in ("scheduler", "gateway", "autoscaler", "nats"))
    return (
        f"| {count:,} | {generator.bytes / count / SECONDS:,.0f} | {100 * whole_share:.0f} % "
        f"| {generator.said / SECONDS:,.0f} | {shares} | {spent['generator']:.0f} | {known:,} |"
    )


def report(
    sizes: tuple[int, ...] = SIZES, full_every_s: float = FULL_EVERY_S, *, whole: bool = False
) -> list[str]:
    rows = list(HEAD)
    for count in sizes:
        rows.append(uvloop.run(measured(count, full_every_s, whole=whole)))
        print(rows[-1], flush=True)
    return rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sizes", type=int, nargs="*")
    parser.add_argument("--whole", action="store_true", help="nobody reads changes")
    parser.add_argument("--every", type=float, default=FULL_EVERY_S, help="seconds between whole ones")
    given = parser.parse_args()
    print("\n".join(report(tuple(given.sizes) or SIZES, given.every, whole=given.whole)))

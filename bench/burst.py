"""A burst on a real system beside the simulation of the same requests: loads, utilisation, how fast it drains.

python -m bench.burst

Eight workers of the `synthetic` engine, each with room for one of twelve models, are asked for half as much
again as they can do, for 40 s. The same requests are simulated with the world of `stoker simulate`: at the same
times, with loads as long as the engine takes for them.
"""

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import httpx

from bench.arguments import nothing
from bench.system import running
from stoker.simulation.making import plan
from stoker.simulation.policies import POLICIES
from stoker.simulation.scenario import GB, Arrivals, Ask, NamedModel, Scenario, Workers
from stoker.simulation.worker import FIXED_S
from stoker.simulation.world import BEGAN_AT, World

WORKERS, MODELS, ZIPF = 8, 12, 0.8
LOAD_S, TOKEN_S, TOKENS = 2.0, 0.01, (64, 128, 192)
OVERLOAD, BURST_S = 1.5, 40.0
MODEL_BYTES, WORKER_BYTES = 4 * GB, 5 * GB
DRAINED_S = 300.0


@dataclass(frozen=True)
class Result:
    """utilisation: of all workers while something waited. drain: device seconds a second after the burst."""

    loads_per_job: float
    utilisation: float
    drain: float
    mean_s: float
    p99_s: float


@dataclass(frozen=True)
class Served:
    """One request: seconds since the beginning."""

    at: float
    began: float
    ended: float


def asks(seed: int = 1) -> list[Ask]:
    """The requests of the burst."""
    chance = random.Random(seed)
    weights = [(rank + 1) ** -ZIPF for rank in range(MODELS)]
    rate = OVERLOAD * WORKERS / (sum(TOKENS) / len(TOKENS) * TOKEN_S)
    found: list[Ask] = []
    at = chance.expovariate(rate)
    while at < BURST_S:
        [model] = chance.choices(range(MODELS), weights)
        found.append(Ask(at, f"m{model}", max_tokens=chance.choice(TOKENS)))
        at += chance.expovariate(rate)
    return found


def judged(served: Sequence[Served], loads: int) -> Result:
    last_asked = max(one.at for one in served)
    end = max(one.ended for one in served)
    busy_s = sum(one.ended - one.began for one in served)
    drained_s = sum(max(one.ended - max(one.began, last_asked), 0.0) for one in served)
    times = sorted(one.ended - one.at for one in served)
    return Result(
        loads_per_job=loads / len(served),
        utilisation=busy_s / (WORKERS * end),
        drain=drained_s / (end - last_asked),
        mean_s=sum(times) / len(times),
        p99_s=times[int(len(times) * 0.99)],
    )


def simulated(requests: Sequence[Ask]) -> Result:
    """What the production scheduler does in virtual time."""
    disk = MODEL_BYTES / GB / (LOAD_S - FIXED_S["warm"])
    models = tuple(
        NamedModel(f"m{number}", "llamacpp", MODEL_BYTES / GB, TOKEN_S, slots=1) for number in range(MODELS)
    )
    workers = Workers(WORKERS, memory_gb=WORKER_BYTES / GB, ram_gb=0.0, disk_gb_per_s=disk)
    world = World(
        plan(Scenario("burst", (workers,), models, Arrivals(1, rate=1.0)), 1, requests), POLICIES["stoker"]()
    )
    world.run()
    served = [
        Served(job.at - BEGAN_AT, job.started_at - BEGAN_AT, job.ended_at - BEGAN_AT) for job in world.plan.jobs
    ]
    return judged(served, sum(sum(worker.loads.values()) for worker in world.everyone()))


def configuration() -> str:
    options = f"{{load_s: {LOAD_S}, memory_bytes: {MODEL_BYTES}, token_interval_s: {TOKEN_S}, burst: 16}}"
    lines = [
        f"  m{number}: {{engine: synthetic, slots: 1, memory: {MODEL_BYTES}, options: {options}}}"
        for number in range(MODELS)
    ]
    group = f"  - {{count: {WORKERS}, engines: [synthetic], memory: {WORKER_BYTES}, ram: 0}}"
    return "\n".join(["models:", *lines, "workers:", group, ""])


def real(requests: Sequence[Ask]) -> Result:
    """The same on a system of eight workers."""
    with running(configuration()) as system:
        url = f"http://127.0.0.1:{system.port}"
        with httpx.Client(base_url=url, timeout=60) as client:
            while sum(bool(one["engines"]) for one in _fleet(client)["workers"]) < WORKERS:
                time.sleep(0.2)
            began = time.time()
            jobs: list[str] = []
            for ask in requests:
                time.sleep(max(began + ask.at - time.time(), 0.0))
                body = {"model": ask.model, "input": {"prompt": "x", "max_tokens": ask.max_tokens}}
                jobs.append(client.post("/v1/jobs", json=body).raise_for_status().json()["id"])
            served = [_served(client, job, began) for job in jobs]
            events = client.get("/v1/events", params={"limit": 1000}).json()["events"]
            loads = sum("is loaded for" in event["reason"] for event in events)
    return judged(served, loads)


def _fleet(client: httpx.Client) -> Any:
    return client.get("/v1/fleet").json()


def _served(client: httpx.Client, job: str, began: float) -> Served:
    deadline = time.monotonic() + DRAINED_S
    while time.monotonic() < deadline:
        found = client.get(f"/v1/jobs/{job}").json()
        if found.get("finished_at"):
            ended = found["finished_at"] - began
            return Served(found["created_at"] - began, ended - found["timings"]["run_s"], ended)
        time.sleep(0.5)
    raise TimeoutError(f"the job {job} has not ended within {DRAINED_S:g} s")


def report() -> list[str]:
    requests = asks()
    lines = [
        "| | loads a job | utilisation | drain, device seconds a second | mean s | p99 s |",
        "|---" * 6 + "|",
    ]
    for name, found in (("real", real(requests)), ("simulated", simulated(requests))):
        cells = (found.loads_per_job, found.utilisation, found.drain, found.mean_s, found.p99_s)
        lines.append(f"| {name} | {' | '.join(f'{cell:.2f}' for cell in cells)} |")
    return lines


if __name__ == "__main__":
    nothing(__doc__)
    print("\n".join(report()))

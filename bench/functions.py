"""Functions: how many calls find their model hot, and calls a second of one that does nothing.

Three workers and three checkpoints, one fits per worker; 300 calls, keys drawn from a Zipf law, four callers:
the loads that really happened, against what round-robin and least load would have done with the same trace.

python -m bench.functions
"""

import random
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import uvloop

from bench.arguments import nothing
from bench.client import drive
from bench.system import running

KEYS = ("base", "turbo", "dream")
CALLS = 300
CALLERS = 4
RUN_S = 0.02
SETTLED_AFTER = 30
PROJECT = """\
import time
from pathlib import Path
from typing import Annotated
import msgspec
from stoker import ActionContext, ModelRef, ResourceRequirements, Src, register_loader, worker_function

class Checkpoint:
    pass

def load(path: Path) -> Checkpoint:
    time.sleep(0.2)
    return Checkpoint()

register_loader(Checkpoint, load)

class Ask(msgspec.Struct):
    model_key: str

class Drawn(msgspec.Struct):
    model_key: str

@worker_function(ResourceRequirements(vram="600MB"))
def draw(
    ctx: ActionContext,
    model: Annotated[Checkpoint, ModelRef(Src.PAYLOAD, "model_key")],
    payload: Ask,
) -> Drawn:
    time.sleep(RUN_S)
    return Drawn(payload.model_key)
""".replace("RUN_S", str(RUN_S))
TRIVIAL = """\
import msgspec
from stoker import ActionContext, ResourceRequirements, worker_function

class Ask(msgspec.Struct):
    text: str

@worker_function(ResourceRequirements(concurrency=256))
async def echo(ctx: ActionContext, payload: Ask) -> Ask:
    return payload
"""
CONFIG = "workers: [{count: 3, memory: 1GB, engines: [function]}]\n"


def trace(seed: int = 1) -> list[str]:
    """Keys of the calls, Zipf with exponent 1."""
    weights = [1 / rank for rank in range(1, len(KEYS) + 1)]
    return random.Random(seed).choices(KEYS, weights, k=CALLS)


def simulated(keys: Sequence[str], *, by_load: bool) -> int:
    """Loads with one model per worker, placing round-robin or on the worker that is free first."""
    hot = ["", "", ""]
    free_at = [0.0, 0.0, 0.0]
    loads = 0
    for index, key in enumerate(keys):
        now = index * RUN_S / CALLERS
        worker = min(range(3), key=lambda one: (max(free_at[one], now), one)) if by_load else index % 3
        is_load = hot[worker] != key
        loads += is_load
        hot[worker] = key
        free_at[worker] = max(free_at[worker], now) + RUN_S + 0.2 * is_load
    return loads


async def throughput() -> list[str]:
    """Calls a second of a function that gives back what it is given."""
    rows = ["| calls of a trivial async function | calls/s | median ms | errors |", "|---|---|---|---|"]
    with tempfile.TemporaryDirectory() as folder:
        project = Path(folder)
        (project / "app.py").write_text(TRIVIAL)
        with running("workers: [{count: 1, engines: [function]}]", functions=project) as system:
            for connections in (1, 64):
                body = b'{"text": "x"}'
                await drive(system.port, "/v1/functions/echo", body, connections, 2.0)
                load = await drive(system.port, "/v1/functions/echo", body, connections, 5.0)
                median = load.percentile_ms(0.5)
                rows.append(
                    f"| {connections} connections | {load.per_second:,.0f} | {median:.2f} | {load.errors} |"
                )
    return rows


def report() -> list[str]:
    return [*affinity(), "", *uvloop.run(throughput())]


def affinity() -> list[str]:
    """Where the calls of a trace went, and how many had to wait for a load."""
    keys = trace()
    with tempfile.TemporaryDirectory() as folder:
        project = Path(folder)
        (project / "app.py").write_text(PROJECT)
        models = "".join(f'{key} = "file://./{key}"\n' for key in KEYS)
        (project / "pyproject.toml").write_text(f"[tool.stoker.models]\n{models}")
        for key in KEYS:
            (project / key).write_text("x")
        with running(CONFIG, functions=project) as system:
            url = f"http://127.0.0.1:{system.port}"
            with httpx.Client(base_url=url, timeout=60) as client, ThreadPoolExecutor(CALLERS) as pool:

                def call(key: str) -> str:
                    answer = client.post("/v1/functions/draw", json={"model_key": key})
                    answer.raise_for_status()
                    return answer.headers["x-job-id"]

                began = time.perf_counter()
                jobs = list(pool.map(call, keys))
                seconds = time.perf_counter() - began
                loads = [client.get(f"/v1/jobs/{job}").json()["timings"]["load_s"] > 0.1 for job in jobs]
                workers = client.get("/v1/fleet").json()["workers"]
    late = loads[SETTLED_AFTER:]
    table = ", ".join(f"{one['worker']} → {', '.join(one.get('vram_models', []))}" for one in workers)
    return [
        f"{CALLS} calls in {seconds:.1f} s; after the first {SETTLED_AFTER}, "
        f"{100 * (1 - sum(late) / len(late)):.1f} % found their model hot. At the end: {table}.",
        "",
        "| placement | calls that waited for a load |",
        "|---|---|",
        f"| Stoker | {sum(loads)} |",
        f"| round-robin, same trace | {simulated(keys, by_load=False)} |",
        f"| least load, same trace | {simulated(keys, by_load=True)} |",
    ]


if __name__ == "__main__":
    nothing(__doc__)
    print("\n".join(report()))

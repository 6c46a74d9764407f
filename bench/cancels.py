"""How long after a cancel the engine has stopped, and whether any other job noticed.

python -m bench.cancels

For each engine and state 100 jobs are brought into the state and cancelled, one by one; the time is from the
client's request to the job's stored end, which the worker writes when the engine has stopped. "left" is a
client that closes its connection while its answer streams. Beside them one job after the other runs on the
same model to its end: "others" of each row says how many did, and how many ended in another way.
"""

import asyncio
import itertools
import json
import statistics
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from bench.arguments import nothing
from bench.system import running
from stoker.services.process.tasks import TaskOwner

DEMO = Path(__file__).parents[1] / "examples" / "demo"
CONFIG = f"""\
models:
  synthetic: {{engine: synthetic, slots: 2, options: {{token_interval_s: 0.01}}}}
  loading: {{engine: synthetic, slots: 1, options: {{load_s: 20}}}}
  llama: {{engine: llamacpp, url: "file://{DEMO}/chat.gguf", slots: 2}}
  diffusers: {{engine: diffusers, url: "file://{DEMO}/image", slots: 1}}
workers:
  - {{count: 1, engines: [synthetic, llamacpp, diffusers], memory: 2GB}}
"""
COUNT = 100
RUN_FIRST = 10
"""Jobs in front of those that are cancelled while they are queued."""
LIMIT_S = 60.0
POLL_S = 0.005
ENDED = ("completed", "failed", "cancelled", "expired")
Answer = dict[str, Any]
_numbers = itertools.count()


def text(tokens: int) -> Answer:
    """That does not end before: what could end it is never chosen."""
    no_end = {str(token): -100 for token in range(4)}
    asked = {"messages": [{"role": "user", "content": "go on"}], "max_tokens": tokens}
    return asked | {"temperature": 1, "logit_bias": no_end}


def picture(steps: int, edge: int) -> Answer:
    return {"prompt": "a red circle", "num_inference_steps": steps, "width": edge, "height": edge}


LONG = {"synthetic": text(5000), "llama": text(250), "diffusers": picture(150, 128), "loading": text(5)}
SHORT = {"synthetic": text(5), "llama": text(5), "diffusers": picture(2, 64)}


@dataclass(slots=True)
class Row:
    """Cancels of one engine in one state. others: how jobs beside them ended, and how many."""

    engine: str
    state: str
    seconds: list[float] = field(default_factory=list)
    ends: dict[str, int] = field(default_factory=dict)
    others: dict[str, int] = field(default_factory=dict)

    def note(self, job: Answer, began: float) -> None:
        """A job has ended; it was cancelled at `began`, unless it ended before."""
        end = job["status"]
        self.ends[end] = self.ends.get(end, 0) + 1
        if end == "cancelled":
            self.seconds.append(job["finished_at"] - began)

    def line(self) -> str:
        found = sorted(self.seconds)
        p99 = found[min(int(len(found) * 0.99), len(found) - 1)] if found else 0.0
        median = statistics.median(found) if found else 0.0
        counts = [
            ", ".join(f"{count} {end}" for end, count in sorted(ends.items()))
            for ends in (self.ends, self.others)
        ]
        times = f"{1e3 * median:.0f} | {1e3 * p99:.0f}"
        return f"| {self.engine} | {self.state} | {counts[0]} | {times} | {counts[1]} |"


class Asking:
    """Requests to the system under measurement."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self.http = http

    async def submit(self, model: str, asked: Answer) -> str:
        job = f"cancel-{next(_numbers)}"
        answer = await self.http.put(f"/v1/jobs/{job}", json={"model": model, "input": asked})
        if answer.status_code >= 400:
            raise RuntimeError(f"{model}: {answer.text}")
        return job

    async def until(self, job: str, *statuses: str) -> Answer:
        """The job, once it has one of these statuses, or has ended."""
        async with asyncio.timeout(LIMIT_S):
            while True:
                found: Answer = (await self.http.get(f"/v1/jobs/{job}")).json()
                if found.get("status") in statuses or found.get("status") in ENDED:
                    return found
                await asyncio.sleep(POLL_S)

    async def cancel(self, job: str, row: Row) -> None:
        began = time.time()
        await self.http.delete(f"/v1/jobs/{job}")
        row.note(await self.until(job, *ENDED), began)

    async def leave(self, model: str, row: Row) -> None:
        """Begin to stream an answer, and close the connection."""
        body = {"model": model, "stream": True, **LONG[model]}
        async with self.http.stream("POST", "/v1/chat/completions", json=body) as answer:
            async for line in answer.aiter_lines():
                if line.startswith("data: "):
                    job = json.loads(line.removeprefix("data: "))["id"].partition("-")[2]
                    break
        began = time.time()
        row.note(await self.until(job, *ENDED), began)

    @asynccontextmanager
    async def others(self, model: str, row: Row) -> AsyncIterator[None]:
        """One short job of the model after the other, until the block ends."""
        is_over = False

        async def ask() -> None:
            while not is_over:
                end = (await self.until(await self.submit(model, SHORT[model]), *ENDED))["status"]
                row.others[end] = row.others.get(end, 0) + 1

        async with TaskOwner("others") as tasks:
            tasks.start(ask)
            yield
            is_over = True
            await asyncio.sleep(0)


async def measure(asking: Asking, engine: str, state: str, count: int) -> Row:
    row = Row(engine, state)
    match state:
        case "loading":
            jobs = [await asking.submit("loading", LONG["loading"]) for _ in range(count)]
            for job in jobs:
                await asking.cancel(job, row)
        case "queued":
            jobs = [await asking.submit(engine, LONG[engine]) for _ in range(count + RUN_FIRST)]
            for job in reversed(jobs):
                await asking.cancel(job, row if job in jobs[RUN_FIRST:] else Row("", ""))
        case "running":
            async with asking.others(engine, row):
                for _ in range(count):
                    job = await asking.submit(engine, LONG[engine])
                    await asking.until(job, "running")
                    await asking.cancel(job, row)
        case "ending":
            async with asking.others(engine, row):
                for number in range(count):
                    job = await asking.submit(engine, SHORT[engine])
                    await asyncio.sleep(0.001 * (number % 60))
                    await asking.cancel(job, row)
        case "left":
            async with asking.others(engine, row):
                for _ in range(count):
                    await asking.leave(engine, row)
    return row


async def measure_all(url: str, count: int) -> list[Row]:
    async with httpx.AsyncClient(base_url=url, timeout=LIMIT_S) as http:
        asking = Asking(http)
        rows = []
        for engine in SHORT:
            await asking.until(await asking.submit(engine, SHORT[engine]), *ENDED)
            for state in ("queued", "running", "ending", "left"):
                if engine != "diffusers" or state != "left":
                    rows.append(await measure(asking, engine, state, count))
        rows.append(await measure(asking, "synthetic", "loading", count))
        return rows


def report(count: int = COUNT) -> list[str]:
    with running(CONFIG) as system:
        rows = asyncio.run(measure_all(f"http://127.0.0.1:{system.port}", count))
    opening = ["| engine | state | ends | median ms | p99 ms | others |", "|---|---|---|---|---|---|"]
    return opening + [row.line() for row in rows]


if __name__ == "__main__":
    nothing(__doc__)
    print("\n".join(report()))

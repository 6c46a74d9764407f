"""Any bytes on any subject: no service ends, and every model answers afterwards."""

import asyncio
import time
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from nats.aio.msg import Msg

from stoker.schemas.subjects import CATALOG_BUCKET, REPLICAS_BUCKET
from stoker.services.bus.connection import Bus, open_bus
from stoker.services.process.settings import BusSettings
from tests.conftest import System
from tests.security.fuzzing import Fuzzer, Message
from tests.waiting import eventually

CONFIG = """\
models:
  echo: {engine: synthetic, slots: 4}
  other: {engine: synthetic}
workers:
  - {count: 2, engines: [synthetic]}
"""
TOGETHER = 500
CALM_S = 5.0
ANSWERS_WITHIN_S = 2.0
SLOW = (pytest.mark.slow, pytest.mark.timeout(3600))


async def ask(http: httpx.AsyncClient, model: str) -> httpx.Response:
    return await http.post("/v1/completions", json={"model": model, "prompt": "x", "max_tokens": 3})


async def recorded(bus: Bus, http: httpx.AsyncClient) -> list[Message]:
    """Messages of every kind, as they come while requests are served."""
    heard: dict[str, Message] = {}

    def hear(message: Msg) -> None:
        if message.data:
            heard.setdefault(
                message.subject, Message(message.subject, message.data, dict(message.headers or {}))
            )

    async with bus.listening(("stoker.>", hear), ("$KV.>", hear)):
        await bus.client.flush()
        for number in range(3):
            await ask(http, "echo")
            body: dict[str, Any] = {"model": "other", "input": {"prompt": "x"}}
            await http.put(f"/v1/jobs/j{number}", json=body)
            await http.get(f"/v1/jobs/j{number}/events")
            await http.delete(f"/v1/jobs/j{number}")
            await http.get("/v1/jobs")
        await eventually(lambda: {"heartbeat", "queue", "disk", "jobs", "result"} <= kinds(heard))
    for bucket in (CATALOG_BUCKET, REPLICAS_BUCKET):
        store = await bus.jetstream.key_value(bucket)
        for key in await store.keys():
            subject = f"$KV.{bucket}.{key}"
            heard[subject] = Message(subject, (await store.get(key)).value or b"", {})
    return list(heard.values())


def kinds(heard: dict[str, Message]) -> set[str]:
    return {subject.split(".")[1] for subject in heard}


def processes(system: System) -> dict[str, psutil.Process]:
    found = {path.stem: psutil.Process(int(path.read_text())) for path in system.data.glob("*.pid")}
    return found | {"nats": psutil.Process(system.pid("nats"))}


@pytest.mark.parametrize(
    ("seed", "count"), [(1, 1_000), *[pytest.param(seed, 1_000_000, marks=SLOW) for seed in (2, 3)]]
)
async def test_no_message_ends_a_service(tmp_path: Path, seed: int, count: int) -> None:
    system = System(tmp_path, CONFIG)
    try:
        system.wait_ready()
        before = {name: process.pid for name, process in processes(system).items()}
        async with (
            open_bus(BusSettings(nats=system.nats), "fuzz") as bus,
            httpx.AsyncClient(base_url=system.url, timeout=30) as http,
        ):
            samples = await recorded(bus, http)
            for number, message in enumerate(Fuzzer(seed, samples).messages(count)):
                bus.post(message.subject, message.payload, headers=message.headers)
                if number % TOGETHER == 0:
                    await bus.client.flush(timeout=30)
            for message in samples:  # a catalog that somebody has changed is another one: put it back
                if message.subject.startswith(f"$KV.{CATALOG_BUCKET}"):
                    bus.post(message.subject, message.payload)
            await bus.client.flush(timeout=30)
            await asyncio.sleep(CALM_S)
            assert {name: process.pid for name, process in processes(system).items()} == before
            for model in ("echo", "other") * 2:  # the first brings the model back, where it has to
                began = time.monotonic()
                answer = await ask(http, model)
                assert answer.status_code == 200, answer.text
            assert time.monotonic() - began < ANSWERS_WITHIN_S
    finally:
        system.stop()

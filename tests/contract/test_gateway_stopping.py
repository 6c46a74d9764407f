"""Requests that wait for their answer while their gateway is told to stop."""

import asyncio
from typing import Any

import httpx
import pytest

from stoker.schemas.catalog import Model, Spec
from stoker.schemas.subjects import JOBS_STREAM
from stoker.services.bus.connection import Bus
from stoker.services.catalog import store
from stoker.services.gateway import __main__ as program
from stoker.services.records.installation import install
from tests.conftest import free_port
from tests.contract.conftest import Connect
from tests.waiting import eventually

MODELS = (
    Model("text", ("TextGeneration",), (Spec("default", "text", "file:///x"),)),
    Model("image", ("ImageGeneration",), (Spec("default", "image", "file:///x"),)),
)
SAID = {"model": "text", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 8}
ASKED: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": SAID,
    "/v1/completions": {"model": "text", "prompt": "hi"},
    "/v1/responses": {"model": "text", "input": "hi"},
    "/v1/messages": SAID,
    "/api/chat": {**SAID, "stream": False},
    "/api/generate": {"model": "text", "prompt": "hi", "stream": False},
    "/v1/images/generations": {"model": "image", "prompt": "hi"},
    "/sdapi/v1/txt2img": {"prompt": "hi"},
}


async def jobs_stored(bus: Bus) -> int:
    return int((await bus.jetstream.stream_info(JOBS_STREAM)).state.messages)


async def test_those_whose_time_is_up_are_told_to_ask_again_in_every_dialect(
    connected: Connect, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(program, "STOP_GRACE_S", 0)
    port, stopping = free_port(), asyncio.Event()
    async with connected() as bus:
        await install(bus)
        await store.publish(bus, MODELS)
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as http, asyncio.TaskGroup() as tasks:
            tasks.create_task(program.main(program.Settings(nats=server, port=port), stopping))

            async def has_read_its_models() -> bool:
                try:
                    return (await http.get("/v1/models")).status_code == 200
                except httpx.TransportError:
                    return False

            await eventually(has_read_its_models)
            asking = {path: tasks.create_task(http.post(path, json=body)) for path, body in ASKED.items()}

            async def all_wait() -> bool:
                return await jobs_stored(bus) == len(ASKED)

            await eventually(all_wait)
            stopping.set()
        for path, answered in asking.items():
            answer = answered.result()
            assert (answer.status_code, answer.headers.get("retry-after")) == (503, "1"), (path, answer.text)
            assert "this gateway stops" in answer.text

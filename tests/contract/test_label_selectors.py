"""Models by label at a gateway: one that is not selected is not there, for any route."""

import asyncio
from typing import Any

import msgspec

from stoker.schemas.catalog import Model
from tests.contract.conftest import Connect
from tests.fixtures.gateway_app import ECHO, Answered, served

CHAT: dict[str, Any] = {"model": "red", "messages": [{"role": "user", "content": "hi"}]}


def labelled(name: str, **labels: str) -> Model:
    return msgspec.structs.replace(ECHO, name=name, labels=labels)


async def test_a_model_outside_the_selector_is_not_there(connected: Connect) -> None:
    async with connected() as bus, connected() as other, served(bus, other) as stand:
        for model in (labelled("red", tenancy="red"), labelled("blue", tenancy="blue")):
            stand.gateway.model_changed(model.name, model)
        stand.backend.on_job = stand.backend.complete

        async def ask(*asked: Any, **headers: str) -> Answered:
            return await asyncio.create_task(stand.ask(*asked, **headers))  # each in a task, as servers do

        async def names(**headers: str) -> list[str]:
            listed = await ask("GET", "/v1/models", None, **headers)
            return sorted(model["id"] for model in listed.json()["data"])

        assert await names() == ["blue", "m", "red"]
        assert await names(x_label_selector="tenancy=red") == ["red"]
        assert await names(x_label_selector="tenancy notin (blue)") == ["m", "red"]
        inside = await ask("POST", "/v1/chat/completions", CHAT, x_label_selector="tenancy=red")
        assert inside.status == 200
        for path, body in (
            ("/v1/chat/completions", CHAT),
            ("/v1/jobs", {"model": "red", "input": {"prompt": "x"}}),
        ):
            outside = await ask("POST", path, body, x_label_selector="tenancy=blue")
            assert outside.status == 404, path
        assert (await ask("GET", "/v1/models/red", None, x_label_selector="tenancy=blue")).status == 404
        refused = await ask("GET", "/v1/models", None, x_label_selector="tenancy in red")
        assert refused.status == 400 and "X-Label-Selector" in refused.body.decode()
        assert (await ask("POST", "/v1/chat/completions", CHAT)).status == 200, "nothing stays of it"

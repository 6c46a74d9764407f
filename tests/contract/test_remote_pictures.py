"""Pictures that requests name by URLs, in every dialect; and clients that do not wait for them."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from stoker.schemas.catalog import Model, Spec
from stoker.services.gateway.fetching import ANY
from tests.contract.conftest import Connect
from tests.contract.test_fetching import PNG, Server
from tests.fixtures.gateway_app import Served, served, soon

DRAWS = Model(
    "tiny",
    ("ImageGeneration",),
    (Spec("default", "diffusers", "", options={"controlnets": {"edges": "file:///edges"}}),),
)
UPSCALES = Model("up", ("SuperResolution",), (Spec("default", "spandrel", ""),))
FORM = b'--x\r\nContent-Disposition: form-data; name="file"\r\n\r\n%s\r\n--x--\r\n'


@pytest.fixture
async def files() -> AsyncIterator[Server]:
    found = Server()
    listening = await asyncio.start_server(found.serve, "127.0.0.1", 0)
    found.url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    async with listening:
        yield found
        found.go_on.set()


@asynccontextmanager
async def drawing(connected: Connect) -> AsyncIterator[Served]:
    """A gateway that fetches from this machine, with something to draw and to enlarge with."""
    async with (
        connected("gateway") as bus,
        connected("backend") as other,
        served(bus, other, input_urls=ANY) as stand,
    ):
        for model in (DRAWS, UPSCALES):
            stand.gateway.model_changed(model.name, model)
        yield stand


def controlled(url: str) -> list[tuple[str, dict[str, Any]]]:
    """A request in each dialect that has ControlNets."""
    followed = {"model": "edges", "image": url}
    asked = {"model": "tiny", "prompt": "a cat", "controlnet": followed}
    unit = {"enabled": True, "model": "edges", "image": url}
    a1111 = {"prompt": "a cat", "alwayson_scripts": {"controlnet": {"args": [unit]}}}
    a1111 |= {"override_settings": {"sd_model_checkpoint": "tiny"}}
    return [
        ("/v1/images/generations", asked),
        ("/v1/images/generations", asked | {"stream": True}),
        ("/v1/jobs", {"model": "tiny", "input": {"prompt": "a cat", "controlnet": followed}}),
        ("/sdapi/v1/txt2img", a1111),
    ]


@pytest.mark.parametrize("which", range(4))
async def test_what_a_controlnet_follows_may_lie_elsewhere(
    connected: Connect, files: Server, which: int
) -> None:
    async with drawing(connected) as stand:
        path, body = controlled(files.url + "/picture.png")[which]
        client = stand.client("POST", path, body)
        asking = asyncio.create_task(client.run())
        job = await stand.backend.job()
        assert job.input.control is not None  # type: ignore[union-attr]
        assert (job.input.control.image, job.input.control.url) == (PNG, "")  # type: ignore[union-attr]
        client.leave()
        await asking


async def test_one_that_cannot_be_had_is_refused_with_its_field(connected: Connect, files: Server) -> None:
    async with drawing(connected) as stand:
        for path, body in controlled(files.url + "/none"):
            answer = await stand.ask("POST", path, body)
            assert (answer.status, b"controlnet.image" in answer.body) == (400, True), answer.body
        assert not stand.backend.jobs


async def test_a_picture_to_be_enlarged_may_lie_elsewhere(connected: Connect, files: Server) -> None:
    async with drawing(connected) as stand:
        form = FORM % (files.url + "/picture.png").encode()
        kind = "multipart/form-data; boundary=x"
        client = stand.client("POST", "/superres", form, content_type=kind)
        asking = asyncio.create_task(client.run())
        job = await stand.backend.job()
        assert job.input.files["image"].content == PNG  # type: ignore[union-attr]
        client.leave()
        await asking
        refused = await stand.ask("POST", "/superres", FORM % files.url.encode(), content_type=kind)
        assert (refused.status, refused.json()["field"]) == (400, "file")


async def test_a_client_that_goes_away_ends_the_fetch_of_its_picture(connected: Connect, files: Server) -> None:
    async with drawing(connected) as stand:
        before = stand.left()
        form = FORM % (files.url + "/silent").encode()
        kind = "multipart/form-data; boundary=x"
        for path, body, headers in (
            *((path, body, {}) for path, body in controlled(files.url + "/silent")),
            ("/superres", form, {"content_type": kind}),
        ):
            files.asked.clear()
            client = stand.client("POST", path, body, **headers)
            asking = asyncio.create_task(client.run())
            await soon(lambda: files.asked)
            client.leave()
            async with asyncio.timeout(2):
                await asking
            assert client.answer.status == 0
        assert stand.gateway.fetching.turns.senders == {}
        assert not stand.backend.jobs and not stand.grown(before)

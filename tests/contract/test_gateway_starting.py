"""A gateway that has not read the catalog yet knows of no model; that is not an answer to whether there is one."""

import pytest

from tests.contract.conftest import Connect
from tests.fixtures.gateway_app import served

CHAT = {"model": "nobodys", "messages": [{"role": "user", "content": "hi"}]}
ASKED = [
    ("POST", "/v1/chat/completions", CHAT),
    ("POST", "/v1/jobs", {"model": "nobodys", "input": {"prompt": "hi"}}),
    ("GET", "/v1/models/nobodys", None),
    ("POST", "/nobodys/v1/generate", {"prompt": "hi"}),
    ("POST", "/api/modes/switch", {"mode": "nobodys"}),
    ("POST", "/generate", {"mode": "nobodys", "prompt": "hi"}),
]


@pytest.mark.parametrize(("method", "path", "body"), ASKED, ids=[path for _, path, _ in ASKED])
async def test_until_the_catalog_is_read_no_model_is_called_missing(
    connected: Connect, method: str, path: str, body: object
) -> None:
    async with connected("gateway") as bus, connected("backend") as other, served(bus, other) as stand:
        stand.gateway.fleet.catalog_read.clear()
        early = await stand.ask(method, path, body)
        assert early.status == 503, early.body
        assert "the catalog has not been read yet" in early.body.decode()
        assert early.headers["retry-after"] == "1"
        stand.gateway.fleet.catalog_read.set()
        late = await stand.ask(method, path, body)
        assert late.status == 404 or b"no mode is configured" in late.body, late.body


async def test_what_needs_no_catalog_is_answered_before(connected: Connect) -> None:
    async with connected("gateway") as bus, connected("backend") as other, served(bus, other) as stand:
        stand.gateway.fleet.catalog_read.clear()
        for path in ("/health/live", "/v1/fleet", "/schema/openapi.json"):
            assert (await stand.ask("GET", path)).status == 200, path
        ready = await stand.ask("GET", "/health/ready")
        assert ready.status == 503 and b"the catalog has not been read yet" in ready.body

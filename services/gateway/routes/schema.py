"""The OpenAPI document and the page that shows it.

The document is made when it is first asked for, in a thread: that takes half a second, most of it to import
what describes OpenAPI, and no gateway that starts should wait for it.
"""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import anyio

from stoker.schemas import wire
from stoker.schemas.catalog import Model
from stoker.services.gateway.edge.exchange import Exchange
from stoker.services.gateway.edge.openapi_functions import with_functions
from stoker.services.gateway.edge.routing import Route, get
from stoker.services.gateway.gateway import Gateway

PAGE = Path(__file__).parent.parent / "static" / "schema.html"
OPENAPI_JSON = "application/vnd.oai.openapi+json"


def document_of(described: Sequence[Route]) -> dict[str, Any]:
    """The OpenAPI document of these routes."""
    from stoker.services.gateway.edge.openapi import document

    return document(described)


def routes_for(described: Sequence[Route]) -> tuple[Route, ...]:
    """The routes that tell of others. described: of those."""
    one_at_a_time = anyio.Lock()
    made = cache(lambda: document_of(described))

    def encoded(models: dict[str, Model]) -> bytes:
        return wire.encode(with_functions(made(), models))

    @get("/schema", summary="The page that shows the OpenAPI document", is_hidden=True)
    async def page(_: Gateway, exchange: Exchange) -> None:
        await exchange.answer_bytes(PAGE.read_bytes(), "text/html; charset=utf-8")

    @get("/schema/openapi.json", summary="The OpenAPI document", is_hidden=True)
    async def document(gateway: Gateway, exchange: Exchange) -> None:
        async with one_at_a_time:
            body = await anyio.to_thread.run_sync(encoded, dict(gateway.fleet.models))
        await exchange.answer_bytes(body, OPENAPI_JSON)

    return (page, document)

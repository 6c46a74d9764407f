"""Prometheus metrics: of this gateway, and under `stoker up` of every service beside it."""

from collections.abc import Mapping
from contextlib import suppress

import anyio
import httpx

from stoker.services.gateway.edge.exchange import Exchange
from stoker.services.gateway.edge.routing import get
from stoker.services.gateway.gateway import Gateway
from stoker.services.process.federation import joined
from stoker.services.process.http_clients import async_client
from stoker.services.process.telemetry import exposition

METRICS_TIMEOUT_S = 2.0


@get(
    "/metrics", summary="Prometheus metrics; all services' under stoker up", gives="text/plain", role="operate"
)
async def metrics(gateway: Gateway, exchange: Exchange) -> None:
    text, media_type = exposition()
    if gateway.metrics_of:
        text = await anyio.to_thread.run_sync(joined, await _read(gateway.metrics_of))  # it may take 50 ms
    await exchange.answer_bytes(text, media_type)


async def _read(addresses: Mapping[str, str]) -> dict[str, str]:
    """What each of them answers within METRICS_TIMEOUT_S; who does not is left out."""
    found: dict[str, str] = {}

    async def read(service: str, url: str) -> None:
        with suppress(httpx.HTTPError):
            async with async_client(url, timeout=METRICS_TIMEOUT_S) as client:
                answer = await client.get("/metrics")
                if answer.status_code == 200:
                    found[service] = answer.text

    async with anyio.create_task_group() as tasks:
        for service, url in addresses.items():
            tasks.start_soon(read, service, url)
    return found


ROUTES = [metrics]

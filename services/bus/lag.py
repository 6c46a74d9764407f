"""How far away NATS is, as metrics of every service."""

import asyncio
import time

import nats.errors
from nats.aio.client import Client

from services.process.telemetry import gauge

EVERY_S = 5.0
PATIENCE_S = 5

ROUND_TRIP = gauge("stoker_nats_round_trip_seconds", "A ping to the NATS server and back")
CONNECTED = gauge("stoker_nats_connected", "Whether NATS is there (1) or away (0)")


async def watch_lag(client: Client) -> None:
    """Measure until cancelled. A ping that is not answered counts as the time it was waited for."""
    while True:
        began = time.monotonic()
        try:
            await client.flush(PATIENCE_S)
            CONNECTED.set(1)
        except (nats.errors.Error, TimeoutError, OSError):
            CONNECTED.set(0)
        ROUND_TRIP.set(time.monotonic() - began)
        await asyncio.sleep(EVERY_S)

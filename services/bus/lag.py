"""How far away NATS is, as metrics of every service."""

import asyncio
import time

from nats.aio.client import Client

from stoker.services.bus.errors import BusError, named
from stoker.services.process.telemetry import gauge

EVERY_S = 5.0
TIMEOUT_S = 5

ROUND_TRIP = gauge("stoker_nats_round_trip_seconds", "A ping to the NATS server and back")
CONNECTED = gauge("stoker_nats_connected", "Whether NATS is there (1) or away (0)")


async def watch_lag(client: Client) -> None:
    """Measure until cancelled. A ping that is not answered counts as the time it was waited for."""
    while True:
        began = time.monotonic()
        try:
            with named("a ping"):
                await client.flush(TIMEOUT_S)
            CONNECTED.set(1)
        except BusError:
            CONNECTED.set(0)
        ROUND_TRIP.set(time.monotonic() - began)
        await asyncio.sleep(EVERY_S)

"""How far away NATS is, as metrics of every service."""

import asyncio
import time
from dataclasses import replace

from stoker.services.bus.errors import BusError, named
from stoker.services.bus.quick_client import QuickClient, Traffic
from stoker.services.process.telemetry import counter, gauge

EVERY_S = 5.0
TIMEOUT_S = 5

ROUND_TRIP = gauge("stoker_nats_round_trip_seconds", "A ping to the NATS server and back")
MESSAGES = counter("stoker_nats_messages_total", "Messages of this process's connection to NATS", "direction")
BYTES = counter("stoker_nats_payload_bytes_total", "Bytes in them, without subjects and headers", "direction")
CONNECTED = gauge("stoker_nats_connected", "Whether NATS is there (1) or away (0)")


async def watch_lag(client: QuickClient) -> None:
    """Measure until cancelled. A ping that is not answered counts as the time it was waited for."""
    told = {"received": Traffic(), "sent": Traffic()}
    while True:
        for direction, traffic in (("received", client.received), ("sent", client.sent)):
            before = told[direction]
            MESSAGES.labels(direction).inc(traffic.messages - before.messages)
            BYTES.labels(direction).inc(traffic.payload_bytes - before.payload_bytes)
            told[direction] = replace(traffic)
        began = time.monotonic()
        try:
            with named("a ping"):
                await client.flush(TIMEOUT_S)
            CONNECTED.set(1)
        except BusError:
            CONNECTED.set(0)
        ROUND_TRIP.set(time.monotonic() - began)
        await asyncio.sleep(EVERY_S)

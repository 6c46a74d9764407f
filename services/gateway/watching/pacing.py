"""How fast this gateway can write text: workers are told to send larger pieces when it falls behind.

What this gateway has not read yet waits in its connection to the NATS server, and a PING is answered behind it:
the time until the answer is how far it lags. Under too much text everything would lag, new requests and ends of
jobs too; so text is asked for in larger pieces, which cost less, until the lag is gone.
"""

import asyncio
import time

from stoker.schemas.job_events import TextPace
from stoker.services.bus.connection import Bus
from stoker.services.bus.errors import BusError, named
from stoker.services.process.telemetry import gauge

LOOK_EVERY_S = 0.25
TELL_EVERY_S = 1.0
PING_S = 1
"""A PING that is not answered in this time counts as so long."""
LATE_S, EARLY_S = 0.1, 0.04
"""Above the one the pieces grow, below the other they shrink."""
LEAST_S, MOST_S = 0.03, 2.0
SHRINKS_BY = 0.8

WINDOW = gauge("stoker_text_window_seconds", "How long workers wait for more text for this gateway")


def next_window(window_s: float, lag_s: float) -> float:
    """How long text should wait for more, after a look at the lag. Both in seconds; 0: not at all."""
    if lag_s > LATE_S:
        return min(max(2 * window_s, LEAST_S), MOST_S)
    if lag_s < EARLY_S:
        shrunk = window_s * SHRINKS_BY
        return shrunk if shrunk >= LEAST_S else 0.0
    return window_s


async def keep_pace(bus: Bus, gateway: str) -> None:
    """Look, and tell workers, until cancelled. They are told again each second: they forget it."""
    window_s, told_s, told_at = 0.0, 0.0, 0.0
    while True:
        await asyncio.sleep(LOOK_EVERY_S)
        began = time.monotonic()
        try:
            with named("a ping"):
                await bus.client.flush(PING_S)
        except BusError:
            if not bus.is_connected:
                continue
        now = time.monotonic()
        window_s = next_window(window_s, now - began)
        WINDOW.set(window_s)
        if window_s != told_s or (window_s and now - told_at > TELL_EVERY_S):
            bus.tell(bus.subjects.pace(gateway), TextPace(gateway, window_s))
            told_s, told_at = window_s, now

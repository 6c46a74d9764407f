"""One noisy tenant and twenty quiet ones: what the noise costs the quiet.

    python -m bench.tenants

Each has an API key; two workers run four texts of 50 ms at a time, 160 a second at most. The quiet ones ask
twice a second each, the noisy one far more than there is room for. Times from when a request was due
(arrivals.py).
"""

import asyncio
import json
import os
import time

import uvloop

from bench.arguments import nothing
from bench.arrivals import MOST_AT_ONCE, Answered, Due, arrive, by_chance
from bench.system import Running, running
from stoker.schemas.keys import ApiKey
from stoker.services.bus.connection import open_bus
from stoker.services.process.settings import BusSettings
from stoker.services.records.keys import digest, new_secret, put_key

QUIET, QUIET_RATE, SECONDS = 20, 2.0, 15.0
NOISE = (0.0, 50.0, 200.0, 400.0)
WORKERS = 2
CONFIG = f"""\
models:
  m: {{engine: synthetic, options: {{tokens: 10, token_interval_s: 0.005}}, slots: 4}}
workers: [{{count: {WORKERS}, engines: [synthetic]}}]
"""
BODY = json.dumps({"model": "m", "messages": [{"role": "user", "content": "x"}]}).encode()
HEAD = [
    "| the noisy one asks | quiet ones: ms, median / p99 / longest | errors, not answered "
    "| the noisy one: ms, median / p99 | errors, not answered |",
    "|---|---|---|---|---|",
]


def _request(port: int, secret: str) -> bytes:
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
    return f"{head}Authorization: Bearer {secret}\r\nContent-Length: {len(BODY)}\r\n\r\n".encode() + BODY


async def _keys(system: Running) -> list[str]:
    """Secrets: of the noisy one first."""
    url = (system.data / "nats.url").read_text().strip()
    made: list[str] = []
    async with open_bus(BusSettings(nats=url), "bench") as bus:
        for number in range(QUIET + 1):
            key_id, secret = new_secret()
            await put_key(
                bus, ApiKey(id=key_id, name=f"t{number}", sha256=digest(secret), created_at=time.time())
            )
            made.append(secret)
    await asyncio.sleep(1.0)  # until gateways know them
    return made


def _ms(found: Answered, *shares: float) -> str:
    return " / ".join(f"{found.ms(share):.0f}" for share in shares)


async def _measured(system: Running) -> list[str]:
    rows = list(HEAD)
    noisy, *quiet = await _keys(system)
    first = [Due(0.0, _request(system.port, one), "first") for one in quiet]
    await arrive(system.port, first)
    for rate in NOISE:
        dues = [
            due
            for number, secret in enumerate(quiet)
            for due in by_chance(QUIET_RATE, SECONDS, _request(system.port, secret), "quiet", number)
        ]
        dues += by_chance(rate, SECONDS, _request(system.port, noisy), "noisy") if rate else []
        found = await arrive(system.port, dues)
        quiet_ones, noise = found["quiet"], found.get("noisy", Answered())
        loud = f"{_ms(noise, 0.5, 0.99)} | {noise.errors}, {noise.lost}" if rate else "| "
        calm = f"{_ms(quiet_ones, 0.5, 0.99, 1.0)} | {quiet_ones.errors}, {quiet_ones.lost}"
        rows.append(f"| {rate:.0f}/s | {calm} | {loud} |")
        print(rows[-1], flush=True)
    return rows


def report() -> list[str]:
    os.environ["STOKER_MAX_CONNECTIONS"] = str(2 * MOST_AT_ONCE)  # all come from one address here
    with running(CONFIG) as system:
        return uvloop.run(_measured(system))


if __name__ == "__main__":
    nothing(__doc__)
    print("\n".join(report()))

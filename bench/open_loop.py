"""Requests that come by chance, at rates up to and beyond what the machine takes; and mixed ones.

    python -m bench.open_loop [50 100 200 400]

Times are from when a request was due (arrivals.py). Mixed: short texts, streamed texts of a hundred tokens,
pictures of the synthetic engine, and calls of a function, all at once.
"""

import json
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import uvloop

from bench.arguments import numbers
from bench.arrivals import Answered, Due, arrive, by_chance
from bench.client import http_request
from bench.functions import TRIVIAL
from bench.system import Running, running

RATES = (50, 100, 200, 400)
SECONDS = 10.0
CONFIG = """\
models:
  text: {engine: synthetic, options: {tokens: 16}, slots: 32}
  long: {engine: synthetic, options: {tokens: 100, token_interval_s: 0.01}, slots: 32}
  picture: {engine: synthetic, features: [ImageGeneration], options: {step_s: 0.02}, slots: 4}
workers:
  - {count: 2, engines: [synthetic]}
  - {count: 1, engines: [function]}
"""
HEAD = [
    "| what comes | of it | ms from when it was due, median / p99 / longest "
    "| from when it was sent, median / p99 | errors, not answered | CPU ms a request: ours, load generator |",
    "|---|---|---|---|---|---|",
]


def chat(port: int, model: str, **fields: object) -> bytes:
    body = {"model": model, "messages": [{"role": "user", "content": "x"}], **fields}
    return http_request(port, "/v1/chat/completions", json.dumps(body).encode())


def kinds(port: int) -> dict[str, tuple[float, bytes]]:
    """What a mix is made of: a share of its rate, and the request."""
    picture = json.dumps({"model": "picture", "prompt": "x", "num_inference_steps": 4}).encode()
    return {
        "text": (0.6, chat(port, "text")),
        "streamed text": (0.2, chat(port, "long", stream=True)),
        "picture": (0.1, http_request(port, "/v1/images/generations", picture)),
        "function": (0.1, http_request(port, "/v1/functions/echo", b'{"text": "x"}')),
    }


def row(what: str, label: str, found: Answered, cpu: str) -> str:
    due = " / ".join(f"{found.ms(share):.0f}" for share in (0.5, 0.99, 1.0))
    sent = " / ".join(f"{found.ms(share, sent=True):.0f}" for share in (0.5, 0.99))
    return (
        f"| {what} | {label} {len(found.from_due):,} | {due} | {sent} | {found.errors}, {found.lost} | {cpu} |"
    )


async def measured(system: Running, what: str, dues: list[Due]) -> list[str]:
    """The rows of one run."""
    before, own = sum(system.cpu_seconds().values()), time.process_time()
    found: Mapping[str, Answered] = await arrive(system.port, dues)
    spent, own = sum(system.cpu_seconds().values()) - before, time.process_time() - own
    cpu = f"{1000 * spent / len(dues):.2f}, {1000 * own / len(dues):.2f}"
    return [row(what, label, found[label], cpu) for label in sorted(found)]


async def _all(system: Running, rates: tuple[int, ...]) -> list[str]:
    rows = list(HEAD)
    asked = kinds(system.port)
    await arrive(system.port, [Due(0.0, data, "first") for _, data in asked.values()])
    for rate in rates:
        data = asked["text"][1]
        rows += await measured(system, f"{rate}/s", list(by_chance(rate, SECONDS, data, "text")))
        print(rows[-1], flush=True)
    rate = min(rates)
    mixed = [
        due for label, (part, data) in asked.items() for due in by_chance(rate * part, SECONDS, data, label)
    ]
    return rows + await measured(system, f"mixed, {rate}/s", mixed)


def report(rates: tuple[int, ...] = RATES) -> list[str]:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "app.py").write_text(TRIVIAL)
        with running(CONFIG, functions=Path(folder)) as system:
            return uvloop.run(_all(system, rates))


if __name__ == "__main__":
    print("\n".join(report(numbers(__doc__, RATES))))

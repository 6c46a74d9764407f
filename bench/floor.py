"""What a durable request costs in Python before Stoker does anything: the floor under its figures.

    python -m bench.floor

Two parts, each in a process of its own, 64 connections or messages at a time: uvicorn with httptools and uvloop
that answers the same few bytes to every request; and a message that is stored by a NATS server, delivered to a
durable consumer, acknowledged, and whose writer is told that it is stored. A request of Stoker is stored twice.
"""

import asyncio
import json
import multiprocessing
import socket
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
import uvicorn
import uvloop
from nats.aio.msg import Msg
from nats.js import api

from bench.arguments import nothing
from bench.client import drive
from bench.peers import UNARY
from stoker.services.bus.connection import open_bus
from stoker.services.process.embedded import embedded_server
from stoker.services.process.settings import BusSettings

AT_ONCE = 64
SECONDS = 5.0
MESSAGES = 30_000
ANSWER = json.dumps({"id": "x", "choices": [{"message": {"content": "t0"}}], "usage": {}}).encode()


async def _app(scope: Any, receive: Any, send: Any) -> None:
    while (await receive()).get("more_body"):
        pass
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(ANSWER)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": ANSWER, "more_body": False})


def _serve(listener: socket.socket) -> None:
    config = uvicorn.Config(
        _app, http="httptools", loop="uvloop", lifespan="off", log_level="error", access_log=False
    )
    uvicorn.Server(config).run([listener])


def http_ms() -> float:
    """CPU of the server for a request."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=512)
    server = multiprocessing.get_context("fork").Process(target=_serve, args=(listener,), daemon=True)
    server.start()
    process, port = psutil.Process(server.pid), listener.getsockname()[1]
    try:
        uvloop.run(drive(port, "/v1/chat/completions", UNARY, AT_ONCE, 2.0))
        before = sum(process.cpu_times()[:2])
        load = uvloop.run(drive(port, "/v1/chat/completions", UNARY, AT_ONCE, SECONDS))
        return 1000 * (sum(process.cpu_times()[:2]) - before) / len(load.latencies)
    finally:
        server.terminate()
        server.join(10)


def server_process(folder: Path) -> psutil.Process:
    """The NATS server whose data lies here."""
    return psutil.Process(int(next(folder.rglob("pid")).read_text()))


async def stored_ms() -> tuple[float, float]:
    """CPU of our process, and of the NATS server, for a message that is stored, delivered and acknowledged."""
    with tempfile.TemporaryDirectory() as folder:
        async with embedded_server(Path(folder)) as url, open_bus(BusSettings(nats=url), "floor") as bus:
            server = server_process(Path(folder))
            await bus.jetstream.add_stream(name="FLOOR", subjects=["floor"], retention="workqueue")
            inbox = bus.client.new_inbox()
            config = api.ConsumerConfig(
                durable_name="c", ack_policy=api.AckPolicy.EXPLICIT, max_ack_pending=10**6
            )
            await bus.jetstream.add_consumer("FLOOR", config)
            done = asyncio.Event()
            seen = 0

            def delivered(message: Msg) -> None:
                nonlocal seen
                if message.reply:
                    seen += 1
                    bus.post(message.reply, b"+ACK", is_urgent=False)
                    if seen == MESSAGES:
                        done.set()

            async with bus.listening((inbox, delivered)):
                bus.post("$JS.API.CONSUMER.MSG.NEXT.FLOOR.c", json.dumps({"batch": MESSAGES}).encode(), inbox)
                own, theirs = time.process_time(), sum(server.cpu_times()[:2])

                async def publish() -> None:
                    for _ in range(MESSAGES // AT_ONCE):
                        await bus.publish_stored("floor", UNARY)

                rest = (bus.publish_stored("floor", UNARY) for _ in range(MESSAGES % AT_ONCE))
                await asyncio.gather(*(publish() for _ in range(AT_ONCE)), *rest)
                await asyncio.wait_for(done.wait(), 60)
                own, theirs = time.process_time() - own, sum(server.cpu_times()[:2]) - theirs
    return 1000 * own / MESSAGES, 1000 * theirs / MESSAGES


def report() -> list[str]:
    http = http_ms()
    own, theirs = uvloop.run(stored_ms())
    return [
        "| part | CPU ms |",
        "|---|---|",
        f"| a request answered by uvicorn, and nothing done for it | {http:.3f} |",
        f"| a message stored, delivered and acknowledged: our process | {own:.3f} |",
        f"| the same: NATS server | {theirs:.3f} |",
        f"| one request, stored twice | {http + 2 * (own + theirs):.3f} |",
    ]


if __name__ == "__main__":
    nothing(__doc__)
    print("\n".join(report()))

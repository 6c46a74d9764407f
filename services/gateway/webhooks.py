"""Webhooks: terminal events posted to who asked for them, signed, retried, never to private addresses.

Any gateway delivers: all share one consumer on STOKER_WEBHOOKS, so that the death of the gateway that
accepted a job loses nothing. The signature is HMAC-SHA256 over "<timestamp>.<body>" with the installation's
secret, in `Stoker-Signature: t=<timestamp>,v1=<hex>`.
"""

import asyncio
import hashlib
import hmac
import ipaddress
import socket
import time
from urllib.parse import urlsplit

from nats.aio.msg import Msg
from nats.js import api

from schemas import wire
from schemas.job_events import Terminal
from schemas.subjects import ANY, WEBHOOKS_STREAM
from services import without
from services.bus.connection import Bus
from services.bus.errors import BusError, NoAnswer, named
from services.gateway.jobs.answers import from_result
from services.process.logs import get_logger

with without("click"):  # no command line
    import httpx

log = get_logger("webhooks")

CONSUMER = "webhooks"
FETCH_AT_ONCE = 16
FETCH_TIMEOUT_S = 5.0
POST_TIMEOUT_S = 10.0
MAX_DELIVERIES = 12
FIRST_RETRY_S = 1.0
MAX_RETRY_S = 600.0


def signature(secret: str, timestamp: int, body: bytes) -> str:
    digest = hmac.new(secret.encode(), f"{timestamp}.".encode() + body, hashlib.sha256).hexdigest()
    return f"t={timestamp},v1={digest}"


def is_public(address: str) -> bool:
    return ipaddress.ip_address(address).is_global


class Webhooks:
    """Delivers until cancelled. `allow_private`: also to loopback and private addresses."""

    def __init__(self, bus: Bus, secret: str, *, allow_private: bool) -> None:
        self._bus = bus
        self._secret = secret
        self._allow_private = allow_private

    async def deliver(self) -> None:
        async with httpx.AsyncClient(timeout=POST_TIMEOUT_S, follow_redirects=False) as client:
            while True:
                try:
                    with named("subscribing to webhooks"):
                        consumer = await self._bus.jetstream.pull_subscribe(
                            self._bus.subjects.every("webhook", ANY),
                            durable=CONSUMER,
                            stream=WEBHOOKS_STREAM,
                            config=api.ConsumerConfig(ack_wait=60.0, max_deliver=MAX_DELIVERIES),
                        )
                    while True:
                        try:
                            with named("waiting for webhooks"):
                                messages = await consumer.fetch(FETCH_AT_ONCE, timeout=FETCH_TIMEOUT_S)
                        except NoAnswer:
                            continue
                        await asyncio.gather(*(self._post(client, one) for one in messages))
                except BusError as error:
                    log.warning("webhooks.interrupted", error=str(error))
                    await asyncio.sleep(1.0)

    async def _post(self, client: httpx.AsyncClient, message: Msg) -> None:
        try:
            event: Terminal = wire.decode(Terminal, message.data)
        except wire.UnreadableMessage as error:
            log.error("webhook.unreadable", error=str(error))
            await message.term()
            return
        body = wire.encode(from_result(event))
        timestamp = int(time.time())
        try:
            await self._check_address(event.webhook)
            answer = await client.post(
                event.webhook,
                content=body,
                headers={
                    "Content-Type": "application/json",
                    "Stoker-Signature": signature(self._secret, timestamp, body),
                    "Stoker-Job": event.job,
                },
            )
            answer.raise_for_status()
        except PermissionError as error:
            log.warning("webhook.refused", job=event.job, reason=str(error))
            await message.term()
            return
        except (httpx.HTTPError, OSError) as error:
            tries = message.metadata.num_delivered
            delay_s = min(FIRST_RETRY_S * 2 ** (tries - 1), MAX_RETRY_S)
            log.warning("webhook.failed", job=event.job, tries=tries, error=str(error))
            await message.nak(delay=delay_s)
            return
        await message.ack()

    async def _check_address(self, url: str) -> None:
        """Raises PermissionError when any address of the host is not public."""
        if self._allow_private:
            return
        parts = urlsplit(url)
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(parts.hostname, parts.port, type=socket.SOCK_STREAM)
        for *_, address in found:
            if not is_public(str(address[0])):
                raise PermissionError(f"{parts.hostname} is {address[0]}, which is not a public address")

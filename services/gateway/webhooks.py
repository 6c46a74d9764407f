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
from services.process.tasks import TaskOwner, cleanup, limit

with without("click"):  # no command line
    import httpx

log = get_logger("webhooks")

CONSUMER = "webhooks"
AT_ONCE = 16
"""Posts under way at a time."""
FETCH_TIMEOUT_S = 5.0
ACK_WAIT_S = 60.0
"""Longer than resolving a host and posting may take together."""
AGAIN_S = 1.0
POST_TIMEOUT_S = 10.0
MAX_DELIVERIES = 12
FIRST_RETRY_S = 1.0
MAX_RETRY_S = 600.0


def signature(secret: str, timestamp: int, body: bytes) -> str:
    digest = hmac.new(secret.encode(), f"{timestamp}.".encode() + body, hashlib.sha256).hexdigest()
    return f"t={timestamp},v1={digest}"


def is_public(address: str) -> bool:
    return ipaddress.ip_address(address).is_global


def pause_s(tries: int) -> float:
    """How long after this many tries the next one comes."""
    return float(min(FIRST_RETRY_S * 2 ** (tries - 1), MAX_RETRY_S))


class Webhooks:
    """Delivers until cancelled. `allow_private`: also to loopback and private addresses."""

    def __init__(self, bus: Bus, secret: str, *, allow_private: bool) -> None:
        self._bus = bus
        self._secret = secret
        self._allow_private = allow_private
        self._places = asyncio.Semaphore(AT_ONCE)
        self._under_way = 0

    async def deliver(self) -> None:
        """Post what is due, for ever. A receiver that is slow, or fails in whatever way, holds up no other."""
        async with (
            httpx.AsyncClient(timeout=POST_TIMEOUT_S, follow_redirects=False) as client,
            TaskOwner("webhooks") as tasks,
        ):
            while True:
                try:
                    await self._fetch(client, tasks)
                except BusError as error:
                    log.warning("webhooks.interrupted", error=str(error))
                    await asyncio.sleep(AGAIN_S)

    async def _fetch(self, client: httpx.AsyncClient, tasks: TaskOwner) -> None:
        """Hand every webhook that comes to a task of its own. Raises BusError."""
        with named("subscribing to webhooks"):
            consumer = await self._bus.jetstream.pull_subscribe(
                self._bus.subjects.every("webhook", ANY),
                durable=CONSUMER,
                stream=WEBHOOKS_STREAM,
                config=api.ConsumerConfig(ack_wait=ACK_WAIT_S, max_deliver=MAX_DELIVERIES),
            )
        try:
            while True:
                await self._places.acquire()
                self._places.release()
                free = max(AT_ONCE - self._under_way, 1)
                try:
                    with named("waiting for webhooks"):
                        messages = await consumer.fetch(free, timeout=FETCH_TIMEOUT_S)
                except NoAnswer:
                    continue
                for message in messages:
                    tasks.start_contained(self._deliver_one, client, message)
        finally:
            async with cleanup("unsubscribing from webhooks", FETCH_TIMEOUT_S):
                await self._bus.unlisten(consumer)

    async def _deliver_one(self, client: httpx.AsyncClient, message: Msg) -> None:
        self._under_way += 1
        try:
            async with self._places:
                with named("acknowledging a webhook"):
                    await self._post(client, message)
        finally:
            self._under_way -= 1

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
            with limit("resolving the host of a webhook", POST_TIMEOUT_S):
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
        except (PermissionError, httpx.InvalidURL) as error:
            log.warning("webhook.refused", job=event.job, reason=str(error))
            await message.term()
            return
        except (httpx.HTTPError, OSError, UnicodeError) as error:  # UnicodeError: a host that is no host name
            tries = message.metadata.num_delivered
            log.warning("webhook.failed", job=event.job, tries=tries, error=str(error))
            await message.nak(delay=pause_s(tries))
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

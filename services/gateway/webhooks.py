"""Webhooks: terminal events posted to who asked for them, signed, retried, never to private addresses.

Any gateway delivers: all share one consumer on STOKER_WEBHOOKS, so that the death of the gateway that
accepted a job loses nothing. Signed as the Standard Webhooks specification has it (`webhook-id`, the job's
id, is the same at every try); `Stoker-Signature: t=<timestamp>,v1=<hex>` over "<timestamp>.<body>" is the
form of early versions. Redirects are not followed, and every address is checked before it is connected to
(public_network.py).
"""

import asyncio
import base64
import binascii
import hashlib
import hmac
import time
from urllib.parse import quote

import httpcore
import httpx
from nats.aio.msg import Msg
from nats.js import api

from stoker.schemas import wire
from stoker.schemas.job_events import Terminal
from stoker.schemas.subjects import ANY, WEBHOOKS_STREAM
from stoker.services.bus.connection import Bus
from stoker.services.bus.errors import BusError, NoAnswer, named
from stoker.services.gateway.edge.problems import RequestError
from stoker.services.gateway.jobs.answers import from_result
from stoker.services.gateway.jobs.webhook_urls import WebhookRules
from stoker.services.gateway.public_network import NotPublic, public_connections
from stoker.services.gateway.webhook_receivers import Away, Receivers
from stoker.services.process.logs import get_logger
from stoker.services.process.tasks import LimitExceeded, TaskOwner, cleanup, limit
from stoker.services.records.blobs import BlobGone
from stoker.services.records.outputs import with_output
from stoker.services.records.quarantine import put_aside

log = get_logger("webhooks")

CONSUMER = "webhooks"
AT_ONCE, AT_ONCE_BYTES = 1000, 64 * 1024 * 1024
"""Webhooks that are posted, or wait for their receiver's turn, and what they may have together."""
FETCH_TIMEOUT_S = 5.0
ACK_WAIT_S = 60.0
"""Longer than the receiver's turn, resolving its host and posting may take together."""
AGAIN_S = 1.0
POST_TIMEOUT_S = 10.0
MAX_DELIVERIES = 12
SECRET_PREFIX = "whsec_"
FAILURES = (httpcore.NetworkError, httpcore.TimeoutException, httpcore.ProtocolError, OSError)
GONE = 410
"""The receiver wants no more of this."""
FIRST_RETRY_S = 1.0
MAX_RETRY_S = 600.0


def signature(secret: str, timestamp: int, body: bytes) -> str:
    digest = hmac.new(secret.encode(), f"{timestamp}.".encode() + body, hashlib.sha256).hexdigest()
    return f"t={timestamp},v1={digest}"


def standard_signature(secret: str, webhook_id: str, timestamp: int, body: bytes) -> str:
    """The header `webhook-signature`. secret: whsec_ and base64, or a text whose bytes are the key."""
    key = secret.encode()
    if secret.startswith(SECRET_PREFIX):
        try:
            key = base64.b64decode(secret.removeprefix(SECRET_PREFIX), validate=True)
        except binascii.Error:
            pass  # it only looks like one
    signed = f"{webhook_id}.{timestamp}.".encode() + body
    return "v1," + base64.b64encode(hmac.digest(key, signed, "sha256")).decode()


def pause_s(tries: int) -> float:
    """How long after this many tries the next one comes."""
    return float(min(FIRST_RETRY_S * 2 ** (tries - 1), MAX_RETRY_S))


class Webhooks:
    """Delivers until cancelled. rules: where to. What is under way is bounded; so is what each receiver has of
    it (webhook_receivers.py).
    """

    def __init__(self, bus: Bus, secret: str, rules: WebhookRules) -> None:
        self._bus = bus
        self._secret = secret
        self._rules = rules
        self._receivers = Receivers(time.monotonic)
        self._under_way = self._under_way_bytes = 0
        self._has_room = asyncio.Event()

    async def deliver(self) -> None:
        """Post what is due, for ever. A receiver that is slow, or fails in whatever way, holds up no other."""
        async with (
            public_connections(allow_private=self._rules.allow_private, at_once=AT_ONCE) as client,
            TaskOwner("webhooks") as tasks,
        ):
            while True:
                try:
                    await self._fetch(client, tasks)
                except BusError as error:
                    log.warning("webhooks.interrupted", error=str(error))
                    await asyncio.sleep(AGAIN_S)

    async def _fetch(self, client: httpcore.AsyncConnectionPool, tasks: TaskOwner) -> None:
        """Hand every webhook that comes to a task of its own. Raises BusError."""
        with named("subscribing to webhooks"):
            consumer = await self._bus.jetstream.pull_subscribe(
                self._bus.subjects.every("webhook", ANY),
                durable=CONSUMER,
                stream=WEBHOOKS_STREAM,
                config=api.ConsumerConfig(
                    ack_wait=ACK_WAIT_S,
                    max_deliver=MAX_DELIVERIES,
                    description="Gateways take results from here and post them",
                ),
            )
        try:
            while True:
                await self._room()
                try:
                    with named("waiting for webhooks"):
                        # One: what is there of a larger batch is given when the batch is full, or time is over.
                        [message] = await consumer.fetch(1, timeout=FETCH_TIMEOUT_S)
                except NoAnswer:
                    continue
                self._under_way += 1
                self._under_way_bytes += len(message.data)
                tasks.start_contained(self._deliver_one, client, message)
        finally:
            async with cleanup("unsubscribing from webhooks", FETCH_TIMEOUT_S):
                await self._bus.unlisten(consumer)

    async def _deliver_one(self, client: httpcore.AsyncConnectionPool, message: Msg) -> None:
        try:
            with named("acknowledging a webhook"):
                await self._post(client, message)
        finally:
            self._under_way -= 1
            self._under_way_bytes -= len(message.data)
            self._has_room.set()

    async def _room(self) -> None:
        """Return when more may be under way."""
        while self._under_way >= AT_ONCE or self._under_way_bytes > AT_ONCE_BYTES:
            self._has_room.clear()
            await self._has_room.wait()

    async def _post(self, client: httpcore.AsyncConnectionPool, message: Msg) -> None:
        try:
            event: Terminal = wire.decode(Terminal, message.data)
        except wire.UnreadableMessage as error:
            self._put_aside(message, f"it cannot be read: {error}", "")
            await message.term()
            return
        try:
            url = self._rules.check(event.webhook)
            async with self._receivers.turn(url):
                status = await self._post_event(client, url, await with_output(self._bus, event))
        except (RequestError, NotPublic) as error:
            log.warning("webhook.refused", job=event.job, reason=str(error))
            await message.term()
            return
        except BlobGone as error:
            self._put_aside(message, str(error), event.job)
            await message.term()
            return
        except (*FAILURES, LimitExceeded, BusError, Away) as error:
            await self._again(message, event, str(error) or type(error).__name__)
            return
        if 200 <= status < 300:
            await message.ack()
        elif status == GONE:
            log.warning("webhook.refused", job=event.job, reason="the receiver wants no more (410)")
            await message.term()
        else:
            await self._again(message, event, f"it answered {status}")

    def _put_aside(self, message: Msg, reason: str, job: str) -> None:
        put_aside(self._bus, "webhook", message.subject, message.data, message.headers, reason, job=job)

    async def _again(self, message: Msg, event: Terminal, reason: str) -> None:
        tries = message.metadata.num_delivered
        if tries >= MAX_DELIVERIES:
            self._put_aside(message, f"{tries} tries; the last: {reason}", event.job)
            await message.term()
            return
        log.warning("webhook.failed", job=event.job, tries=tries, error=reason)
        await message.nak(delay=pause_s(tries))

    async def _post_event(self, client: httpcore.AsyncConnectionPool, url: str, event: Terminal) -> int:
        """Post once; the status. Raises NotPublic, httpcore's errors, LimitExceeded, OSError."""
        body, timestamp = wire.encode(from_result(event)), int(time.time())
        headers = {
            "Host": httpx.URL(url).netloc.decode("ascii"),
            "Content-Type": "application/json",
            "Content-Length": str(len(body)),
            "User-Agent": "stoker",
            "webhook-id": event.job,
            "webhook-timestamp": str(timestamp),
            "webhook-signature": standard_signature(self._secret, event.job, timestamp, body),
            "Stoker-Signature": signature(self._secret, timestamp, body),
            "Stoker-Job": event.job,
        }
        parsed = httpx.URL(url)
        target = httpcore.URL(
            scheme=parsed.raw_scheme, host=parsed.raw_host, port=parsed.port, target=parsed.raw_path
        )
        encoded = [(name.encode(), _value(value)) for name, value in headers.items()]
        limits = dict.fromkeys(("connect", "read", "write", "pool"), POST_TIMEOUT_S)
        with limit("posting a webhook", 2 * POST_TIMEOUT_S):
            async with client.stream(
                "POST", target, headers=encoded, content=body, extensions={"timeout": limits}
            ) as answer:
                return int(answer.status)


def _value(text: str) -> bytes:
    """A header's value: a job's id may have any letters, which a header has not."""
    return quote(text, safe=" !#$&'()*+,/:;=?@[]-._~%").encode()

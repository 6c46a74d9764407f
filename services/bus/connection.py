"""One NATS connection as the services use it.

Theory of operation. Reconnecting is for ever and quick; what is published meanwhile waits in the client's
buffer. Handlers are called by the read loop and only hand messages on (quick_client.py).
JetStream publishing is a request whose answers come to one inbox (`publish_stored`): cheaper than the
client's own, and it gives errors names.
"""

import asyncio
import ssl
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import msgspec
import nats
import nats.errors
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.js import JetStreamContext

from schemas import wire
from schemas.subjects import Subjects
from services.bus.lag import watch_lag
from services.bus.quick_client import Handler, QuickClient
from services.process.logs import get_logger
from services.process.running import CannotStart
from services.process.settings import BusSettings

log = get_logger("bus")

T = TypeVar("T")

HANDSHAKE_TIMEOUT_S = 3.0
CONNECT_TIMEOUT_S = 30.0
RECONNECT_WAIT_S = 0.1
PORT_POLL_S = 0.02
BUFFER_WHILE_RECONNECTING_BYTES = 32 * 1024 * 1024
PUBLISH_TIMEOUT_S = 5.0
ACK_SWEEP_S = 0.25
CLOSE_TIMEOUT_S = 2.0


class BusError(Exception):
    """Something on the way over NATS went wrong."""


class CannotConnect(BusError, CannotStart):
    """No NATS server answered in time; says which and what to do."""


class NobodyThere(BusError):
    """A request found no responder: the service or worker is not running."""


class NoAnswer(BusError):
    """A request or a publication was not answered in time."""


class StreamFull(BusError):
    """The stream holds as much as it may (`discard=new`)."""


class AlreadyStored(BusError):
    """The subject has a message already, and the publisher asked to be the first."""


class NotStored(BusError):
    """JetStream refused a message for another reason."""


Answered = Callable[["PubAck | BusError"], None]
"""Hears once how a publication went."""


class _PubAckError(msgspec.Struct):
    code: int = 0
    err_code: int = 0
    description: str = ""


class PubAck(msgspec.Struct):
    """JetStream's answer to a publication."""

    stream: str = ""
    seq: int = 0
    duplicate: bool = False
    error: _PubAckError | None = None


_decode_ack = msgspec.json.Decoder(PubAck).decode
_WRONG_LAST_SEQUENCE = 10071
_STREAM_LIMITS = (10077, 10122)


class Bus:
    """A NATS connection with the subjects of this installation. Make one with `connect`.

    replicas: servers that hold each stream.
    """

    def __init__(self, client: QuickClient, subjects: Subjects, replicas: int) -> None:
        self.client = client
        self.subjects = subjects
        self.replicas = replicas
        self.jetstream: JetStreamContext = client.jetstream(timeout=PUBLISH_TIMEOUT_S)
        self.on_reconnect: list[Callable[[], None]] = []
        self.dropped_messages = 0
        self._acks: dict[str, tuple[float, str, Answered]] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._ack_inbox = client.new_inbox()
        self._next_ack = 0

    @property
    def is_connected(self) -> bool:
        connected: bool = self.client.is_connected
        return connected

    @property
    def max_payload(self) -> int:
        """Largest message the server takes, bytes."""
        size: int = self.client.max_payload
        return size

    async def start(self) -> None:
        self._tasks += [asyncio.create_task(work) for work in (self._sweep_acks(), watch_lag(self.client))]
        await self.listen(self._ack_inbox + ".*", self._take_ack)

    def post(
        self,
        subject: str,
        payload: bytes,
        reply: str = "",
        headers: dict[str, str] | None = None,
        *,
        is_urgent: bool = True,
    ) -> None:
        """Publish without waiting. In order; what is posted together is sent together.

        A message that is not urgent waits up to a millisecond for company.

        A message that cannot be sent (the buffer of a long disconnection is full) is dropped and counted:
        whoever needs to know asks for an answer.
        """
        try:
            self.client.post(subject, payload, reply, headers, is_urgent=is_urgent)
        except nats.errors.Error as error:
            self.dropped_messages += 1
            log.warning("message.not_sent", subject=subject, error=str(error))

    async def listen(self, subject: str, handler: Handler, queue: str = "") -> Subscription:
        """Subscribe; `handler` is called by the read loop and must only hand the message on."""
        return await self.client.subscribe_direct(subject, handler, queue)

    def tell(self, subject: str, message: object, *, is_urgent: bool = True) -> None:
        """Publish a Struct."""
        self.post(subject, wire.encode(message), is_urgent=is_urgent)

    async def ask(self, subject: str, message: object, kind: type[T] | Any, timeout_s: float) -> Any:
        """Request; the answer as `kind`. Raises NobodyThere, NoAnswer, wire.UnreadableMessage."""
        try:
            answer = await self.client.request(subject, wire.encode(message), timeout=timeout_s)
        except nats.errors.NoRespondersError:
            raise NobodyThere(subject) from None
        except (nats.errors.TimeoutError, TimeoutError):
            raise NoAnswer(f"no answer on {subject} in {timeout_s:g} s") from None
        except nats.errors.Error as error:
            raise BusError(f"{subject}: {error}") from error
        return wire.decode(kind, answer.data)

    def post_stored(
        self,
        subject: str,
        payload: bytes,
        answered: Answered,
        *,
        message_id: str = "",
        must_be_first: bool = False,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Publish into a stream; `answered` hears once whether the server has stored it.

        message_id: the server drops another message with the same id (within its duplicate window).
        must_be_first: refuse when the subject has a message already.
        """
        if len(payload) > self.max_payload:
            answered(NotStored(f"{len(payload)} bytes are over the server's limit of {self.max_payload}"))
            return
        sent = dict(headers) if headers else {}
        if message_id:
            sent["Nats-Msg-Id"] = message_id
        if must_be_first:
            sent["Nats-Expected-Last-Subject-Sequence"] = "0"
        self._next_ack += 1
        token = str(self._next_ack)
        self._acks[token] = (time.monotonic() + PUBLISH_TIMEOUT_S, subject, answered)
        self.post(subject, payload, f"{self._ack_inbox}.{token}", sent or None)

    async def publish_stored(
        self,
        subject: str,
        payload: bytes,
        *,
        message_id: str = "",
        must_be_first: bool = False,
        headers: Mapping[str, str] | None = None,
    ) -> PubAck:
        """Publish into a stream and wait until the server has stored it (see `post_stored`).

        Raises StreamFull, AlreadyStored, NotStored, NoAnswer.
        """
        answer: asyncio.Future[PubAck] = asyncio.get_running_loop().create_future()
        self.post_stored(
            subject,
            payload,
            into(answer),
            message_id=message_id,
            must_be_first=must_be_first,
            headers=headers,
        )
        return await answer

    async def _sweep_acks(self) -> None:
        """Tell who waits in vain; publications wait equally long, so the first ones are the oldest."""
        while True:
            await asyncio.sleep(ACK_SWEEP_S)
            now = time.monotonic()
            while self._acks:
                token, (deadline, subject, answered) = next(iter(self._acks.items()))
                if now < deadline:
                    break
                del self._acks[token]
                answered(NoAnswer(f"{subject} was not stored in {PUBLISH_TIMEOUT_S:g} s"))

    def _take_ack(self, message: Msg) -> None:
        waiting = self._acks.pop(message.subject.rsplit(".", 1)[1], None)
        if waiting is None:
            return
        answered = waiting[2]
        if not message.data:  # no responders: JetStream is not there (yet)
            answered(NoAnswer("JetStream does not answer"))
            return
        try:
            ack = _decode_ack(message.data)
        except msgspec.DecodeError as error:
            answered(NotStored(f"unreadable answer of JetStream: {error}"))
            return
        answered(ack if ack.error is None else _named(ack.error))

    async def close(self) -> None:
        """Send what is waiting, then disconnect; bounded, and safe in a cancelled task."""

        async def flush_and_close() -> None:
            if self.client.is_connected:
                await self.client.flush(timeout=1)
            await self.client.close()
            for task in self._tasks:
                task.cancel()

        try:
            await asyncio.shield(asyncio.wait_for(flush_and_close(), CLOSE_TIMEOUT_S))
        except (TimeoutError, nats.errors.Error, OSError, RuntimeError):  # uvloop: the handler is closed
            log.warning("connection.not_flushed")


def into(future: "asyncio.Future[PubAck]") -> Answered:
    """A hearer of one publication that sets a future."""

    def answered(found: PubAck | BusError) -> None:
        if future.done():
            return
        if isinstance(found, PubAck):
            future.set_result(found)
        else:
            future.set_exception(found)

    return answered


def _named(error: _PubAckError) -> BusError:
    if error.err_code == _WRONG_LAST_SEQUENCE:
        return AlreadyStored(error.description)
    if error.err_code in _STREAM_LIMITS or "maximum" in error.description:
        return StreamFull(error.description)
    return NotStored(f"{error.description} ({error.err_code})")


def _tls_context(settings: BusSettings) -> ssl.SSLContext | None:
    if not settings.nats_ca:
        return None
    context = ssl.create_default_context(cafile=settings.nats_ca)
    if settings.nats_cert:
        context.load_cert_chain(settings.nats_cert, settings.nats_key or None)
    return context


async def _wait_for_port(urls: list[str], timeout_s: float) -> None:
    """Return when one of the servers listens: the client itself would wait 2 s after a first refusal."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout_s
    while True:
        for url in urls:
            parts = urlsplit(url if "//" in url else f"nats://{url}")
            try:
                _, writer = await asyncio.open_connection(parts.hostname, parts.port or 4222)
                writer.close()
                return
            except OSError:
                continue
        if loop.time() > deadline:
            raise CannotConnect(
                f"no NATS server listens at {', '.join(urls)}; start one, or let `stoker up` do it"
            )
        await asyncio.sleep(PORT_POLL_S)


async def connect(settings: BusSettings, name: str, wait_s: float = CONNECT_TIMEOUT_S) -> Bus:
    """Connect and reconnect for ever. Raises CannotConnect when no server is there in `wait_s`."""
    urls = [url.strip() for url in settings.nats.split(",") if url.strip()]
    await _wait_for_port(urls, wait_s)

    def on_handler_error(subject: str, error: Exception) -> None:
        log.error("message.failed", subject=subject, exc_info=error)

    client = QuickClient(on_handler_error)
    bus: Bus | None = None
    last_error = "no answer"

    async def on_error(error: Exception) -> None:
        nonlocal last_error
        last_error = str(error) or type(error).__name__
        if isinstance(error, nats.errors.SlowConsumerError) and bus is not None:
            bus.dropped_messages += 1
        if bus is not None:
            log.warning("connection.error", error=last_error)

    async def on_disconnect() -> None:
        if not client.is_closed:
            log.warning("connection.lost")

    async def on_reconnect() -> None:
        log.info("connection.restored")
        for callback in bus.on_reconnect if bus else ():
            callback()

    options: dict[str, Any] = {}
    if settings.nats_user:
        options |= {"user": settings.nats_user, "password": settings.nats_password}
    if settings.nats_nkey:
        options["nkeys_seed"] = str(Path(settings.nats_nkey).expanduser())
    if settings.nats_creds:
        options["user_credentials"] = str(Path(settings.nats_creds).expanduser())
    try:
        async with asyncio.timeout(HANDSHAKE_TIMEOUT_S):
            await client.connect(
                servers=urls,
                name=name,
                tls=_tls_context(settings),
                error_cb=on_error,
                disconnected_cb=on_disconnect,
                reconnected_cb=on_reconnect,
                max_reconnect_attempts=-1,
                reconnect_time_wait=RECONNECT_WAIT_S,
                ping_interval=10,
                pending_size=BUFFER_WHILE_RECONNECTING_BYTES,
                **options,
            )
    except (nats.errors.Error, OSError) as error:
        await client.close()
        reason = last_error if isinstance(error, TimeoutError) else error
        raise CannotConnect(f"NATS at {settings.nats} refused: {reason}") from error
    bus = Bus(client, Subjects(settings.prefix), settings.nats_replicas)
    await bus.start()
    return bus

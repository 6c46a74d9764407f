"""One NATS connection as the services use it.

Theory of operation. Reconnecting is for ever and quick; what is published meanwhile waits in the client's
buffer. Callbacks are called by the read loop and only hand messages on (quick_client.py). Publishing into
streams is publishing.py's, the names of errors are errors.py's. The connection owns what runs beside it, for as
long as the block of `open_bus` lasts.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from functools import partial
from typing import Any, TypeVar

import anyio
import nats
import nats.errors
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.js import JetStreamContext

from stoker.schemas import wire
from stoker.schemas.subjects import CATALOG_BUCKET, Subjects
from stoker.services.bus.addresses import credentials, shown, tls_context, urls_of, wait_for_port
from stoker.services.bus.endpoints import Endpoints, Served
from stoker.services.bus.errors import CannotConnect, ConnectionEnded, named
from stoker.services.bus.lag import watch_lag
from stoker.services.bus.permissions import inbox_of
from stoker.services.bus.publishing import PUBLISH_TIMEOUT_S, Answered, PubAck, Publisher, into
from stoker.services.bus.quick_client import Handler, QuickClient
from stoker.services.bus.seals import Seals
from stoker.services.process.logs import get_logger
from stoker.services.process.running import StoppedAtStart
from stoker.services.process.settings import BusSettings
from stoker.services.process.tasks import TaskOwner, cleanup, limit, until

log = get_logger("bus")

T = TypeVar("T")

HANDSHAKE_TIMEOUT_S = 3.0
CONNECT_TIMEOUT_S = 30.0
RECONNECT_WAIT_S = 0.1
PING_EVERY_S, MAX_UNANSWERED_PINGS = 1, 2
"""A server that answers no ping for three seconds counts as gone: another one is connected to, if there is one.
"""
BUFFER_WHILE_RECONNECTING_BYTES = 32 * 1024 * 1024
CLOSE_TIMEOUT_S = 2.0
REFUSED = "authorization"
MAY_NOT_LISTEN = "permissions violation for subscription"


class Bus:
    """A NATS connection with the subjects of this installation. Make one with `open_bus`.

    replicas: servers that hold each stream. on_reconnect: called after every reconnection. ended: set when the
    client has given up the connection, which it does for what the server does not forgive. seals: of jobs, as
    far as this process may know them (services/records/seal_key.py). endpoints: what this process answers.
    another: makes one more connection of the same user, in the event loop that it is called in; takes the
    `stopping` of `open_bus`.
    """

    def __init__(
        self,
        client: QuickClient,
        subjects: Subjects,
        replicas: int,
        another: "Callable[..., AbstractAsyncContextManager[Bus]]",
    ) -> None:
        self.client = client
        self.another = another
        self.subjects = subjects
        self.replicas = replicas
        self.jetstream: JetStreamContext = client.jetstream(timeout=PUBLISH_TIMEOUT_S)
        self.on_reconnect: list[Callable[[], None]] = []
        self.dropped_messages = 0
        self.ended = asyncio.Event()
        self.seals = Seals()
        self.endpoints = Endpoints(subjects.prefix)
        self._publisher = Publisher(client, self.post)

    @property
    def is_connected(self) -> bool:
        connected: bool = self.client.is_connected
        return connected

    @property
    def max_payload(self) -> int:
        """Largest message the server takes, bytes."""
        size: int = self.client.max_payload
        return size

    async def start(self, tasks: TaskOwner) -> None:
        tasks.start(self._publisher.sweep)
        tasks.start(watch_lag, self.client)
        tasks.start(self._fail_when_ended)
        await self.listen(self._publisher.inbox + ".*", self._publisher.take)

    async def _fail_when_ended(self) -> None:
        await self.ended.wait()
        raise ConnectionEnded(f"the connection to NATS is closed for good: {self.client.last_error}")

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

        A message that cannot be sent (it is larger than the server takes, or the buffer of a long disconnection
        is full) is dropped and counted: whoever needs to know asks for an answer.
        """
        try:
            self.client.post(subject, payload, reply, headers, is_urgent=is_urgent)
        except nats.errors.Error as error:
            self.dropped_messages += 1
            log.warning("message.not_sent", subject=subject, size=len(payload), error=str(error))

    async def listen(self, subject: str, handler: Handler, queue: str = "") -> Subscription:
        """Subscribe; `handler` is called by the read loop and must only hand the message on."""
        return await self.client.subscribe_direct(subject, handler, queue)

    @asynccontextmanager
    async def listening(self, *pairs: tuple[str, Handler]) -> AsyncIterator[None]:
        """Subscribe to several subjects, each with its handler, for as long as the block lasts."""
        subscriptions: list[Subscription] = []
        try:
            for subject, handler in pairs:
                subscriptions.append(await self.listen(subject, handler))
            yield
        finally:
            async with cleanup("unsubscribing", CLOSE_TIMEOUT_S):
                for subscription in subscriptions:
                    await self.unlisten(subscription)

    @asynccontextmanager
    async def answering(self, answers: Mapping[Served, Callable[[Msg], str]]) -> AsyncIterator[None]:
        """Answer these endpoints for as long as the block lasts, counted (see `Served.counting`)."""
        pairs = [(served.subject, served.counting(answer)) for served, answer in answers.items()]
        async with self.listening(*pairs):
            with self.endpoints.announcing(*answers):
                yield

    def listen_now(self, subject: str, handler: Handler) -> Callable[[], None]:
        """Subscribe without waiting; what this gives ends it. A closed connection hears nothing."""
        try:
            number = self.client.subscribe_now(subject, handler)
        except nats.errors.Error as error:
            log.warning("subscription.not_made", subject=subject, error=str(error))
            return lambda: None
        return lambda: self.client.unsubscribe_now(number)

    async def unlisten(self, subscription: Subscription) -> None:
        """End a subscription; where the connection is away or closed it has ended already."""
        with suppress(nats.errors.Error, OSError):
            await subscription.unsubscribe()

    def tell(self, subject: str, message: object, *, is_urgent: bool = True) -> None:
        """Publish a Struct."""
        self.post(subject, wire.encode(message), is_urgent=is_urgent)

    async def ask(self, subject: str, message: object, kind: type[T] | Any, timeout_s: float) -> Any:
        """Request; the answer as `kind`. Raises NobodyThere, NoAnswer, wire.UnreadableMessage."""
        with named(f"asking {subject} for {timeout_s:g} s"):
            answer = await self.client.request(subject, wire.encode(message), timeout=timeout_s)
        return wire.decode(kind, answer.data)

    async def ask_all(self, subject: str, message: object, kind: type[T] | Any, seconds: float) -> list[Any]:
        """Ask everybody who listens; the answers as `kind` that come within `seconds`, fewer where none
        listens.

        An answer that cannot be read is left out.
        """
        answers: list[Any] = []
        nobody = asyncio.Event()

        def take(answer: Msg) -> None:
            if not answer.data:  # the server's own word: no responders
                nobody.set()
                return
            with suppress(wire.UnreadableMessage):
                answers.append(wire.decode(kind, answer.data))

        inbox = self.client.new_inbox()
        end = self.listen_now(inbox, take)
        try:
            self.post(subject, wire.encode(message), inbox)
            with anyio.move_on_after(seconds):
                await nobody.wait()
        finally:
            end()
        return answers

    def post_stored(
        self,
        subject: str,
        payload: bytes,
        answered: Answered,
        *,
        message_id: str = "",
        expected: int | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Publish into a stream; `answered` is called once with how that went.

        message_id: the server drops another message with the same id (within its duplicate window).
        expected: Conflict unless the last message of the subject has this number in the stream; 0: it has none.
        """
        self._publisher.publish(
            subject, payload, answered, message_id=message_id, expected=expected, headers=headers
        )

    async def publish_stored(
        self,
        subject: str,
        payload: bytes,
        *,
        message_id: str = "",
        expected: int | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> PubAck:
        """Publish into a stream and wait until the server has stored it (see `post_stored`).

        Raises Conflict, StreamFull, Refused, NoAnswer.
        """
        answer: asyncio.Future[PubAck] = asyncio.get_running_loop().create_future()
        self.post_stored(
            subject,
            payload,
            into(answer),
            message_id=message_id,
            expected=expected,
            headers=headers,
        )
        return await answer

    def give_up(self) -> None:
        """The connection is lost: whatever was asked or published through it is answered with NoAnswer now."""
        self._publisher.give_up()
        self.client.fail_requests()

    async def close(self) -> None:
        """Send what is waiting, then disconnect; bounded."""
        async with cleanup("closing the NATS connection", CLOSE_TIMEOUT_S):
            try:
                if self.client.is_connected:
                    await self.client.flush(timeout=1)
                await self.client.close()
            except (TimeoutError, nats.errors.Error, OSError, RuntimeError) as error:  # uvloop: already closed
                log.warning("connection.not_flushed", error=str(error) or type(error).__name__)
        self._publisher.give_up()


async def _try_listening(client: QuickClient, heard: tuple[str, ...]) -> None:
    """Subscribe to these for a moment: what the server refuses it has said when this returns."""
    numbers = [client.subscribe_now(subject, lambda _: None) for subject in heard]
    await client.flush(timeout=HANDSHAKE_TIMEOUT_S)
    for number in numbers:
        client.unsubscribe_now(number)


@asynccontextmanager
async def open_bus(
    settings: BusSettings,
    name: str,
    wait_s: float = CONNECT_TIMEOUT_S,
    *,
    role: str = "",
    stopping: asyncio.Event | None = None,
) -> AsyncIterator[Bus]:
    """A connection that reconnects for ever inside the block, and is flushed and closed after it.

    role: whose inbox it has (permissions.py); "": that of people. Raises CannotConnect when no server is there
    in `wait_s`, or it does not let this role listen; StoppedAtStart when `stopping` is set before.
    """
    connected: list[Bus] = []

    async def connect() -> None:
        connected.append(await _connect(settings, name, wait_s, role))

    await until(stopping or asyncio.Event(), connect)
    if not connected:
        raise StoppedAtStart(f"told to stop while it looked for NATS at {shown(urls_of(settings))}")
    [bus] = connected
    try:
        async with TaskOwner("bus") as tasks:
            await bus.start(tasks)
            yield bus
    finally:
        await bus.close()


class _Told:
    """What nats-py tells of a connection. bus: None until it is there. may_not_listen: that was refused."""

    def __init__(self, client: QuickClient) -> None:
        self.bus: Bus | None = None
        self.last_error = "no answer"
        self.may_not_listen = False
        self._client = client

    async def on_error(self, error: Exception) -> None:
        self.last_error = str(error) or type(error).__name__
        if self.bus is None:
            self.may_not_listen |= MAY_NOT_LISTEN in self.last_error.lower()
            return
        if isinstance(error, nats.errors.SlowConsumerError):
            self.bus.dropped_messages += 1
        log.warning("connection.error", error=self.last_error)

    async def on_disconnect(self) -> None:
        if not self._client.is_closed:
            log.warning("connection.lost")
        if self.bus is not None:
            self.bus.give_up()

    async def on_closed(self) -> None:
        if self.bus is not None:
            self.bus.ended.set()

    async def on_reconnect(self) -> None:
        log.info("connection.restored")
        for callback in self.bus.on_reconnect if self.bus else ():
            callback()


class _NoHandshake(CannotConnect):
    """A server listens and says nothing: it may be stopped for a moment, or cut off."""


async def _connect(settings: BusSettings, name: str, wait_s: float, role: str) -> Bus:
    """Raises CannotConnect when no server has let us in after `wait_s`, or at once when one has refused us."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + wait_s
    while True:
        await wait_for_port(urls_of(settings), max(deadline - loop.time(), 0.0))
        try:
            return await _shake_hands(settings, name, role)
        except _NoHandshake as error:
            if loop.time() > deadline:
                raise
            log.warning("connection.not_made", error=str(error))
            await asyncio.sleep(RECONNECT_WAIT_S)


async def _shake_hands(settings: BusSettings, name: str, role: str) -> Bus:
    """One try. Raises CannotConnect."""
    urls, inbox = urls_of(settings), inbox_of(role)

    def on_handler_error(subject: str, error: Exception) -> None:
        log.error("message.failed", subject=subject, exc_info=error)

    client = QuickClient(on_handler_error)
    told = _Told(client)
    heard = (f"{inbox}.probe", f"$KV.{CATALOG_BUCKET}.>") if role else ()
    try:
        with limit("the handshake", HANDSHAKE_TIMEOUT_S):
            await client.connect(
                servers=urls,
                name=name,
                tls=tls_context(settings),
                error_cb=told.on_error,
                disconnected_cb=told.on_disconnect,
                reconnected_cb=told.on_reconnect,
                closed_cb=told.on_closed,
                max_reconnect_attempts=-1,
                reconnect_time_wait=RECONNECT_WAIT_S,
                ping_interval=PING_EVERY_S,
                max_outstanding_pings=MAX_UNANSWERED_PINGS,
                pending_size=BUFFER_WHILE_RECONNECTING_BYTES,
                inbox_prefix=inbox,
                **credentials(settings),
            )
            await _try_listening(client, heard)
    except (nats.errors.Error, OSError) as error:
        await client.close()
        is_silent = isinstance(error, TimeoutError) and REFUSED not in told.last_error.lower()
        reason = told.last_error if isinstance(error, TimeoutError) else error
        kind = _NoHandshake if is_silent else CannotConnect
        raise kind(f"NATS at {shown(urls)} refused: {reason}") from error
    if told.may_not_listen:
        await client.close()
        raise CannotConnect(
            f"NATS does not let this user listen to {' or '.join(heard)}: a worker needs the --name that "
            "was invited; a users.conf of an earlier version is replaced by what `stoker users` prints"
        )
    another = partial(open_bus, settings, name, role=role)
    told.bus = Bus(client, Subjects(settings.prefix), settings.nats_replicas, another)
    return told.bus

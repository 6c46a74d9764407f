"""A NATS client that loses nothing inside itself and wastes no turn of the event loop.

nats-py queues each subscription's messages for a task of its own, drops them past a limit, and writes from yet
another task. Here a *direct* subscription's handler is called by the read loop itself, synchronously, so
nothing is queued or dropped; and posted messages are written once per turn of the loop. A subscription for one
request (`subscribe_now`) waits for nothing either. It overrides and uses private parts of nats-py
(`_process_msg`, `_process_pong`, `_process_op_err`, `_send_ping`, `_connect_to_server`, `_remove_sub`,
`_resp_map`, `_max_payload`, `_subs`, `_pending`, `_flush_queue`, `_transport`), which is why pyproject pins its
minor version; the contract tests of the bus would show a change.

Handlers must only hand the message on: decode, set a future, put into a queue. What one raises is reported.
"""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.aio.transport import TcpTransport
from nats.protocol import command

from stoker.services.bus.sizes import MAX_SUBJECT_CHARS, message_bytes

Handler = Callable[[Msg], None]

CROWD_MESSAGES = 4
CROWD_GAP_S = 0.001
"""When a write carried this many messages, the next waits this long for more: under load a message costs
less CPU, and a request that is alone loses no time."""
MAX_UNSENT_BYTES = 8 * 1024 * 1024
"""Past this in the socket's buffer, the client's own flusher takes over, which waits for the server."""


@dataclass(slots=True)
class Traffic:
    """Messages of a connection in one direction since it was made."""

    messages: int = 0
    payload_bytes: int = 0

    def count(self, payload_bytes: int) -> None:
        self.messages += 1
        self.payload_bytes += payload_bytes


@contextmanager
def _lost_when_closed() -> Iterator[None]:
    """uvloop raises RuntimeError where a connection that it has closed is written to: a loss like others."""
    try:
        yield
    except RuntimeError as error:
        raise ConnectionResetError("the connection is closed already") from error


class _Transport(TcpTransport):  # type: ignore[misc]  # nats-py is not typed strictly
    """nats-py connects anew after an OSError. A RuntimeError would end the task that does, for good."""

    def write(self, payload: bytes) -> None:
        with _lost_when_closed():
            super().write(payload)

    def writelines(self, payload: list[bytes]) -> None:
        with _lost_when_closed():
            super().writelines(payload)

    def __bool__(self) -> bool:
        """nats-py makes one of its own in place of one that is false."""
        return True


class QuickClient(Client):  # type: ignore[misc]  # nats-py is not typed strictly
    """`on_handler_error` is called with what a handler raised."""

    def __init__(self, on_handler_error: Callable[[str, Exception], None]) -> None:
        super().__init__()
        self._direct: dict[int, Handler] = {}
        self._on_handler_error = on_handler_error
        self._pending: list[bytes]
        self._transport: Any
        self._due: asyncio.Handle | None = None
        self._is_due_now = False
        self._written_at = 0.0
        self._last_crowd = 0
        self._posted = 0
        self.received = Traffic()
        self.sent = Traffic()

    async def subscribe_direct(self, subject: str, handler: Handler, queue: str = "") -> Subscription:
        """Subscribe with a handler that the read loop calls."""

        async def unused(_: Msg) -> None:
            raise AssertionError("a direct subscription's messages do not come here")

        subscription = await self.subscribe(subject, queue, cb=unused)
        self._direct[subscription._id] = handler
        return subscription

    def subscribe_now(self, subject: str, handler: Handler) -> int:
        """Subscribe without waiting, with a handler that the read loop calls; a number to end it with.

        The server knows of it before it sees what is posted later. Raises nats.errors.Error when the connection
        is closed for good, or the subject too long.
        """
        if self.is_closed:
            raise nats.errors.ConnectionClosedError
        self._check_size(subject, b"", "", None)
        self._sid += 1
        sid: int = self._sid
        self._subs[sid] = _Direct(sid, subject)
        self._direct[sid] = handler
        self._put(command.sub_cmd(subject, "", sid), is_urgent=True)
        return sid

    def unsubscribe_now(self, sid: int) -> None:
        """End a subscription of `subscribe_now`."""
        if self._subs.pop(sid, None) is not None and not self.is_closed:
            self._put(command.unsub_cmd(sid, 0), is_urgent=False)
        self._direct.pop(sid, None)

    def _remove_sub(self, sid: int, max_msgs: int = 0) -> None:
        """A subscription has ended: its handler goes with it."""
        self._direct.pop(sid, None)
        super()._remove_sub(sid, max_msgs)

    async def _process_pong(self) -> None:
        """A PONG may answer a PING that nobody waits for any more, after a pause of the server: nothing more.

        nats-py would set a future that is cancelled, and the error would end its read loop.
        """
        if self._pongs and self._pongs[0].done():
            self._pongs.pop(0)
            self._pongs_received += 1
            self._pings_outstanding = 0
            return
        await super()._process_pong()

    async def _process_msg(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes) -> None:
        self.received.count(len(data))
        handler = self._direct.get(sid)
        if handler is None:
            await super()._process_msg(sid, subject, reply, data, headers)
            return
        parsed = _parse_headers(headers) if headers else None
        message = Msg(
            _client=self, subject=subject.decode(), reply=reply.decode(), data=data, headers=parsed, _sid=sid
        )
        try:
            handler(message)
        except Exception as error:  # the read loop must live
            self._on_handler_error(message.subject, error)

    def post(
        self,
        subject: str,
        payload: bytes,
        reply: str,
        headers: dict[str, str] | None,
        *,
        is_urgent: bool = True,
    ) -> None:
        """Publish without waiting. Raises nats.errors.Error when the connection is closed for good, its buffer
        is full while it is away, or the message is larger than the server takes."""
        if self.is_closed:
            raise nats.errors.ConnectionClosedError
        self._check_size(subject, payload, reply, headers)
        away = not self.is_connected
        if away and self._pending_data_size + len(payload) > self._max_pending_size:
            raise nats.errors.OutboundBufferLimitError
        if headers:
            lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
            head = f"NATS/1.0\r\n{lines}\r\n".encode()
            encoded = command.hpub_cmd(subject, reply, head, payload)
        else:
            encoded = command.pub_cmd(subject, reply, payload)
        self.sent.count(len(payload))
        self._put(encoded, is_urgent=is_urgent)

    async def publish(
        self, subject: str, payload: bytes = b"", reply: str = "", headers: dict[str, str] | None = None
    ) -> None:
        """As nats-py's, which compares the payload alone with the server's limit."""
        self._check_size(subject, payload, reply, headers)
        self.sent.count(len(payload))
        await super().publish(subject, payload, reply, headers)

    async def _connect_to_server(self, server: Any) -> None:
        if self._transport is None and not server.uri.scheme.startswith("ws"):
            self._transport = _Transport()
        await super()._connect_to_server(server)

    async def _send_ping(self, future: asyncio.Future[bool] | None = None) -> None:
        """As nats-py's, which sends its PING before what is posted and not yet written, and raises where the
        connection is closed: here it is made anew, and the PING is not answered."""
        self._write_pending()
        try:
            await super()._send_ping(future)
        except OSError as error:
            await self._process_op_err(error)

    def _check_size(self, subject: str, payload: bytes, reply: str, headers: dict[str, str] | None) -> None:
        """Raises MaxPayloadError, BadSubjectError: the server ends the connection of who sends more."""
        if message_bytes(payload, headers) > self._max_payload:
            raise nats.errors.MaxPayloadError
        if len(subject) + len(reply) > MAX_SUBJECT_CHARS:
            raise nats.errors.BadSubjectError

    def _put(self, encoded: bytes, *, is_urgent: bool) -> None:
        """Have a command written: soon, or with the next that is urgent."""
        self._pending.append(encoded)
        self._pending_data_size += len(encoded)
        self._posted += 1
        if self._due is not None and (self._is_due_now or not is_urgent):
            return
        loop = asyncio.get_running_loop()
        is_crowded = self._last_crowd >= CROWD_MESSAGES and loop.time() - self._written_at < CROWD_GAP_S
        if is_urgent and not is_crowded:
            if self._due is not None:
                self._due.cancel()
            self._due, self._is_due_now = loop.call_soon(self._write), True
        elif self._due is None:
            self._due = loop.call_later(CROWD_GAP_S, self._write)

    def _write_pending(self) -> None:
        """Write what is posted now, before anything that nats-py itself writes at once."""
        if self._due is not None:
            self._due.cancel()
        self._write()

    def _write(self) -> None:
        self._due, self._is_due_now = None, False
        if not self.is_connected or self.is_connecting or self._transport is None:
            return  # what is pending goes out after the reconnection
        self._last_crowd, self._posted = self._posted, 0
        self._written_at = asyncio.get_running_loop().time()
        writer = self._transport._io_writer
        if writer is None or writer.transport.get_write_buffer_size() > MAX_UNSENT_BYTES:
            self._wake_flusher()
            return
        pending: list[bytes] = self._pending
        self._pending = []
        self._pending_data_size = 0
        try:
            writer.write(b"".join(pending))
        except (OSError, RuntimeError):
            self._pending = pending + self._pending  # the read loop will notice the loss
            self._pending_data_size = sum(map(len, self._pending))

    def fail_requests(self) -> None:
        """The connection is lost: what was asked through it is not answered any more."""
        for answer in list(self._resp_map.values()):
            if not answer.done():
                answer.set_exception(nats.errors.ConnectionReconnectingError())

    def _wake_flusher(self) -> None:
        """Have nats-py's own flusher write what is pending, waiting for the server; one request is enough."""
        if self._flush_queue is not None and self._flush_queue.empty():
            self._flush_queue.put_nowait(asyncio.get_running_loop().create_future())


class _Direct:
    """What nats-py needs of a subscription to make it again after a reconnection, and to drop it at the end."""

    __slots__ = ("_id", "_received", "_subject")
    _queue = ""
    _max_msgs = 0
    _wait_for_msgs_task = None
    _message_iterator = None
    _pending_next_msgs_calls = None

    def __init__(self, sid: int, subject: str) -> None:
        self._id = sid
        self._subject = subject
        self._received = 0


def _parse_headers(raw: bytes) -> dict[str, str]:
    """The fields of a header block, and "Status" where its first line has one ("NATS/1.0 503")."""
    first, *lines = raw.decode(errors="replace").strip().split("\r\n")
    status = first[len("NATS/1.0") :].strip()
    fields = {"Status": status[:3]} if status else {}
    for line in lines:
        name, _, value = line.partition(":")
        fields[name] = value.strip()
    return fields

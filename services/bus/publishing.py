"""Publishing into streams: a request whose answers come to one inbox.

Cheaper than nats-py's own `publish` (one subscription, no future per message unless it is asked for), and it
gives errors names. Every publication is answered once: stored, refused, or `NoAnswer`, after PUBLISH_TIMEOUT_S
or when the connection is lost.
"""

import asyncio
import time
from collections.abc import Callable, Mapping

import msgspec
from nats.aio.msg import Msg

from stoker.services.bus.errors import BusError, NoAnswer, TooLarge, of_code
from stoker.services.bus.quick_client import QuickClient
from stoker.services.bus.sizes import MAX_SUBJECT_CHARS, message_bytes

PUBLISH_TIMEOUT_S = 5.0
SWEEP_S = 0.25
MAX_REPLY_CHARS = 100
"""Of an answer's subject: an inbox and a number."""

Answered = Callable[["PubAck | BusError"], None]
"""Called once with how a publication went."""
Post = Callable[[str, bytes, str, dict[str, str] | None], None]
"""Publishes without waiting: subject, payload, reply subject, headers."""


class _PubAckError(msgspec.Struct):
    code: int = 0
    err_code: int = 0
    description: str = ""


class PubAck(msgspec.Struct):
    """JetStream's answer to a publication that it has stored."""

    stream: str = ""
    seq: int = 0
    duplicate: bool = False
    error: _PubAckError | None = None


_decode_ack = msgspec.json.Decoder(PubAck).decode


class Publisher:
    """The publications under way. `take` gets what comes to `inbox`; `sweep` runs for as long as this lives."""

    def __init__(self, client: QuickClient, post: Post) -> None:
        self.inbox: str = client.new_inbox()
        self._client = client
        self._post = post
        self._waiting: dict[str, tuple[float, str, Answered]] = {}
        self._next_token = 0

    def publish(
        self,
        subject: str,
        payload: bytes,
        answered: Answered,
        *,
        message_id: str = "",
        expected: int | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Publish; `answered` is called once. The options are those of `Bus.post_stored`."""
        sent = dict(headers) if headers else {}
        if message_id:
            sent["Nats-Msg-Id"] = message_id
        if expected is not None:
            sent["Nats-Expected-Last-Subject-Sequence"] = str(expected)
        most, size = self._client.max_payload, message_bytes(payload, sent)
        if size > most:
            answered(TooLarge(f"{size} bytes are over the server's limit of {most}"))
            return
        if len(subject) > MAX_SUBJECT_CHARS - MAX_REPLY_CHARS:
            answered(TooLarge(f"the subject has {len(subject)} characters"))
            return
        self._next_token += 1
        token = str(self._next_token)
        self._waiting[token] = (time.monotonic() + PUBLISH_TIMEOUT_S, subject, answered)
        self._post(subject, payload, f"{self.inbox}.{token}", sent or None)

    def take(self, message: Msg) -> None:
        """JetStream's answer to one publication."""
        waiting = self._waiting.pop(message.subject.rsplit(".", 1)[1], None)
        if waiting is None:
            return
        _, subject, answered = waiting
        if not message.data:  # the server's "no responders": JetStream is not there (yet)
            answered(NoAnswer(f"{subject}: JetStream does not answer"))
            return
        try:
            ack = _decode_ack(message.data)
        except msgspec.DecodeError as error:
            answered(BusError(f"{subject}: unreadable answer of JetStream: {error}"))
            return
        answered(ack if ack.error is None else of_code(ack.error.err_code, ack.error.description))

    async def sweep(self) -> None:
        """Answer what has waited too long. All wait equally long, so the first ones are the oldest."""
        while True:
            await asyncio.sleep(SWEEP_S)
            now = time.monotonic()
            while self._waiting:
                token, (deadline, subject, answered) = next(iter(self._waiting.items()))
                if now < deadline:
                    break
                del self._waiting[token]
                answered(NoAnswer(f"{subject} was not stored in {PUBLISH_TIMEOUT_S:g} s"))

    def give_up(self) -> None:
        """Answer everything that is under way: its connection is gone, and nobody knows whether it was stored.

        What was not sent by then is sent by the next connection; its answer comes to nobody.
        """
        waiting, self._waiting = self._waiting, {}
        for _, subject, answered in waiting.values():
            answered(NoAnswer(f"{subject}: the connection was lost before the answer came"))


def into(future: "asyncio.Future[PubAck]") -> Answered:
    """Sets a future with how one publication went."""

    def answered(found: PubAck | BusError) -> None:
        if future.done():
            return
        if isinstance(found, PubAck):
            future.set_result(found)
        else:
            future.set_exception(found)

    return answered

"""Requests by message: `<prefix>.requests` is answered by the same application as HTTP is.

A message is `{"path", "body", "metadata"}`, its answer `{"status_code", "body", "metadata"}` goes to its reply
subject; both shapes are KubeAI's. One gateway of all takes each (a queue group). What asks for no answer is not
run. Answers go to inboxes only, and to none of the services': a gateway may publish where its clients may not.
"""

import asyncio
from collections.abc import Mapping
from time import perf_counter_ns
from typing import Any

import msgspec
from nats.aio.msg import Msg

from stoker.schemas import wire
from stoker.schemas.channels import GATEWAYS
from stoker.schemas.message_requests import DEFAULT_PATH, AnswerMessage, RequestMessage
from stoker.services.bus.connection import Bus
from stoker.services.bus.permissions import INBOXES, services
from stoker.services.bus.sizes import message_bytes
from stoker.services.gateway.app import ROUTER, dialect_at
from stoker.services.gateway.edge.asgi import ASGIApp, Message
from stoker.services.gateway.edge.problems import JSON, RETRY_AFTER_S, RequestError, answer_body, stopping
from stoker.services.process.logs import get_logger
from stoker.services.process.tasks import TaskOwner
from stoker.services.process.telemetry import counter

log = get_logger("messages")

KEY = "authorization"
"""The header with the key, or its name in `metadata`."""
TAKEN_HEADERS = (KEY, "x-api-key", "x-request-id", "traceparent", "idempotency-key", "prefer", "host")
GIVEN_HEADERS = ("x-request-id", "x-job-id", "retry-after", "stoker-ignored")
GIVEN_PREFIX = "x-ratelimit-"
TAKEN = counter("stoker_message_requests_total", "Requests by message, by the status of their answer", "status")
UNANSWERABLE = counter(
    "stoker_message_requests_dropped_total", "Requests by message that nobody can be answered"
)
_ODD = (" ", "*", ">", "\t", "\r", "\n")


class _Streams(msgspec.Struct, frozen=True):
    """What is looked for in a body. stream: true asks for several messages."""

    stream: Any = None


def why_no_inbox(reply: str) -> str:
    """Why a reply subject is not answered; "" where it is."""
    root, _, rest = reply.partition(".")
    if root != INBOXES or not rest or any(sign in reply for sign in _ODD):
        return f"is no inbox: {INBOXES}.…"
    owner = rest.partition(".")[0]
    return f"is an inbox of the service {owner}" if owner in services() and owner != "client" else ""


def check_path(path: str) -> None:
    """Raises RequestError 400 for a route that messages cannot ask; not for paths without one."""
    routes, _ = ROUTER.find(path)
    found = routes.get("POST")
    if routes and (found is None or found.role != "use" or (found.takes, found.gives) != (JSON, JSON)):
        message = f"{path} is asked by HTTP only: messages ask what a key of the role 'use' may POST as JSON"
        raise RequestError(400, message, field="path", code="not_by_message")


class MessageRequests:
    """app: the application behind the door. most: requests at a time. host: of the links in answers."""

    def __init__(self, bus: Bus, app: ASGIApp, most: int, host: str) -> None:
        self._bus = bus
        self._app = app
        self._most = most
        self._host = host
        self._served = bus.endpoints.of("requests")
        self._under_way = 0
        self._tasks = TaskOwner("message requests")

    async def run(self, stopping: asyncio.Event) -> None:
        """Take requests until `stopping`; then those under way go on until this is cancelled."""
        async with self._tasks:
            subscription = await self._bus.listen(self._served.subject, self._take, GATEWAYS)
            with self._bus.endpoints.announcing(self._served):
                await stopping.wait()
            await self._bus.unlisten(subscription)
            await asyncio.Event().wait()

    def _take(self, message: Msg) -> None:
        began_ns = perf_counter_ns()
        why = why_no_inbox(message.reply) if message.reply else "is missing: nobody could be answered"
        if why:
            UNANSWERABLE.inc()
            log.warning("request.not_run", reply=message.reply[:200], reason=f"the reply subject {why}")
            self._served.done(began_ns, f"the reply subject {why}")
            return
        if self._under_way >= self._most or not self._tasks.is_open:
            text = f"this gateway answers {self._most} messages at a time"
            busy = RequestError(503, text, code="busy", retry_after_s=RETRY_AFTER_S)
            self._answer(message, _Asked().refused(busy), began_ns)
            return
        self._under_way += 1
        self._tasks.start_contained(self._serve, message, began_ns)

    async def _serve(self, message: Msg, began_ns: int) -> None:
        asked = _Asked()
        answer = asked.refused(stopping())
        try:
            try:
                asked.read(message)
                answer = await asked.ask(self._app, self._host)
            except RequestError as error:
                answer = asked.refused(error)
            except Exception:
                answer = asked.refused(RequestError(500, "an error of the gateway; its log says more"))
                raise
        finally:
            self._under_way -= 1
            self._answer(message, answer, began_ns)

    def _answer(self, message: Msg, answer: "_Answered", began_ns: int) -> None:
        payload = wire.encode(answer.content)
        if (size := message_bytes(payload, answer.headers)) > self._bus.max_payload:
            text = f"the answer has {size} bytes; a message has at most {self._bus.max_payload}: ask by HTTP"
            answer = answer.instead(RequestError(413, text, code="answer_too_large"))
            payload = wire.encode(answer.content)
        status = answer.content.status_code
        TAKEN.labels(str(status)).inc()
        self._served.done(began_ns, f"status {status}" if status >= 400 else "")
        self._bus.post(message.reply, payload, headers=answer.headers)


class _Answered:
    """An answer as it is sent."""

    def __init__(self, asked: "_Asked", content: AnswerMessage, headers: dict[str, str]) -> None:
        self._asked = asked
        self.content = content
        self.headers = headers

    def instead(self, error: RequestError) -> "_Answered":
        """An error in its place; without metadata, which may be what is too large."""
        self._asked.metadata = {}
        return self._asked.refused(error)


class _Asked:
    """One request: `read` first, then `ask`."""

    def __init__(self) -> None:
        self.path = DEFAULT_PATH
        self.metadata: dict[str, Any] = {}
        self._body = b""
        self._headers: dict[str, str] = {}

    def read(self, message: Msg) -> None:
        """Raises RequestError 400 for what is no request, or asks for what messages have not."""
        sent: Mapping[str, str] = message.headers or {}
        self._headers = {name.lower(): value for name, value in sent.items() if name.lower() in TAKEN_HEADERS}
        try:
            found = wire.decode(RequestMessage, message.data)
        except wire.UnreadableMessage as error:
            text = f'a message is {{"path": …, "body": {{…}}, "metadata": {{…}}}}: {error}'
            raise RequestError(400, text, code="invalid_message") from error
        self.metadata = dict(found.metadata)
        key = self.metadata.pop(KEY, None)
        if isinstance(key, str):
            self._headers.setdefault(KEY, key)
        self._body = bytes(found.body)
        self.path = found.path if found.path.startswith("/") else f"/{found.path}"
        check_path(self.path)
        try:
            streams = msgspec.json.decode(self._body, type=_Streams).stream is True
        except msgspec.DecodeError:
            streams = False  # the application says what is wrong with it
        if streams:
            raise _streams_not("stream")

    def refused(self, error: RequestError) -> _Answered:
        """An error, in the form that the path's answers have."""
        body, _ = answer_body(error, dialect_at(self.path))
        content = AnswerMessage(error.status, msgspec.Raw(wire.encode(body)), self.metadata)
        wait = {"retry-after": str(error.retry_after_s)} if error.retry_after_s else {}
        return _Answered(self, content, wait)

    async def ask(self, app: ASGIApp, host: str) -> _Answered:
        """The application's answer. Raises RequestError 400 where it would be more than one message."""
        exchange = _Exchange(self._body)
        await app(self._scope(host), exchange.receive, exchange.send)
        headers = {name.decode().lower(): value.decode("latin-1") for name, value in exchange.headers}
        if exchange.is_left:
            raise _streams_not(None)
        content = AnswerMessage(exchange.status, msgspec.Raw(exchange.body or b"null"), self.metadata)
        given = {
            name: value
            for name, value in headers.items()
            if name in GIVEN_HEADERS or name.startswith(GIVEN_PREFIX)
        }
        return _Answered(self, content, given)

    def _scope(self, host: str) -> Any:
        """The request as an HTTPScope."""
        headers = {"host": host, "content-type": JSON, **self._headers}
        return {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": "POST",
            "scheme": "http",
            "path": self.path,
            "raw_path": self.path.encode(),
            "root_path": "",
            "query_string": b"",
            "headers": [(name.encode(), value.encode("latin-1", "replace")) for name, value in headers.items()],
            "client": None,
            "server": None,
        }


class _Exchange:
    """The client's side of one request. is_left: the answer is no JSON, so the client went away."""

    def __init__(self, body: bytes) -> None:
        self.status = 500
        self.headers: list[tuple[bytes, bytes]] = []
        self.body = b""
        self.is_left = False
        self._sent: bytes | None = body
        self._left = asyncio.Event()

    async def receive(self) -> Any:
        if self._sent is not None:
            body, self._sent = self._sent, None
            return {"type": "http.request", "body": body, "more_body": False}
        await self._left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = list(message["headers"])
            kind = dict(self.headers).get(b"content-type", JSON.encode()).partition(b";")[0]
            if not kind.endswith(b"json") or b"ndjson" in kind:
                self.is_left = True
                self._left.set()
        elif message["type"] == "http.response.body" and not self.is_left:
            self.body += message.get("body", b"")


def _streams_not(field: str | None) -> RequestError:
    text = 'an answer by message is one message: ask with "stream": false, or by HTTP'
    return RequestError(400, text, field=field, code="no_streams_by_message")

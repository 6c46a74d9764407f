"""Every request comes through the door before anything else sees it (door.py)."""

from collections.abc import Awaitable, Iterable

from stoker.schemas import wire
from stoker.services.gateway.edge.asgi import ASGIApp, HTTPScope, Message, Receive, Send
from stoker.services.gateway.edge.door import Door, with_headers
from stoker.services.gateway.edge.problems import DialectAt, RequestError, answer_body
from stoker.services.gateway.edge.request_ids import REQUEST_ID, request_id

MAX_HOSTS = 64


def with_door(app: ASGIApp, door: Door, dialect_at: DialectAt) -> ASGIApp:
    """The same application, for requests that may come from where they come from."""
    answered_to: set[bytes] = set()
    """Hosts that were checked lately: almost every request has the same."""

    def guarded(scope: HTTPScope, receive: Receive, send: Send) -> Awaitable[None]:
        headers: dict[bytes, bytes] = dict(scope["headers"])
        host = headers.get(b"host", b"")
        try:
            if host not in answered_to:
                door.check_host(host)
                if len(answered_to) < MAX_HOSTS:
                    answered_to.add(host)
            door.check_origin(scope["method"], headers)
        except RequestError as error:
            body, media_type = answer_body(error, dialect_at(scope["path"]))
            told = [(b"content-type", media_type.encode()), (REQUEST_ID, request_id(scope["headers"]))]
            return _answer(send, error.status, told, wire.encode(body))
        if door.origins and (cors := door.cors(headers)):
            if scope["method"] == "OPTIONS" and (allowed := door.preflight(headers)):
                return _answer(send, 204, allowed, b"")
            send = _with(cors, send)
        return app(scope, receive, send)

    return guarded


def _with(more: Iterable[tuple[bytes, bytes]], send: Send) -> Send:
    async def answer(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = with_headers((*message["headers"], *more))
        await send(message)

    return answer


async def _answer(send: Send, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
    length = (b"content-length", str(len(body)).encode())
    await send({"type": "http.response.start", "status": status, "headers": with_headers((*headers, length))})
    await send({"type": "http.response.body", "body": body, "more_body": False})

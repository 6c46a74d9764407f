"""Every request comes through the door before anything else sees it (door.py)."""

from litestar.enums import ScopeType
from litestar.types import ASGIApp, Message, Receive, Scope, Send

from schemas import wire
from services.gateway.edge.door import Door, with_headers
from services.gateway.edge.problems import RequestError, answer_body


def with_door(app: ASGIApp, door: Door, openai_paths: tuple[str, ...]) -> ASGIApp:
    """The same application, for requests that may come from where they come from."""

    async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != ScopeType.HTTP:
            await app(scope, receive, send)
            return
        headers: dict[bytes, bytes] = dict(scope["headers"])
        cors = door.cors(headers) if door.origins else []

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = with_headers((*message["headers"], *cors))
            await send(message)

        try:
            door.check(scope["method"], headers)
        except RequestError as error:
            body, media_type = answer_body(error, scope["path"].startswith(openai_paths))
            await _answer(answer, error.status, [(b"content-type", media_type.encode())], wire.encode(body))
            return
        if scope["method"] == "OPTIONS" and (allowed := door.preflight(headers)):
            await _answer(send, 204, with_headers(allowed), b"")
            return
        await app(scope, receive, answer)

    return guarded


async def _answer(send: Send, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
    length = (b"content-length", str(len(body)).encode())
    await send({"type": "http.response.start", "status": status, "headers": [*headers, length]})
    await send({"type": "http.response.body", "body": body, "more_body": False})

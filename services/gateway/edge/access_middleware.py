"""Every HTTP request is asked for its API key here, before anything else sees it."""

from collections.abc import Awaitable, Callable, Mapping
from http.cookies import SimpleCookie
from urllib.parse import unquote

from stoker.schemas import wire
from stoker.schemas.keys import ApiKey
from stoker.services.gateway.edge.access import COOKIE, Access, current_key, is_open
from stoker.services.gateway.edge.asgi import ASGIApp, HTTPScope, Message, Receive, Send
from stoker.services.gateway.edge.door import with_headers
from stoker.services.gateway.edge.problems import Dialect, DialectAt, RequestError, answer_body
from stoker.services.gateway.edge.request_ids import REQUEST_ID, request_id

ANTHROPIC_KEY = b"x-api-key"


def with_access(
    app: ASGIApp, access: Access, count: Callable[[ApiKey], Mapping[str, str]], dialect_at: DialectAt
) -> ASGIApp:
    """The same application, for requests that have a valid key or need none.

    count: one more of a key's requests; raises RequestError 429, gives headers.
    """

    def guarded(scope: HTTPScope, receive: Receive, send: Send) -> Awaitable[None]:
        if access.is_idle or is_open(str(scope.get("path", ""))):
            return app(scope, receive, send)
        return identified(scope, receive, send)

    async def identified(scope: HTTPScope, receive: Receive, send: Send) -> None:
        path = str(scope.get("path", ""))
        headers: dict[bytes, bytes] = dict(scope["headers"])
        try:
            key = access.identify(_authorization(headers))
            left = count(key) if key is not None else {}
        except RequestError as error:
            await _refuse(send, error, dialect_at(path), request_id(scope["headers"]))
            return
        if key is None:
            await app(scope, receive, send)
            return

        async def send_with_limits(message: Message) -> None:
            if message["type"] == "http.response.start":
                extra = [(name.encode(), value.encode()) for name, value in left.items()]
                message["headers"] = [*message["headers"], *extra]
            await send(message)

        token = current_key.set(key)
        try:
            await app(scope, receive, send_with_limits)
        finally:
            current_key.reset(token)

    return guarded


def _authorization(headers: Mapping[bytes, bytes]) -> str:
    """The header, or the one of Anthropic's clients, or what the dashboard's cookie says: a browser's event
    streams send no headers.
    """
    sent = headers.get(b"authorization", b"").decode("latin-1")
    if not sent and ANTHROPIC_KEY in headers:
        return f"Bearer {headers[ANTHROPIC_KEY].decode('latin-1')}"
    if sent or b"cookie" not in headers:
        return sent
    cookie = SimpleCookie(headers[b"cookie"].decode("latin-1")).get(COOKIE)
    return f"Bearer {unquote(cookie.value)}" if cookie is not None else ""


async def _refuse(send: Send, error: RequestError, dialect: Dialect, request: bytes) -> None:
    body, media_type = answer_body(error, dialect)
    headers = with_headers([(b"content-type", media_type.encode()), (REQUEST_ID, request)])
    headers += [(name.encode(), value.encode()) for name, value in error.headers.items()]
    if error.status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    if error.retry_after_s:
        headers.append((b"retry-after", str(error.retry_after_s).encode()))
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": wire.encode(body), "more_body": False})

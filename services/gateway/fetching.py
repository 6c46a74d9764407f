"""Files that requests name by a URL: pictures of chats, and files of functions' payloads.

The gateway fetches them before it accepts the job, so that a job has all that it needs, whichever worker runs
it and however often. Every address is checked before it is connected to (public_network.py), after a redirect
too. Nothing is kept for another request.
"""

import base64
import re
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager, nullcontext
from dataclasses import dataclass

import httpcore
import httpx

from stoker.services.gateway.edge.access import owner
from stoker.services.gateway.edge.exchange import current_exchange
from stoker.services.gateway.edge.problems import RequestError
from stoker.services.gateway.jobs.url_rules import UrlRules
from stoker.services.gateway.public_network import NotPublic, public_connections
from stoker.services.gateway.settings import InputUrls
from stoker.services.gateway.turns import Turns
from stoker.services.process.tasks import LimitExceeded, limit

PUBLIC = UrlRules(may_private="`--input-urls any` allows it", may_ports="`--input-urls any` allows others than")
ANY = UrlRules(allow_private=True)
INPUT_URLS: Mapping[InputUrls, UrlRules | None] = {"public": PUBLIC, "any": ANY, "none": None}
AT_ONCE = 32
"""Files that one gateway fetches at a time; the next waits its turn."""
AT_ONCE_EACH = 8
"""Of these for one key."""
MAX_REDIRECTS = 3
TURN_TIMEOUT_S = 20.0
PAUSE_TIMEOUT_S = 10.0
"""The longest for the connection, and without a byte."""
FETCH_TIMEOUT_S = 300.0
"""The longest for a whole file."""
PICTURE_TIMEOUT_S = 30.0
MAX_PICTURE_BYTES = 20 * 1024 * 1024
"""Of all pictures of a request: as much as one may bring with it."""
SHOWN_CHARS = 200
"""Of a URL in an error."""
PICTURE = re.compile(r"image/[a-z0-9.+-]+")
REDIRECTS = frozenset({301, 302, 303, 307, 308})
FAILURES = (httpcore.NetworkError, httpcore.TimeoutException, httpcore.ProtocolError, OSError)
HEADERS = [(b"user-agent", b"stoker"), (b"accept", b"*/*"), (b"accept-encoding", b"identity")]


@dataclass(frozen=True, slots=True)
class Fetched:
    """A file as it comes. content_type: as the server says it, without its parameters."""

    content_type: str
    chunks: AsyncGenerator[bytes]


class Fetching:
    """Use `opened` and `picture` inside `running`. rules: where to; None: nothing is fetched."""

    def __init__(self, rules: UrlRules | None = PUBLIC) -> None:
        self.rules = rules
        self.turns = Turns("fetched files", "too_many_fetches", AT_ONCE, AT_ONCE_EACH, TURN_TIMEOUT_S)
        self._client: httpcore.AsyncConnectionPool | None = None

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        allow_private = self.rules is not None and self.rules.allow_private
        async with public_connections(allow_private=allow_private, at_once=AT_ONCE) as client:
            self._client = client
            try:
                yield
            finally:
                self._client = None

    async def picture(self, url: str, field: str, most_bytes: int) -> str:
        """A picture as a `data:` URL. Raises RequestError 400, 413, 503 with the field."""
        content = bytearray()
        async with self.opened(url, field, most_bytes, PICTURE_TIMEOUT_S) as found:
            kind = found.content_type
            if not PICTURE.fullmatch(kind):
                raise _not_fetched(url, field, f"it is {kind[:SHOWN_CHARS] or 'of no type'}, not a picture")
            async for chunk in found.chunks:
                content += chunk
        return f"data:{kind};base64,{base64.b64encode(content).decode()}"

    @asynccontextmanager
    async def opened(
        self, url: str, field: str, most_bytes: int, limit_s: float = FETCH_TIMEOUT_S
    ) -> AsyncIterator[Fetched]:
        """The file at a URL. Raises RequestError with the field, in the block too: 400 where it cannot be had,
        413 where it is too large, 429 where its sender has many fetched at a time, 503 where all together do,
        or the gateway stops. Raises ClientGone when the client for whom it is done goes away.
        """
        exchange = current_exchange.get()
        until_gone = exchange.cancelled_when_gone() if exchange is not None else nullcontext()
        with until_gone:
            async with (
                self.turns.turn(owner(), field),
                self._opened(url, field, most_bytes, limit_s) as found,
            ):
                yield found

    @asynccontextmanager
    async def _opened(self, url: str, field: str, most_bytes: int, limit_s: float) -> AsyncIterator[Fetched]:
        try:
            with limit(f"fetching {url[:SHOWN_CHARS]}", limit_s):
                async with self._answer(url, field, MAX_REDIRECTS) as answer:
                    told = _headers(answer)
                    _check(url, field, told, most_bytes)
                    kind = told.get(b"content-type", "").partition(";")[0].strip().lower()
                    async with aclosing(_chunks(answer, url, field, most_bytes)) as chunks:
                        yield Fetched(kind, chunks)
        except NotPublic as error:
            raise _not_fetched(url, field, f"{error}; {PUBLIC.may_private}") from error
        except (*FAILURES, LimitExceeded) as error:
            raise _not_fetched(url, field, str(error) or type(error).__name__) from error

    @asynccontextmanager
    async def _answer(self, url: str, field: str, redirects: int) -> AsyncIterator[httpcore.Response]:
        """The answer with status 200 that a URL leads to."""
        target = self._checked(url, field)
        if self._client is None:
            raise RequestError(503, "the gateway is stopping", field=field, retry_after_s=1)
        limits = dict.fromkeys(("connect", "read", "write", "pool"), PAUSE_TIMEOUT_S)
        headers = [(b"host", target.netloc), *HEADERS]
        asked = httpcore.URL(
            scheme=target.raw_scheme, host=target.raw_host, port=target.port, target=target.raw_path
        )
        async with self._client.stream("GET", asked, headers=headers, extensions={"timeout": limits}) as answer:
            if answer.status in REDIRECTS:
                place = _headers(answer).get(b"location", "")
                if not redirects or not place:
                    raise _not_fetched(url, field, f"it leads on more than {MAX_REDIRECTS} times")
                onward = _joined(target, place, url, field)
            elif answer.status != 200:
                raise _not_fetched(url, field, f"its server answered {answer.status}")
            else:
                yield answer
                return
        async with self._answer(onward, field, redirects - 1) as answer:
            yield answer

    def _checked(self, url: str, field: str) -> httpx.URL:
        if self.rules is None:
            message = (
                "this gateway fetches no URLs (`--input-urls none`): send a data: URL, or the id of a file"
            )
            raise RequestError(400, f"{field}: {message}", field=field, code="url_not_fetched")
        if problem := self.rules.why_not(url):
            raise _not_fetched(url, field, problem)
        return httpx.URL(url)


def _headers(answer: httpcore.Response) -> dict[bytes, str]:
    """Values by lower-case names."""
    return {name.lower(): value.decode("latin-1") for name, value in answer.headers}


def _joined(target: httpx.URL, place: str, url: str, field: str) -> str:
    try:
        return str(target.join(place))
    except (httpx.InvalidURL, ValueError) as error:
        raise _not_fetched(url, field, f"it leads to what is no URL: {error}") from error


def _check(url: str, field: str, told: Mapping[bytes, str], most_bytes: int) -> None:
    """Of the head of an answer. Raises RequestError."""
    if told.get(b"content-encoding", "identity") != "identity":
        raise _not_fetched(url, field, f"it comes as {told[b'content-encoding']}, which was not asked for")
    length = told.get(b"content-length", "")
    if length.isdecimal() and int(length) > most_bytes:
        raise _too_large(url, field, most_bytes)


async def _chunks(answer: httpcore.Response, url: str, field: str, most: int) -> AsyncGenerator[bytes]:
    size = 0
    async for chunk in answer.aiter_stream():
        size += len(chunk)
        if size > most:
            raise _too_large(url, field, most)
        yield chunk


def _too_large(url: str, field: str, most: int) -> RequestError:
    message = f"{field}: {url[:SHOWN_CHARS]} has more than {most} bytes"
    return RequestError(413, message, field=field, code="file_too_large")


def _not_fetched(url: str, field: str, why: str) -> RequestError:
    message = f"{field}: {url[:SHOWN_CHARS]} could not be fetched: {why}; send its bytes as a data: URL"
    return RequestError(400, message, field=field, code="url_not_fetched")

"""Running a job on an engine's own server, or on one that somebody else runs: a streamed answer that a cancel
cuts off at once.
"""

import asyncio
import re
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import aiodns
import aiohttp
import msgspec
from aiohttp.abc import ResolveResult
from anyio import CancelScope, current_time

from stoker.services.process.http_clients import is_loopback
from stoker.services.worker.engines.base import Cancellation, EngineError, Stopped
from stoker.services.worker.engines.text.answers import read

T = TypeVar("T")

MAX_MESSAGE_CHARS = 500
MAX_LINE_BYTES = 16 * 1024 * 1024
"""Of a streamed answer."""
MAX_ANSWER_BYTES = 64 * 1024 * 1024
"""Of one that is not streamed."""
MAX_REFUSAL_BYTES, REFUSAL_TIMEOUT_S = 64 * 1024, 5.0
"""What is read of an answer that says an error."""
READ_OUT_S = 0.5
CONNECT_TIMEOUT_S = 10.0
TOO_LONG = re.compile(
    "maximum context length|exceeds? the (?:maximum )?context|longer than the maximum model length"
)
"""What vLLM and Ollama say of a prompt that does not fit."""
JSON_HEADERS = {"content-type": "application/json"}
PASSING = frozenset({408, 409, 425, 429})
"""Statuses that are not the request's fault."""
LOST = (aiohttp.ClientError, OSError, TimeoutError)


class Refused(EngineError):
    """A server has answered with an error. status: of HTTP; retry_after_s: what it said of another try."""

    def __init__(self, error: EngineError, status: int, retry_after_s: float | None = None) -> None:
        super().__init__(str(error), error.kind, code=error.code, field=error.field)
        self.status = status
        self.retry_after_s = retry_after_s


class Names(aiohttp.AsyncResolver):
    """Looks names up in no thread: a name whose servers do not answer would hold one for half a minute, and
    there are four. What is in no name server, the system may know (mDNS: `http://box.local`).
    """

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        try:
            return await super().resolve(host, port, family)
        except OSError as error:
            cause = error.__cause__
            if not isinstance(cause, aiodns.error.DNSError) or cause.args[0] != aiodns.error.ARES_ENOTFOUND:
                raise
            return await aiohttp.ThreadedResolver().resolve(host, port, family)


@dataclass(slots=True)
class Server:
    """url: without a slash at its end. name: in errors. The session is made in the loop that uses it.

    No limit of time or of connections: a job has one of its own, and ends by being cancelled; how many there
    are at a time is for slots to say.
    """

    url: str
    name: str
    headers: Mapping[str, str] = field(default_factory=dict)
    _session: aiohttp.ClientSession | None = None
    _names: Names | None = None
    _loop: asyncio.AbstractEventLoop | None = None

    @property
    def session(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._loop, self._names = asyncio.get_running_loop(), Names()
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, resolver=self._names),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S),
                headers={**JSON_HEADERS, **self.headers},
                trust_env=not is_loopback(self.url),
            )
        return self._session

    def close(self) -> None:
        """End its connections; from any thread."""
        ends = self._ends()
        if self._loop is not None and not self._loop.is_closed():
            asyncio.run_coroutine_threadsafe(_close(ends), self._loop)

    async def aclose(self) -> None:
        """The same in the loop that uses it, when it ends."""
        await _close(self._ends())

    def _ends(self) -> "list[aiohttp.ClientSession | Names]":
        """What is to be closed; what is asked from now on has another session."""
        ends = [one for one in (self._session, self._names) if one is not None]
        self._session = self._names = None
        return ends

    async def lines(self, path: str, body: dict[str, Any]) -> AsyncGenerator[bytes, None]:
        """The lines of a streamed answer to a POST, empty ones left out. Raises EngineError with what the
        server says.
        """
        async with self._answer(path, body) as answer:
            begun: list[bytes] = []
            size = 0
            async for chunk in answer.content.iter_any():
                first, *others = chunk.split(b"\n")
                begun.append(first)
                size += len(first)
                if size > MAX_LINE_BYTES:
                    message = f"a line of its answer is over {MAX_LINE_BYTES:,} bytes long"
                    raise EngineError(f"{self.name}: {message}", "retryable")
                if not others:
                    continue
                others.insert(0, b"".join(begun))
                begun = [others.pop()]
                size = len(begun[0])
                for line in others:
                    if text := line.rstrip(b"\r"):
                        yield text
            if text := b"".join(begun).rstrip(b"\r"):
                yield text

    async def post(self, path: str, body: dict[str, Any], kind: type[T]) -> T:
        """The JSON answer to a POST. Raises EngineError with what the server says, also where that is of
        another kind.
        """
        return read(await self.post_for_bytes(path, body), kind, self.name)

    async def post_for_bytes(self, path: str, body: dict[str, Any]) -> bytes:
        """The same before it is read."""
        async with self._answer(path, body) as answer:
            content = await _at_most(answer, MAX_ANSWER_BYTES + 1)
            if len(content) > MAX_ANSWER_BYTES:
                message = f"its answer is over {MAX_ANSWER_BYTES:,} bytes long"
                raise EngineError(f"{self.name}: {message}", "fatal")
            return content

    @asynccontextmanager
    async def _answer(self, path: str, body: dict[str, Any]) -> AsyncIterator[aiohttp.ClientResponse]:
        """Where a server redirects to is not followed: prompts and keys are for the one that is configured."""
        encoded = msgspec.json.encode(body)
        try:
            async with self.session.post(self.url + path, data=encoded, allow_redirects=False) as answer:
                if answer.status >= 300:
                    raise await self._refusal(answer)
                yield answer
        except LOST as error:
            raise self._lost(error) from error

    async def get_text(self, path: str, limit_s: float) -> str | None:
        """What stands at a path; None where that cannot be had in time."""
        try:
            limit = aiohttp.ClientTimeout(total=limit_s)
            async with self.session.get(self.url + path, timeout=limit) as answer:
                return await answer.text() if answer.status < 400 else None
        except LOST:
            return None

    async def _refusal(self, answer: aiohttp.ClientResponse) -> Refused:
        if answer.status < 400:
            location = answer.headers.get("location", "")
            remedy = f"it redirects to {location[:MAX_MESSAGE_CHARS]}: say that address as the url of the model"
            return Refused(EngineError(f"{self.name}: {remedy}"), answer.status)
        text = b""
        with CancelScope(deadline=current_time() + REFUSAL_TIMEOUT_S):
            text = await _at_most(answer, MAX_REFUSAL_BYTES)
        after = answer.headers.get("retry-after", "")
        error = refusal(self.name, answer.status, text.decode(errors="replace"))
        return Refused(error, answer.status, float(after) if after.isdecimal() else None)

    def _lost(self, error: Exception) -> EngineError:
        return EngineError(f"{self.name}: {error or type(error).__name__}", "retryable")


async def _close(ends: "list[aiohttp.ClientSession | Names]") -> None:
    for one in ends:
        await one.close()


async def _at_most(answer: aiohttp.ClientResponse, size: int) -> bytes:
    """The first so many bytes of an answer."""
    pieces: list[bytes] = []
    while size > 0 and (piece := await answer.content.read(size)):
        pieces.append(piece)
        size -= len(piece)
    return b"".join(pieces)


async def read_out(lines: AsyncIterator[bytes]) -> None:
    """Wait shortly for the end of an answer that is whole, so that its connection can be used again."""
    with CancelScope(deadline=current_time() + READ_OUT_S):
        async for _ in lines:
            pass


async def unless_cancelled(work: Awaitable[T], cancelled: Cancellation) -> T:
    """The result of `work`; it is cut off, and Stopped raised, as soon as the job is cancelled."""
    loop = asyncio.get_running_loop()
    with CancelScope() as scope:

        def stop() -> None:
            loop.call_soon_threadsafe(scope.cancel)

        cancelled.on_set(stop)
        if cancelled.is_set():
            scope.cancel()
        return await work
    raise Stopped


def refusal(name: str, status: int, text: str) -> EngineError:
    """What a server's error means to the job: its own fault below 500."""
    try:
        said: Any = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        said = text
    return _error(name, said.get("error", said) if isinstance(said, dict) else said, status)


def refusal_of_event(name: str, said: Any) -> Refused:
    """The same for an error in mid-stream."""
    code = said.get("code") if isinstance(said, dict) else None
    status = code if isinstance(code, int) and 400 <= code < 600 else 500
    return Refused(_error(name, said, status), status)


def _error(name: str, said: Any, status: int) -> EngineError:
    text = str(said.get("message", said) if isinstance(said, dict) else said)
    message = f"{name}: {text[:MAX_MESSAGE_CHARS]}"
    if TOO_LONG.search(text):
        return EngineError(message, "validation", code="context_length_exceeded")
    if status in PASSING:
        return EngineError(message, "retryable")
    return EngineError(message, "validation" if status < 500 else "fatal")

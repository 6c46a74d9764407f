"""Running a job on an engine's own server, or on one that somebody else runs: a streamed answer that a cancel
cuts off at once.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import aiohttp
import msgspec
from anyio import CancelScope

from stoker.services.process.http_clients import is_loopback
from stoker.services.worker.engines.base import Cancellation, EngineError, Stopped

T = TypeVar("T")

MAX_MESSAGE_CHARS = 500
MAX_CONNECTIONS = 512
CONNECT_TIMEOUT_S = 10.0
TOO_LONG = re.compile(
    "maximum context length|exceeds? the (?:maximum )?context|longer than the maximum model length"
)
"""What vLLM and Ollama say of a prompt that does not fit."""
JSON_HEADERS = {"content-type": "application/json"}
LOST = (aiohttp.ClientError, OSError, TimeoutError)


class Refused(EngineError):
    """A server has answered with an error. status: of HTTP; retry_after_s: what it said of another try."""

    def __init__(self, error: EngineError, status: int, retry_after_s: float | None = None) -> None:
        super().__init__(str(error), error.kind, code=error.code, field=error.field)
        self.status = status
        self.retry_after_s = retry_after_s


@dataclass(slots=True)
class Server:
    """url: without a slash at its end. name: in errors. The session is made in the loop that uses it.

    No time limit: a job has one of its own, and ends by being cancelled.
    """

    url: str
    name: str
    headers: Mapping[str, str] = field(default_factory=dict)
    _session: aiohttp.ClientSession | None = None
    _loop: asyncio.AbstractEventLoop | None = None

    @property
    def session(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._loop = asyncio.get_running_loop()
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=MAX_CONNECTIONS),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S),
                headers={**JSON_HEADERS, **self.headers},
                trust_env=not is_loopback(self.url),
            )
        return self._session

    def close(self) -> None:
        """End its connections; from any thread."""
        session, self._session = self._session, None
        if session is not None and self._loop is not None and not self._loop.is_closed():
            asyncio.run_coroutine_threadsafe(session.close(), self._loop)

    async def aclose(self) -> None:
        """The same in the loop that uses it, when it ends."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def lines(self, path: str, body: dict[str, Any]) -> AsyncIterator[str]:
        """The lines of a streamed answer to a POST, empty ones left out. Raises EngineError with what the
        server says.
        """
        try:
            async with self.session.post(self.url + path, data=msgspec.json.encode(body)) as answer:
                if answer.status >= 400:
                    raise await self._refusal(answer)
                rest = b""
                async for chunk in answer.content.iter_any():
                    *lines, rest = (rest + chunk).split(b"\n")
                    for line in lines:
                        if line and line != b"\r":
                            yield line.decode().rstrip("\r")
                if rest:
                    yield rest.decode()
        except LOST as error:
            raise self._lost(error) from error

    async def post(self, path: str, body: dict[str, Any]) -> Any:
        """The JSON answer to a POST. Raises EngineError with what the server says."""
        try:
            async with self.session.post(self.url + path, data=msgspec.json.encode(body)) as answer:
                if answer.status >= 400:
                    raise await self._refusal(answer)
                return msgspec.json.decode(await answer.read())
        except LOST as error:
            raise self._lost(error) from error
        except msgspec.DecodeError as error:
            raise EngineError(f"{self.name}: its answer is no JSON ({error})", "retryable") from error

    async def get_text(self, path: str, limit_s: float) -> str | None:
        """What stands at a path; None where that cannot be had in time."""
        try:
            limit = aiohttp.ClientTimeout(total=limit_s)
            async with self.session.get(self.url + path, timeout=limit) as answer:
                return await answer.text() if answer.status < 400 else None
        except LOST:
            return None

    async def _refusal(self, answer: aiohttp.ClientResponse) -> Refused:
        after = answer.headers.get("retry-after", "")
        error = refusal(self.name, answer.status, await answer.text(errors="replace"))
        return Refused(error, answer.status, float(after) if after.isdecimal() else None)

    def _lost(self, error: Exception) -> EngineError:
        return EngineError(f"{self.name}: {error or type(error).__name__}", "retryable")


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
    except msgspec.DecodeError:
        said = text
    return _error(name, said.get("error", said) if isinstance(said, dict) else said, status)


def refusal_of_event(name: str, said: Any) -> EngineError:
    """The same for an error in mid-stream."""
    code = said.get("code") if isinstance(said, dict) else None
    return _error(name, said, code if isinstance(code, int) else 500)


def _error(name: str, said: Any, status: int) -> EngineError:
    text = str(said.get("message", said) if isinstance(said, dict) else said)
    message = f"{name}: {text[:MAX_MESSAGE_CHARS]}"
    if TOO_LONG.search(text):
        return EngineError(message, "validation", code="context_length_exceeded")
    return EngineError(message, "validation" if status < 500 else "fatal")

"""Running a job on an engine's own server: a streamed answer that a cancel cuts off at once."""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable
from typing import Any, TypeVar

import httpx
from anyio import CancelScope

from services.process.http_clients import async_client
from services.worker.engines.base import Cancellation, EngineError, Stopped

T = TypeVar("T")

MAX_MESSAGE_CHARS = 500
MAX_CONNECTIONS = 512
TOO_LONG = re.compile(
    "maximum context length|exceeds? the (?:maximum )?context|longer than the maximum model length"
)
"""What vLLM and Ollama say of a prompt that does not fit."""


def make_client(base_url: str) -> httpx.AsyncClient:
    """No time limit: the job has one of its own, and ends by being cancelled."""
    limits = httpx.Limits(max_connections=MAX_CONNECTIONS, max_keepalive_connections=MAX_CONNECTIONS)
    return async_client(base_url, timeout=httpx.Timeout(None, connect=10.0), limits=limits)


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


async def lines_of(client: httpx.AsyncClient, path: str, body: dict[str, Any], name: str) -> AsyncIterator[str]:
    """The lines of a streamed answer to a POST. Raises EngineError with what the server says."""
    try:
        async with client.stream("POST", path, json=body) as answer:
            if answer.status_code >= 400:
                await answer.aread()
                raise refusal(name, answer)
            async for line in answer.aiter_lines():
                if line:
                    yield line
    except httpx.HTTPError as error:
        raise EngineError(f"{name}: {error or type(error).__name__}", "retryable") from error


async def post(client: httpx.AsyncClient, path: str, body: dict[str, Any], name: str) -> Any:
    """The JSON answer to a POST. Raises EngineError with what the server says."""
    try:
        answer = await client.post(path, json=body)
    except httpx.HTTPError as error:
        raise EngineError(f"{name}: {error or type(error).__name__}", "retryable") from error
    if answer.status_code >= 400:
        raise refusal(name, answer)
    return answer.json()


def refusal(name: str, answer: httpx.Response) -> EngineError:
    """What a server's error means to the job: its own fault below 500."""
    try:
        said = answer.json()
    except ValueError:
        said = answer.text
    return _error(name, said.get("error", said) if isinstance(said, dict) else said, answer.status_code)


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

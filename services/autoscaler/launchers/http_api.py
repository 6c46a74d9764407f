"""Talking to a launcher's HTTP API, and what its failures mean."""

from collections.abc import Callable
from typing import Any

import httpx

from stoker.services.autoscaler.launchers.base import LaunchError, Unavailable

MAX_MESSAGE_CHARS = 300


def _named(name: str, method: str, status: int, said: str) -> LaunchError:
    """The error for an answer of 400 or more."""
    if status in (401, 403, 500, 502, 503) and method == "GET":
        return Unavailable(f"{name}: {said} ({status})")
    return LaunchError(f"{name}: {said} ({status})")


class Api:
    """One API; `client` knows its address, its credentials and its certificates.

    error: makes the error for an answer of 400 or more: of the name, the method, the status, what was said.
    """

    def __init__(
        self, name: str, client: httpx.AsyncClient, error: Callable[[str, str, int, str], LaunchError] = _named
    ) -> None:
        self._name = name
        self._client = client
        self._error = error

    async def call(self, method: str, path: str, *, missing_ok: bool = False, **options: Any) -> httpx.Response:
        """The answer. Raises Unavailable, or LaunchError with what the API said; 404 is fine if missing_ok."""
        try:
            answer = await self._client.request(method, path, **options)
        except httpx.HTTPError as error:
            raise Unavailable(f"{self._name} does not answer: {error or type(error).__name__}") from error
        if answer.status_code >= 400 and not (missing_ok and answer.status_code == 404):
            raise self._error(self._name, method, answer.status_code, message_of(answer))
        return answer

    async def close(self) -> None:
        await self._client.aclose()


def message_of(answer: httpx.Response) -> str:
    """What a failed answer says, as text or as {"message"}."""
    try:
        body = answer.json()
    except ValueError:
        body = None
    said = body.get("message") if isinstance(body, dict) else None
    return str(said or answer.text or answer.reason_phrase).strip()[:MAX_MESSAGE_CHARS]

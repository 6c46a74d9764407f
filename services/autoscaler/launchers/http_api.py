"""Talking to a launcher's HTTP API, and what its failures mean."""

from typing import Any

import httpx

from stoker.services.autoscaler.launchers.base import LaunchError, Unavailable

MAX_MESSAGE_CHARS = 300


class Api:
    """One API; `client` knows its address, its credentials and its certificates."""

    def __init__(self, name: str, client: httpx.AsyncClient) -> None:
        self._name = name
        self._client = client

    async def call(self, method: str, path: str, *, missing_ok: bool = False, **options: Any) -> httpx.Response:
        """The answer. Raises Unavailable, or LaunchError with what the API said; 404 is fine if missing_ok."""
        try:
            answer = await self._client.request(method, path, **options)
        except httpx.HTTPError as error:
            raise Unavailable(f"{self._name} does not answer: {error or type(error).__name__}") from error
        if answer.status_code >= 400 and not (missing_ok and answer.status_code == 404):
            said = message_of(answer)
            if answer.status_code in (401, 403, 500, 502, 503) and method == "GET":
                raise Unavailable(f"{self._name}: {said} ({answer.status_code})")
            raise LaunchError(f"{self._name}: {said} ({answer.status_code})")
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

"""Calling functions and models from Python.

    client = Client()
    client.run("generate", prompt="a lake", model_key="sdxl-base")          # waits for the result
    for item in client.stream("write", prompt="once"): …                    # results of a stream as they come
    job = client.submit("generate", prompt="a lake")                        # a handle
    for event in job.events(): …
    job.result(); job.cancel()

`AsyncClient` is the same with `await` and `async for`. A connection that breaks is taken up again where it
broke; a submission whose answer was lost is asked again under the same name, so it is one job. A gateway that
cannot answer for now (503 with Retry-After) is asked again too, of submissions and events.
"""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any, Self
from urllib.parse import quote

import httpx
import msgspec

from stoker import servers
from stoker.functions.errors import CallFailed
from stoker.services.process import http_clients
from stoker.sse import ENDS, Event, EventReader

TIMEOUT_S = 900.0
CONNECT_TIMEOUT_S = 10.0
PAUSE_S = 0.2
ATTEMPTS = 50
"""Times that a broken connection is taken up again before it is given up, without anything having come."""
PATIENCE_S = 20.0
"""How long a gateway is asked again that cannot answer for now: a scheduler takes over, NATS is away."""
BROKEN = (httpx.RemoteProtocolError, httpx.ReadError, httpx.ConnectError)
"""What a connection does that is taken up again."""


def _check(answer: httpx.Response) -> httpx.Response:
    """The answer, if it is one. Raises CallFailed."""
    if answer.status_code < 400:
        return answer
    try:
        said = answer.json()
    except ValueError:
        raise CallFailed(answer.text or answer.reason_phrase, "", answer.status_code) from None
    if not isinstance(said, dict):  # of something between us and the gateway
        raise CallFailed(str(said), "", answer.status_code)
    kind = str(said.get("code") or said.get("type", "")).rpartition(":")[2]
    raise CallFailed(str(said.get("detail", said)), kind, answer.status_code, str(said.get("field") or ""))


def _result(job: dict[str, Any]) -> Any:
    """The result of an ended job. Raises CallFailed."""
    if job["status"] == "completed":
        return job.get("result")
    error = job.get("error") or {}
    raise CallFailed(str(error.get("message", job["status"])), str(error.get("kind", job["status"])))


class _Items:
    """The results of a stream out of a job's events: one a line, however the lines were cut on their way."""

    def __init__(self) -> None:
        self._rest = ""
        self._given = 0

    def feed(self, event: Event) -> list[Any]:
        """Results that an event brings; the end has them all, for who came late. Raises CallFailed."""
        found: list[Any] = []
        if event.name == "delta":
            *lines, self._rest = (self._rest + event.data["text"]).split("\n")
            found = [msgspec.json.decode(line) for line in lines]
        elif event.name in ENDS:
            results = _result(event.data)
            if not isinstance(results, list):
                raise CallFailed("the function does not stream; call it with run()", "validation")
            found = results[self._given :]
        self._given += len(found)
        return found


def _path(function: str) -> str:
    return f"/v1/functions/{quote(function, safe='')}"


def _address(url: str) -> str:
    return url or servers.find().url


def _key(api_key: str, url: str) -> dict[str, str]:
    key = api_key or servers.api_key(_address(url))
    return {"Authorization": f"Bearer {key}"} if key else {}


_ASYNC = {"Prefer": "respond-async"}


def _timeout(seconds: float) -> httpx.Timeout:
    return httpx.Timeout(seconds, connect=min(seconds, CONNECT_TIMEOUT_S))


def _named(name: str) -> dict[str, str]:
    """What makes a submission one job however often it is sent."""
    return {"Idempotency-Key": name or secrets.token_hex(16)}


class _Trying:
    """How often and how long the same is asked again. It begins anew with each further event."""

    def __init__(self) -> None:
        self._broken = 0
        self._wait_until = 0.0
        self._last_id = ""

    def came(self, event: Event) -> None:
        if event.id != self._last_id:  # else the same one again
            self._broken, self._wait_until, self._last_id = 0, 0.0, event.id

    def broke(self, *, may_be_wrong: bool = False) -> bool:
        """The connection did, or there was none: whether to ask again. may_be_wrong: the address may be, where
        nobody has listened there before.
        """
        self._broken += 1
        is_first = self._broken == 1 and not self._wait_until
        return self._broken < ATTEMPTS and not (may_be_wrong and is_first)

    def waits(self, answer: httpx.Response) -> bool:
        """Whether an answer says that there may be another one in a moment, and there is patience left."""
        if answer.status_code != 503 or "retry-after" not in answer.headers:
            return False
        now = time.monotonic()
        self._wait_until = self._wait_until or now + PATIENCE_S
        return now < self._wait_until


def _may_be_wrong(error: httpx.TransportError) -> bool:
    """Whether the address may be: nobody listens there."""
    return isinstance(error, httpx.ConnectError)


class Job:
    """A submitted call."""

    def __init__(self, client: httpx.Client, job: str) -> None:
        self._client = client
        self.id = job
        self._path = f"/v1/jobs/{quote(job, safe='')}"
        self._end: dict[str, Any] | None = None

    def events(self) -> Iterator[Event]:
        """Every event from the first to the end."""
        reader, trying = EventReader(), _Trying()
        while True:
            try:
                with self._client.stream("GET", f"{self._path}/events", headers=reader.resume()) as answer:
                    if answer.status_code >= 400:
                        answer.read()
                        if not trying.waits(answer):
                            _check(answer)
                    else:
                        for event in reader.read(answer):
                            trying.came(event)
                            self._end = reader.end
                            yield event
                            if reader.end:
                                return
                        if not trying.broke():
                            return
            except BROKEN:
                if not trying.broke():
                    raise
            time.sleep(PAUSE_S)

    def result(self) -> Any:
        """Wait for the end; the result. Raises CallFailed."""
        if self._end is None:
            for _ in self.events():
                pass
        return _result(self._end or _check(self._client.get(self._path)).json())

    def cancel(self) -> None:
        """Stop it, wherever it stands. Raises CallFailed when it has ended."""
        _check(self._client.post(f"{self._path}/cancel"))

    def file(self, index: int = 0) -> bytes:
        """The bytes of a file that the call has saved."""
        return _check(self._client.get(f"{self._path}/files/{index}")).content

    def content(self, path: str) -> bytes:
        """The bytes behind a path of the same gateway, such as a picture's url."""
        return _check(self._client.get(path)).content


class Client:
    """A gateway: `url`, else STOKER_URL, else the one that is found. api_key: else STOKER_API_KEY. timeout_s: a
    wait for the gateway's next byte.
    """

    def __init__(self, url: str = "", api_key: str = "", *, timeout_s: float = TIMEOUT_S) -> None:
        timeout = _timeout(timeout_s)
        self._client = http_clients.client(_address(url), timeout=timeout, headers=_key(api_key, url))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._client.close()

    def functions(self) -> list[dict[str, Any]]:
        """Every function with its schemas."""
        found: list[dict[str, Any]] = _check(self._client.get("/v1/functions")).json()["functions"]
        return found

    def run(self, function: str, /, **payload: Any) -> Any:
        """Call a function and wait for its result. Raises CallFailed."""
        return _check(self._client.post(_path(function), json=payload)).json()

    def stream(self, function: str, /, **payload: Any) -> Iterator[Any]:
        """Call a function that streams; its results as they come. Raises CallFailed."""
        items = _Items()
        for event in self.submit(function, **payload).events():
            yield from items.feed(event)

    def submit(self, function: str, /, **payload: Any) -> Job:
        """Submit a call as a job. Raises CallFailed."""
        return self._submitted(_path(function), payload, _ASYNC | _named(""))

    def submit_job(self, model: str, given: dict[str, Any], *, name: str = "") -> Job:
        """Submit a job to a model. given: its input, as `POST /v1/jobs` takes it. name: asked again under it,
        it is the same job. Raises CallFailed.
        """
        return self._submitted("/v1/jobs", {"model": model, "input": given}, _named(name))

    def _submitted(self, path: str, asked: dict[str, Any], headers: dict[str, str]) -> Job:
        trying = _Trying()
        while True:
            try:
                answer = self._client.post(path, json=asked, headers=headers)
                if not trying.waits(answer):
                    return Job(self._client, _check(answer).json()["id"])
            except BROKEN as error:
                if not trying.broke(may_be_wrong=_may_be_wrong(error)):
                    raise
            time.sleep(PAUSE_S)

    def job(self, job: str) -> Job:
        """The handle of a job by its id, whoever has submitted it."""
        return Job(self._client, job)

    def get(self, path: str) -> bytes:
        """The bytes behind a path of the gateway, such as a FileRef's url."""
        return _check(self._client.get(path)).content


class AsyncJob:
    """A submitted call."""

    def __init__(self, client: httpx.AsyncClient, job: str) -> None:
        self._client = client
        self.id = job
        self._path = f"/v1/jobs/{quote(job, safe='')}"
        self._end: dict[str, Any] | None = None

    async def events(self) -> AsyncIterator[Event]:
        """Every event from the first to the end."""
        reader, trying = EventReader(), _Trying()
        while True:
            try:
                async with self._client.stream(
                    "GET", f"{self._path}/events", headers=reader.resume()
                ) as answer:
                    if answer.status_code >= 400:
                        await answer.aread()
                        if not trying.waits(answer):
                            _check(answer)
                    else:
                        async for event in reader.aread(answer):
                            trying.came(event)
                            self._end = reader.end
                            yield event
                            if reader.end:
                                return
                        if not trying.broke():
                            return
            except BROKEN:
                if not trying.broke():
                    raise
            await asyncio.sleep(PAUSE_S)

    async def result(self) -> Any:
        """Wait for the end; the result. Raises CallFailed."""
        if self._end is None:
            async for _ in self.events():
                pass
        return _result(self._end or _check(await self._client.get(self._path)).json())

    async def cancel(self) -> None:
        """Stop it, wherever it stands. Raises CallFailed when it has ended."""
        _check(await self._client.post(f"{self._path}/cancel"))

    async def file(self, index: int = 0) -> bytes:
        """The bytes of a file that the call has saved."""
        return _check(await self._client.get(f"{self._path}/files/{index}")).content


class AsyncClient:
    """As Client, with `await`."""

    def __init__(self, url: str = "", api_key: str = "", *, timeout_s: float = TIMEOUT_S) -> None:
        timeout = _timeout(timeout_s)
        self._client = http_clients.async_client(_address(url), timeout=timeout, headers=_key(api_key, url))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        await self._client.aclose()

    async def functions(self) -> list[dict[str, Any]]:
        """Every function with its schemas."""
        found: list[dict[str, Any]] = _check(await self._client.get("/v1/functions")).json()["functions"]
        return found

    async def run(self, function: str, /, **payload: Any) -> Any:
        """Call a function and wait for its result. Raises CallFailed."""
        return _check(await self._client.post(_path(function), json=payload)).json()

    async def stream(self, function: str, /, **payload: Any) -> AsyncIterator[Any]:
        """Call a function that streams; its results as they come. Raises CallFailed."""
        items = _Items()
        async for event in (await self.submit(function, **payload)).events():
            for item in items.feed(event):
                yield item

    async def submit(self, function: str, /, **payload: Any) -> AsyncJob:
        """Submit a call as a job. Raises CallFailed."""
        headers = _ASYNC | _named("")
        trying = _Trying()
        while True:
            try:
                answer = await self._client.post(_path(function), json=payload, headers=headers)
                if not trying.waits(answer):
                    return AsyncJob(self._client, _check(answer).json()["id"])
            except BROKEN as error:
                if not trying.broke(may_be_wrong=_may_be_wrong(error)):
                    raise
            await asyncio.sleep(PAUSE_S)

    def job(self, job: str) -> AsyncJob:
        """The handle of a job by its id, whoever has submitted it."""
        return AsyncJob(self._client, job)

    async def get(self, path: str) -> bytes:
        """The bytes behind a path of the gateway, such as a FileRef's url."""
        return _check(await self._client.get(path)).content

"""Asking: in a closed loop (so many at a time) or an open one (at the times of a trace, however many that are).

Requests go where users' requests go, /v1/chat/completions and /v1/images/generations, streamed. In an open loop
times count from when a request was due: an asker that falls behind must not flatter what it measures. When all
is over, each job is asked what its time went into, so that this asking disturbs nothing.
"""

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterable
from functools import partial
from typing import Any

import aiohttp
import httpx
import msgspec

from stoker.bench.samples import Sample
from stoker.bench.traces import Ask
from stoker.services.process.tasks import together
from stoker.sse import EventReader

EVENT_STREAM = "text/event-stream"
TIMEOUT_S = 300.0
CONNECT_S = 10.0
OPEN_LOOP_LIMIT = 1000
"""Requests at once at most, so that a system that falls behind is not asked without end."""
STORIES_AT_ONCE = 16
FIRSTS = (b'"delta":{"content":"', b"image_generation.")
"""What the first text or preview of a stream looks like: decoding every event would cost more than asking."""
TAIL_BYTES = 4096


Work = Callable[[], Coroutine[Any, Any, None]]


class LoadTest:
    """One run. image_models: those that draw. `told` is called with every sample as it ends."""

    def __init__(
        self, url: str, headers: dict[str, str], image_models: set[str], told: Callable[[Sample], None]
    ) -> None:
        self.samples: list[Sample] = []
        self._image_models = image_models
        self._told = told
        self._began = 0.0
        self._url = url
        self._headers = headers
        self._client: aiohttp.ClientSession

    async def run_closed(self, asks: Iterable[Ask], at_once: int) -> None:
        """`at_once` askers, each of which asks again as soon as it has its answer."""
        rest = iter(asks)

        async def asker() -> None:
            for ask in rest:
                await self._ask(ask, self._now())

        await self._run(asker for _ in range(at_once))

    async def run_open(self, asks: Iterable[Ask]) -> None:
        """Each request at its time, whether or not those before it have been answered."""
        places = asyncio.Semaphore(OPEN_LOOP_LIMIT)

        async def one(ask: Ask) -> None:
            await asyncio.sleep(ask.at - self._now())
            async with places:
                await self._ask(ask, ask.at)

        await self._run(partial(one, ask) for ask in asks)

    async def _run(self, work: Iterable[Work]) -> None:
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_S, sock_connect=CONNECT_S)
        connector = aiohttp.TCPConnector(limit=0, resolver=aiohttp.ThreadedResolver())
        self._client = aiohttp.ClientSession(
            self._url, headers=self._headers, timeout=timeout, connector=connector
        )
        async with self._client:
            self._began = time.monotonic()
            await together(work)
            places = asyncio.Semaphore(STORIES_AT_ONCE)
            await together(partial(self._read_story, sample, places) for sample in self.samples if sample.job)

    def _now(self) -> float:
        return time.monotonic() - self._began

    async def _ask(self, ask: Ask, at: float) -> None:
        sample = Sample(at, ask.model)
        try:
            await self._stream(ask, sample)
        except (aiohttp.ClientError, TimeoutError) as error:
            sample.error = type(error).__name__
        sample.total_s = self._now() - at
        self.samples.append(sample)
        self._told(sample)

    async def _stream(self, ask: Ask, sample: Sample) -> None:
        if ask.model in self._image_models:
            path = "/v1/images/generations"
            body: dict[str, Any] = {"prompt": ask.prompt, "partial_images": 1}
        else:
            path = "/v1/chat/completions"
            message = {"role": "user", "content": ask.prompt}
            body = {"messages": [message], "max_tokens": ask.max_tokens}
            body["stream_options"] = {"include_usage": True}
        body |= {"model": ask.model, "stream": True}
        async with self._client.post(path, json=body) as answer:
            sample.job = answer.headers.get("x-job-id", "")
            if answer.status != 200:
                sample.error = f"status {answer.status}"
                return
            last = b""
            async for chunk in answer.content.iter_any():
                if not sample.first_s and any(mark in chunk for mark in FIRSTS):
                    sample.first_s = self._now() - sample.at
                last = (last + chunk)[-TAIL_BYTES:]
            self._take_end(last.decode(errors="replace"), sample)

    def _take_end(self, tail: str, sample: Sample) -> None:
        """What the last events of a stream say: an error, or how many tokens it was."""
        if "event: error" in tail:
            sample.error = "error event"
        for line in tail.split("\n"):
            if line.startswith("data: {") and '"completion_tokens"' in line:
                usage = msgspec.json.decode(line.removeprefix("data: ")).get("usage") or {}
                sample.tokens = usage.get("completion_tokens", 0)

    async def _read_story(self, sample: Sample, places: asyncio.Semaphore) -> None:
        try:
            async with places, self._client.get(f"/v1/jobs/{sample.job}/events") as answer:
                whole = httpx.Response(200, headers={"content-type": EVENT_STREAM}, content=await answer.read())
        except (aiohttp.ClientError, TimeoutError):
            return
        reader = EventReader()
        for event in reader.read(whole):
            if event.name == "assigned":
                sample.tier = event.data.get("tier", "")
        if reader.end is not None:
            timings = reader.end.get("timings") or {}
            sample.worker = reader.end.get("worker", "")
            for name in ("queued_s", "load_s", "run_s"):
                setattr(sample, name, timings.get(name, 0.0))

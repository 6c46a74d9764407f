"""The jobs of one text request: an answer each. Run to their ends, or streamed as they go.

A request for several answers is as many jobs, with seeds that follow each other, so that each may run where
there is room. All of them are wanted: where one fails the others are cancelled and the request has failed.
"""

import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import ExitStack, aclosing

import anyio
from anyio.streams.memory import MemoryObjectSendStream

from stoker.schemas.catalog import Model
from stoker.schemas.job_events import Assigned, Completed, Delta, Queued, Terminal, TextOutput
from stoker.schemas.jobs import ChatInput, CompletionInput, Job, picture_seed
from stoker.services.gateway.edge.exchange import Exchange
from stoker.services.gateway.edge.problems import RequestError
from stoker.services.gateway.gateway import Gateway
from stoker.services.gateway.jobs.admitting import admitted
from stoker.services.gateway.jobs.outcomes import completed_or_raise, observe_end, observe_first_token
from stoker.services.gateway.jobs.own_jobs import (
    Waiting,
    accept,
    end_of,
    finished,
    followed,
    job_headers,
    unheard,
)
from stoker.services.gateway.jobs.text_rules import check_card
from stoker.services.gateway.text.writing import Writer
from stoker.services.gateway.watching.streams import Item
from stoker.services.records.results import Result

MAX_ANSWERS = 128
"""Of one request."""
WAITING_ITEMS = 256
"""Events of several jobs that have come and are not written yet."""


def text_jobs(
    gateway: Gateway,
    model: Model,
    adapter: str,
    inputs: Sequence[ChatInput | CompletionInput],
    *,
    n: int = 1,
    seed: int | None = None,
    wants_events: bool = False,
) -> tuple[Job, ...]:
    """The jobs, `n` for each input. Raises RequestError."""
    if not 1 <= n * len(inputs) <= MAX_ANSWERS:
        message = f"n must be between 1 and {MAX_ANSWERS} answers for all prompts together, not {n}"
        raise RequestError(400, message, field="n", code="invalid_value")
    has_seed = seed is not None and seed >= 0
    jobs: list[Job] = []
    card = gateway.fleet.card(model.name)
    for asked in inputs:
        check_card(asked, card)
        for _ in range(n):
            chosen = picture_seed(seed, len(jobs)) if has_seed and seed is not None else None
            jobs.append(
                gateway.submission.make_job(model, adapter, asked, seed=chosen, wants_events=wants_events)
            )
    return tuple(jobs)


def answers_headers(jobs: Sequence[Job], event: Terminal | None = None) -> dict[str, str]:
    return job_headers(jobs[0], event) | {"x-job-id": ", ".join(job.id for job in jobs)}


async def whole(gateway: Gateway, exchange: Exchange, jobs: Sequence[Job]) -> list[Completed]:
    """How each of them completed. Raises RequestError, ClientGone."""
    if len(jobs) == 1:
        completed, _ = await finished(gateway, exchange, jobs[0])
        return [completed]
    fit = await admitted(gateway, [unheard(job) for job in jobs], exchange.body_bytes)
    found: list[Completed] = []
    with ExitStack() as running:
        if jobs[0].is_client_named:
            for job in fit:
                await accept(gateway, job)
            for job in fit:
                found.append(_completed(await end_of(gateway, exchange, job)))
        else:
            for ended in [running.enter_context(gateway.submission.running(job)) for job in fit]:
                found.append(_completed(await exchange.unless_gone(ended)))
    return found


def _completed(result: Result) -> Completed:
    observe_end(result.event)
    return completed_or_raise(result.event)


def text_of(completed: Completed) -> TextOutput:
    assert isinstance(completed.output, TextOutput)
    return completed.output


async def stream(
    gateway: Gateway,
    exchange: Exchange,
    jobs: Sequence[Job],
    writer: Writer,
    headers: dict[str, str] | None = None,
) -> None:
    """Answer with what is made of them, as it is made. headers: more of them."""
    fit = await admitted(gateway, jobs, exchange.body_bytes)
    sent = answers_headers(jobs) | (headers or {})
    streaming = _Streaming(fit, writer, sent, exchange.write_now)
    await exchange.stream(gateway.streams_open, _chunks(gateway, streaming), sent)


class _Streaming:
    """Where a stream is. headers: go out with the first chunk, and are filled until then. write_now: as in
    Exchange.
    """

    def __init__(
        self,
        jobs: Sequence[Job],
        writer: Writer,
        headers: dict[str, str],
        write_now: Callable[[Callable[[], bytes]], bool],
    ) -> None:
        self._write_now = write_now
        self.jobs = jobs
        self.writer = writer
        self.is_begun = False
        self.outputs: dict[int, TextOutput] = {}
        self._headers = headers
        self._waiting = Waiting()
        self._opened: set[int] = set()

    @property
    def is_over(self) -> bool:
        return len(self.outputs) == len(self.jobs)

    def take(self, index: int, item: Item) -> bytes:
        """What is written for an event of a job; b"" for nothing. Raises RequestError."""
        if item is None:
            return self.writer.waiting(self._waiting.comment())
        match item[0]:
            case Delta() as delta:
                return self._opening(index) + self.writer.delta(index, delta)
            case Queued() as queued:
                said = self._waiting.heard(queued)
                return self.writer.waiting(said) if said else b""
            case Assigned(spec=spec):
                self._headers["x-stoker-spec"] = spec
                return b""
            case event if isinstance(event, Terminal):
                observe_end(event)
                self.outputs[index] = output = text_of(completed_or_raise(event))
                written = self._opening(index) + self.writer.ending(index, output)
                if self.is_over:
                    written += self.writer.closing([self.outputs[one] for one in range(len(self.jobs))])
                return written
            case _:
                return b""

    def pass_on(self, delta: Delta) -> bool:
        """Write more of the only answer from where it comes in; False where that must wait for its turn."""
        return self.is_begun and self._write_now(lambda: self.writer.delta(0, delta))

    def _opening(self, index: int) -> bytes:
        if index in self._opened:
            return b""
        if not self._opened:
            observe_first_token(self.jobs[index], time.time())
        self._opened.add(index)
        return self.writer.opening(index)


async def _chunks(gateway: Gateway, streaming: _Streaming) -> AsyncGenerator[bytes]:
    """The body. A client that goes away closes this generator, which cancels the jobs."""
    try:
        async with aclosing(_items(gateway, streaming)) as items:
            async for index, item in items:
                if isinstance(item, RequestError):
                    raise item
                if written := streaming.take(index, item):
                    streaming.is_begun = True
                    yield written
                if streaming.is_over:
                    return
    except RequestError as error:
        if not streaming.is_begun:
            raise
        yield streaming.writer.error(error)


async def _items(gateway: Gateway, streaming: _Streaming) -> AsyncGenerator[tuple[int, Item | RequestError]]:
    """The events of all jobs as they come, each with its job's index. Closing it cancels what has not ended.

    The stream of one job, as almost all are, has no task and no generator more than it needs: there may be ten
    thousand of them.
    """
    jobs = streaming.jobs
    if len(jobs) == 1 and jobs[0].is_client_named:
        async with followed(gateway, jobs[0]) as items:
            async for item in items:
                yield 0, item
        return
    if len(jobs) == 1:
        with gateway.submission.watched(jobs[0], streaming.pass_on) as watcher:
            async with aclosing(gateway.streams.follow(watcher)) as items:
                async for item in items:
                    yield 0, item
        return
    send, receive = anyio.create_memory_object_stream[tuple[int, Item | RequestError]](WAITING_ITEMS)
    tasks = anyio.create_task_group()
    await tasks.__aenter__()
    try:
        with receive:
            for index, job in enumerate(jobs):
                tasks.start_soon(_follow, gateway, index, job, send.clone())
            send.close()
            async for one in receive:
                yield one
    finally:
        tasks.cancel_scope.cancel()
        await tasks.__aexit__(None, None, None)  # what ends the block is not of the group, and stays as it is


async def _follow(
    gateway: Gateway,
    index: int,
    job: Job,
    send: MemoryObjectSendStream[tuple[int, Item | RequestError]],
) -> None:
    async with send:
        try:
            async with followed(gateway, job) as items:
                async for item in items:
                    await send.send((index, item))
        except RequestError as error:
            await send.send((index, error))
